"""Inputs and tolerances that the tests of the compiled operator share."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from ifan_plugin.ops import available_backends, filter_channels, iac

REASON = available_backends()["cpu"]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}

compiled = pytest.mark.skipif(REASON is not None, reason=f"IAC for the CPU: {REASON}")
every_dtype = pytest.mark.parametrize("dtype", list(TOLERANCE), ids=lambda dtype: str(dtype).removeprefix("torch."))


def arguments(
    shape: tuple[int, ...] = (2, 3, 5, 7), num_steps: int = 2, taps: int = 3, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    """x and filters."""
    generator = torch.Generator().manual_seed(1)
    batch, channels, height, width = shape
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    rows = filter_channels(channels, num_steps, taps)
    filters = torch.randn(batch, rows, height, width, generator=generator, dtype=torch.float64)
    return x.to(dtype), (filters * (0.7 / taps**0.5)).to(dtype)


def with_gradients(x: Tensor, filters: Tensor, *options: object, backend: str) -> tuple[Tensor, Tensor, Tensor]:
    """Output and both gradients for one upstream gradient."""
    x, filters = x.detach().requires_grad_(), filters.detach().requires_grad_()
    booleans = dict(zip(("act_last", "isotropic"), options[3:]))
    y = iac(x, filters, *options[:3], **booleans, backend=backend)
    upstream = torch.randn(y.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return y.detach(), *torch.autograd.grad(y, (x, filters), upstream.to(y.dtype))


def assert_near(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    """Largest error against the largest value."""
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    if expected.numel():
        error = (actual.double() - expected.double()).abs().max()
        assert error <= tolerance * expected.double().abs().max().clamp_min(1e-30)


class Recorder(TorchDispatchMode):
    """What reaches the dispatcher."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, tuple]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls.append((func.name(), args))
        return func(*args, **(kwargs or {}))


def after_convolution(
    x: Tensor, bias: Tensor, slope: float, before: Tensor | None = None, after: Tensor | None = None
) -> Tensor:
    """What `epilogue_` computes, in float64."""
    result = x.double() + bias.double().view(-1, *(1,) * (x.dim() - 2))
    result = F.leaky_relu(result if before is None else result + before.double(), slope)
    return result if after is None else result + after.double()
