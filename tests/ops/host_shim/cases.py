"""Inputs, expectations and comparisons that the tests of the CUDA kernels on the CPU share."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from ops.host_shim.driver import Device, Problem, compiler
from torch import Tensor

from ifan_plugin.ops import reference

TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
LARGE = Device()

needs_compiler = pytest.mark.skipif(compiler() is None, reason="no C++ compiler that knows _Float16")


def make(shape: tuple[int, ...], problem: Problem, dtype: torch.dtype, extra: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """x, filters and an upstream gradient; `extra` channels that don't belong to the filters lie between batch items."""
    generator = torch.Generator().manual_seed(0)
    batch, channels, height, width = shape
    count = reference.filter_channels(channels, problem.num_steps, problem.taps)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    # About as large as keeps values of one size through the steps.
    filters = torch.randn(batch, count + extra, height, width, generator=generator, dtype=torch.float64)
    filters = (filters * problem.taps**-0.5).to(dtype)
    if extra:
        filters[:, :extra] = float("nan")
    grad = torch.randn(shape, generator=generator, dtype=torch.float64)
    return x.to(dtype), filters[:, extra:], grad.to(dtype)


def expected(x: Tensor, filters: Tensor, grad: Tensor, problem: Problem) -> tuple[Tensor, Tensor, Tensor]:
    """y, grad_x and grad_filters by the twin, in x's type but computed without its rounding."""
    wide = torch.promote_types(x.dtype, torch.float32)
    x_wide = x.to(wide).requires_grad_()
    filters_wide = filters.to(wide).requires_grad_()
    parameters = (problem.num_steps, problem.taps, problem.slope)
    booleans = {"act_last": problem.act_last, "isotropic": problem.isotropic}
    y = reference.iac(x_wide, filters_wide, *parameters, **booleans)
    gradients = torch.autograd.grad(y, (x_wide, filters_wide), grad.to(wide))
    return y.detach(), *gradients


def same_bits(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one.contiguous().view(torch.uint8), other.contiguous().view(torch.uint8))


def too_small(shape: tuple[int, ...], dtype: torch.dtype, device: Device = LARGE) -> Device:
    """A device whose shared memory can't quite take a plane's two buffers."""
    size = 8 if dtype == torch.float64 else 4
    return replace(device, shared_bytes=2 * shape[2] * shape[3] * size - 1)
