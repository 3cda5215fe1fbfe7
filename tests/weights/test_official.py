from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ifan_plugin.archs.ifan_arch import IFAN
from ifan_plugin.archs.reblur_arch import ReblurNet
from ifan_plugin.common.errors import UserError
from ifan_plugin.weights.official import (
    check_kwargs,
    from_official,
    infer_ifan_kwargs,
    is_official,
    to_official,
)

SHAPES = json.loads(
    (Path(__file__).parents[1] / "data_files" / "golden" / "official_state_dict_shapes.json").read_text()
)
SMALL = {
    "width": 8,
    "num_steps": 3,
    "taps": 3,
    "res_units": 1,
    "dual_pixel": False,
    "use_disparity": True,
    "use_filters": True,
}
KNOWN = {
    "small": SMALL,
    "dual_small": {**SMALL, "dual_pixel": True},
    "paper": {**SMALL, "width": 32, "num_steps": 17, "res_units": 2},
}


def official(name: str = "small") -> dict[str, Tensor]:
    """A state dict with the authors' names and shapes, each tensor filled with its own number."""
    return {key: torch.full(shape, float(i)) for i, (key, shape) in enumerate(SHAPES[name].items())}


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", SHAPES)
def test_official_keys(name: str) -> None:
    state_dict = official(name)
    assert is_official(state_dict)
    checkpoint = from_official(state_dict)
    assert checkpoint.arch_kwargs == {**KNOWN[name], "isotropic": True}
    with torch.device("meta"):
        network, reblur_net = IFAN(**checkpoint.arch_kwargs), ReblurNet(**checkpoint.reblur_kwargs)
    network.load_state_dict(checkpoint.params, strict=True, assign=True)
    reblur_net.load_state_dict(checkpoint.reblur_params, strict=True, assign=True)
    assert not is_official(network.state_dict())

    back = to_official(network.state_dict(), reblur_net.state_dict())
    assert back.keys() == state_dict.keys()
    assert all(torch.equal(back[key], value) for key, value in state_dict.items())


def test_some_names() -> None:
    """Spelt out, so that a mistake in the table and its inverse can't cancel out."""
    params, reblur_params = from_official(official())[1:3]
    numbers = {key: i for i, key in enumerate(SHAPES["small"])}
    for theirs, ours in (
        ("conv1_1.0.weight", "feature_extractor.level1.0.0.weight"),
        ("conv4_3.0.bias", "feature_extractor.level4.2.0.bias"),
        ("kconv3_2.0.weight", "filter_encoder.level3.1.0.weight"),
        ("conv4_4.0.0.weight", "filter_predictor.fuse.0.0.weight"),
        ("conv4_4.2.stem.0.2.weight", "filter_predictor.fuse.2.units.0.2.weight"),
        ("DME.3.bias", "disparity_estimator.3.bias"),
        ("conv_DME.0.weight", "filter_predictor.disparity_features.0.weight"),
        ("F.1.stem.0.0.bias", "filter_predictor.trunk.1.units.0.0.bias"),
        ("F.3.weight", "filter_predictor.to_filters.weight"),
        ("conv_res.1.stem.2.0.weight", "reconstructor.bottleneck.1.units.2.0.weight"),
        ("upconv2_u.0.weight", "reconstructor.up2.0.weight"),
        ("upconv1_2.stem.0.2.bias", "reconstructor.refine1.1.units.0.2.bias"),
        ("out_res.0.bias", "reconstructor.to_image.0.bias"),
    ):
        assert params[ours].unique().item() == numbers[f"module.Network.{theirs}"], theirs
    assert reblur_params["to_filters.bias"][0] == numbers["module.reblurNet.RBF.3.bias"]
    assert reblur_params["trunk.2.units.0.2.bias"][0] == numbers["module.reblurNet.RBF.2.stem.0.2.bias"]


def test_with_and_without_prefix_and_reblurring_network() -> None:
    whole = official()
    bare = {key.removeprefix("module."): value for key, value in whole.items()}
    network_only = {key: value for key, value in whole.items() if "reblurNet" not in key}
    expected = from_official(whole)
    for state_dict in (bare, network_only):
        assert is_official(state_dict)
        checkpoint = from_official(state_dict, isotropic=False)
        assert checkpoint.params.keys() == expected.params.keys()
        assert checkpoint.arch_kwargs["isotropic"] is False
    assert from_official(bare).reblur_kwargs == {
        "filter_channels": 672,
        "width": 8,
        "num_steps": 2,
        "taps": 3,
        "res_units": 1,
        "isotropic": True,
    }
    assert from_official(network_only)[2:] == (None, None)


def test_inference_leaves_the_reblurring_network_aside() -> None:
    state_dict = official()
    del state_dict["module.reblurNet.RBF.0.0.weight"]
    state_dict["module.reblurNet.more"] = torch.zeros(1)
    assert from_official(state_dict, reblur=False).reblur_params is None
    with pytest.raises(UserError, match=r"unknown key reblurNet\.more"):
        from_official(state_dict)
    del state_dict["module.reblurNet.more"]
    with pytest.raises(UserError, match=r"missing key reblurNet\.RBF\.0\.0\.weight"):
        from_official(state_dict)


@pytest.mark.parametrize(
    ("removed", "added", "message"),
    [
        (["DME.3.bias"], [], "missing key Network.DME.3.bias"),
        (["conv1_1.0.weight", "out_res.0.bias"], [], "missing key Network.conv1_1.0.weight (and 1 more)"),
        (["F.1.stem.0.0.weight"], [], "missing key Network.F.1.stem.0.0.weight"),
        ([], ["conv5_1.0.weight", "x"], "unknown key Network.conv5_1.0.weight (and 1 more)"),
        ([], ["DME.4.weight"], "unknown key Network.DME.4.weight"),
    ],
    ids=str,
)
def test_network_keys_are_strict(removed: list[str], added: list[str], message: str) -> None:
    state_dict = official()
    for key in removed:
        del state_dict[f"module.Network.{key}"]
    state_dict.update({f"module.Network.{key}": torch.zeros(1) for key in added})
    with pytest.raises(UserError) as error:
        from_official(state_dict, path="my.pytorch")
    assert one_line(error) == f"my.pytorch: {message}"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"module.Network.DME.3.bias": torch.zeros(2)}, r"Network\.DME\.3\.bias is \[2\], expected \[1\]"),
        ({"module.Network.F.3.weight": torch.zeros(670, 32, 1, 1)}, "670 filter channels"),
        ({"module.Network.F.3.weight": torch.zeros(672)}, "which no IFAN has"),
        ({"module.Network.conv1_1.0.weight": torch.zeros(0, 3, 3, 3)}, "which no IFAN has"),
        ({"module.Network.kconv1_1.0.weight": torch.zeros(8, 5, 3, 3)}, r"expected \[8, 3, 3, 3\]"),
        ({"module.Network.DME.3.bias": 3}, "is a int, not a tensor"),
        ({"module.Network.DME.3.bias": None}, "is a NoneType, not a tensor"),
        ({"optimizer": {}}, "unknown key optimizer"),
        ({5: torch.zeros(1)}, "unknown key 5"),
        ({"Network.DME.3.bias": torch.zeros(1)}, r"unknown key Network\.DME\.3\.bias"),
        ({"module.reblurNet.RBF.0.0.weight": torch.zeros(30, 672, 3, 3)}, "30 channels"),
        ({"module.reblurNet.RBF.3.bias": torch.zeros(3)}, r"RBF\.3\.bias is \[3\], expected \[42\]"),
    ],
    ids=str,
)
def test_other_contents_are_refused(changed: dict[Any, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        from_official({**official(), **changed})
    one_line(error)


def test_taps() -> None:
    with pytest.raises(UserError, match="taps=5"):
        from_official(official(), taps=5)
    with pytest.raises(UserError, match="taps must be odd"):
        from_official(official(), taps=2)


def test_to_official_knows_no_other_keys() -> None:
    with pytest.raises(UserError, match=r"no parameter for 'other\.weight'"):
        to_official({"other.weight": torch.zeros(1)})


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_steps": 8, "width": 4, "res_units": 3},
        {"taps": 5},
        {"dual_pixel": True},
        {"use_disparity": False},
    ],
    ids=str,
)
def test_inferred_from_our_own_names(options: dict[str, Any]) -> None:
    kwargs = {**SMALL, **options}
    with torch.device("meta"):
        params = IFAN(**kwargs).state_dict()
    assert infer_ifan_kwargs(params, kwargs["taps"]) == kwargs


def test_inferred_of_the_plain_network() -> None:
    with torch.device("meta"):
        params = IFAN(width=4, use_filters=False).state_dict()
    inferred = infer_ifan_kwargs(params)
    assert inferred == {"width": 4, "dual_pixel": False, "use_disparity": False, "use_filters": False}


def test_infer_refuses_other_networks() -> None:
    with pytest.raises(UserError, match=r"x\.pth: no IFAN checkpoint"):
        infer_ifan_kwargs(nn.Linear(2, 2).state_dict(), path="x.pth")


def test_check_kwargs() -> None:
    check_kwargs({"width": 8, "isotropic": True}, SMALL, "net.pth")
    with pytest.raises(UserError) as error:
        check_kwargs({"width": 8, "num_steps": 17}, SMALL, "net.pth")
    assert one_line(error) == "net.pth: num_steps is 3 in the checkpoint, but 17 was asked for"
