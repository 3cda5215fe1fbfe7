"""Whole networks on a CUDA device: the CPU's result, half precision, tiles, memory. Timings: scripts/benchmark_restore.py."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ifan_plugin.archs.ifan_arch import IFAN
from ifan_plugin.inference import run_network
from ifan_plugin.profiling import example_picture

CUDA = torch.device("cuda")


@pytest.fixture
def exact_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)


def trained(**options: object) -> IFAN:
    """A network as a short training leaves it: its result is the picture and a little more."""
    torch.manual_seed(0)
    network = IFAN(filter_init="identity", **options).eval()
    with torch.no_grad():
        network.reconstructor.to_image[0].weight.mul_(0.1)
    return network


def psnr(picture: Tensor, sharp: Tensor) -> float:
    return float(-10 * torch.log10((picture.float().cpu() - sharp).square().mean()))


@pytest.mark.parametrize("options", [{}, {"dual_pixel": True}, {"filter_type": "fac", "fac_taps": 5}], ids=str)
def test_equals_the_cpu(exact_products: None, options: dict) -> None:
    network = trained(width=16, num_steps=4, **options)
    lq = example_picture(network.in_channels, 301, 410)
    expected = run_network(network, lq)
    found = run_network(network.to(CUDA), lq.to(CUDA))
    torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_changes_the_psnr_little(precision: str) -> None:
    network = trained().to(CUDA)
    sharp = example_picture(3, 512, 512)
    blurred = torch.nn.functional.avg_pool2d(sharp, 5, stride=1, padding=2, count_include_pad=False)
    exact = psnr(run_network(network, blurred.to(CUDA)), sharp)
    rounded = psnr(run_network(network, blurred.to(CUDA), precision=precision), sharp)
    assert abs(rounded - exact) < (0.02 if precision == "fp16" else 0.1)


def test_tiles_of_a_picture_on_the_cpu(exact_products: None) -> None:
    network = trained(width=16, num_steps=4).to(CUDA)
    lq = example_picture(3, 700, 900)
    tiled = run_network(network, lq, tile=256)
    assert tiled.device == lq.device
    torch.testing.assert_close(tiled, run_network(network, lq.to(CUDA)).cpu(), rtol=0, atol=1e-4)


def test_24_megapixels_in_12_gigabytes() -> None:
    network = trained().to(CUDA)
    lq = example_picture(3, 4000, 6000)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    restored = run_network(network, lq.to(CUDA), precision="fp16")
    assert restored.shape == lq.shape
    assert torch.cuda.max_memory_allocated() - before < 12e9
