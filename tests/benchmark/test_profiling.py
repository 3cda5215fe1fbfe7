"""Parameters and operations against the published figures; time and memory where they can be foretold."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from helpers import ROOT
from torch import Tensor, nn

from ifan_plugin.archs.ifan_arch import IFAN
from ifan_plugin.benchmark.profiling import count_operations, count_parameters, example_picture, measure_cost


class TestPaperFigures:
    """At 1280x720, on the meta device. Parameters in M, products and the paper's count in G."""

    @pytest.mark.parametrize(
        ("options", "parameters", "products", "paper_count"),
        [
            ({"num_steps": 8}, 9.437, 346.64, 347.92),
            ({"num_steps": 17}, 10.476996, 361.51, 362.89),
            ({"num_steps": 26}, 11.517, 376.37, 377.87),
            ({"num_steps": 35}, 12.558, 391.23, 392.85),
            ({"num_steps": 44}, 13.598, 406.10, 407.83),
            ({"dual_pixel": True}, 10.478, 362.30, 363.69),
        ],
        ids=["N8", "N17", "N26", "N35", "N44", "dual"],
    )
    def test_figures(self, options, parameters, products, paper_count):
        with torch.device("meta"):
            net = IFAN(**options)
        found = count_operations(net, 720, 1280)
        assert count_parameters(net) == pytest.approx(parameters * 1e6, rel=1e-4)
        assert found.products == pytest.approx(products * 1e9, rel=1e-4)
        assert found.paper_count == pytest.approx(paper_count * 1e9, rel=1e-4)


class Attention(nn.Module):
    """A linear layer and two matrix products, as functions."""

    in_channels = 4
    multiple_of = 2

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(4, 6)

    def forward(self, lq: Tensor) -> Tensor:
        tokens = self.mix(lq.flatten(2).transpose(1, 2))  # [1, HW, 6]
        return (tokens @ tokens.transpose(1, 2)) @ tokens


class TestCounting:
    def test_convolution_bias_and_activation(self):
        net = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 3, 1, bias=False))
        products = 6 * 10 * (5 * 27 + 3 * 5)
        assert count_operations(net, 6, 10) == (products, products + 2 * 6 * 10 * 5)

    def test_transposed_convolution(self):
        net = nn.ConvTranspose2d(3, 4, 4, stride=2, padding=1, bias=False)
        assert count_operations(net, 6, 10).products == 6 * 10 * 3 * 4 * 16

    def test_functional_products_and_padding(self):
        tokens = 4 * 6  # 3x5, padded to 4x6
        found = count_operations(Attention(), 3, 5)
        assert found.products == tokens * 4 * 6 + 2 * tokens * tokens * 6
        assert found.paper_count == found.products + tokens * 6

    def test_network_stays_as_it_was(self):
        net = nn.Conv2d(3, 3, 1).train()
        count_operations(net, 4, 4)
        assert net.training
        assert net.weight.device.type == "cpu"
        assert not net._forward_hooks

    def test_shared_parameters_count_once(self):
        layer = nn.Linear(3, 3)
        assert count_parameters(nn.Sequential(layer, layer)) == 12


class Greedy(nn.Module):
    """Holds 64 MiB while it works."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, lq: Tensor) -> Tensor:
        self.calls += 1
        if lq.shape[2] > 64:  # the warm-up at small size asks for nothing
            torch.ones(2**24).sum()
        return lq


class TestCost:
    def test_runs_and_products(self):
        net = nn.Conv2d(3, 3, 3, padding=1)
        cost = measure_cost(net, 32, 48, runs=3, count_products=True)
        assert cost.runs == 3
        assert cost.latency_s > 0
        assert cost.products == 32 * 48 * 81

    def test_stops_in_time_but_times_one_run(self):
        net = Greedy()
        assert measure_cost(net, 8, 8, runs=50, max_seconds=0).runs == 1
        assert net.calls == 3  # small, warm, timed

    def test_what_takes_long_runs_once(self):
        net = Greedy()
        cost = measure_cost(net, 80, 80, runs=50, max_seconds=1e-9)
        assert net.calls == 2  # small, and the one that finds the memory
        assert cost.runs == 1
        assert cost.cpu_s > 0

    def test_memory_of_the_process(self):
        # In a process of its own, as the benchmark does: this one may have memory at hand that it has freed.
        code = (
            f"import sys; sys.path[:0] = {[str(ROOT), str(ROOT / 'tests'), str(ROOT / 'tests' / 'benchmark')]!r}\n"
            "from ifan_plugin.benchmark.profiling import measure_cost; from test_profiling import Greedy\n"
            "print(measure_cost(Greedy(), 80, 80, runs=1).peak_memory_bytes)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        if done.stdout.strip() == "None":
            pytest.skip("this system doesn't tell the memory of a process")
        assert 60 * 2**20 < int(done.stdout) < 80 * 2**20

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
    def test_memory_of_the_gpu(self):
        class Doubles(nn.Conv2d):
            def forward(self, lq: Tensor) -> Tensor:
                return lq + torch.zeros(2**26, device=lq.device).sum()

        cost = measure_cost(Doubles(3, 3, 1).cuda(), 80, 80, runs=1)
        assert 2**28 <= cost.peak_memory_bytes < 2**28 + 2**22

    def test_example_picture(self):
        picture = example_picture(6, 40, 56)
        assert picture.shape == (1, 6, 40, 56)
        assert picture.min() >= 0
        assert picture.max() <= 1
        assert torch.equal(picture, example_picture(6, 40, 56))
