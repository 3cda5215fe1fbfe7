from __future__ import annotations

import pytest
import torch

from ifan_plugin.archs import IFAN
from ifan_plugin.losses import FilterBiasLoss
from ifan_plugin.pictures.kernels import FilterInspector


def test_what_lies_below_the_margin_counts() -> None:
    biases = torch.tensor([[0.5, -0.1], [-0.3, 0.1]], requires_grad=True)
    loss = FilterBiasLoss(loss_weight=2.0, margin=0.2)(biases)
    assert loss.item() == pytest.approx(2 * (0.3 + 0.5 + 0.1) / 4)
    loss.backward()
    torch.testing.assert_close(biases.grad, torch.tensor([[0.0, -0.5], [-0.5, -0.5]]))
    with pytest.raises(ValueError, match="margin must be 0 or more, got -1"):
        FilterBiasLoss(margin=-1)


def test_it_opens_the_way_through_the_steps() -> None:
    """Biases below zero close the layer for good, though its filters pass the features on; this loss opens it."""
    torch.manual_seed(0)
    network = IFAN(width=4, num_steps=8, res_units=1, filter_init="identity", weight_init="he")
    biases = network.biases_of(network.filter_predictor.to_filters.bias.detach()[None])
    biases -= 1.0
    lq = torch.rand(1, 3, 64, 64)

    def passes() -> float:
        return FilterInspector(network, lq).kernel(4, 4).total

    assert passes() < 1e-4
    optimizer = torch.optim.Adam(network.filter_predictor.to_filters.parameters(), 0.02)
    for _ in range(100):
        optimizer.zero_grad()
        filters = network.training_outputs(lq).filters
        assert filters is not None
        FilterBiasLoss()(network.biases_of(filters)).backward()
        optimizer.step()
    assert passes() > 0.5
