"""BasicSR's wheel, built so that no cache can help: from its sdist, without an index, where nothing but setuptools is."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from helpers import ROOT
from packaging_environments import Environment

from ifan_plugin import install_basicsr
from ifan_plugin.host.mends import HOST_VERSION

NAME = f"basicsr-{install_basicsr.VERSION}"


@pytest.fixture(scope="module")
def basicsr_sdist(tmp_path_factory) -> Path:
    """The file from the package index; nothing is built for it."""
    folder = tmp_path_factory.mktemp("basicsr")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--no-deps", "--no-binary", ":all:"]
    fetched = subprocess.run(
        [*pip, "--no-build-isolation", "--use-pep517", "--dest", folder, NAME.replace("-", "==")],
        env={**os.environ, "PYTHONPATH": str(install_basicsr.BUILD_PATH)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    if fetched.returncode:
        pytest.skip(f"BasicSR's source distribution can't be fetched here: {fetched.stderr.strip()[-200:]}")
    return folder / f"{NAME}.tar.gz"


@pytest.fixture
def bare(tmp_path) -> Environment:
    """Only pip and setuptools: no torch, numpy or cython, which BasicSR's setup_requires names."""
    only = ("pip", "setuptools", "_distutils_hack", "wheel", "packaging")
    return Environment(tmp_path / "bare", only=only)


def test_with_an_empty_cache_and_no_index_nothing_is_fetched(bare, basicsr_sdist, tmp_path):
    assert bare.run("-c", "import torch", cwd=tmp_path).returncode == 1
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    done = bare.run(
        *("-m", "ifan_plugin.install_basicsr", "--sdist", basicsr_sdist, "--wheel-dir", tmp_path / "out", "--no-index"),
        cwd=ROOT,
        PIP_CACHE_DIR=str(tmp_path / "cache"),
        PIP_NO_CLEAN="1",
        TMPDIR=str(scratch),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = (done.stdout + done.stderr).lower()
    for word in (".egg\n", "easy_install", "fetch_build_egg", "searching for", "downloading", "cached"):
        assert word not in said, said
    eggs = [path for path in scratch.rglob("*") if path.suffix == ".egg" or path.name == ".eggs"]
    assert not eggs
    with zipfile.ZipFile(tmp_path / f"out/{NAME}-py3-none-any.whl") as archive:
        names = archive.namelist()
        metadata = archive.read(f"{NAME}.dist-info/METADATA").decode()
        version = archive.read("basicsr/version.py").decode()
    assert "basicsr/train.py" in names
    assert "basicsr/metrics/niqe_pris_params.npz" in names
    assert "Requires-Dist: lmdb" in metadata
    assert f"__version__ = '{install_basicsr.VERSION}'" in version


def test_faults_are_one_line(bare, tmp_path):
    for arguments, message in [
        (["--sdist", "none.tar.gz"], "install_basicsr: none.tar.gz: no such file"),
        (["--constraint", "none.txt"], "install_basicsr: none.txt: no such file"),
        (["--no-index"], "install_basicsr: --no-index needs --sdist FILE"),
    ]:
        done = bare.run("-m", "ifan_plugin.install_basicsr", *arguments, cwd=ROOT)
        assert (done.returncode, done.stderr) == (2, f"{message}\n")


def test_where_it_is_installed_nothing_happens(capsys, monkeypatch):
    def pip(*_, **__):
        raise AssertionError("pip was called")

    monkeypatch.setattr(install_basicsr, "_pip", pip)
    assert install_basicsr.main([]) == 0
    assert "is installed already" in capsys.readouterr().out


def test_one_version_everywhere():
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    assert f"basicsr=={HOST_VERSION}" in pins
    assert install_basicsr.VERSION == HOST_VERSION
    assert f'BASICSR_VERSION = "{HOST_VERSION}"' in (install_basicsr.BUILD_PATH / "sitecustomize.py").read_text()
