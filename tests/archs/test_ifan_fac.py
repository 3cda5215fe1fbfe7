"""IFAN with a FAC layer in place of IAC: the network, its checkpoints and its training losses."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional as F

import ifan_plugin
from ifan_plugin.archs.ifan_arch import IFAN
from ifan_plugin.archs.reblur_arch import ReblurNet
from ifan_plugin.common.errors import UserError
from ifan_plugin.host import option_check
from ifan_plugin.host.mends import mend_all
from ifan_plugin.ops.fac import fac
from ifan_plugin.weights.official import from_official, infer_ifan_kwargs, to_official

ifan_plugin.register()
mend_all()

from basicsr.models import build_model  # noqa: E402 (the host can be imported only once it is mended)


def small(**changed: object) -> IFAN:
    torch.manual_seed(0)
    network = IFAN(**{"width": 5, "res_units": 1, "filter_type": "fac", "fac_taps": 5, **changed})
    with torch.no_grad():  # filters as large as a trained network's, so that every channel counts
        network.filter_predictor.to_filters.weight.mul_(2)
        network.filter_predictor.to_filters.bias.normal_(0, 0.3)
    return network


def test_filter_channels():
    with torch.device("meta"):
        assert IFAN(filter_type="fac").filter_channels == 15_616
        assert IFAN(filter_type="fac", use_filters=False).filter_channels == 0
        assert IFAN().filter_channels == 15_232
    assert small().filter_channels == 20 * 26
    assert "iac" not in dict(small().named_modules())
    assert {"filter_type": "fac", "fac_taps": 5}.items() <= small().hyper_parameters.items()


def test_the_layer_gets_filters_and_biases_in_this_order():
    network = small()
    lq = torch.rand(1, 3, 16, 24)
    with torch.no_grad():
        outputs = network.training_outputs(lq)
        *skips, features = network.feature_extractor(lq)
        filters, bias = outputs.filters[:, :500], outputs.filters[:, 500:]
        torch.testing.assert_close(network.biases_of(outputs.filters), bias)
        deblurred = F.leaky_relu(fac(features, filters, 5, bias), 0.1)
        torch.testing.assert_close(outputs.result, lq + network.reconstructor(deblurred, skips))


@pytest.mark.parametrize(
    "options", [{}, {"dual_pixel": True}, {"use_disparity": False}, {"width": 8}, {"fac_taps": 1}], ids=str
)
def test_by_channels_equals_the_whole_filters(options):
    """In evaluation; 20 channels don't divide by 16."""
    network = small(**options).eval()
    lq = torch.rand(2, network.in_channels, 21, 34)
    whole = network(lq)
    assert whole.requires_grad
    with torch.no_grad():
        by_channels = network(lq)
    torch.testing.assert_close(by_channels, whole, rtol=0, atol=1e-5)


def test_a_part_of_the_filters_is_held_at_a_time():
    network = small(width=8).eval()
    seen = []
    network.fac.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[1].shape[1]))
    with torch.no_grad():
        network(torch.rand(1, 3, 16, 16))
    assert seen == [network.filter_channels // 16] * 16


def test_the_reblurring_loss_reaches_the_filter_predictor():
    network = small()
    reblur = ReblurNet(network.filter_channels, width=5, num_steps=2, res_units=1)
    sharp = torch.rand(1, 3, 16, 24)
    outputs = network.training_outputs(torch.rand(1, 3, 16, 24))
    reblurred = reblur(sharp, outputs.filters)
    assert reblurred.shape == (1, 3, 2, 3)
    reblurred.square().mean().backward()
    assert network.filter_predictor.to_filters.weight.grad.abs().sum() > 0


def test_an_option_file_trains_it_with_all_losses(options, tmp_path):
    def build(network: dict, path: dict):
        asked = {**copy.deepcopy(options), "network_g": {"type": "IFAN"} | network, "path": path}
        opt = option_check.check(asked, "f", is_train=True) | {
            "dist": False,
            "rank": 0,
            "world_size": 1,
            "is_train": True,
        }
        opt["path"] |= {"models": str(tmp_path), "training_states": str(tmp_path)}
        return build_model(opt)

    model = build({"width": 4, "res_units": 1, "filter_type": "fac", "fac_taps": 3}, {})
    assert model.net_r.filter_channels == model.net_g.filter_channels == 160
    views = {name: torch.rand(2, 3, 32, 32) for name in ("lq", "gt", "left", "right")}
    model.feed_data(views)
    model.optimize_parameters(1)
    assert {"l_deblur", "l_disparity", "l_reblur"} < set(model.log_dict)
    assert all(parameter.grad is not None for parameter in model.trained)
    model.save(0, 1)
    again = build({}, {"pretrain_network_g": str(tmp_path / "net_g_1.pth")})
    assert again.net_g.hyper_parameters == model.net_g.hyper_parameters, "read from the checkpoint"
    with pytest.raises(UserError, match="filter_type is fac in the checkpoint, but iac was asked for"):
        build({"filter_type": "iac"}, {"pretrain_network_g": str(tmp_path / "net_g_1.pth")})


@pytest.mark.parametrize("fac_taps", [1, 3, 11])
def test_hyper_parameters_from_shapes(fac_taps):
    network = IFAN(width=4, res_units=1, filter_type="fac", fac_taps=fac_taps)
    inferred = infer_ifan_kwargs(network.state_dict())
    assert inferred == {
        "width": 4, "filter_type": "fac", "fac_taps": fac_taps, "res_units": 1, "dual_pixel": False,
        "use_disparity": True, "use_filters": True,
    }  # fmt: skip
    IFAN(**inferred).load_state_dict(network.state_dict())


def test_no_iac_network_is_taken_for_one_with_fac():
    """k*k + 1 filter channels for each of C can't be N * (2*taps + 1), for any odd k and taps."""
    areas = {k * k + 1 for k in range(1, 200, 2)}
    for taps in range(1, 40, 2):
        assert not any(area % (2 * taps + 1) == 0 for area in areas)


def test_the_authors_have_no_such_network():
    with pytest.raises(UserError, match="don't fit IAC"):
        from_official(to_official(small().state_dict()))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"filter_type": "unfold"}, "filter_type must be iac or fac"),
        ({"fac_taps": 4}, "fac_taps"),
        ({"fac_taps": 2.5}, "fac_taps"),
    ],
)
def test_invalid_hyper_parameters(arguments, message):
    with pytest.raises(ValueError, match=message):
        IFAN(**arguments)
