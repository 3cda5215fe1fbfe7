"""Every protocol's figures against scikit-image, the lpips package and the host's functions, each called directly."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import torch
from metrics.lpips_reference import reference_lpips
from skimage import data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

import ifan_plugin
from ifan_plugin.common.errors import UserError
from ifan_plugin.metrics import MetricUnavailableError, full_reference
from ifan_plugin.metrics.protocols import PROTOCOLS, measure, protocol_named

ifan_plugin.register()

from basicsr.metrics import calculate_psnr, calculate_ssim  # noqa: E402 (importable only once it is mended)
from basicsr.utils import tensor2img  # noqa: E402

FLOAT_PROTOCOLS = ("ifan", "restormer", "dpdnet")


def planes(picture: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1))).float()


@pytest.fixture(scope="module")
def photo() -> tuple[torch.Tensor, torch.Tensor]:
    """A photograph blurred, some of its values out of [0, 1], and itself."""
    sharp = data.astronaut()[100:220, 150:310] / 255.0
    return planes(1.02 * cv2.GaussianBlur(sharp, (9, 9), 2) - 0.005), planes(sharp)


def as_array(picture: torch.Tensor) -> np.ndarray:
    return picture.double().clamp(0, 1).permute(1, 2, 0).numpy()


@pytest.mark.parametrize("name", FLOAT_PROTOCOLS)
def test_float_protocols_are_scikit_images(name, photo):
    restored, sharp = (as_array(picture) for picture in photo)
    figures = measure(name, *photo)
    assert list(figures) == ["psnr", "ssim", "mae"]
    assert figures["psnr"] == pytest.approx(peak_signal_noise_ratio(sharp, restored, data_range=1), abs=1e-9)
    expected = structural_similarity(sharp, restored, channel_axis=2, data_range=1)
    assert figures["ssim"] == pytest.approx(expected, abs=1e-9)
    assert figures["mae"] == pytest.approx(np.abs(sharp - restored).mean(), abs=1e-12)


@pytest.mark.parametrize("border", [0, 3])
def test_basicsr_is_the_hosts(photo, border):
    restored, sharp = (tensor2img(picture.clone()) for picture in photo)
    figures = PROTOCOLS["basicsr"].metrics(*photo, ("ssim", "psnr", "mae"), crop_border=border)
    assert figures["psnr"] == pytest.approx(calculate_psnr(restored, sharp, crop_border=border), abs=1e-12)
    assert figures["ssim"] == pytest.approx(calculate_ssim(restored, sharp, crop_border=border), abs=1e-12)
    inner = slice(border, -border or None)
    difference = restored[inner, inner].astype(float) - sharp[inner, inner]
    assert figures["mae"] == pytest.approx(np.abs(difference).mean() / 255, abs=1e-12)


def test_basicsr_differs_from_the_others(photo):
    """Else its test above would pass with float figures."""
    floats, rounded = measure("ifan", *photo), measure("basicsr", *photo)
    assert abs(floats["psnr"] - rounded["psnr"]) > 1e-4
    assert abs(floats["ssim"] - rounded["ssim"]) > 1e-3
    fine = torch.full((3, 16, 16), 0.5)
    assert measure("basicsr", fine + 1e-3, fine)["psnr"] == math.inf
    assert measure("ifan", fine + 1e-3, fine)["psnr"] == pytest.approx(60, abs=1e-2)


def random_lpips() -> torch.nn.Module:
    """The package's network with random features."""
    package = pytest.importorskip("lpips", reason="the lpips package isn't installed")
    torch.manual_seed(0)
    return package.LPIPS(net="alex", version="0.1", verbose=False, pnet_rand=True).eval()


def direct_lpips(photo, network: torch.nn.Module) -> tuple[torch.nn.Module, float]:
    """The network and its own distance of the clipped pictures, scaled to [-1, 1]."""
    restored, sharp = (picture.clamp(0, 1)[None] * 2 - 1 for picture in photo)
    with torch.no_grad():
        return network, float(network(restored, sharp))


@pytest.mark.parametrize("name", FLOAT_PROTOCOLS)
def test_lpips_is_the_packages(name, photo):
    _, expected = direct_lpips(photo, reference_lpips())
    assert measure(name, *photo, ("lpips",))["lpips"] == pytest.approx(expected, abs=1e-6)


def test_lpips_is_the_packages_with_a_backbone_of_random_weights(photo, monkeypatch):
    """Nothing to download: clipping, scaling and the order of the pictures are what it is about."""
    network, expected = direct_lpips(photo, random_lpips())
    monkeypatch.setattr(full_reference, "_lpips_network", lambda net, device: network)
    assert expected > 1e-4
    assert measure("ifan", *photo, ("lpips",))["lpips"] == pytest.approx(expected, abs=1e-6)


def test_lpips_is_not_of_the_hosts_protocol(photo):
    with pytest.raises(MetricUnavailableError, match="protocol 'basicsr' has none; valid: psnr, ssim, mae"):
        measure("basicsr", *photo, ("psnr", "lpips"))
    assert "lpips" not in PROTOCOLS["basicsr"].better
    assert dict(PROTOCOLS["ifan"].better) == {"psnr": "higher", "ssim": "higher", "mae": "lower", "lpips": "lower"}


def test_wrong_names_and_borders(photo):
    with pytest.raises(UserError, match="unknown protocol 'restomer'; did you mean 'restormer'"):
        measure("restomer", *photo)
    with pytest.raises(UserError, match=r"^val: protocol: unknown protocol 'x'"):
        protocol_named("x", "val: protocol")
    with pytest.raises(ValueError, match="unknown metric 'pnsr'; did you mean 'psnr'"):
        measure("ifan", *photo, ("pnsr",))
    with pytest.raises(ValueError, match="leaves out no border"):
        PROTOCOLS["ifan"].metrics(*photo, crop_border=2)
    with pytest.raises(ValueError, match="unequal shapes"):
        measure("basicsr", photo[0], photo[1][:, :-1])


def test_what_data_sets_are_given():
    views = {"single": ["center"], "dual": ["left", "right"], "all": ["center", "left", "right"]}
    found = {
        (name, kind): tuple(protocol.options_for(v).values())
        for name, protocol in PROTOCOLS.items()
        for kind, v in views.items()
    }
    expected = {"ifan": (8, 8, 8, 8), "restormer": (8, 16, 16, 1), "dpdnet": (16, 16, 16, 1), "basicsr": (8, 8, 8, 1)}
    for name, (*depths, multiple) in expected.items():
        assert [found[name, kind] for kind in views] == [(depth, multiple) for depth in depths]
        assert PROTOCOLS[name].dataset_options == {"bit_depth": depths[0], "crop_multiple": multiple}


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("ifan", {"crop_multiple": 1}, r"crop_multiple: must be 8 under protocol 'ifan', not 1; leave it out"),
        ("restormer", {"bit_depth": 16}, r"bit_depth: must be 8 under protocol 'restormer', not 16"),
        ("restormer", {"bit_depth": 8, "views": ["left", "right"]}, "bit_depth: must be 16"),
        ("dpdnet", {"bit_depth": 8}, "bit_depth: must be 16"),
        ("basicsr", {"crop_multiple": 8}, "crop_multiple: must be 1"),
    ],
)
def test_data_sets_that_contradict(name, given, message):
    with pytest.raises(UserError, match=f"^datasets: test: {message}") as caught:
        PROTOCOLS[name].fill(dict(given), "datasets: test")
    assert "\n" not in str(caught.value)


def test_data_sets_that_agree_are_completed():
    dataset = {"bit_depth": 16}
    PROTOCOLS["ifan"].fill(dataset, "here")
    assert dataset == {"bit_depth": 16, "crop_multiple": 8}, "the 16-bit model's"


def test_cropping_and_resizing():
    picture = torch.rand(2, 45, 67)
    assert torch.equal(PROTOCOLS["ifan"].prepared(picture), picture[:, :40, :64])
    for name in ("restormer", "basicsr"):
        assert torch.equal(PROTOCOLS[name].prepared(picture), picture)
    for upright in (False, True):
        turned = picture.transpose(1, 2) if upright else picture
        resized = PROTOCOLS["dpdnet"].prepared(turned[None])[0]
        expected = cv2.resize(turned.permute(1, 2, 0).numpy(), (1120, 1680) if upright else (1680, 1120))
        np.testing.assert_allclose(resized.permute(1, 2, 0).numpy(), expected, atol=2e-5)
    whole = torch.rand(3, 1120, 1680)
    assert PROTOCOLS["dpdnet"].prepared(whole) is whole, "DPDD's own size"
    with pytest.raises(UserError, match="a picture of 20x7 is too small; valid: at least 8"):
        PROTOCOLS["ifan"].prepared(torch.rand(3, 7, 20))
