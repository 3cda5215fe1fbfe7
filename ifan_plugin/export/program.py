"""Networks as ONNX models and torch.export programs that run without this package, checked against the original.

A written file takes pictures of any height and width (from a few pixels on): padding to what the network works at,
cropping and clipping are part of the graph, and only standard operators are in it. Of networks whose graph depends on
the size (windowed attention, say) sizes may have to be multiples of 16 or 64, which is said. In and out:

- ``lq`` [B, C, H, W], float32 in [0, 1], RGB as pictures are coded (sRGB); C = 3 for each of the network's views;
- ``restored`` [B, 3, H, W], float32 in [0, 1].

What else a user must know (:func:`describe`) stands in the ONNX model's ``metadata_props`` and in the file
``ifan_plugin.json`` among a torch.export program's extra files.

An ONNX file on a photograph, without this package::

    import cv2, numpy, onnxruntime
    session = onnxruntime.InferenceSession("IFAN.onnx")
    photo = cv2.imread("photo.jpg")[:, :, ::-1]
    lq = numpy.float32(photo / 255).transpose(2, 0, 1)[None]
    restored = session.run(["restored"], {"lq": lq})[0][0].transpose(1, 2, 0)
    cv2.imwrite("sharp.png", (restored * 255).round().astype("uint8")[:, :, ::-1])

A torch.export program, likewise: ``torch.export.load("IFAN.pt2").module()(lq)``; on a GPU after
``torch.export.passes.move_to_device_pass(program, "cuda")``.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ifan_plugin import __version__
from ifan_plugin.common.errors import UserError
from ifan_plugin.common.files import written_aside
from ifan_plugin.export import formats as export_formats
from ifan_plugin.ops import IAC
from ifan_plugin.ops.fac import FAC
from ifan_plugin.ops.padding import pad_to_multiple
from ifan_plugin.options.schema import nearest
from ifan_plugin.weights.networks import Network

KINDS = {"onnx": ".onnx", "torch-export": ".pt2"}
"""Kind of file -> its ending."""

OLDEST_OPSET = 18  # what torch's exporter writes; lower ones it doesn't
TOLERANCE = 1e-4
"""Largest difference from the original, of values in [0, 1], that a written file may have."""

_STANDARD = ("aten", "prim", "prims", "higher_order")  # operators of torch itself


@dataclass(frozen=True)
class Report:
    """What was written.

    Args:
        path: the file.
        kind: ``onnx`` or ``torch-export``.
        opset: ONNX's version of the operators; None for torch.export.
        file_size: bytes.
        smallest: least height and width that the program takes.
        multiple: what height and width must be multiples of; 1: any.
        any_batch: whether it takes several pictures at once; otherwise B is 1.
        differences: shape of the input -> largest difference from the original there; empty where not checked.
    """

    path: Path
    kind: str
    opset: int | None
    file_size: int
    smallest: int
    multiple: int
    any_batch: bool
    differences: dict[tuple[int, ...], float]


def export_network(
    network: Network,
    path: str | Path,
    kind: str | None = None,
    *,
    opset: int | None = None,
    check: bool = True,
    sizes: Sequence[tuple[int, int]] = (),
    overwrite: bool = False,
    runner: Callable[[Path], Callable[[Tensor], Tensor]] | None = None,
    progress: Callable[[str], None] | None = None,
) -> Report:
    """Write a network as a program of its own. The file appears only when it is whole and, with `check`, right.

    IFAN's filters are predicted and applied step by step, in standard operators instead of the compiled one.

    Args:
        network: from :func:`ifan_plugin.weights.networks.load_network`, on the CPU.
        path: the file; its folder must exist.
        kind: one of :data:`KINDS`; None: what the ending says.
        opset: version of ONNX's operators, 18 or more; None: the exporter's own choice.
        check: run what was written (in onnxruntime, or loaded by torch.export) and the original on the same pictures
            of three sizes, among them ones that must be padded, and compare to :data:`TOLERANCE`.
        sizes: further (height, width) to check at.
        overwrite: replace a file that is there.
        runner: makes of the file what runs it for the check; None: by onnxruntime or torch.export.
        progress: called with the name of each stage when it begins.

    Returns:
        What was written, with the differences found.

    Raises:
        UserError: a path that can't or mayn't be written, an opset out of range, packages missing, a network that the
            exporter can't follow, or whose program differs from it.
    """
    path = Path(path)
    kind = require_writable(path, kind, overwrite=overwrite)
    require_packages(kind, opset, check=check and runner is None)
    tell = progress or (lambda stage: None)
    channels = 3 * len(network.views)
    plans = _plans(getattr(network.net, "multiple_of", 1))
    _require_sizes(plans[0], sizes)
    _require_same_size(network, _pictures(channels, plans[1], ())[0])

    tell("trace")
    program, plan = _traced(network, channels, plans)
    _require_sizes(plan, sizes)
    pictures = _pictures(channels, plan, sizes)
    metadata = describe(network, plan)
    if kind == "onnx":
        tell("translate to ONNX")
        data, opset = export_formats.onnx_file(program, metadata, opset, any_batch=plan.any_batch, path=path)
    else:
        data = export_formats.torch_file(program, metadata)
    tell("write")
    differences: dict[tuple[int, ...], float] = {}
    with written_aside(path) as file:
        file.write(data)
        file.flush()
        if check:  # what stands on the disk, before it takes the file's name
            usual = export_formats.onnx_runner if kind == "onnx" else export_formats.torch_runner
            run = (runner or usual)(Path(file.name))
            for picture in pictures:
                tell(f"check at {picture.shape[2]}x{picture.shape[3]}")
                differences[tuple(picture.shape)] = _difference(network.net, run, picture)
            _require_near(differences, path)
    return Report(path, kind, opset, len(data), plan.smallest, plan.multiple, plan.any_batch, differences)


@dataclass(frozen=True)
class Plan:
    """Which inputs a program is to take: any height and width from `smallest` on that are multiples of `multiple`, and
    any number of pictures or one."""

    multiple: int
    smallest: int
    any_batch: bool


def describe(network: Network, plan: Plan) -> dict[str, str]:
    """What goes into a file beside the graph, as strings; values that aren't text are JSON."""
    return {
        "producer": f"ifan_plugin {__version__}",
        "architecture": network.name,
        "hyper_parameters": json.dumps(getattr(network.net, "hyper_parameters", {}), default=str),
        "views": json.dumps(network.views),
        "input": f"lq [B, {3 * len(network.views)}, H, W] float32",
        "output": "restored [B, 3, H, W] float32",
        "color": "RGB",
        "transfer": "as coded in pictures (sRGB)",
        "range": json.dumps([0, 1]),
        "multiple_of": str(plan.multiple),
        "padded_inside_to_multiple_of": str(getattr(network.net, "multiple_of", 1)),
        "smallest_size": str(plan.smallest),
        "batch": "any" if plan.any_batch else "1",
    }


def require_writable(path: Path, kind: str | None, *, overwrite: bool) -> str:
    """The kind of file to write. Raises :class:`UserError` where it can't or mayn't be; before the work."""
    if kind is not None and kind not in KINDS:
        raise UserError(f"unknown kind of file '{kind}'; {nearest(kind, KINDS)}")
    valid = " or ".join(f"{suffix} (--{name})" for name, suffix in KINDS.items())
    if path.is_dir():
        raise UserError(f"{path}: is a folder; give a file's name, ending in {valid}")
    kinds = {suffix: name for name, suffix in KINDS.items()}
    if path.suffix not in kinds:
        raise UserError(f"{path}: unknown ending '{path.suffix}'; valid: {valid}")
    found = kinds[path.suffix]
    if kind not in (None, found):
        raise UserError(f"{path}: the ending {path.suffix} is --{found}'s; valid with --{kind}: {KINDS[kind]}")
    if not path.parent.is_dir():
        raise UserError(f"{path.parent}: folder not found")
    if path.exists() and not overwrite:
        raise UserError(f"{path}: is there already; give another name, or add --overwrite")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise UserError(f"{path.parent}: no permission to write into this folder")
    return found


def require_packages(kind: str, opset: int | None, *, check: bool) -> None:
    """Raise :class:`UserError` where packages for this kind of file are missing, or the opset can't be."""
    if kind != "onnx":
        if opset is not None:
            raise UserError("--opset: is ONNX's; a torch.export program has none")
        return
    needed = ["onnx", "onnxscript", *(["onnxruntime"] if check else [])]
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"--onnx needs {' and '.join(missing)}: pip install 'ifan_plugin[onnx]'")
    if opset is not None and not OLDEST_OPSET <= opset <= export_formats.newest_opset():
        raise UserError(f"--opset: must be from {OLDEST_OPSET} to {export_formats.newest_opset()}, not {opset}")


class _Deployed(nn.Module):
    """A network for pictures of any size; padding, cropping and clipping are part of its graph."""

    def __init__(self, network: nn.Module, multiple: int) -> None:
        super().__init__()
        self.network, self.multiple = network, multiple

    def forward(self, lq: Tensor) -> Tensor:
        height, width = lq.shape[-2:]
        bottom, right = self._missing(height), self._missing(width)
        # Cropped by negative padding: of a slice the tracer couldn't prove that it stays inside.
        padded = F.pad(lq, (0, right, 0, bottom), mode="replicate") if self.multiple > 1 else lq
        restored = self.network(padded)
        if self.multiple > 1:
            restored = F.pad(restored, (0, -right, 0, -bottom))
        return restored.clamp(0, 1)

    def _missing(self, size: int) -> int:
        """Pixels up to the next multiple. Not -size % multiple: of this form the tracer knows what divides the sum."""
        return (size + self.multiple - 1) // self.multiple * self.multiple - size


def _plans(multiple: int) -> list[Plan]:
    """From the most that can be wished for to less.

    Sizes start at one pixel more than the network's own multiple: features of a single row or column are laid out in
    memory otherwise, and the tracer sees another program in that.
    """
    steps = [math.lcm(multiple, step) for step in (16, 64)]
    sizes = [(1, multiple + 1), *((step, 2 * step) for step in steps)]
    return [Plan(step, smallest, any_batch) for step, smallest in sizes for any_batch in (True, False)]


def _traced(network: Network, channels: int, plans: Sequence[Plan]) -> tuple[torch.export.ExportedProgram, Plan]:
    """The program by the first plan that the tracer can follow."""
    net = copy.deepcopy(network.net).cpu().eval().requires_grad_(False)
    for module in net.modules():
        if isinstance(module, IAC):
            module.backend = "reference"  # standard operators alone
    # With gradients on IFAN takes all of FAC's filters at once: taken by parts of the channels, its taps would be some
    # ten thousand nodes.
    whole_filters = any(isinstance(module, FAC) for module in net.modules())
    failure: Exception | None = None
    for plan in plans:
        module = _Deployed(net, getattr(net, "multiple_of", 1) if plan.multiple == 1 else 1)
        example, dims = _example(channels, plan, getattr(net, "multiple_of", 1))
        try:
            with torch.set_grad_enabled(whole_filters), export_formats.quiet():
                program = torch.export.export(module, (example,), dynamic_shapes={"lq": dims}, strict=False)
        except Exception as error:  # noqa: BLE001 (on other people's networks the tracer fails in any way at all)
            failure = failure or error
        else:
            _require_standard(program, network.name)
            return program, plan
    words = " ".join(str(failure).split())[:300]
    raise UserError(
        f"{network.name}: torch.export can't follow this network for sizes that aren't known: "
        f"{type(failure).__name__}: {words}"
    ) from failure


def _example(channels: int, plan: Plan, inner: int) -> tuple[Tensor, dict[int, Any]]:
    """An input to trace with, and what of its shape is free."""
    if plan.multiple == 1:
        # With a remainder, so that the tracer doesn't take padding for needless.
        step = max(inner, 8)
        height, width = 5 * step + 3, 7 * step + 3
        dims = {axis: torch.export.Dim(name, min=plan.smallest) for axis, name in ((2, "height"), (3, "width"))}
    else:
        step, least = plan.multiple, plan.smallest // plan.multiple
        height, width = 5 * step, 7 * step
        dims = {axis: step * torch.export.Dim(name, min=least) for axis, name in ((2, "rows"), (3, "columns"))}
    if plan.any_batch:
        dims[0] = torch.export.Dim("batch", min=1)
    return torch.zeros(2 if plan.any_batch else 1, channels, height, width), dims


def _require_standard(program: torch.export.ExportedProgram, name: str) -> None:
    for graph_module in export_formats.graph_modules(program):
        for node in graph_module.graph.nodes:
            namespace = getattr(node.target, "namespace", "aten")
            if node.op == "call_function" and namespace not in _STANDARD:
                raise UserError(
                    f"{name}: uses the operator {node.target}, which isn't torch's own: the file would only run where "
                    "it is installed"
                )


def _require_sizes(plan: Plan, sizes: Sequence[tuple[int, int]]) -> None:
    """Raise :class:`UserError` where the program won't take a size it is to be checked at."""
    for height, width in sizes:
        if min(height, width) < plan.smallest or height % plan.multiple or width % plan.multiple:
            of = "" if plan.multiple == 1 else f" multiples of {plan.multiple} and"
            raise UserError(f"--size: {width}x{height}: both sides must be{of} at least {plan.smallest}")


def _pictures(channels: int, plan: Plan, sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
    """Pictures to compare on: smooth, with some noise, as the network expects; at three sizes and those given."""
    if plan.multiple == 1:
        step = max(plan.smallest - 1, 8)
        shapes = [(2, 5 * step, 7 * step), (1, 4 * step + 3, 6 * step + 5), (1, plan.smallest, 3 * step + 1)]
    else:
        step = plan.multiple
        shapes = [(2, 4 * step, 3 * step), (1, 2 * step, 5 * step), (1, 3 * step, 2 * step)]
    shapes += [(1, height, width) for height, width in sizes]
    random = torch.Generator().manual_seed(0)
    pictures = []
    for batch, height, width in shapes:
        coarse = torch.rand(batch if plan.any_batch else 1, 3, height // 8 + 2, width // 8 + 2, generator=random)
        smooth = F.interpolate(coarse, (height, width), mode="bicubic", align_corners=True)
        views = smooth.repeat(1, channels // 3, 1, 1)
        pictures.append((views + 0.02 * torch.randn(views.shape, generator=random)).clamp(0, 1))
    return pictures


@torch.no_grad()
def _require_same_size(network: Network, picture: Tensor) -> None:
    restored = network.net(picture)  # of a size that needs no padding
    if restored.shape != (picture.shape[0], 3, *picture.shape[2:]):
        raise UserError(
            f"{network.name}: makes {list(restored.shape)} of {list(picture.shape)}; only networks whose result "
            "has the picture's size can be exported"
        )


@torch.no_grad()
def _original(net: nn.Module, lq: Tensor) -> Tensor:
    """The network itself, in float32, as it runs without export."""
    height, width = lq.shape[-2:]
    return net(pad_to_multiple(lq, getattr(net, "multiple_of", 1)))[..., :height, :width].clamp(0, 1)


def _difference(net: nn.Module, run: Callable[[Tensor], Tensor], picture: Tensor) -> float:
    """Largest difference between the program and the original; infinite for another shape."""
    expected, found = _original(net, picture), run(picture)
    if found.shape != expected.shape:
        return float("inf")
    return (found - expected).abs().max().item()


def _require_near(differences: dict[tuple[int, ...], float], path: Path) -> None:
    for shape, difference in differences.items():
        if not difference <= TOLERANCE:  # NaN, too
            raise UserError(
                f"{path}: not written: at {shape[2]}x{shape[3]} it differs from the original by {difference:.1e} "
                f"(limit {TOLERANCE:.0e})"
            )
