"""One way to run a network on a picture."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ifan_plugin.inference import pad_to_multiple, run_network


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
