"""What tiles cost: their overlaps are computed twice, and narrow pictures have long ones."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor, nn

from ifan_plugin.inference.run import run_network
from ifan_plugin.inference.tiles import cost


class Blur(nn.Module):
    """Reaches 16 pixels, and counts the pixels that it computed."""

    multiple_of = 8

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 33, padding=16)
        self.runs: list[int] = []

    def forward(self, lq: Tensor) -> Tensor:
        self.runs.append(lq.shape[-2] * lq.shape[-1])
        return self.layer(lq).sigmoid()


@pytest.mark.parametrize(
    ("size", "side", "halo", "expected"),
    [((64, 64), 64, 32, 1), ((64, 128), 64, 32, 1.5), ((128, 128), 64, 32, 2.25), ((100, 10), 100, 500, 1)],
)
def test_the_factor_is_what_is_computed(size, side, halo, expected):
    assert cost(size, side, 8, halo) == expected


@pytest.mark.parametrize("size", [(1, 4000), (4000, 1), (9, 3000), (3000, 40)])
def test_tiles_of_narrow_pictures_are_long(size):
    torch.manual_seed(0)
    net, lq = Blur().eval(), torch.rand(1, 3, *size)
    whole = run_network(net, lq)
    once, net.runs = sum(net.runs), []
    tiled = run_network(net, lq, tile=100, halo=64)
    assert (tiled - whole).abs().max() < 1e-5
    assert sum(net.runs) < 1.5 * once
    assert max(net.runs) <= (104 + 2 * 64) ** 2, "no tile takes more than one of a wide picture"


def test_a_costly_overlap_is_said(caplog):
    caplog.set_level(logging.INFO, "ifan_plugin")
    run_network(Blur().eval(), torch.rand(1, 3, 200, 300), tile=32, halo=64)
    assert "Tiles of 32 pixels with an overlap of 64 on every side take about 1" in caplog.text
    caplog.clear()
    run_network(Blur().eval(), torch.rand(1, 3, 200, 300), tile=256, halo=8)
    assert caplog.text == ""
