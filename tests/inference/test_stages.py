"""Progress within one run of a network."""

from __future__ import annotations

import time

import torch
from torch import nn

from ifan_plugin.inference import stages


def network(layers: int = 6) -> nn.Module:
    return nn.Sequential(*(nn.Conv2d(3, 3, 3, padding=1) for _ in range(layers)))


def shares(net: nn.Module, sizes: list[int], monkeypatch) -> list[list[float]]:
    monkeypatch.setattr(stages, "_EVERY", 0.0)
    told: list[float] = []
    runs = []
    with torch.no_grad(), stages.reported(net, told.append):
        for size in sizes:
            told.clear()
            net(torch.zeros(1, 3, size, size))
            runs.append(list(told))
    return runs


def test_each_layer_is_a_step_and_later_runs_go_by_time(monkeypatch):
    first, second = shares(network(), [16, 16], monkeypatch)
    assert first == [number / 6 for number in range(1, 7)]
    assert len(second) == 6
    assert second == sorted(second)
    assert 0 < second[0] < second[-1] <= 1


def test_smaller_runs_keep_silent(monkeypatch):
    assert [len(run) for run in shares(network(), [32, 16, 32], monkeypatch)] == [6, 0, 6]


def test_nothing_is_left_behind_and_networks_without_layers_do(monkeypatch):
    net = network(2)
    shares(net, [8], monkeypatch)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
    traced = torch.jit.trace(net, torch.zeros(1, 3, 8, 8))
    assert shares(traced, [8], monkeypatch) == [[]]


def test_a_single_layer_goes_by_the_clock(monkeypatch):
    class Program(nn.Module):
        def forward(self, lq: torch.Tensor) -> torch.Tensor:
            time.sleep(0.2)
            return lq

    monkeypatch.setattr(stages, "_EVERY", 0.01)
    told: list[float] = []
    with stages.reported(Program(), told.append):
        pass
    net = Program()
    with stages.reported(net, told.append):
        net(torch.zeros(1, 3, 8, 8))
        assert told == [1.0], "nothing is known of its pace yet"
        told.clear()
        net(torch.zeros(1, 3, 8, 8))
    assert len(told) > 2
    assert told == sorted(told)
    assert 0 < told[0] < 0.9
    assert told[-1] > 0.99
    count = len(told)
    time.sleep(0.05)
    assert len(told) == count
