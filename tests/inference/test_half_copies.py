"""Copies of networks in a half type: on a GPU alone, but what they are kept by is the same on the CPU."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import weakref

import pytest
import torch
from torch import nn

from ifan_plugin.archs.ifan_arch import IFAN
from ifan_plugin.inference import half_copies, run_network
from ifan_plugin.inference.run import _Runner
from ifan_plugin.inference.stages import reported


def small() -> IFAN:
    torch.manual_seed(0)
    return (
        IFAN(width=4, num_steps=2, res_units=1, filter_init="identity", weight_init="he").eval().requires_grad_(False)
    )


@pytest.fixture
def serves_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(half_copies, "serve", lambda network, device: getattr(network, "half_precision", False))


def test_one_is_kept_until_the_weights_change() -> None:
    network = small()
    first = half_copies.of(network, torch.bfloat16)
    assert half_copies.of(network, torch.bfloat16) is first
    assert half_copies.of(network, torch.float16) is not first
    assert {p.dtype for p in first.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    network.load_state_dict({name: value * 2 for name, value in network.state_dict().items()})
    second = half_copies.of(network, torch.bfloat16)
    assert second is not first
    assert torch.equal(next(second.parameters()), next(network.parameters()).bfloat16())
    network.reconstructor.to_image[0].weight = nn.Parameter(torch.zeros(3, 4, 3, 3), requires_grad=False)
    assert half_copies.of(network, torch.bfloat16) is not second


def test_it_ends_with_its_network_and_goes_nowhere_else() -> None:
    network = small()
    size = len(pickle.dumps(network))
    kept = weakref.ref(half_copies.of(network, torch.bfloat16))
    assert len(pickle.dumps(network)) == size
    assert half_copies.of(copy.deepcopy(network), torch.bfloat16) is not kept()
    del network
    gc.collect()
    assert kept() is None


def test_hooks_stay_with_the_network() -> None:
    network = small()
    network.calls = []
    lock = threading.Lock()  # can't be copied
    handle = network.reconstructor.register_forward_hook(lambda *_: lock.locked())
    copied = half_copies.of(network, torch.bfloat16)
    assert not any(module._forward_hooks for module in copied.modules())
    assert network.reconstructor._forward_hooks
    handle.remove()


@pytest.mark.usefixtures("serves_here")
@pytest.mark.parametrize("tile", [None, "auto", 64])
def test_pictures_of_any_size_are_restored_by_it(tile: int | str | None) -> None:
    network, lq = small(), torch.rand(1, 3, 520, 530)  # large enough for its memory to be measured
    with reported(network, lambda share: None):
        got = run_network(network, lq, tile=tile, precision="bf16", fixed=True)
    want = run_network(network, lq, precision="bf16")
    assert got.dtype == torch.float32
    assert (got - want).abs().max() < 0.02


@pytest.mark.usefixtures("serves_here")
def test_a_network_that_doesnt_say_so_and_a_run_that_isnt_asked_to_make_none() -> None:
    network, lq = small(), torch.rand(1, 3, 32, 32)
    assert _Runner(network, lq, 8, "bf16").compute is network
    assert _Runner(network, lq, 8, "fp32", fixed=True).compute is network
    assert _Runner(nn.Conv2d(3, 3, 1), lq, 8, "bf16", fixed=True).half is None
    assert _Runner(network, lq, 8, "bf16", fixed=True).compute is not network
