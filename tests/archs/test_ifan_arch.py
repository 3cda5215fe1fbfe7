from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ifan_plugin.archs.ifan_arch import IFAN
from ifan_plugin.archs.layers import ResBlock
from ifan_plugin.losses import area_downsample

ABLATIONS = [{}, {"use_disparity": False}, {"use_filters": False}, {"dual_pixel": True}]


def small(seed: int = 0, **changed: object) -> IFAN:
    torch.manual_seed(seed)
    return IFAN(**{"width": 2, "num_steps": 2, "res_units": 1, **changed})


def image(*shape: int, seed: int = 5) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("options", ABLATIONS, ids=str)
@pytest.mark.parametrize("size", [(8, 8), (16, 24), (9, 15), (17, 8)], ids=str)
def test_any_size_from_eight(size: tuple[int, int], options: dict) -> None:
    network = small(**options)
    lq = image(2, network.in_channels, *size)
    for training in (False, True):
        result = network.train(training)(lq)
        assert result.shape == (2, 3, *size)
        assert result.isfinite().all()


def test_other_sizes_are_padded_by_the_edge() -> None:
    network = small().eval()
    lq = image(1, 3, 13, 18)
    padded = F.pad(lq, (0, 6, 0, 3), mode="replicate")
    assert torch.equal(network(lq), network(padded)[..., :13, :18])
    assert not torch.equal(network(lq), network(F.pad(lq, (0, 6, 0, 3)))[..., :13, :18])


def test_only_evaluation_clips() -> None:
    network = small()
    nn.init.constant_(network.reconstructor.to_image[0].bias, 0.7)
    lq = image(1, 3, 16, 16)
    unclipped = network.train()(lq)
    assert unclipped.max() > 1
    assert torch.equal(network.eval()(lq), unclipped.clamp(0, 1))
    assert torch.equal(network.training_outputs(lq).result, unclipped)
    nn.init.constant_(network.reconstructor.to_image[0].bias, -20)
    assert network.train()(lq).min() < 0
    assert network.eval()(lq).min() == 0


def test_defaults_are_the_papers() -> None:
    with torch.device("meta"):
        assert describe(IFAN()) == describe(
            IFAN(32, 17, 3, 2, dual_pixel=False, isotropic=False, use_disparity=True, use_filters=True)
        )
        assert not IFAN().iac.isotropic
        assert IFAN(isotropic=True).iac.isotropic
        assert IFAN().filter_channels == 15232
    assert IFAN.multiple_of == 8


def describe(network: nn.Module) -> dict[str, torch.Size]:
    return {key: value.shape for key, value in network.state_dict().items()}


@pytest.mark.parametrize(
    ("options", "millions"),
    [
        ({"num_steps": 8}, 9.437),
        ({"num_steps": 17}, 10.477),
        ({"num_steps": 26}, 11.517),
        ({"num_steps": 35}, 12.558),
        ({"num_steps": 44}, 13.598),
        ({"dual_pixel": True}, 10.478),
    ],
    ids=str,
)
def test_parameter_counts(options: dict, millions: float) -> None:
    with torch.device("meta"):
        count = sum(p.numel() for p in IFAN(**options).parameters())
    assert round(count / 1e6, 3) == millions
    assert options != {"num_steps": 17} or count == 10_476_996


def test_filter_channels() -> None:
    assert small(num_steps=3, taps=5).filter_channels == 3 * 8 * 11
    assert small(use_filters=False).filter_channels == 0
    network = small(num_steps=3, taps=5)
    assert network.training_outputs(image(1, 3, 16, 8)).filters.shape == (1, 264, 2, 1)


@pytest.mark.parametrize("options", ABLATIONS, ids=str)
def test_every_parameter_trains(options: dict) -> None:
    network = small(**options).double()
    lq = image(2, network.in_channels, 16, 16).double()
    views = {} if network.in_channels == 9 else {"left": lq.flip(2), "right": lq.flip(3)}
    out = network.training_outputs(lq, **views)
    loss = out.result.square().mean()
    if out.warped_right is not None:
        loss = loss + F.mse_loss(out.warped_right, out.left_small)
    loss.backward()
    still = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert still == []


@pytest.mark.parametrize("options", ABLATIONS, ids=str)
def test_ablations_have_no_more_than_they_need(options: dict) -> None:
    network = small(**options)
    parts = {name for name, _ in network.named_children()}
    assert ("disparity_estimator" in parts) == (options.get("use_disparity", True) and options.get("use_filters", True))
    with_filters = options.get("use_filters", True)
    assert parts >= {"feature_extractor", "reconstructor"}
    assert (parts >= {"filter_encoder", "filter_predictor", "iac"}) == with_filters
    if not options.get("use_disparity", True):
        assert network.filter_predictor.fuse[0][0].in_channels == 8
        assert not hasattr(network.filter_predictor, "disparity_features")


def test_training_outputs_single() -> None:
    network = small()
    lq, left, right = image(2, 3, 16, 24), image(2, 3, 16, 24, seed=6), image(2, 3, 16, 24, seed=7)
    out = network.training_outputs(lq, left, right)
    assert out.disparity.shape == (2, 1, 2, 3)
    assert torch.equal(out.disparity, network.disparity(right))
    assert torch.equal(out.left_small, area_downsample(left, 8))
    assert out.warped_right.shape == (2, 3, 2, 3)

    without = network.training_outputs(lq)
    assert torch.equal(without.result, out.result)
    assert torch.equal(without.filters, out.filters)
    assert without.disparity is without.warped_right is without.left_small is None


def test_training_outputs_dual() -> None:
    network = small(dual_pixel=True)
    lq = image(1, 9, 16, 16)
    out = network.training_outputs(lq)
    assert torch.equal(out.disparity, network.disparity(lq))
    assert torch.equal(out.left_small, area_downsample(lq[:, 3:6], 8))
    given = network.training_outputs(lq, lq[:, :3], lq[:, :3])
    assert torch.equal(given.left_small, out.left_small)


def test_dual_encoder_sees_right_then_left() -> None:
    network = small(dual_pixel=True)
    seen = []
    network.filter_encoder.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    lq = image(1, 9, 8, 8)
    network(lq)
    assert torch.equal(seen[0], torch.cat([lq[:, 6:9], lq[:, 3:6]], 1))


def test_training_outputs_of_ablations() -> None:
    lq = image(1, 3, 16, 16)
    without_disparity = small(use_disparity=False).training_outputs(lq, lq, lq)
    assert without_disparity.filters is not None
    assert without_disparity[2:5] == (None, None, None)
    assert small(use_filters=False).training_outputs(lq, lq, lq)[1:] == (None,) * 6


def test_disparity_of_any_size() -> None:
    network = small().eval()
    assert network.disparity(image(2, 3, 17, 8)).shape == (2, 1, 3, 1)
    with pytest.raises(ValueError, match="without a disparity estimator"):
        small(use_disparity=False).disparity(image(1, 3, 8, 8))


def test_predictor_can_be_taken_apart() -> None:
    """The trunk's output and any rows of the last 1x1 convolution give those filters."""
    network = small().eval()
    features, disparity = image(1, 8, 3, 4), image(1, 1, 3, 4)
    predictor = network.filter_predictor
    rows = slice(10, 25)
    embedded = predictor.embed(features, disparity)
    some = F.conv2d(embedded, predictor.to_filters.weight[rows], predictor.to_filters.bias[rows])
    torch.testing.assert_close(some, predictor(features, disparity)[:, rows])
    filters, steps = predictor(features, disparity), range(network.iac.num_steps)
    biases = [predictor.step_filters(embedded, step, 8, len(steps))[1] for step in steps]
    torch.testing.assert_close(network.biases_of(filters), torch.cat(biases, 1))


def test_isotropic_reaches_the_operator() -> None:
    lq = image(1, 3, 16, 16)
    separable, isotropic = small(seed=3).eval(), small(seed=3, isotropic=True).eval()
    assert not torch.equal(separable(lq), isotropic(lq))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"taps": 4}, "taps must be odd"),
        ({"taps": 0}, "taps must be a positive integer"),
        ({"width": 0}, "width must be a positive integer"),
        ({"width": 8.0}, "width must be a positive integer"),
        ({"num_steps": -1}, "num_steps must be a positive integer"),
        ({"res_units": True}, "res_units must be a positive integer"),
        ({"dual_pixel": True, "use_filters": False}, "dual_pixel needs use_filters"),
    ],
    ids=str,
)
def test_invalid_hyper_parameters(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        IFAN(**options)


@pytest.mark.parametrize(
    ("shape", "message"),
    [((1, 9, 16, 16), "lq must be"), ((3, 16, 16), "lq must be"), ((1, 3, 7, 16), "at least 8")],
    ids=str,
)
def test_invalid_images(shape: tuple[int, ...], message: str) -> None:
    network = small()
    for function in (network, network.disparity, network.training_outputs):
        with pytest.raises(ValueError, match=message):
            function(torch.zeros(shape))


def test_invalid_training_images() -> None:
    network = small()
    lq = image(1, 3, 16, 16)
    with pytest.raises(ValueError, match="multiples of 8"):
        network.training_outputs(image(1, 3, 16, 20))
    with pytest.raises(ValueError, match="both views"):
        network.training_outputs(lq, left=lq)
    with pytest.raises(ValueError, match="left and right must be"):
        network.training_outputs(lq, lq, image(1, 3, 8, 8))
    with pytest.raises(ValueError, match="3, H, W"):
        small().forward(image(1, 4, 8, 8))


def test_initialisation() -> None:
    torch.manual_seed(0)
    network = IFAN(width=8, num_steps=4)
    louder = ("filter_predictor.trunk.", "filter_predictor.to_filters.")
    for name, layer in network.named_modules():
        if not isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            continue
        assert not layer.bias.any(), name
        fan_in_and_out = sum(layer.weight.shape[:2]) * layer.weight[0, 0].numel()
        bound = (1.5 if f"{name}.".startswith(louder) else 1.0) * math.sqrt(6 / fan_in_and_out)
        largest = layer.weight.abs().max().item()
        assert 0.93 * bound < largest <= bound, name


@pytest.mark.parametrize("units", [1, 2, 3])
def test_res_block(units: int) -> None:
    torch.manual_seed(0)
    block = ResBlock(2, units)
    x = image(1, 2, 4, 4) - 0.5
    kept = x.clone()
    expected = x
    for unit in block.units:
        first, _, second = unit
        expected = F.leaky_relu(expected + second(F.leaky_relu(first(expected), 0.1)), 0.1)
    if units > 1:
        expected = expected + x
    torch.testing.assert_close(block(x), expected)
    assert torch.equal(x, kept)


def test_input_is_left_alone() -> None:
    lq = image(1, 3, 16, 16)
    kept = lq.clone()
    small().eval()(lq)
    assert torch.equal(lq, kept)


def test_autocast() -> None:
    network = small()
    lq = image(1, 3, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        out = network.training_outputs(lq, lq, lq)
    assert out.result.isfinite().all()
    torch.testing.assert_close(out.result.float(), network.train()(lq), atol=0.05, rtol=0.05)


def test_state_dict_round_trip() -> None:
    source, target = small(seed=1), small(seed=2)
    lq = image(1, 3, 16, 16)
    assert not torch.equal(source(lq), target(lq))
    target.load_state_dict(source.state_dict(), strict=True)
    assert torch.equal(source(lq), target(lq))


@pytest.mark.parametrize(
    "options", [{}, {"isotropic": True}, {"taps": 5}, {"filter_type": "fac", "fac_taps": 3}], ids=str
)
def test_identity_filters_pass_the_features_on(options: dict) -> None:
    """About: what the predictor adds to them is small at first."""
    network = small(filter_init="identity", **options).eval()
    nn.init.zeros_(network.filter_predictor.to_filters.weight)
    features = image(1, 8, 3, 4).abs()  # no activation changes what is positive
    filters = network.filter_predictor(image(1, 8, 3, 4), image(1, 1, 3, 4))
    torch.testing.assert_close(network._filtered(features, filters), features)
    assert "filter_init" not in network.hyper_parameters
    with pytest.raises(ValueError, match="filter_init must be xavier or identity"):
        small(filter_init="zero")


def test_he_weights_begin_near_the_picture_and_see_differences() -> None:
    """The result is nearly the picture; a flat area says nothing to the filter encoder, a difference of the views much."""
    network = small(weight_init="he", filter_init="identity", dual_pixel=True).eval()
    lq = image(1, 9, 32, 32)
    assert (network(lq) - lq[:, :3]).abs().mean() < 0.1
    first = network.filter_encoder.level1[0][0]
    inside = first(torch.full((1, 6, 8, 8), 0.7))[..., 1:-1, 1:-1]
    torch.testing.assert_close(inside, torch.zeros_like(inside), atol=1e-5, rtol=0)
    seen = first(torch.cat([lq[:, 6:9], lq[:, 3:6]], 1)).square().mean()
    assert first(torch.cat([lq[:, 3:6], lq[:, 3:6]], 1)).square().mean() < 0.5 * seen
    assert "weight_init" not in network.hyper_parameters
    with pytest.raises(ValueError, match="weight_init must be xavier or he"):
        small(weight_init="zero")
