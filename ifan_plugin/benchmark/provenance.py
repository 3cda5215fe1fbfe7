"""What a row's figures come from: the code's version, beside what its cells say of themselves."""

from __future__ import annotations

import functools
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ifan_plugin
from ifan_plugin.benchmark.cells import NONE

COLUMNS = ("Model", "Test set", "Protocol", "Bit depth", "Code", "Data (SHA-256)", "Checkpoint (SHA-256)")

_SHORT = 12  # digits of a checksum that are shown


@functools.cache
def code_version() -> str:
    """The package's version, and in a checkout its commit; ``+`` where files differ from it."""
    root = Path(ifan_plugin.__file__).parents[1]
    git = shutil.which("git")
    if git is None or not (root / ".git").exists():
        return ifan_plugin.__version__
    asked = {"commit": ["rev-parse", "--short=12", "HEAD"], "changed": ["status", "--porcelain", "-uno", "ifan_plugin"]}
    said = {}
    for name, command in asked.items():
        done = subprocess.run([git, "-C", str(root), *command], capture_output=True, text=True, check=False)
        said[name] = done.stdout.strip()
    if not said["commit"]:
        return ifan_plugin.__version__
    return f"{ifan_plugin.__version__} ({said['commit']}{'+' if said['changed'] else ''})"


def rows(report: Mapping[str, Any]) -> list[list[str]]:
    """A line for each model and test set: :data:`COLUMNS`."""
    found = []
    for row in report["rows"]:
        for dataset, quality in row["quality"].items():
            facts = quality.get("provenance", {})
            depth = facts.get("bit_depth")
            checksums = [(facts.get(key) or "")[:_SHORT] or NONE for key in ("data", "checkpoint")]
            found.append(
                [row["name"], dataset, report["protocol"], str(depth or NONE), facts.get("code") or NONE, *checksums]
            )
    return found
