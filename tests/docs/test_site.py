"""The documentation's site: it builds with warnings as errors, from this tree, with every command's help."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from helpers import ROOT, python_path

from ifan_plugin.cli import COMMANDS


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    for name in ("mkdocs", "mkdocstrings", "material"):
        pytest.importorskip(name, reason=f"{name} isn't installed (pip install ifan_plugin[docs])")
    environment = {**os.environ, "PYTHONPATH": python_path(), "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=550, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    commands = (tmp_path / "site" / "commands.html").read_text(encoding="utf-8")
    assert [name for name in COMMANDS if f"usage: basicsr {name}" not in commands] == []
    pages = {path: path.read_text(encoding="utf-8") for path in (tmp_path / "site").rglob("*.html")}
    fetched = re.compile(r"<(?:script|img|link rel=\"stylesheet\")[^>]*(?:src|href)=\"(https?:[^\"]+)\"")
    assert {path.name: fetched.findall(text) for path, text in pages.items() if fetched.search(text)} == {}
