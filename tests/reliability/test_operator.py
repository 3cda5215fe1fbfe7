"""The operator's doors: arguments of any kind give the reference's result, or TypeError, ValueError or RuntimeError of ours."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from reliability.attack import attack
from torch import Tensor

from ifan_plugin.ops import _library, iac, iac_step, reference
from ifan_plugin.ops.fac import fac

NUMBERS = [0, 1, 2, 3, 4, 5, -1, 7, 10**6, 2**31, 2**63, 1.0, 3.0, float("nan"), float("inf"), None, "3", True, [3]]
SLOPES = [0, 0.1, 0.5, 1, 1.5, -0.1, 1e30, float("nan"), float("inf"), "x", None, True]
WORDS = ("must", "backend", "tensor", "negative_slope")


LAID: list[Callable[[Tensor], Any]] = [
    lambda t: t.to(memory_format=torch.channels_last), lambda t: t.transpose(2, 3).contiguous().transpose(2, 3),
    lambda t: torch.stack([t, t], -1)[..., 0], lambda t: torch.cat([t, t], 1)[:, : t.shape[1]], lambda t: t.flip(3).flip(3),
    lambda t: t[:1, :, :1, :1].expand_as(t), lambda t: torch._neg_view(t.neg()), torch.nn.Parameter,
    lambda t: torch.empty(t.numel() + 1, dtype=t.dtype)[1:].view(t.shape).copy_(t),  # not aligned as allocators do
]  # fmt: skip
"""The same numbers, laid otherwise in memory."""
OTHER: list[Callable[[Tensor], Any]] = [
    Tensor.double, Tensor.half, Tensor.bfloat16, Tensor.int, Tensor.bool, lambda t: t.to(torch.complex64), Tensor.to_sparse,
    lambda t: t[0, 0].to_sparse_csr(), lambda t: t.float().to_mkldnn(), lambda t: t.to("meta"), lambda t: None, lambda t: 3,
    lambda t: "x", lambda t: [t], lambda t: t.float().numpy(), lambda t: torch.nested.nested_tensor([t[0], t[0]]),
    lambda t: torch.quantize_per_tensor(t.float(), 0.1, 0, torch.qint8), lambda t: t[0], lambda t: t[None], lambda t: t[:0],
    lambda t: t[:, :0], lambda t: t[..., :0], lambda t: t[:, :1], lambda t: t[..., 1:], lambda t: t * float("nan"),
    lambda t: t * float("inf"), lambda t: t * 0, lambda t: t * 1e30,
]  # fmt: skip
"""Other numbers, or what no dense tensor is."""


def changed(tensor: Tensor, rng: random.Random) -> Any:
    kind = rng.random()
    return rng.choice(LAID)(tensor) if kind < 0.3 else rng.choice(OTHER)(tensor) if kind < 0.5 else tensor


def case(rng: random.Random) -> Callable[[], None]:
    torch.manual_seed(rng.randrange(2**31))
    dtype = rng.choice([torch.float32] * 3 + [torch.float64, torch.float16, torch.bfloat16])
    batch, channels, height, width = (rng.choice(sizes) for sizes in ([1, 2], [1, 2, 5], [1, 2, 9, 17], [1, 3, 16, 33]))
    steps, taps = rng.choice([1, 2, 3]), rng.choice([1, 3, 5])
    x = torch.randn(batch, channels, height, width).to(dtype)
    name = rng.choice(["iac", "iac", "step", "fac"])
    counts = {
        "iac": reference.filter_channels(channels, steps, taps),
        "step": 2 * channels * taps,
        "fac": channels * taps**2,
    }
    filters = torch.randn(batch, counts[name], height, width).to(dtype)
    bias = torch.randn_like(x)
    x, filters, bias = (changed(each, rng) for each in (x, filters, bias))
    if rng.random() < 0.15:
        steps = rng.choice(NUMBERS)
    if rng.random() < 0.15:
        taps = rng.choice(NUMBERS)
    slope = rng.choice(SLOPES) if rng.random() < 0.2 else 0.1
    flags = {"isotropic": rng.random() < 0.5}
    backend = rng.choice([None, None, "cpu", "reference", "cuda", "none"])

    def run() -> None:
        if name == "fac":
            fac(x, filters, taps, bias)
            return
        arguments = (x, filters, steps, taps, slope) if name == "iac" else (x, filters, bias, taps, slope)
        function, twin = (iac, reference.iac) if name == "iac" else (iac_step, reference.iac_step)
        result = function(*arguments, **flags, backend=backend)
        expected = twin(*arguments, **flags)
        if not result.is_meta and result.isfinite().all() and expected.isfinite().all():
            precision = {torch.float64: 1e-9, torch.float32: 1e-3}.get(result.dtype, 0.1)
            scale = max(expected.abs().max().item(), 1) if expected.numel() else 1
            torch.testing.assert_close(result, expected, rtol=precision, atol=precision * scale)
        if result.requires_grad:
            result.sum().backward()

    def attempt() -> None:
        try:
            run()
        except (TypeError, ValueError, RuntimeError) as error:
            if "\n" in str(error) or not any(word in str(error) for word in WORDS):
                raise AssertionError(f"not our words: {error}") from error

    return attempt


@pytest.mark.slow
@pytest.mark.skipif(_library.load()["cpu"] is not None, reason="the CPU operator isn't compiled")
def test_two_thousand_calls():
    faults = attack(case, cases=2000, seconds=60)
    assert not faults, "\n".join(faults)
