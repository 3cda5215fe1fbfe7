"""The package's layout: folders know only those below them, imports stand at the top, what is public stays."""

from __future__ import annotations

import ast
import importlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import ROOT

PACKAGE = ROOT / "ifan_plugin"

OWN_IMPORTS_IN_FUNCTIONS = {
    "ifan_plugin": "importing the package is light: register() and restore load what they need",
    "ifan_plugin.cli": "--help and errors in the arguments answer at once",
    "ifan_plugin.simulation.simulator": "most cameras are simulated to files without torch",
    "ifan_plugin.weights.spandrel_arch": "ifan_plugin.weights.spandrel needs the optional package spandrel",
}
"""Module, or folder of modules -> why it may import other parts of the package within functions."""

OTHER_IMPORTS_IN_FUNCTIONS = {
    "optional": (
        "basicsr", "gradio", "lpips", "onnx", "onnxruntime", "onnxscript", "openvino", "pillow_heif", "rawpy", "safetensors",
        "spandrel", "spandrel_extra_arches",
    ),
    "not on every system": ("fcntl", "resource"),
    "large, and not needed by every use of the module": (
        "PIL", "ctypes", "lmdb", "tifffile", "torch", "torchvision", "tqdm",
    ),
}  # fmt: skip

BOOLEANS_BY_POSITION = {
    "ifan_plugin.mm.preprocess.forward: training",
    "ifan_plugin.models.ifan_model.check_options: is_train",
    "ifan_plugin.models.ifan_model.load_network: strict",
    "ifan_plugin.models.ifan_model.validation: save_img",
}

PUBLIC = {
    "ifan_plugin": ("__version__", "register", "restore"),
    "ifan_plugin.archs": (
        "ConvIR",
        "DMENet",
        "DMENetDeconvolution",
        "DPDNet",
        "DefocusDeconvolution",
        "GKMNet",
        "IFAN",
        "KPAC",
        "ReblurNet",
    ),
    "ifan_plugin.data": ("DualPixelDataset", "SimulatedDualPixelDataset"),
    "ifan_plugin.losses": (
        "DefocusLoss",
        "DefocusMapLoss",
        "DisparityLoss",
        "FilterBiasLoss",
        "FrequencyLoss",
        "ReblurLoss",
        "area_downsample",
        "warp_by_disparity",
    ),
    "ifan_plugin.metrics": ("MetricUnavailableError", "lpips", "mae", "psnr", "sharpness", "ssim"),
    "ifan_plugin.mm": ("register_all",),
    "ifan_plugin.ops": ("IAC", "active_backend", "available_backends", "filter_channels", "iac", "iac_step"),
    "ifan_plugin.spandrel": ("DPDNetArchitecture", "IFANArchitecture", "load_file", "register"),
}
"""What docs/public.md promises."""


def modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), ast.parse(path.read_text(encoding="utf-8"))


def imports_in_functions(module: ast.Module) -> Iterator[str]:
    for function in ast.walk(module):
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
            for node in ast.walk(function):
                if isinstance(node, ast.Import):
                    yield from (alias.name for alias in node.names)
                elif isinstance(node, ast.ImportFrom):
                    yield node.module or ""


def test_imports_stand_at_the_top_but_for_those_that_are_listed():
    others = {name for names in OTHER_IMPORTS_IN_FUNCTIONS.values() for name in names}
    wrong, used = [], set()
    for name, module in modules():
        for imported in imports_in_functions(module):
            if imported.partition(".")[0] != "ifan_plugin":
                used.add(imported.partition(".")[0])
                wrong += [f"{name}: {imported}"] if imported.partition(".")[0] not in others else []
                continue
            places = {name, name.rpartition(".")[0]} - {"ifan_plugin" if name != "ifan_plugin" else ""}
            used |= places & OWN_IMPORTS_IN_FUNCTIONS.keys()
            wrong += [f"{name}: {imported}"] if not places & OWN_IMPORTS_IN_FUNCTIONS.keys() else []
    assert not wrong
    assert used == others | OWN_IMPORTS_IN_FUNCTIONS.keys(), "nothing is listed that isn't needed"


def public_functions(node: ast.AST) -> Iterator[ast.FunctionDef]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef) and not child.name.startswith("_"):
            yield from public_functions(child)
        elif isinstance(child, ast.FunctionDef) and (child.name == "__init__" or not child.name.startswith("_")):
            yield child


def test_booleans_are_given_by_keyword():
    """But for methods that a framework calls as it does."""
    found = {
        f"{name}.{function.name}: {argument.arg}"
        for name, module in modules()
        for function in public_functions(module)
        for argument in function.args.args
        if argument.annotation is not None and ast.unparse(argument.annotation) in ("bool", "bool | None")
    }
    assert found == BOOLEANS_BY_POSITION


def lint_imports(root: Path) -> subprocess.CompletedProcess:
    """The contracts of pyproject.toml, about the package below ``root``."""
    pytest.importorskip("importlinter", reason="import-linter isn't installed (pip install ifan_plugin[dev])")
    program = "import sys; sys.path.insert(0, '.'); from importlinter.cli import lint_imports_command as run; run()"
    command = [sys.executable, "-c", program, "--no-cache", "--config", str(ROOT / "pyproject.toml")]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120, check=False)


def copy_of_the_package(folder: Path) -> Path:
    shutil.copytree(PACKAGE, folder / "ifan_plugin", ignore=shutil.ignore_patterns("*.so", "__pycache__", "csrc"))
    return folder / "ifan_plugin"


def test_each_folder_knows_only_those_below_it():
    found = lint_imports(ROOT)
    assert found.returncode == 0, found.stdout + found.stderr


@pytest.mark.parametrize(
    ("module", "line", "broken"),
    [
        ("ops/fac.py", "from ifan_plugin.inference import run_network", "Each folder knows only those below it"),
        ("metrics/full_reference.py", "import ifan_plugin.archs.layers", "Each folder knows only those below it"),
        ("inference/ensemble.py", "from ifan_plugin.inference.run import run_network", "No circle anywhere"),
        ("common/errors.py", "def f():\n    from ifan_plugin.common import files", "No circle anywhere"),
        ("rooms/__init__.py", "", "Each folder knows only those below it"),
    ],
    ids=["upwards", "sideways", "circle in a folder", "circle within a function", "a folder without a floor"],
)
def test_a_planted_fault_breaks_the_contract(tmp_path, module, line, broken):
    path = copy_of_the_package(tmp_path) / module
    path.parent.mkdir(exist_ok=True)
    path.write_text((path.read_text(encoding="utf-8") if path.exists() else "") + f"\n{line}\n", encoding="utf-8")
    found = lint_imports(tmp_path)
    assert found.returncode == 1, found.stdout + found.stderr
    assert re.search(f"{broken}.* BROKEN", found.stdout), found.stdout


@pytest.mark.parametrize("path", PUBLIC)
def test_public_paths(path):
    if path in ("ifan_plugin.mm", "ifan_plugin.spandrel"):
        needed = {"ifan_plugin.mm": "mmengine", "ifan_plugin.spandrel": "spandrel"}[path]
        pytest.importorskip(needed, reason=f"{needed} isn't installed")
    module = importlib.import_module(path)
    for name in PUBLIC[path]:
        assert getattr(module, name) is not None
        assert name in dir(module)
    if path != "ifan_plugin":
        assert sorted(module.__all__) == sorted(PUBLIC[path])
    documented = (ROOT / "docs" / "public.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in documented for name in (path, *PUBLIC[path]))
