"""Flips and turns: which are legal, how views change places, and what the mean is."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ifan_plugin.common.errors import UserError
from ifan_plugin.inference import run_network
from ifan_plugin.inference.ensemble import transforms

ALL = ("center", "left", "right")


class Equivariant(nn.Module):
    """The mean over 3x3 pixels of each channel: any flip or turn of its input is one of its output."""

    def forward(self, lq):
        return nn.functional.avg_pool2d(lq[:, :3], 3, 1, 1)


class Shifted(nn.Module):
    """Moves the picture a pixel to the right: flips and turns bring it to the other sides, too."""

    def forward(self, lq):
        return lq.roll(1, 3)


class DualPixel(nn.Module):
    """Looks at the disparity: the left view a pixel to the right of it, the right view to the left."""

    in_channels = 9

    def forward(self, lq):
        return (lq[:, :3] + 2 * lq[:, 3:6].roll(1, 3) + 4 * lq[:, 6:9].roll(-1, 3)) / 8


class Recording(nn.Module):
    """Keeps what it is given."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, lq):
        self.seen.append(lq)
        return lq[:, :3]


@pytest.mark.parametrize(
    ("views", "count"), [(("center",), 8), (ALL, 4), (("left", "right"), 4), (("left",), 2), (("right", "left"), 4)]
)
def test_how_many_are_legal(views, count):
    found = transforms(views)
    assert len(set(found)) == count
    assert found[0].order == tuple(range(len(views)))
    assert found[0][:3] == (False, False, False), "the identity comes first"


@pytest.mark.parametrize("views", [("center",), ALL, ("left", "right")])
def test_each_is_undone(views):
    lq = torch.rand(2, 3 * len(views), 5, 7)
    center = lq[:, :3]
    seen = set()
    for each in transforms(views):
        turned = each.apply(lq)
        seen.add((tuple(turned.shape), tuple(turned.flatten().tolist())))
        first = each.order.index(0)  # where the first view went
        assert torch.equal(each.undo(turned[:, 3 * first : 3 * first + 3]), center)
    assert len(seen) == len(transforms(views)), "no two of them are the same"


def test_mirrored_views_change_places():
    lq = torch.rand(1, 9, 4, 6)
    network = Recording()
    run_network(network, lq, ensemble=True, views=ALL)
    center, left, right = lq.split(3, 1)
    expected = [
        lq,
        torch.cat([center, right, left], 1).flip(3),
        lq.flip(2),
        torch.cat([center, right, left], 1).flip((2, 3)),
    ]
    assert len(network.seen) == 4
    for found, wanted in zip(network.seen, expected):
        assert torch.equal(found, wanted)


def test_an_equivariant_network_stays_as_it_is():
    lq = torch.rand(1, 3, 13, 10)
    torch.testing.assert_close(run_network(Equivariant(), lq, ensemble=True), Equivariant()(lq), rtol=0, atol=1e-6)


def test_one_that_knows_left_from_right_stays_as_it_is():
    """The mirrored pair with its views exchanged is what a sensor would have seen of the mirrored scene."""
    lq = torch.rand(1, 9, 6, 8)
    single = run_network(DualPixel(), lq)
    # This network weighs left and right differently, so that the mean is over both ways; up to that it is unmoved.
    mirrored = (lq[:, :3] + 2 * lq[:, 6:9].roll(-1, 3) + 4 * lq[:, 3:6].roll(1, 3)) / 8
    found = run_network(DualPixel(), lq, ensemble=True, views=ALL)
    torch.testing.assert_close(found, (single + mirrored) / 2, rtol=0, atol=1e-6)


def test_the_mean_is_over_all_of_them():
    lq = torch.rand(1, 3, 6, 6)
    found = run_network(Shifted(), lq, ensemble=True)
    expected = (lq.roll(1, 3) + lq.roll(-1, 3) + lq.roll(1, 2) + lq.roll(-1, 2)) / 4
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_with_tiles_and_odd_sizes():
    """By tiles it is the same, on the grid of each turned picture."""

    class Strided(nn.Module):
        multiple_of = 8

        def forward(self, lq):
            return nn.functional.interpolate(nn.functional.avg_pool2d(lq, 8), scale_factor=8)

    lq = torch.rand(1, 3, 43, 61)
    done = []
    whole = run_network(Strided(), lq, ensemble=True)
    tiled = run_network(Strided(), lq, ensemble=True, tile=16, progress=lambda *counts: done.append(counts))
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-6)
    assert done[-1] == (8 * 12, 8 * 12)
    assert [count for count, _ in done] == list(range(1, 8 * 12 + 1))


def test_views_that_do_not_fit():
    with pytest.raises(UserError, match=r"views: center are 3 channels, and lq has 9"):
        run_network(DualPixel(), torch.rand(1, 9, 8, 8), ensemble=True)
