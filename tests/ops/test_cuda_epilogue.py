"""What follows a convolution in one pass: the CUDA kernel's arithmetic, without a GPU."""

from __future__ import annotations

import pytest
import torch
from iac_cases import after_convolution as composite
from ops.host_shim.cases import needs_compiler
from ops.host_shim.driver import Shim
from torch import Tensor


@needs_compiler
@pytest.mark.parametrize("others", ["", "before", "after", "both"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("shape", "last"),
    [((2, 8, 3, 5), True), ((1, 12, 4, 4), True), ((1, 3, 7, 5), True), ((2, 5, 4, 6), False), ((1, 3, 7), False),
     ((2, 16, 64), False), ((1, 24, 9, 40), True)],
)  # fmt: skip
def test_the_kernel(shim: Shim, shape: tuple[int, ...], last: bool, dtype: torch.dtype, others: str) -> None:
    torch.manual_seed(0)

    def drawn() -> Tensor:
        values = torch.randn(shape).to(dtype)
        return values.contiguous(memory_format=torch.channels_last) if last else values

    x, bias = drawn(), torch.randn(shape[1]).to(dtype)
    before = drawn() if others in ("before", "both") else None
    after = drawn() if others in ("after", "both") else None
    want = composite(x, bias, 0.1, before, after)
    for aligned in (True, False):
        got = shim.epilogue(x, bias, 0.1, before, after, aligned=aligned)
        tolerance = {torch.float64: 1e-14, torch.float32: 1e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}[dtype]
        assert (got.double() - want).abs().max() <= tolerance * want.abs().max()
