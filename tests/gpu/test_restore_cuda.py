"""Whole networks on a CUDA device: the CPU's result, half precision, tiles, memory. Timings: scripts/benchmark_restore.py."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import skimage.data
import torch
from gpu.device import DEVICE, needs_cuda
from torch import Tensor

from ifan_plugin.archs.ifan_arch import IFAN
from ifan_plugin.benchmark.profiling import example_picture
from ifan_plugin.common import machine
from ifan_plugin.inference import run_network
from ifan_plugin.inference.memory import is_out_of_memory
from ifan_plugin.inference.run import PRECISIONS
from ifan_plugin.simulation.camera import Camera
from ifan_plugin.simulation.simulator import simulate_dual_pixel
from ifan_plugin.weights.conversion import read_weights
from ifan_plugin.zoo import shipped


@pytest.fixture
def exact_products() -> Iterator[None]:
    # By hand: these attributes aren't in any __dict__, where monkeypatch would look for them.
    places = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [place.allow_tf32 for place in places]
    for place in places:
        place.allow_tf32 = False
    yield
    for place, allowed in zip(places, before, strict=True):
        place.allow_tf32 = allowed


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


@needs_cuda
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


@needs_cuda
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_24_megapixels_in_12_gigabytes(precision: str) -> None:
    network = network_of().to(DEVICE)
    lq = example_picture(3, 4000, 6000)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    restored = run_network(network, lq.to(DEVICE), precision=precision)
    assert restored.shape == lq.shape
    assert torch.cuda.max_memory_allocated() - before < 12e9


def test_shipped_weights_restore_as_on_the_cpu(exact_products: None) -> None:
    if not shipped.networks():
        pytest.skip("no networks come with this version of the package")
    for found in shipped.networks().values():
        weights = read_weights(found.path)
        network = IFAN(**weights.hyper_parameters).eval()
        network.load_state_dict(weights.params)
        sharp, blurred = scene()
        lq = blurred if network.in_channels == 3 else torch.cat([blurred] * (network.in_channels // 3), 1)
        expected = run_network(network, lq)
        restored = run_network(network.to(DEVICE), lq.to(DEVICE)).cpu()
        torch.testing.assert_close(restored, expected, rtol=0, atol=1e-4)
        assert abs(psnr(restored, sharp) - psnr(expected, sharp)) < 0.001


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_autocast_takes_the_operator_in_the_half_type(dtype: torch.dtype) -> None:
    """The features come out of a convolution, so in the half type; gradients arrive at every parameter."""
    network = network_of(width=8, num_steps=3).to(DEVICE).train()
    lq = example_picture(3, 64, 72).to(DEVICE)
    kinds = []
    handle = network.iac.register_forward_hook(lambda module, inputs, output: kinds.append(output.dtype))
    with torch.autocast(DEVICE.type, dtype):
        result = network(lq)
    handle.remove()
    assert kinds == [dtype]
    result.float().square().mean().backward()
    gradients = [parameter.grad for parameter in network.parameters() if parameter.requires_grad]
    assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients)


def test_torch_compile_gives_the_same(exact_products: None) -> None:
    """By inductor, forward and backward, with the compiled operator in the graph; another size is compiled anew."""
    network = network_of(width=8, num_steps=3, res_units=1).to(DEVICE).train()
    compiled = torch.compile(network, dynamic=False)
    for height, width in ((64, 72), (48, 40)):
        lq = example_picture(3, height, width).to(DEVICE)
        results = []
        for run in (network, compiled):
            network.zero_grad()
            run(lq).square().mean().backward()
            results.append([parameter.grad.clone() for parameter in network.parameters()] + [run(lq).detach()])
        for one, other in zip(*results, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


@needs_cuda
def test_a_network_in_a_graph() -> None:
    network = network_of(width=16, num_steps=4).to(DEVICE)
    still = torch.zeros(1, 3, 96, 120, device=DEVICE)
    lq = example_picture(3, 96, 120).to(DEVICE)
    with torch.no_grad():
        network(still)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            found = network(still)
        still.copy_(lq)
        graph.replay()
        torch.testing.assert_close(found, network(lq), rtol=0, atol=1e-5)


@needs_cuda
def test_too_little_memory_is_one_line() -> None:
    """The fault is known as what it is, which the command tells in a sentence; in tiles the same picture fits."""
    total = torch.cuda.get_device_properties(0).total_memory
    network = network_of(width=16, num_steps=4).to(DEVICE)
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(min(1.0, (torch.cuda.memory_allocated() + 3e8) / total))
    try:
        with pytest.raises(RuntimeError) as caught:
            run_network(network, example_picture(3, 2000, 3000).to(DEVICE))
        assert is_out_of_memory(caught.value)
        assert machine.explain(caught.value).startswith("out of memory")
        tiled = run_network(network, example_picture(3, 600, 800), tile="auto")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert tiled.shape == (1, 3, 600, 800)
