"""Whole networks on a CUDA device: the CPU's result, half precision, tiles, memory. Timings: scripts/benchmark_restore.py."""

from __future__ import annotations

import numpy as np
import pytest
import skimage.data
import torch
from torch import Tensor

from ifan_plugin.archs.ifan_arch import IFAN
from ifan_plugin.data.simulator import Camera, simulate_dual_pixel
from ifan_plugin.inference import run_network
from ifan_plugin.inference.run import PRECISIONS
from ifan_plugin.profiling import example_picture

DEVICE = torch.device("cuda")


@pytest.fixture
def exact_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)


def network_of(**options: object) -> IFAN:
    torch.manual_seed(0)
    return IFAN(filter_init="identity", **options).eval()


def scene() -> tuple[Tensor, Tensor]:
    """A sharp picture and the same defocused by a simulated lens, [1, 3, 512, 512]."""
    sharp = skimage.data.astronaut().astype(np.float32) / 255
    depth = np.repeat(np.linspace(1.0, 4.0, 512)[None], 512, axis=0)
    views = simulate_dual_pixel(sharp, depth, Camera(50.0, 2.0, 1.5, 40.0))
    return tuple(torch.from_numpy(np.ascontiguousarray(p.transpose(2, 0, 1)))[None] for p in (sharp, views.center))


def trained(sharp: Tensor, blurred: Tensor) -> IFAN:
    """The paper's size after a short training on the scene: it restores, so its rounding counts."""
    network = network_of().to(DEVICE).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-4)
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        top, left = (int(torch.randint(0, 512 - 128, (1,), generator=generator)) for _ in range(2))
        crop = (..., slice(top, top + 128), slice(left, left + 128))
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(network(blurred[crop].to(DEVICE)), sharp[crop].to(DEVICE))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 0.5)
        optimizer.step()
    return network.eval()


def psnr(picture: Tensor, sharp: Tensor) -> float:
    return float(-10 * torch.log10((picture.float().cpu() - sharp).square().mean()))


@pytest.mark.parametrize("options", [{}, {"dual_pixel": True}, {"filter_type": "fac", "fac_taps": 5}], ids=str)
def test_equals_the_cpu(exact_products: None, options: dict) -> None:
    network = network_of(width=16, num_steps=4, **options)
    lq = example_picture(network.in_channels, 301, 410)
    expected = run_network(network, lq)
    found = run_network(network.to(DEVICE), lq.to(DEVICE))
    torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=1e-4)


def test_half_precision_changes_the_psnr_little() -> None:
    sharp, blurred = scene()
    network = trained(sharp, blurred)
    figures = {name: psnr(run_network(network, blurred.to(DEVICE), precision=name), sharp) for name in PRECISIONS}
    assert figures["fp32"] > psnr(blurred, sharp) + 0.3, "it has learnt to restore"
    assert abs(figures["fp16"] - figures["fp32"]) < 0.02
    assert abs(figures["bf16"] - figures["fp32"]) < 0.1


def test_tiles_of_a_picture_on_the_cpu(exact_products: None) -> None:
    network = network_of(width=16, num_steps=4).to(DEVICE)
    lq = example_picture(3, 700, 900)
    tiled = run_network(network, lq, tile=256)
    assert tiled.device == lq.device
    torch.testing.assert_close(tiled, run_network(network, lq.to(DEVICE)).cpu(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_24_megapixels_in_12_gigabytes(precision: str) -> None:
    network = network_of().to(DEVICE)
    lq = example_picture(3, 4000, 6000)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    restored = run_network(network, lq.to(DEVICE), precision=precision)
    assert restored.shape == lq.shape
    assert torch.cuda.max_memory_allocated() - before < 12e9
