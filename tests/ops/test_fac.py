from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ifan_plugin.ops.fac import FAC, fac, fac_filter_channels


def draw(batch: int, channels: int, height: int, width: int, taps: int, dtype=torch.float64) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(taps)
    shapes = [channels, fac_filter_channels(channels, taps), channels]
    return tuple(torch.randn(batch, c, height, width, dtype=dtype, generator=generator) for c in shapes)


def by_unfold(x: Tensor, filters: Tensor, taps: int) -> Tensor:
    """The definition, with the patches written out."""
    batch, channels, height, width = x.shape
    patches = F.unfold(F.pad(x, [taps // 2] * 4, mode="replicate"), taps)
    patches = patches.view(batch, channels, taps * taps, height, width)
    return (patches * filters.view_as(patches)).sum(2)


@pytest.mark.parametrize(
    ("shape", "taps"), [((2, 3, 7, 5), 3), ((1, 2, 9, 12), 5), ((1, 1, 1, 1), 3), ((2, 4, 6, 6), 1), ((1, 2, 3, 4), 11)]
)
def test_equals_unfold(shape, taps):
    x, filters, bias = draw(*shape, taps)
    expected = by_unfold(x, filters, taps)
    torch.testing.assert_close(fac(x, filters, taps), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(fac(x, filters, taps, bias), expected + bias, rtol=1e-12, atol=1e-12)


def test_one_value_by_hand():
    """Rows before columns, and no other pixel's or channel's filter."""
    x, filters, _ = draw(1, 2, 4, 5, 3)
    rows, columns = (1, 2, 3), (3, 4, 4)  # pixel (2, 4) is in the last column: replicated
    expected = sum(
        filters[0, 9 + 3 * j + i, 2, 4] * x[0, 1, row, column]
        for j, row in enumerate(rows)
        for i, column in enumerate(columns)
    )
    torch.testing.assert_close(fac(x, filters, 3)[0, 1, 2, 4], expected)


def test_an_empty_batch():
    x, filters, _ = draw(0, 2, 4, 5, 3)
    assert fac(x, filters, 3).shape == (0, 2, 4, 5)


@pytest.mark.parametrize("with_bias", [False, True])
def test_gradcheck(with_bias):
    tensors = [t.requires_grad_() for t in draw(2, 2, 3, 4, 3)[: 3 if with_bias else 2]]
    assert torch.autograd.gradcheck(lambda x, f, *b: fac(x, f, 3, *b), tensors)
    assert torch.autograd.gradgradcheck(lambda x, f, *b: fac(x, f, 3, *b), tensors)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_are_rounded_once(dtype):
    x, filters, bias = (t.to(dtype) for t in draw(1, 3, 6, 7, 5))
    expected = by_unfold(x.float(), filters.float(), 5) + bias.float()
    result = fac(x, filters, 5, bias)
    assert result.dtype == dtype
    torch.testing.assert_close(result, expected.to(dtype), rtol=torch.finfo(dtype).eps, atol=1e-6)


def test_module_equals_function():
    x, filters, bias = draw(2, 3, 6, 5, 5)
    torch.testing.assert_close(FAC(5)(x, filters), fac(x, filters, 5))
    module = FAC(5, bias=True, negative_slope=0.3)
    expected = F.leaky_relu(fac(x, filters, 5, bias), 0.3)
    torch.testing.assert_close(module(x, torch.cat([filters, bias], 1)), expected)
    assert "taps=5" in repr(module)
    assert fac_filter_channels(3, 5, bias=True) == 78


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"taps": 4}, ValueError, "taps must be odd"),
        ({"taps": 3.0}, TypeError, "taps must be an int"),
        ({"taps": True}, TypeError, "taps must be an int"),
        ({"x": [1]}, TypeError, "x must be a tensor"),
        ({"x": torch.zeros(1, 2, 4, 5, dtype=torch.int64)}, TypeError, "x must be float64"),
        ({"filters": torch.zeros(1, 18, 4, 5, dtype=torch.float32)}, TypeError, "one dtype"),
        ({"filters": torch.zeros(1, 17, 4, 5, dtype=torch.float64)}, ValueError, r"filters must be \[1, 18, 4, 5\]"),
        ({"x": torch.zeros(2, 4, 5, dtype=torch.float64)}, ValueError, r"x must be \[B, C, H, W\]"),
        ({"x": torch.zeros(1, 2, 0, 5, dtype=torch.float64)}, ValueError, "at least one"),
        ({"bias": torch.zeros(1, 2, 4, 4, dtype=torch.float64)}, ValueError, r"bias must be \[1, 2, 4, 5\]"),
        ({"filters": torch.zeros(1, 18, 4, 5, dtype=torch.float64, device="meta")}, ValueError, "one device"),
    ],
)
def test_invalid_arguments(change, error, message):
    x, filters, bias = draw(1, 2, 4, 5, 3)
    with pytest.raises(error, match=message):
        fac(**{"x": x, "filters": filters, "taps": 3, "bias": bias} | change)


def test_invalid_arguments_of_the_module():
    x, filters, _ = draw(1, 2, 4, 5, 3)
    with pytest.raises(ValueError, match="must have 20 channels"):
        FAC(3, bias=True)(x, filters)
    with pytest.raises(ValueError, match="taps must be odd"):
        FAC(2)
