"""When a graph is made, used and dropped. Real CUDA graphs: tests/gpu/test_restore_cuda.py; here torch.fx records."""

from __future__ import annotations

import gc
import logging
import weakref

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from ifan_plugin import restore
from ifan_plugin.archs.ifan_arch import IFAN
from ifan_plugin.benchmark.profiling import example_picture
from ifan_plugin.common.errors import UserError
from ifan_plugin.inference import graphs, run_network
from ifan_plugin.weights.networks import Network


class Recorder:
    """Records the operators with torch.fx, and counts."""

    def __init__(self) -> None:
        self.made = self.used = 0

    def __call__(self, compute: graphs.Compute, lq: Tensor) -> graphs.Compute:
        traced = make_fx(compute)(lq)
        self.made += 1

        def replay(picture: Tensor) -> Tensor:
            self.used += 1
            return traced(picture)

        return replay


@pytest.fixture
def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 3, padding=1)).eval()


def pictures(count: int, height: int = 12, width: int = 16) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(1, 3, height, width, generator=generator) for _ in range(count)]


@torch.no_grad()
def test_the_second_picture_of_a_size_makes_a_graph(network: nn.Module) -> None:
    recorder = Recorder()
    replays = graphs.Replays(recorder)
    counts = []
    for lq in pictures(4):
        assert torch.equal(replays.run(network, network, lq), network(lq))
        counts.append((recorder.made, recorder.used))
    assert counts == [(0, 0), (1, 1), (1, 2), (1, 3)]


@torch.no_grad()
@pytest.mark.parametrize("change", ["size", "type", "weights", "moved weights", "another network"])
def test_another_is_made_where_something_changed(network: nn.Sequential, change: str) -> None:
    recorder = Recorder()
    replays = graphs.Replays(recorder)
    first, second, third, fourth = pictures(4)
    for lq in (first, second):
        replays.run(network, network, lq)
    other = network
    if change == "size":
        third, fourth = pictures(2, 12, 18)
    elif change == "type":
        other = network.double()
        third, fourth = third.double(), fourth.double()
    elif change == "weights":
        network[0].weight.mul_(2)
    elif change == "moved weights":
        network[0].weight = nn.Parameter(network[0].weight * 3)
    else:
        other = nn.Sequential(nn.Conv2d(3, 3, 1)).eval()
    for lq in (third, fourth):
        assert torch.equal(replays.run(other, other, lq), other(lq))
    assert (recorder.made, recorder.used) == (2, 2)


@torch.no_grad()
def test_no_graph_where_somebody_watches_or_the_picture_is_large(
    network: nn.Sequential, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder()
    replays = graphs.Replays(recorder)
    seen = []
    handle = network[0].register_forward_hook(lambda module, inputs, output: seen.append(output))
    for lq in pictures(3):
        replays.run(network, network, lq)
    assert len(seen) == 3
    handle.remove()
    monkeypatch.setattr(graphs, "MOST_PIXELS", 12 * 16 - 1)
    for lq in pictures(3):
        replays.run(network, network, lq)
    assert recorder.made == 0


@torch.no_grad()
def test_what_can_not_be_recorded_goes_on_without(network: nn.Module, caplog: pytest.LogCaptureFixture) -> None:
    tries = []

    def record(compute: graphs.Compute, lq: Tensor) -> graphs.Compute:
        tries.append(lq)
        raise RuntimeError("operation not permitted when stream is capturing.\nmore lines")

    replays = graphs.Replays(record)
    with caplog.at_level(logging.WARNING, "ifan_plugin"):
        for lq in pictures(4):
            assert torch.equal(replays.run(network, network, lq), network(lq))
    assert len(tries) == 1
    told = [record.getMessage() for record in caplog.records]
    assert told == ["Sequential runs without a CUDA graph: operation not permitted when stream is capturing."]


@torch.no_grad()
def test_a_graph_does_not_keep_its_network() -> None:
    replays = graphs.Replays(lambda compute, lq: lambda picture: picture)
    network = nn.Sequential(nn.Conv2d(3, 3, 1)).eval()
    for lq in pictures(3):
        replays.run(network, network, lq)
    gone = weakref.ref(network)
    del network
    gc.collect()
    assert gone() is None


def test_it_needs_a_gpu() -> None:
    network = IFAN(width=8, num_steps=2).eval()
    lq = example_picture(3, 16, 16)
    with pytest.raises(UserError, match="cuda_graph: needs the network itself on a GPU, and it is cpu"):
        run_network(network, lq, cuda_graph=True)
    picture = (lq[0].permute(1, 2, 0).numpy() * 255).astype("uint8")
    with pytest.raises(UserError, match="cuda_graph"):
        restore(picture, Network(network, ("center",), "IFAN", None, ""), cuda_graph=True)
