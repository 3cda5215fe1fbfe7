"""Builds the CUDA kernels for the CPU and calls them on PyTorch tensors, without a GPU."""

from __future__ import annotations

import ctypes
import functools
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import torch
from torch import Tensor

HERE = Path(__file__).parent
CUDA_SOURCES = Path(__file__).parents[3] / "ifan_plugin" / "ops" / "csrc" / "common" / "cuda"
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
FENCE = 1024  # bytes around every buffer that a kernel gets


class Order(IntEnum):
    """In which order a block's threads run between two barriers."""

    FORWARD = 0
    REVERSE = 1
    SHUFFLED = 2


class Kernels(IntEnum):
    """The kernels' `enum class Path`."""

    PLANE = 0
    TILED = 1
    WIDE = 2


@dataclass(frozen=True)
class Device:
    """What the launch plan depends on; the defaults are a large GPU's."""

    shared_bytes: int = 227 * 1024
    multiprocessors: int = 132
    l2_bytes: int = 50 * 1024 * 1024
    programmatic_launch: bool = True


@dataclass(frozen=True)
class Problem:
    """The operator's parameters and how they are run."""

    num_steps: int
    taps: int = 3
    slope: float = 0.1
    act_last: bool = True
    isotropic: bool = False
    save_steps: bool = True
    device: Device = Device()
    order: Order = Order.FORWARD
    variants: str = ""  # names of `struct Variants` in iac_cuda_plan.hpp, commas between


class Call(ctypes.Structure):
    """`Call` in iac_harness.cpp."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in (
            "dtype", "planes", "channels", "height", "width", "num_steps", "taps", "isotropic",
            "shared_bytes", "multiprocessors", "l2_bytes", "programmatic_launch", "order", "seed", "act_last", "save_steps",
            "weights_batch_stride", "bias_batch_stride", "gradients_batch_stride",
        )),
        ("slope", ctypes.c_double),
        ("variants", ctypes.c_char_p),
    ]  # fmt: skip


class Report(ctypes.Structure):
    """`Report` in iac_harness.cpp."""

    _fields_ = [
        (name, ctypes.c_int64)
        for name in ("error", "fault", "launches", "blocks", "programmatic_launches", "columns_at_once")
    ]


class Plan(ctypes.Structure):
    """`PlanOut` in iac_harness.cpp."""

    _fields_ = [
        (name, ctypes.c_int64)
        for name in (
            "path", "threads_x", "threads_y", "tile_rows", "tile_columns", "tiles_x", "tiles", "shared_bytes",
            "planes_per_pass", "scratch_planes", "columns_at_once", "programmatic",
        )
    ]  # fmt: skip


class KernelError(AssertionError):
    """A launch failed, threads disagreed about a barrier, or memory past a buffer was written."""


class Fenced:
    """A tensor with NaN before and after it: reading past its ends shows in results, writing there is found."""

    def __init__(self, shape: Sequence[int], dtype: torch.dtype, shift: int = 0) -> None:
        count = torch.Size(shape).numel()
        size = torch.empty(0, dtype=dtype).element_size()
        self._begin = FENCE + shift * size  # elements past a multiple of many bytes
        self._end = self._begin + count * size
        self._bytes = torch.full((self._end + FENCE,), 0xFF, dtype=torch.uint8)
        self.tensor = self._bytes[self._begin : self._end].view(dtype).view(shape)

    @classmethod
    def holding(cls, tensor: Tensor, shift: int = 0) -> Fenced:
        fenced = cls(tensor.shape, tensor.dtype, shift)
        fenced.tensor.copy_(tensor)
        return fenced

    def intact(self) -> bool:
        return bool((self._bytes[: self._begin] == 0xFF).all() and (self._bytes[self._end :] == 0xFF).all())


@functools.cache
def compiler() -> str | None:
    """The host compiler, or None; it must know the half type `_Float16` (GCC 12, Clang 15)."""
    for name in ("g++", "clang++"):
        found = shutil.which(name)
        command = [found, "-x", "c++", "-fsyntax-only", "-"]
        if found and subprocess.run(command, input="_Float16 half;", text=True, capture_output=True).returncode == 0:
            return found
    return None


def build(into: Path, sources: Path = CUDA_SOURCES, float_only: bool = False, optimise: str = "-O1") -> Path:
    """Compile the harness with the kernels in `sources`; the library's path."""
    library = into / "iac_harness.so"
    command = [
        compiler(), "-std=c++17", optimise, "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas",
        f"-I{HERE}", f"-I{sources}", str(HERE / "iac_harness.cpp"), "-o", str(library),
    ]  # fmt: skip
    if float_only:
        command.append("-DIFAN_SHIM_FLOAT_ONLY")
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise KernelError(f"{' '.join(command)}\n{done.stderr}")
    return library


class Shim:
    """The kernels, as functions of tensors on the CPU."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))
        self.programmatic_launches = 0  # of the last call
        self.columns_at_once = 0

    def knows(self, variants: str) -> bool:
        """Whether the kernels have all the variants named, with commas between."""
        return bool(self._library.shim_knows(variants.encode()))

    def plan(
        self, shape: Sequence[int], dtype: torch.dtype, problem: Problem, backward: bool = False, batch_stride: int = 0
    ) -> Plan:
        """The launch plan for x of `shape`, filters of which begin at a multiple of four bytes."""
        plan = Plan()
        call = _call(shape, dtype, problem, batch_stride)
        self._library.shim_plan(ctypes.byref(call), ctypes.c_int(backward), ctypes.byref(plan))
        return plan

    def forward(self, x: Tensor, filters: Tensor, problem: Problem) -> tuple[Tensor, Tensor]:
        """`iac`: y and the saved steps."""
        weights, bias = _parts(filters, x.shape[1], problem)
        return self.forward_parts(x, weights, bias, problem)

    def forward_parts(self, x: Tensor, weights: Tensor, bias: Tensor, problem: Problem) -> tuple[Tensor, Tensor]:
        """The same with the weights' and the biases' channels apart, each with any batch stride, as in `iac_step`."""
        call = _call(x.shape, x.dtype, problem, weights.stride(0), bias.stride(0))
        steps = problem.num_steps - 1 if problem.save_steps else 0
        buffers = [Fenced.holding(x), Fenced(x.shape, x.dtype), Fenced((steps, *x.shape), _accumulation(x.dtype))]
        into, y, saved = buffers
        self._run(
            self._library.shim_forward, call, buffers, into.tensor, weights, bias, y.tensor, saved.tensor
        )  # fmt: skip
        return y.tensor, saved.tensor

    def backward(
        self, grad: Tensor, x: Tensor, filters: Tensor, y: Tensor, steps: Tensor, problem: Problem, moved: str = ""
    ) -> tuple[Tensor, Tensor]:
        """`iac_backward`: the gradients of x and of the filters. `moved`: grad, x, y or steps, which then begins one
        element past an aligned place."""
        weights, bias = _parts(filters, x.shape[1], problem)
        given = {"grad": grad, "x": x, "y": y, "steps": steps}
        buffers = [Fenced.holding(tensor, shift=int(name == moved)) for name, tensor in given.items()]
        into = [Fenced(x.shape, x.dtype), Fenced(filters.shape, x.dtype)]
        grad_weights, grad_bias = _parts(into[1].tensor, x.shape[1], problem)
        call = _call(x.shape, x.dtype, problem, weights.stride(0), bias.stride(0), grad_weights.stride(0))
        grad_fenced, x_fenced, y_fenced, steps_fenced = (buffer.tensor for buffer in buffers)
        self._run(
            self._library.shim_backward, call, [*buffers, *into], grad_fenced, x_fenced, weights, bias, y_fenced,
            steps_fenced, into[0].tensor, grad_weights, grad_bias,
        )  # fmt: skip
        return into[0].tensor, into[1].tensor

    def epilogue(
        self, x: Tensor, bias: Tensor, slope: float, before: Tensor | None, after: Tensor | None, *, aligned: bool
    ) -> Tensor:
        """`epilogue_` of a copy of x, contiguous or channels-last, as all others are."""
        channels_last = not x.is_contiguous()
        inner = x.shape[2:].numel()
        order = (0, 2, 3, 1) if channels_last else tuple(range(x.dim()))  # memory's
        buffers = [Fenced.holding(each.permute(order)) for each in (x, before, after) if each is not None]
        given = iter(buffers)
        pointers = [None if each is None else next(given).tensor.data_ptr() for each in (x, before, after)]
        call = _call((1, 1, 1, 1), x.dtype, Problem(1, slope=slope))
        report = Report()
        self._library.shim_epilogue(
            ctypes.byref(call), ctypes.c_void_p(pointers[0]), ctypes.c_void_p(bias.data_ptr()),
            ctypes.c_void_p(pointers[1]), ctypes.c_void_p(pointers[2]), ctypes.c_int64(x.numel()), ctypes.c_int64(inner),
            ctypes.c_int64(x.shape[1]), channels_last, aligned, ctypes.byref(report),
        )  # fmt: skip
        if report.error or report.fault or not all(buffer.intact() for buffer in buffers):
            raise KernelError(f"error {report.error}, fault {report.fault}, or a fence was overwritten")
        back = (0, 3, 1, 2) if channels_last else order
        return buffers[0].tensor.permute(back)

    def _run(self, function: object, call: Call, buffers: list[Fenced], *tensors: Tensor) -> None:
        report = Report()
        function(ctypes.byref(call), *(ctypes.c_void_p(each.data_ptr()) for each in tensors), ctypes.byref(report))
        self.programmatic_launches = report.programmatic_launches
        self.columns_at_once = report.columns_at_once
        if report.error or report.fault or not all(buffer.intact() for buffer in buffers):
            raise KernelError(f"error {report.error}, fault {report.fault}, or a fence was overwritten")


def _accumulation(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _parts(filters: Tensor, channels: int, problem: Problem) -> tuple[Tensor, Tensor]:
    """The channels of the weights and those of the biases, as views."""
    weights = 2 * channels * problem.taps * problem.num_steps
    return filters[:, :weights], filters[:, weights:]


def _call(shape: Sequence[int], dtype: torch.dtype, problem: Problem, *batch_strides: int) -> Call:
    batch, channels, height, width = shape
    strides = (*batch_strides, 0, 0, 0)[:3]
    device = problem.device
    return Call(
        DTYPES.index(dtype), batch * channels, channels, height, width, problem.num_steps, problem.taps,
        problem.isotropic, device.shared_bytes, device.multiprocessors, device.l2_bytes, device.programmatic_launch,
        problem.order, 1, problem.act_last, problem.save_steps, *strides, problem.slope, problem.variants.encode(),
    )  # fmt: skip
