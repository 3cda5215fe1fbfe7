"""``basicsr doctor``: what is installed, which device and operator backend are used, and what is missing."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
import warnings
from collections.abc import Iterator

from ifan_plugin import __version__
from ifan_plugin.cli.arguments import Parser

PACKAGES = ("torch", "torchvision", "numpy", "opencv-python", "lmdb", "scikit-image", "tb-nightly", "lpips")
HOSTS = ("basicsr", "mmengine", "mmcv", "mmcv-lite", "mmagic")


def build_parser() -> Parser:
    """The parser of ``basicsr doctor``."""
    return Parser(
        prog="basicsr doctor",
        description="Show versions, devices, the IAC operator's backends and the hosts found.",
        epilog="examples:\n  basicsr doctor\n\nexit status: 0 BasicSR can be used, 1 it can't (the report says why).",
    )


def main(argv: list[str]) -> int:
    """Print the report. Returns 0 where BasicSR can be used, else 1."""
    build_parser().parse_args(argv)
    usable = True
    for section, lines in _report():
        sys.stdout.write(f"{section}\n")
        for label, value in lines:
            sys.stdout.write(f"  {label:<16}{value}\n")
            usable = usable and not (label == "basicsr" and value.startswith("FAILS"))
    return 0 if usable else 1


def _report() -> Iterator[tuple[str, list[tuple[str, str]]]]:
    yield (
        f"ifan_plugin {__version__}",
        [("Python", f"{platform.python_version()} ({sys.executable})"), ("platform", platform.platform())],
    )
    yield "packages", [(name, _version(name)) for name in PACKAGES]
    yield "hosts", [(name, _host(name)) for name in HOSTS]
    yield "device", _devices()
    yield "IAC operator", _backends()
    yield "plug-ins", _plugins()


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _host(name: str) -> str:
    version = _version(name)
    if name != "basicsr":
        return version
    if version == "not installed":
        return f"FAILS: not installed (pip install basicsr=={_wanted()})"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import ifan_plugin

            ifan_plugin.register()
    except Exception as error:  # noqa: BLE001 (whatever it is, a doctor reports it)
        return f"FAILS: {version} is installed but {type(error).__name__}: {error}"
    note = "" if version == _wanted() else f"; the mends are made for {_wanted()}"
    return f"{version}, imports, IFAN registered{note}"


def _wanted() -> str:
    from ifan_plugin.host import HOST_VERSION

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
    from ifan_plugin.plugins import GROUP

    found = [(entry.name, entry.value) for entry in importlib.metadata.entry_points(group=GROUP)]
    return found or [("(none)", f"no package has the entry-point group {GROUP}")]
