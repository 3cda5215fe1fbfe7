"""Layers run piece by piece give what they give whole."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ifan_plugin.archs import pieces
from ifan_plugin.archs.ifan_arch import IFAN
from ifan_plugin.archs.layers import Encoder, PointwiseConv, channels_last
from ifan_plugin.archs.pieces import in_pieces


def layers(count: int, stride: int = 1) -> nn.Sequential:
    torch.manual_seed(0)
    found = [nn.Conv2d(2, 2, 3, stride if i == 0 else 1, padding=1) for i in range(count)]
    return nn.Sequential(*found).double()


class Counted(nn.Module):
    """Counts the runs of another module and how large its outputs were."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module, self.calls, self.largest = module, 0, 0

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        out = self.module(*inputs)
        self.calls, self.largest = self.calls + 1, max(self.largest, out.numel() * out.element_size())
        return out


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(pieces.PIECE_BYTES, "cpu", 24 * 24 * 2 * 8)


@pytest.mark.parametrize("size", [(64, 40), (46, 130), (40, 8)])
@pytest.mark.parametrize("stride", [1, 2])
@torch.no_grad()
def test_convolutions(small_pieces: None, size: tuple[int, int], stride: int) -> None:
    run = Counted(layers(3, stride))
    x = torch.randn(2, 2, *(stride * edge for edge in size), dtype=torch.float64)
    whole = run.module(x)
    found = in_pieces(run, x, size=size, channels=2, halo=4)
    assert run.calls > 1
    torch.testing.assert_close(found, whole, rtol=0, atol=1e-12)


@torch.no_grad()
def test_a_piece_is_no_larger_than_allowed(small_pieces: None) -> None:
    run = Counted(layers(1))
    in_pieces(run, torch.randn(1, 2, 300, 200, dtype=torch.float64), size=(300, 200), channels=2, halo=2)
    assert run.calls > 100
    assert run.largest <= pieces.PIECE_BYTES["cpu"]


@torch.no_grad()
def test_a_halo_that_is_too_small_shows(small_pieces: None) -> None:
    run = layers(4)
    x = torch.randn(1, 2, 64, 64, dtype=torch.float64)
    assert (in_pieces(run, x, size=(64, 64), channels=2, halo=2) - run(x)).abs().max() > 1e-3


@torch.no_grad()
def test_inputs_of_half_the_size(small_pieces: None) -> None:
    torch.manual_seed(0)
    up = nn.ConvTranspose2d(2, 2, 4, stride=2, padding=1).double()
    refine = layers(2)
    small, skip = (torch.randn(1, 2, edge, edge, dtype=torch.float64) for edge in (48, 96))

    def run(features: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        return refine(up(features) + skip)

    found = in_pieces(run, small, skip, size=(96, 96), channels=2, halo=4)
    torch.testing.assert_close(found, run(small, skip), rtol=0, atol=1e-12)


def test_whole_with_gradients_and_where_sizes_are_odd(small_pieces: None) -> None:
    x = torch.randn(1, 2, 64, 64, dtype=torch.float64)
    run = Counted(layers(1))
    assert in_pieces(run, x, size=(64, 64), channels=2, halo=2).requires_grad
    assert run.calls == 1
    encoder = Encoder(2, 2).double()
    odd = torch.randn(1, 2, 61, 45, dtype=torch.float64)
    with torch.no_grad():
        parts = encoder(odd)
    for part, whole in zip(parts, encoder(odd), strict=True):
        torch.testing.assert_close(part, whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "options", [{}, {"dual_pixel": True}, {"filter_type": "fac", "fac_taps": 3}, {"use_filters": False}], ids=str
)
def test_ifan(monkeypatch: pytest.MonkeyPatch, options: dict) -> None:
    torch.manual_seed(0)
    network = IFAN(width=4, num_steps=2, **options)  # in training mode: the result isn't clipped
    lq = torch.rand(2, network.in_channels, 101, 150)
    whole = network(lq).detach()
    monkeypatch.setitem(pieces.PIECE_BYTES, "cpu", 1)
    calls = []
    monkeypatch.setattr(pieces, "_spans", lambda *of, spans=pieces._spans: calls.append(of) or spans(*of))
    with torch.no_grad():
        torch.testing.assert_close(network(lq), whole, rtol=0, atol=1e-5)
    assert len(calls) > 4


def test_pointwise_convolution_is_a_convolution() -> None:
    torch.manual_seed(0)
    layer = PointwiseConv(6, 10).double()
    x = torch.randn(2, 6, 5, 7, dtype=torch.float64)
    expected = nn.functional.conv2d(x, layer.weight, layer.bias)
    for form in (x, channels_last(x)):
        found = layer(form)
        assert found.is_contiguous()
        torch.testing.assert_close(found, expected)
    with torch.no_grad():
        held = torch.empty(2, 4, 35, dtype=torch.float64)
        assert layer.rows(x.flatten(2), 3, 4, held).data_ptr() == held.data_ptr()
    torch.testing.assert_close(held.unflatten(2, (5, 7)), expected[:, 3:7])
    assert list(layer.state_dict()) == ["weight", "bias"]
