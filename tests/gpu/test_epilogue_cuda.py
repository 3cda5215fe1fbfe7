"""What follows a convolution in one pass, on a CUDA device."""

from __future__ import annotations

import pytest
import torch
from gpu.device import DEVICE, needs_cuda
from iac_cases import after_convolution as composite
from torch import Tensor

from ifan_plugin.archs.ifan_arch import IFAN
from ifan_plugin.inference import run_network
from ifan_plugin.ops.epilogue import epilogue_, fuses, products_as_convolutions

pytestmark = needs_cuda


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("shape", "layout"),
    [((2, 32, 37, 51), "last"), ((1, 12, 9, 9), "last"), ((1, 3, 33, 31), "last"), ((2, 5, 16, 24), "planes"),
     ((1, 128, 1001), "planes"), ((2, 64, 1024), "planes"), ((2, 6, 8, 10), "strided")],
)  # fmt: skip
def test_equals_pytorchs_own(shape: tuple[int, ...], layout: str, dtype: torch.dtype) -> None:
    generator = torch.Generator(DEVICE).manual_seed(0)

    def drawn(*, other: bool = False) -> Tensor:
        values = torch.randn(shape, generator=generator, device=DEVICE).to(dtype)
        if layout == "last" or (layout == "planes" and other and len(shape) == 4):  # in another layout than x
            return values.contiguous(memory_format=torch.channels_last)
        return values[..., ::2] if layout == "strided" else values

    biases = [torch.randn(shape[1], generator=generator, device=DEVICE).to(dtype)]
    biases += [biases[0].float()] if dtype.itemsize == 2 else []
    tolerance = {torch.float64: 1e-13, torch.float32: 1e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}[dtype]
    for bias in biases:
        for before, after in ((None, None), (drawn(), None), (None, drawn(other=True)), (drawn(), drawn())):
            x = drawn()
            want = composite(x, bias, 0.1, before, after)
            with torch.no_grad():
                got = epilogue_(x, bias, 0.1, before=before, after=after)
            assert got is x
            assert (got.double() - want).abs().max() <= tolerance * want.abs().max()


def test_wrong_arguments_are_named() -> None:
    x = torch.rand(1, 4, 8, 8, device=DEVICE)
    call = torch.ops.ifan_plugin.epilogue_
    with pytest.raises(RuntimeError, match="bias must be"):
        call(x, torch.rand(5, device=DEVICE), None, None, 0.1)
    with pytest.raises(RuntimeError, match="before must have x's shape"):
        call(x, torch.rand(4, device=DEVICE), torch.rand(1, 4, 8, 9, device=DEVICE), None, 0.1)
    with pytest.raises(RuntimeError, match="contiguous or channels-last"):
        call(x[..., ::2], torch.rand(4, device=DEVICE), None, None, 0.1)


@pytest.mark.parametrize("options", [{}, {"dual_pixel": True, "res_units": 1}])
def test_a_network_computes_the_same_with_it(options: dict) -> None:
    torch.manual_seed(0)
    network = IFAN(width=8, num_steps=4, filter_init="identity", weight_init="he", **options).to(DEVICE).eval()
    lq = torch.rand(1, network.in_channels, 136, 152, device=DEVICE)
    network, lq = network.double(), lq.double()  # so that other algorithms of cuDNN make no difference
    want = network(lq).detach()
    with torch.no_grad():
        assert fuses(lq)
        got = network(lq)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-9)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_copy_in_a_half_type_computes_what_autocast_does(precision: str) -> None:
    torch.manual_seed(0)
    network = IFAN(width=8, num_steps=4, filter_init="identity", weight_init="he").to(DEVICE).eval()
    lq = torch.rand(1, 3, 90, 101, device=DEVICE)
    by_autocast = run_network(network, lq, precision=precision)
    exact = run_network(network, lq)
    tolerance = 4 * (by_autocast - exact).abs().max().item()
    for _ in range(2):
        copied = run_network(network, lq, precision=precision, fixed=True)
        assert (copied - exact).abs().max().item() <= tolerance
    assert next(network.parameters()).dtype == torch.float32


def test_products_take_the_precision_of_convolutions_and_give_it_back() -> None:
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    with products_as_convolutions(torch.rand(2, device=DEVICE)):
        assert matmul.fp32_precision == torch.backends.cudnn.conv.fp32_precision
    assert matmul.fp32_precision == before
