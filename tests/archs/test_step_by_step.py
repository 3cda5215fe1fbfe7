"""Evaluation predicts and applies the filters a step at a time: the same result, a fraction of the memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ifan_plugin.archs.ifan_arch import IFAN


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"isotropic": True},
        {"taps": 5, "num_steps": 2},
        {"dual_pixel": True},
        {"use_disparity": False},
        {"num_steps": 1},
    ],
    ids=str,
)
def test_equals_the_whole_filters(options):
    torch.manual_seed(0)
    network = IFAN(**({"width": 4, "num_steps": 3, "res_units": 1} | options)).eval()
    with torch.no_grad():  # filters as large as a trained network's, so that every step counts
        network.filter_predictor.to_filters.weight.mul_(3)
        network.filter_predictor.to_filters.bias.normal_(0, 0.3)
    lq = torch.rand(2, network.in_channels, 29, 42)
    whole = network(lq)
    assert whole.requires_grad
    with torch.no_grad():
        steps = network(lq)
    torch.testing.assert_close(steps, whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast(dtype):
    torch.manual_seed(0)
    network = IFAN(width=4, num_steps=3, res_units=1).eval()
    lq = torch.rand(1, 3, 29, 42)
    with torch.no_grad():
        exact = network(lq)
        with torch.autocast("cpu", dtype):
            rounded = network(lq)
    assert rounded.dtype == dtype
    assert 0 < (rounded - exact).abs().max() < 0.05


def test_step_filters_are_the_predictors():
    torch.manual_seed(0)
    network = IFAN(width=4, num_steps=3, taps=5, res_units=1)
    predictor = network.filter_predictor
    torch.nn.init.normal_(predictor.to_filters.bias)
    features = torch.rand(2, 16, 4, 5)
    disparity = torch.rand(2, 1, 4, 5)
    with torch.no_grad():
        whole = predictor(features, disparity)
        parts = [predictor.step_filters(predictor.embed(features, disparity), i, 16, 3) for i in range(3)]
    assert torch.cat([kernels for kernels, _ in parts] + [bias for _, bias in parts], 1).shape == whole.shape
    together = torch.cat([kernels for kernels, _ in parts] + [bias for _, bias in parts], 1)
    torch.testing.assert_close(together, whole, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from Linux's /proc")
def test_all_filters_are_never_held():
    """The filter stage alone: its peak falls by about the number of steps."""
    network = IFAN(width=16, num_steps=17, res_units=1).eval()
    features, embedding = torch.rand(1, 64, 64, 80), torch.rand(1, 64, 64, 80)
    filters = network.filter_channels * 64 * 80 * 4  # bytes

    def peak(run) -> int:
        run()  # what is allocated once and for all
        Path("/proc/self/clear_refs").write_text("5")
        before = resident("VmRSS")
        run()
        return resident("VmHWM") - before

    with torch.no_grad():
        whole = peak(lambda: network.iac(features, network.filter_predictor.to_filters(embedding)))
        by_steps = peak(lambda: network._iac_by_steps(features, embedding))
    assert whole > 0.9 * filters
    assert by_steps < 3 * filters / network.iac.num_steps


def resident(field: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024
