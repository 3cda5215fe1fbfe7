"""The start-up shim of the MMagic environment, on a small package with MMagic's traps, and the script's arguments."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT

SHIM = ROOT / "scripts" / "mmagic"
SCRIPT = ROOT / "scripts" / "mmagic_env.sh"

TRAPS = {
    "mmcv/__init__.py": "__version__ = '2.2.0'",
    "mmagic/__init__.py": "import mmcv\nassert mmcv.__version__ == '2.1.0', mmcv.__version__",
    "mmagic/utils/__init__.py": "from .trans_utils import RANGES",
    "mmagic/utils/trans_utils.py": "import numpy as np\nRANGES = {np.bool8: (False, True)}",
    "mmagic/datasets/__init__.py": "",
    "mmagic/datasets/transforms/__init__.py": "from .albu_function import AlbuCorruptFunction, PairedAlbuTransForms",
    "mmagic/datasets/transforms/albu_function.py": "raise ImportError('albumentations')",
    "mmagic/models/__init__.py": "from . import archs\nfrom .editors import *",
    "mmagic/models/archs/__init__.py": (
        "from .attention_injection import AttentionInjection\n"
        "import diffusers\n"
        "FOUND = [name for part in (diffusers.models, diffusers.pipelines) for name in dir(part) if name[0] != '_']"
    ),
    "mmagic/models/archs/attention_injection.py": "raise ImportError('diffusers')",
    "mmagic/models/editors/__init__.py": "raise ImportError('mmcv._ext')",
    "mmagic/models/editors/small/__init__.py": "WORKS = True",
}


@pytest.fixture(scope="module")
def traps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("traps")
    for name, text in TRAPS.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def python(traps: Path, code: str) -> subprocess.CompletedProcess:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(traps), str(SHIM)])}
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("module", ["mmagic", "mmagic.utils", "mmagic.datasets.transforms", "mmagic.models.archs"])
def test_each_trap_is_one_and_is_mended(traps: Path, module: str) -> None:
    without = f"import mmcv; mmcv.__version__ = '2.1.0'\nimport {module}"
    if module != "mmagic":
        assert python(traps, without).returncode != 0
    else:
        assert "AssertionError: 2.2.0" in python(traps, "import mmagic").stderr
    mended = python(traps, f"import ifan_mmagic_shim, {module}")
    assert mended.returncode == 0, mended.stderr


def test_mends_end_with_the_import(traps: Path) -> None:
    code = """
import ifan_mmagic_shim, sys
assert not {"numpy", "mmcv", "mmagic"} & {*sys.modules}  # nothing is loaded at start-up
import mmagic.utils, mmagic.models, mmcv, numpy
assert mmcv.__version__ == "2.2.0"
assert list(mmagic.utils.RANGES) == [numpy.bool_]
assert not hasattr(numpy, "bool8")
assert "diffusers" not in sys.modules or sys.modules["diffusers"].__spec__ is not None
"""
    done = python(traps, code)
    assert done.returncode == 0, done.stderr


def test_stubs_say_why_and_editors_import_one_by_one(traps: Path) -> None:
    code = """
import ifan_mmagic_shim, mmagic.models, mmagic.datasets.transforms as transforms
from mmagic.models.editors.small import WORKS
from mmagic.models.archs import AttentionInjection
for stub in (AttentionInjection, transforms.AlbuCorruptFunction, transforms.PairedAlbuTransForms):
    try:
        stub(module=None)
    except ImportError as error:
        print(error)
"""
    lines = python(traps, code).stdout.splitlines()
    assert len(lines) == 3
    assert "AttentionInjection isn't available" in lines[0]
    assert "diffusers" in lines[0]
    assert all("albumentations" in line for line in lines[1:])


def test_other_modules_are_found_as_ever(traps: Path) -> None:
    code = """
import sys, ifan_mmagic_shim
finder = sys.meta_path[0]
assert isinstance(finder, ifan_mmagic_shim.MMagicFinder)
ifan_mmagic_shim.install()
assert sum(isinstance(each, ifan_mmagic_shim.MMagicFinder) for each in sys.meta_path) == 1
assert finder.find_spec("json") is None and finder.find_spec("mmagic.registry") is None
sys.path[:] = [path for path in sys.path if "traps" not in path]
assert finder.find_spec("mmagic") is None  # there is none any more
"""
    done = python(traps, code)
    assert done.returncode == 0, done.stderr


def script(*arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run([SCRIPT, *map(str, arguments)], capture_output=True, text=True, timeout=60)


def fake_base(folder: Path) -> Path:
    """An environment whose Python finds no packages."""
    python = folder / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "$@"\n')
    python.chmod(0o755)
    return folder


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script")
def test_script_says_in_one_line_what_is_wrong(tmp_path: Path) -> None:
    base = fake_base(tmp_path / "a base")
    none, theirs = tmp_path / "none", tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "pyvenv.cfg").write_text("home = /usr/bin")
    for arguments, said in (
        (["--bse", "x"], "unknown flag '--bse'; valid are --base and --help"),
        (["one", "two"], "one folder only, 'two' is a second one"),
        (["--base"], "--base needs the folder of a virtual environment"),
        (["--base", none], f"--base: no virtual environment in {none} (it has no bin/python)"),
        (["--base", base, theirs], f"{theirs} is there already and wasn't made by this script; name another folder"),
        (["--base", base, tmp_path / "new"], f"--base: {base} lacks torch torchvision mmengine"),
    ):
        done = script(*arguments)
        assert done.returncode == 2, arguments
        assert done.stderr.startswith(f"mmagic_env: {said}"), arguments
        assert done.stderr.count("\n") == 1
    assert (theirs / "pyvenv.cfg").is_file()
    assert not (tmp_path / "new").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script")
def test_script_has_help_with_examples() -> None:
    done = script("--help")
    assert done.returncode == 0
    assert "usage: ./scripts/mmagic_env.sh" in done.stdout
    assert "examples:" in done.stdout
