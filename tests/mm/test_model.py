"""IFANRestorer: its modes, its losses, and what it refuses."""

from __future__ import annotations

import copy

import pytest
import torch
from runner_cases import REBLUR, SMALL, write_weights

pytest.importorskip("mmengine", reason="mmengine isn't installed (pip install ifan_plugin[mm])")

from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS
from mmengine.structures import BaseDataElement

import ifan_plugin.mm  # noqa: F401 (registers)
from ifan_plugin.common.errors import UserError
from ifan_plugin.host.importing import prepare
from ifan_plugin.inference import run_network
from ifan_plugin.losses import area_downsample

LOSSES = {"disparity_loss": {"type": "DisparityLoss", "loss_weight": 2.0}, "reblur_loss": {"type": "ReblurLoss"}}


def build(**options):
    torch.manual_seed(0)
    return MODELS.build(copy.deepcopy({"type": "IFANRestorer", "generator": SMALL} | options))


def trained(**options):
    return build(reblur=REBLUR, **LOSSES, **options)


def batch(count: int = 2, size: tuple[int, int] = (32, 24), views: bool = True, sharp: bool = True):
    torch.manual_seed(1)
    fields = (["gt_img"] if sharp else []) + (["left", "right"] if views else [])
    samples = [BaseDataElement(**{field: torch.rand(3, *size) for field in fields}) for _ in range(count)]
    return torch.rand(count, 3, *size), samples


def field(samples, name):
    return torch.stack([sample.get(name) for sample in samples])


def test_losses_are_the_papers():
    model = trained().train()
    lq, samples = batch()
    losses = model(lq, samples, mode="loss")
    outputs = model.generator.training_outputs(lq, field(samples, "left"), field(samples, "right"))
    reblurred = model.reblur(field(samples, "gt_img"), outputs.filters)
    expected = {
        "l_deblur": (outputs.result - field(samples, "gt_img")).square().mean(),
        "l_disparity": 2 * (outputs.warped_right - outputs.left_small).square().mean(),
        "l_reblur": (reblurred - area_downsample(lq, 8)).square().mean(),
    }
    assert list(losses) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value)
    total, logged = model.parse_losses(losses)
    torch.testing.assert_close(total, sum(expected.values()))
    assert list(logged) == ["loss", *expected]


def test_compiling_into_graphs_refuses_accumulation():
    with pytest.raises(UserError, match="model: train_cfg: compile: reduce-overhead doesn't go with accumulate: 2"):
        build(train_cfg={"compile": "reduce-overhead", "accumulate": 2})
    with pytest.raises(UserError, match="model: train_cfg: compile: must be one of false, true, 'reduce-overhead'"):
        build(train_cfg={"compile": "max"})


def test_the_loss_of_the_predicted_biases():
    model = trained(filter_bias_loss={"type": "FilterBiasLoss", "loss_weight": 3.0, "margin": 0.0}).train()
    lq, samples = batch()
    losses = model(lq, samples, mode="loss")
    assert list(losses) == ["l_deblur", "l_disparity", "l_reblur", "l_filter_bias"]
    biases = model.generator.biases_of(model.generator.training_outputs(lq).filters)
    torch.testing.assert_close(losses["l_filter_bias"], 3 * biases.clamp(max=0).abs().mean())
    for name, kind in (("filter_bias_loss", "PixelLoss"), ("pixel_loss", "FilterBiasLoss")):
        with pytest.raises(UserError, match=f"model: {name}: type: {kind} doesn't compare what this is for"):
            build(**{name: {"type": kind}})
    with pytest.raises(UserError, match="model: filter_bias_loss: the generator has no filters"):
        build(generator=SMALL | {"use_filters": False}, filter_bias_loss={"type": "FilterBiasLoss"})


def test_the_defocus_loss_wants_the_circle_of_confusion():
    model = trained(defocus_loss={"type": "DefocusLoss", "loss_weight": 0.5}).train()
    lq, samples = batch()
    with pytest.raises(UserError, match="model: defocus_loss: needs simulated data; set coc=True"):
        model(lq, samples, mode="loss")
    for sample in samples:
        sample.set_field(torch.full((1, 32, 24), 3.0), "coc")
    losses = model(lq, samples, mode="loss")
    assert list(losses) == ["l_deblur", "l_disparity", "l_reblur", "l_defocus"]
    distance = 3 - model.generator.disparity(lq) / 0.0125
    assert distance.min() > 1
    torch.testing.assert_close(losses["l_defocus"], 0.5 * (distance - 0.5).mean())
    with pytest.raises(UserError, match="model: defocus_loss: the generator has no disparity estimator"):
        build(generator=SMALL | {"use_disparity": False}, defocus_loss={"type": "DefocusLoss"})


def test_a_step_trains_both_networks_and_skips_what_data_and_config_lack():
    model = trained()
    before = copy.deepcopy(model.state_dict())
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    lq, samples = batch()
    logged = model.train_step({"inputs": list(lq), "data_samples": samples}, wrapper)
    assert logged["loss"] > 0
    changed = {name.split(".")[0] for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"generator", "reblur"}
    assert list(model(*batch(views=False), mode="loss")) == ["l_deblur", "l_reblur"]
    assert list(build(disparity_loss=LOSSES["disparity_loss"])(*batch(), mode="loss")) == ["l_deblur", "l_disparity"]
    assert list(build()(*batch(), mode="loss")) == ["l_deblur"]


def test_the_dual_pixel_network_has_its_views_in_the_input():
    model = build(generator=SMALL | {"dual_pixel": True}, reblur=REBLUR, **LOSSES)
    lq, samples = batch(views=False)
    assert list(model(lq.repeat(1, 3, 1, 1), samples, mode="loss")) == ["l_deblur", "l_disparity", "l_reblur"]


def test_predictions():
    model = trained(test_cfg={"disparity": True}).train()
    lq, samples = batch(size=(29, 43))
    lq = 3 * lq - 1  # so that clipping shows
    found = model(lq, samples, mode="predict")
    assert found[0] is samples[0]
    assert model.training
    expected = run_network(model.generator, lq)
    for index, sample in enumerate(found):
        assert torch.equal(sample.output.pred_img, expected[index])
        assert sample.output.pred_img.shape == (3, 29, 43)
        assert torch.equal(sample.img, lq[index])
        assert sample.output.disparity.shape == (1, 4, 6)
        assert set(sample.to_dict()["output"]) == {"pred_img", "disparity"}
    assert expected.min() >= 0
    assert expected.max() <= 1
    alone = build()(lq, mode="predict")
    assert len(alone) == 2
    assert "disparity" not in alone[0].output
    assert torch.equal(model.eval()(lq), expected)  # mode tensor: the network itself


def test_another_network_trains_with_the_pixel_loss_alone():
    model = build(
        generator={"type": "DPDNet", "in_channels": 3, "width": 2, "dropout": 0.0},
        pixel_loss={"type": "PixelLoss", "norm": "l1"},
    )
    lq, samples = batch(size=(16, 16))
    losses = model(lq, samples, mode="loss")
    expected = (model.generator(lq) - field(samples, "gt_img")).abs().mean()
    assert list(losses) == ["l_deblur"]
    assert model.disparity_map(lq) is None
    torch.testing.assert_close(losses["l_deblur"], expected)


@pytest.mark.parametrize(("norm", "theirs"), [("mse", "MSELoss"), ("l1", "L1Loss"), ("charbonnier", "CharbonnierLoss")])
def test_pixel_losses_are_basicsrs(norm, theirs):
    prepare()
    import basicsr.losses.basic_loss as host_losses

    restored, sharp = torch.rand(2, 2, 3, 5, 7)
    ours = MODELS.build({"type": "PixelLoss", "norm": norm, "loss_weight": 0.3})
    expected = getattr(host_losses, theirs)(loss_weight=0.3)(restored, sharp)
    torch.testing.assert_close(ours(restored, sharp), expected, rtol=0, atol=1e-9)
    with pytest.raises(ValueError, match="one shape"):
        ours(restored, sharp[:, :1])


def test_pretrained_weights_stay_when_the_runner_initialises(tmp_path):
    net_g, net_r = write_weights(tmp_path)
    model = trained(pretrained={"generator": str(net_g), "reblur": str(net_r)})
    expected = torch.load(net_g, weights_only=True)["params"]
    for _ in range(2):
        found = model.generator.state_dict()
        assert all(torch.equal(found[name], value) for name, value in expected.items())
        model.init_weights()
    assert torch.equal(model.reblur.to_filters.bias, torch.load(net_r, weights_only=True)["params"]["to_filters.bias"])


def test_training_stops_where_the_loss_is_not_finite():
    model = build()
    lq, samples = batch()
    samples[0].gt_img[0, 0, 0] = float("nan")
    with pytest.raises(UserError, match=r"the loss isn't finite \(l_deblur nan\)"):
        model.parse_losses(model(lq, samples, mode="loss"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"generator": {"type": "IFFAN"}}, "model: generator: unknown type 'IFFAN'; did you mean 'IFAN'?"),
        ({"generator": SMALL | {"widht": 4}}, "model: generator: unknown key 'widht'; did you mean 'width'?"),
        ({"generator": SMALL | {"width": "4"}}, "model: generator: width: must be an integer"),
        ({"generator": SMALL | {"taps": 2}}, "model: generator: "),
        ({"generator": "IFAN"}, "model: generator: must be a dict with a type"),
        ({"reblur": REBLUR}, "reblur is there and reblur_loss isn't"),
        ({"reblur_loss": {"type": "ReblurLoss"}}, "reblur_loss is there and reblur isn't"),
        ({"reblur": REBLUR | {"filter_channels": 3}, **LOSSES}, "model: reblur: filter_channels: must be "),
        ({"reblur": REBLUR | {"steps": 3}, **LOSSES}, "model: reblur: unknown key 'steps'"),
        ({"reblur": {"type": "IFAN"}, **LOSSES}, "model: reblur: type: must be ReblurNet, not IFAN"),
        ({"generator": SMALL | {"use_disparity": False}, "disparity_loss": LOSSES["disparity_loss"]}, "remove one of"),
        ({"generator": SMALL | {"use_filters": False}, "reblur": REBLUR, "reblur_loss": {"type": "ReblurLoss"}}, "use_filters"),
        ({"generator": {"type": "DPDNet"}, "disparity_loss": {"type": "DisparityLoss"}}, "disparity_loss: needs a generator"),
        ({"pixel_loss": {"type": "PixelLoss", "norm": "l2"}}, "model: pixel_loss: "),
        ({"test_cfg": {"disparty": True}}, "model: test_cfg: unknown key 'disparty'; did you mean 'disparity'?"),
        ({"pretrained": "none.pth"}, "none.pth: no such file"),
        ({"pretrained": {"generater": "none.pth"}}, "model: pretrained: unknown key 'generater'; did you mean 'generator'?"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_does_not_fit_is_refused_in_one_line(options, message):
    with pytest.raises(UserError) as caught:
        build(**options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_batches_that_cannot_be_used():
    model = build()
    with pytest.raises(UserError, match="training needs sharp pictures"):
        model(*batch(sharp=False), mode="loss")
    with pytest.raises(UserError, match=r"unequal shapes \(3x8x16 and 3x8x24\); batch_size: 1"):
        model.data_preprocessor({"inputs": [torch.rand(3, 8, 24), torch.rand(3, 8, 16)]})
    with pytest.raises(ValueError, match="mode must be tensor, predict or loss"):
        model(*batch(), mode="losses")
