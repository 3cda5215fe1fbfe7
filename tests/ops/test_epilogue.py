"""What follows a convolution in one pass, where layers use it. The kernel's arithmetic: test_cuda_epilogue.py."""

from __future__ import annotations

import pytest
import torch
from iac_cases import after_convolution as composite
from torch import Tensor, nn

from ifan_plugin.archs import layers
from ifan_plugin.archs.ifan_arch import IFAN
from ifan_plugin.ops import epilogue


@pytest.fixture
def fused_everywhere(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The layers' other path, as on a GPU, by PyTorch's own operations; how often it was taken."""
    taken = []

    def instead(x: Tensor, bias: Tensor, slope: float, *, before: Tensor | None = None, after: Tensor | None = None):
        taken.append(1)
        return x.copy_(composite(x, bias, slope, before, after))

    monkeypatch.setattr(layers, "fuses", lambda x: not torch.is_grad_enabled())
    monkeypatch.setattr(layers, "epilogue_", instead)
    return taken


@pytest.mark.parametrize("options", [{}, {"res_units": 1}, {"dual_pixel": True}, {"filter_type": "fac", "fac_taps": 3}])
def test_a_network_computes_the_same_with_it(options: dict, fused_everywhere: list[int]) -> None:
    torch.manual_seed(0)
    network = IFAN(width=4, num_steps=3, filter_init="identity", weight_init="he", **options).eval().double()
    lq = torch.rand(1, network.in_channels, 40, 48, dtype=torch.float64)
    want = network(lq).detach()
    assert not fused_everywhere, "with gradients nothing is done in place"
    with torch.no_grad():
        got = network(lq)
    convolutions = sum(isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)) for layer in network.modules())
    assert len(fused_everywhere) >= convolutions - 1, "all but the disparity's last one"
    torch.testing.assert_close(got, want.clamp(0, 1), rtol=0, atol=1e-10)


def test_whoever_watches_a_layer_sees_it(fused_everywhere: list[int]) -> None:
    block = layers.ResBlock(4, 2).eval()
    seen = []
    block.units[0][1].register_forward_hook(lambda *_: seen.append(1))
    with torch.no_grad():
        block(torch.rand(1, 4, 8, 8))
    assert seen
    assert not fused_everywhere


@pytest.mark.usefixtures("fused_everywhere")
@pytest.mark.parametrize("change", ["subclass", "groups", "slope", "instance", "unit's hook", "global hook"])
def test_what_was_changed_is_called(change: str, fused_everywhere: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return torch.zeros_like(x)

    block = layers.ResBlock(4, 2).eval()
    if change == "subclass":
        block.units[0][0] = Other(4, 4, 3, padding=1)
    elif change == "groups":
        block.units[0][0] = nn.Conv2d(4, 4, 3, padding=1, groups=2)
    elif change == "slope":
        block.units[0][1] = nn.LeakyReLU(0.2)
    elif change == "instance":
        monkeypatch.setattr(block.units[0][0], "forward", lambda x: torch.zeros_like(x))
    elif change == "unit's hook":
        block.units[0].register_forward_hook(lambda *_: None)
    x = torch.rand(1, 4, 8, 8)
    want = block(x).detach()
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None) if change == "global hook" else None
    with torch.no_grad():
        got = block(x)
    if handle is not None:
        handle.remove()
    assert not fused_everywhere
    torch.testing.assert_close(got, want)


def test_a_part_of_it_has_no_activation(fused_everywhere: list[int]) -> None:
    """Slices of a Sequential are of its class."""
    part = layers.conv(3, 4)[:1].eval()
    x = torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        assert (part(x) < 0).any()
    assert not fused_everywhere


def test_without_a_gpu_nothing_is_fused() -> None:
    with torch.no_grad():
        assert not epilogue.fuses(torch.rand(1, 4, 8, 8))
