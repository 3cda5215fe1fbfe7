"""Networks computed on the CPU by ONNX Runtime or OpenVINO instead of torch.

What they run is the network's exported program, the one that ``basicsr export`` writes. Making it takes longer than
most pictures do, so it is made once and kept in a cache folder: ``$IFAN_CACHE``, else ``$XDG_CACHE_HOME/ifan_plugin``,
else ``~/.cache/ifan_plugin``, which may be deleted at any time. A file there is named by a checksum of all that it was
made of (weights, hyper-parameters, the code of its layers, versions of this package, torch and the runtime) and one of
its own bytes: what is damaged or of something else is made again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import json
import logging
import os
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor, nn

from ifan_plugin import __version__
from ifan_plugin.common.errors import UserError
from ifan_plugin.common.files import expanded, temporary_folder
from ifan_plugin.export import formats
from ifan_plugin.export.program import export_network
from ifan_plugin.options.schema import nearest
from ifan_plugin.weights.networks import Network

logger = logging.getLogger("ifan_plugin")

RUNTIMES = {"openvino": ("openvino", formats.openvino_runner), "onnxruntime": ("onnx", formats.onnx_runner)}
"""A runtime, which is its package's name -> the extra that brings it, and what runs a file; the fastest first."""

CHOICES = ("auto", "torch", *RUNTIMES)

_KEPT = 10  # programs in the cache folder; those that weren't used for longest go
_OUT_OF_MEMORY = re.compile(r"alloc|out of memory", re.IGNORECASE)


class Program(nn.Module):
    """An exported network in a runtime: `lq` [B, C, H, W] on the CPU to the restored picture, float32 in [0, 1].

    A module without parameters, so that it can be watched as a network is. The program was made for pictures larger
    than the network's own multiple, one at a time: others are left to the network.

    Args:
        net: the network itself.
        runtime: one of :data:`RUNTIMES`.
        path: the exported file.
    """

    def __init__(self, net: nn.Module, runtime: str, path: Path) -> None:
        super().__init__()
        self.name = f"{runtime} {importlib.metadata.version(runtime)}"
        self._smallest = getattr(net, "multiple_of", 1) + 1
        self._net = (net,)  # in a tuple: its layers aren't this module's
        self._run = RUNTIMES[runtime][1](path)

    def forward(self, lq: Tensor) -> Tensor:
        if lq.shape[0] > 1 or min(lq.shape[2:]) < self._smallest:
            return self._net[0](lq)
        try:
            return self._run(lq.contiguous())
        except Exception as error:
            if _OUT_OF_MEMORY.search(str(error)):  # each runtime has its own class for it
                raise MemoryError(f"{self.name}: {' '.join(str(error).split())[:200]}") from error
            raise


def running_on(
    network: Network, runtime: str, precision: str = "fp32", tell: Callable[[str], object] | None = None
) -> Network:
    """A network whose pictures a runtime computes; its layers stay torch's, for whatever else looks at them.

    Args:
        network: from :func:`ifan_plugin.weights.networks.load_network`.
        runtime: ``torch``; ``openvino`` or ``onnxruntime``, on the CPU alone, whose program is made where the cache
            folder has none; ``auto``: the first of these two that is installed and has its program there already, else
            torch.
        precision: as in :func:`ifan_plugin.inference.run_network`; theirs is ``fp32``.
        tell: called with a line before a program is made, which may take minutes; None: the log.

    Raises:
        UserError: an unknown runtime, packages that are missing, a network on another device or at another precision,
            one that can't be exported or whose program differs from it, a cache folder that can't be written.
    """
    if runtime not in CHOICES:
        raise UserError(f"runtime: unknown '{runtime}'; {nearest(runtime, CHOICES)}")
    if runtime == "torch":
        return dataclasses.replace(network, program=None)
    fits = network.device.type == "cpu" and precision == "fp32"
    if runtime == "auto":
        if not fits:
            return network
        for name in RUNTIMES:
            path = _found(_key(network, name)) if importlib.util.find_spec(name) and cache_folder().is_dir() else None
            if path is not None:
                return dataclasses.replace(network, program=Program(network.net, name, path))
        return network
    if not fits:
        raise UserError(
            f"runtime: {runtime} computes on the CPU in fp32 alone, not on {network.device} in {precision}; give "
            "device cpu and precision fp32, or runtime torch"
        )
    _require(runtime, runtime)
    key = _key(network, runtime)
    path = _found(key) or _made(network, runtime, key, tell or logger.info)
    return dataclasses.replace(network, program=Program(network.net, runtime, path))


def cache_folder() -> Path:
    """Where programs are kept; it needn't exist. Raises UserError where the environment names nobody's folder."""
    named = os.environ.get("IFAN_CACHE")
    if named:
        return expanded(named, "IFAN_CACHE")
    return expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "XDG_CACHE_HOME") / "ifan_plugin"


def _require(runtime: str, *packages: str) -> None:
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        extra = RUNTIMES[runtime][0]
        raise UserError(f"runtime: {runtime} needs {' and '.join(missing)}: pip install 'ifan_plugin[{extra}]'")


def _key(network: Network, runtime: str) -> str:
    """The first part of a file's name: of all that its content depends on."""
    net = network.net
    versions = [__version__, torch.__version__, importlib.metadata.version(runtime)]
    facts = [versions, network.name, network.views, getattr(net, "hyper_parameters", {}), str(net)]
    digest = hashlib.sha256(json.dumps(facts, default=str).encode())
    classes = {type(module).__module__ for module in net.modules()}
    for name in sorted(name for name in classes if not name.startswith("torch.")):
        source = getattr(sys.modules.get(name), "__file__", None)
        digest.update(Path(source).read_bytes() if source and Path(source).is_file() else b"")
    for name, tensor in net.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
    return f"{runtime}-{digest.hexdigest()[:24]}"


def _checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:24]


def _found(key: str) -> Path | None:
    """The program of that key, if the folder has it whole."""
    for path in cache_folder().glob(f"{key}-*.onnx"):
        with suppress(OSError):  # another user's, or gone by now: made again
            if _checksum(path) == path.stem.rpartition("-")[2]:
                os.utime(path)
                return path
            path.unlink()
    return None


def _made(network: Network, runtime: str, key: str, tell: Callable[[str], object]) -> Path:
    """The program, made and checked by the runtime itself, and put into the folder."""
    _require(runtime, "onnx", "onnxscript")
    folder = cache_folder()
    tell(f"exporting {network.name} for {runtime}, once, which takes minutes; kept in {folder}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with temporary_folder(".aside-", folder) as aside:
            made = aside / f"{key}.onnx"
            report = export_network(network, made, "onnx", runner=RUNTIMES[runtime][1])
            if report.multiple > 1:
                raise UserError(
                    f"runtime: {network.name} can be exported for multiples of {report.multiple} pixels alone; "
                    "valid: torch"
                )
            path = folder / f"{key}-{_checksum(made)}.onnx"
            os.replace(made, path)
        for old in sorted(folder.glob("*.onnx"), key=os.path.getmtime)[:-_KEPT]:
            old.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"{folder}: programs can't be kept there: {error.strerror or error}; IFAN_CACHE names another folder"
        ) from error
    return path
