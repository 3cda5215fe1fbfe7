"""The device under test, and what its tests share.

IFAN_TEST_DEVICE=cpu runs them on the CPU where that makes sense: a rehearsal, so that they are known to work before a
GPU is at hand.
"""

from __future__ import annotations

import os

import pytest
import torch
from torch import Tensor

from ifan_plugin.ops import reference

DEVICE = torch.device(os.environ.get("IFAN_TEST_DEVICE", "cuda"))
ON_CUDA = DEVICE.type == "cuda"
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}

needs_cuda = pytest.mark.skipif(not ON_CUDA, reason="it is about CUDA; IFAN_TEST_DEVICE names another device")


def make(
    shape: tuple[int, ...], num_steps: int, taps: int, dtype: torch.dtype, extra: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """x, filters (a slice along the channels where `extra`) and an upstream gradient, on the device."""
    generator = torch.Generator().manual_seed(0)
    batch, channels, height, width = shape
    count = reference.filter_channels(channels, num_steps, taps)
    x = torch.randn(shape, generator=generator)
    filters = torch.randn(batch, count + extra, height, width, generator=generator) * taps**-0.5
    filters[:, :extra] = float("nan")
    grad = torch.randn(shape, generator=generator)
    return x.to(DEVICE, dtype), filters.to(DEVICE, dtype)[:, extra:], grad.to(DEVICE, dtype)


def compiled(
    x: Tensor,
    filters: Tensor,
    grad: Tensor,
    num_steps: int,
    taps: int,
    slope: float = 0.1,
    act_last: bool = True,
    isotropic: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """y, grad_x, grad_filters by the operators themselves."""
    y, steps = torch.ops.ifan_plugin.iac(x, filters, num_steps, taps, slope, act_last, isotropic, True)
    return y, *torch.ops.ifan_plugin.iac_backward(
        grad, x, filters, y, steps, num_steps, taps, slope, act_last, isotropic
    )


def expected(x: Tensor, filters: Tensor, grad: Tensor, *parameters: object) -> tuple[Tensor, Tensor, Tensor]:
    """The same by the twin, on the CPU, in float64."""
    x, filters = (tensor.detach().cpu().double().requires_grad_() for tensor in (x, filters))
    booleans = dict(zip(("act_last", "isotropic"), parameters[3:]))
    y = reference.iac(x, filters, *parameters[:3], **booleans)
    return y.detach(), *torch.autograd.grad(y, (x, filters), grad.cpu().double())


def assert_close(got: tuple[Tensor, ...], want: tuple[Tensor, ...], dtype: torch.dtype) -> None:
    for name, one, other in zip(("y", "grad_x", "grad_filters"), got, want):
        error = (one.cpu().double() - other).abs().max().item() / (other.abs().max().item() or 1.0)
        assert one.dtype == dtype
        assert error <= TOLERANCE[dtype], f"{name} is off by {error:.3g}"


def room_for(gib: float) -> None:
    """Skip where the device hasn't so much memory free."""
    free = torch.cuda.mem_get_info()[0] / 2**30
    if free < gib:
        pytest.skip(f"needs {gib} GiB of free device memory, there are {free:.1f}")


def of_channel(filters: Tensor, channels: int, channel: int, num_steps: int, taps: int) -> Tensor:
    """The filters of one channel, as if there were no other."""
    weights = 2 * channels * taps * num_steps
    grouped = filters[:, :weights].unflatten(1, (num_steps, 2, channels, taps))[:, :, :, channel].flatten(1, 3)
    return torch.cat([grouped, filters[:, weights:].unflatten(1, (num_steps, channels))[:, :, channel]], 1)
