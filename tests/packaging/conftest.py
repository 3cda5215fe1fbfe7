"""One source distribution and one wheel, made from it, for all tests of this folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT
from packaging_environments import build_wheel


@pytest.fixture(scope="session")
def sdist(tmp_path_factory) -> Path:
    """The source distribution of this tree, built from a copy of what git would carry."""
    tree = tmp_path_factory.mktemp("tree") / "ifan_plugin"
    left_out = shutil.ignore_patterns(
        ".git", ".venv*", "build", "dist", "*.egg-info", "__pycache__", "*.so", "experiments", "results", "tb_logger",
        "datasets", ".*_cache",
    )  # fmt: skip
    shutil.copytree(ROOT, tree, ignore=left_out)
    out = tmp_path_factory.mktemp("sdist")
    code = f"from setuptools import build_meta; build_meta.build_sdist({str(out)!r})"
    built = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tree,
        env={**os.environ, "IFAN_NO_EXT": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert built.returncode == 0, built.stderr
    (path,) = out.glob("*.tar.gz")
    return path


@pytest.fixture(scope="session")
def wheel(request, tmp_path_factory) -> Path:
    """The wheel with the CPU operator: the one that IFAN_TEST_WHEEL names, else built from the source distribution."""
    given = os.environ.get("IFAN_TEST_WHEEL")
    if given:
        return Path(given).resolve(strict=True)
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        pytest.skip("no C++ compiler")
    return build_wheel(request.getfixturevalue("sdist"), tmp_path_factory.mktemp("wheel"), IFAN_NO_CUDA="1")
