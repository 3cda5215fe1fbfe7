"""One way to run a network on a picture."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ifan_plugin.common.errors import UserError
from ifan_plugin.inference import run_network
from ifan_plugin.inference.run import checked_tile
from ifan_plugin.ops.padding import pad_to_multiple


class Needy(nn.Module):
    """Works at multiples of 8 alone, and goes beyond [0, 1]."""

    multiple_of = 8

    def forward(self, lq):
        assert not self.training
        assert lq.shape[2] % 8 == 0
        assert lq.shape[3] % 8 == 0
        return lq[:, :3] * 2 - 0.5


@pytest.mark.parametrize("size", [(8, 8), (9, 15), (1, 17)])
def test_padded_run_and_cropped(size):
    lq = torch.rand(1, 9, *size)
    network = Needy().train()
    restored = run_network(network, lq)
    assert torch.equal(restored, (lq[:, :3] * 2 - 0.5).clamp(0, 1))
    assert network.training, "the mode is put back"
    assert not restored.requires_grad


def test_padding_repeats_the_edge():
    padded = pad_to_multiple(torch.arange(6.0).view(1, 1, 2, 3), 4)
    assert padded.shape == (1, 1, 4, 4)
    assert padded[0, 0].tolist() == [[0, 1, 2, 2], [3, 4, 5, 5], [3, 4, 5, 5], [3, 4, 5, 5]]
    whole = torch.zeros(1, 1, 4, 8)
    assert pad_to_multiple(whole, 4) is whole


def test_an_explicit_multiple_wins():
    class Picky(nn.Identity):
        def forward(self, lq):
            assert lq.shape[-1] % 5 == 0
            return lq

    assert run_network(Picky(), torch.rand(1, 3, 4, 7), multiple=5).shape == (1, 3, 4, 7)


class Linear(nn.Module):
    """A 1x1 convolution: autocast rounds it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.mix = nn.Conv2d(3, 3, 1)

    def forward(self, lq):
        return self.mix(lq)


def test_precision():
    network, lq = Linear(), torch.rand(1, 3, 8, 8)
    exact, rounded = run_network(network, lq), run_network(network, lq, precision="bf16")
    assert rounded.dtype == torch.float32
    assert 0 < (exact - rounded).abs().max() < 0.05
    with pytest.raises(UserError, match="precision: fp16 needs a GPU; valid on the CPU: fp32, bf16"):
        run_network(network, lq, precision="fp16")


def test_progress_of_the_whole_picture():
    counts = []
    run_network(Linear(), torch.rand(1, 3, 8, 8), progress=lambda *each: counts.append(each))
    assert counts == [(1, 1)]


@pytest.mark.parametrize(("given", "expected"), [(None, None), ("off", None), (False, None), ("auto", "auto"), (7, 7)])
def test_what_a_tile_may_be(given, expected):
    assert checked_tile(given) == expected


@pytest.mark.parametrize("given", [True, 0, -8, 1.5, "on", "64", [64]])
def test_what_a_tile_may_not_be(given):
    with pytest.raises(UserError, match=r"^val: tile: must be auto, off or a positive number of pixels, not "):
        checked_tile(given, "val: tile")


@pytest.mark.parametrize("given", [True, -8, 1.5, "wide"])
def test_what_a_halo_may_not_be(given):
    with pytest.raises(UserError, match=r"^halo: must be auto, exact or a number of pixels, not "):
        run_network(Needy(), torch.rand(1, 3, 8, 8), tile=8, halo=given)


def test_the_mode_is_put_back_after_a_fault():
    class Broken(nn.Module):
        def forward(self, lq):
            raise ValueError("no")

    network = Broken().train()
    with pytest.raises(ValueError, match="no"):
        run_network(network, torch.rand(1, 3, 8, 8))
    assert network.training
