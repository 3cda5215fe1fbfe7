from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from ifan_plugin.archs.ifan_arch import IFAN
from ifan_plugin.archs.reblur_arch import ReblurNet
from ifan_plugin.losses import ReblurLoss
from ifan_plugin.ops import iac


def small(seed: int = 0, **changed: object) -> ReblurNet:
    torch.manual_seed(seed)
    return ReblurNet(**{"filter_channels": 10, "width": 2, "num_steps": 2, "res_units": 1, **changed})


def tensors(height: int = 2, width: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    sharp = torch.rand(2, 3, 8 * height, 8 * width, generator=generator)
    return sharp, torch.randn(2, 10, height, width, generator=generator)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (1, 4)], ids=str)
def test_smoke(size: tuple[int, int]) -> None:
    sharp, filters = tensors(*size)
    assert small()(sharp, filters).shape == (2, 3, *size)


def test_sharp_is_taken_by_nearest_sampling() -> None:
    sharp, filters = tensors()
    network = small()
    assert torch.equal(network(sharp, filters), network(sharp[..., ::8, ::8], filters))


@pytest.mark.parametrize("isotropic", [False, True])
def test_the_residual_of_iac_without_a_last_activation(isotropic: bool) -> None:
    sharp, filters = tensors()
    network = small(num_steps=3, taps=5, isotropic=isotropic)
    predicted = network.to_filters(network.trunk(filters))
    assert predicted.shape[1] == 3 * 3 * 11
    little = sharp[..., ::8, ::8]
    expected = little + iac(little, predicted, 3, 5, act_last=False, isotropic=isotropic)
    assert torch.equal(network(sharp, filters), expected)


def test_paper_size() -> None:
    with torch.device("meta"):
        network = ReblurNet(IFAN().filter_channels)
    assert network.trunk[0][0].weight.shape == (128, 15232, 3, 3)
    assert network.to_filters.weight.shape == (17 * 3 * 7, 128, 3, 3)


@pytest.mark.parametrize("filter_type", ["iac", "fac"])
def test_the_layer_that_made_the_filters_can_be_multiplied_in(filter_type: str) -> None:
    """The same blurred image and the same gradients as by way of the filters, at the picture's edges too."""
    torch.manual_seed(0)
    network = IFAN(width=2, num_steps=2, res_units=1, filter_type=filter_type, fac_taps=3).double()
    torch.nn.init.normal_(network.filter_predictor.to_filters.bias)
    sharp = tensors()[0].double()
    reblur_net = small(filter_channels=network.filter_channels).double()
    parameters = [*network.filter_predictor.parameters(), *reblur_net.parameters()]
    results = []
    for multiplied in (False, True):
        out = network.training_outputs(sharp)
        made_of = (out.embedding, network.filter_predictor.to_filters) if multiplied else ()
        blurred = reblur_net(sharp, out.filters, *made_of)
        results.append([blurred, *torch.autograd.grad(blurred.square().sum(), parameters)])
    assert any(not torch.equal(way, product) for way, product in zip(*results, strict=True))
    for way, product in zip(*results, strict=True):
        torch.testing.assert_close(product, way, rtol=1e-9, atol=1e-9)


def test_the_loss_reaches_the_filter_predictor() -> None:
    torch.manual_seed(0)
    network = IFAN(width=2, num_steps=2, res_units=1).double()
    sharp = tensors()[0].double()
    out = network.training_outputs(sharp)
    reblur_net = small(filter_channels=network.filter_channels).double()
    ReblurLoss()(reblur_net(sharp, out.filters), sharp).backward()
    assert network.filter_predictor.to_filters.weight.grad.any()
    assert network.filter_encoder.level1[0][0].weight.grad.any()
    assert network.feature_extractor.level1[0][0].weight.grad is None
    assert all(p.grad.any() for p in reblur_net.parameters())


def test_initialisation() -> None:
    for name, layer in small(width=8).named_modules():
        if isinstance(layer, nn.Conv2d):
            bound = math.sqrt(6 / (9 * sum(layer.weight.shape[:2])))
            assert 0.93 * bound < layer.weight.abs().max().item() <= bound, name
            assert not layer.bias.any(), name


def test_autocast() -> None:
    sharp, filters = tensors()
    with torch.autocast("cpu", torch.bfloat16):
        assert small()(sharp, filters).isfinite().all()


@pytest.mark.parametrize(
    "options",
    [{"taps": 2}, {"width": 0}, {"num_steps": 0}, {"filter_channels": 0}, {"res_units": 0}],
    ids=str,
)
def test_invalid_hyper_parameters(options: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        small(**options)


def test_invalid_shapes() -> None:
    sharp, filters = tensors()
    with pytest.raises(ValueError, match="filters must be"):
        small()(sharp, filters[:, :-1])
    for wrong in (sharp[..., :-1], sharp[:1], sharp[:, :2]):
        with pytest.raises(ValueError, match="sharp must be"):
            small()(wrong, filters)
