"""Float metrics against hand-computed values and scikit-image."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from metrics.lpips_reference import reference_lpips
from skimage import data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from ifan_plugin.metrics import MetricUnavailableError, full_reference, lpips, mae, psnr, ssim


@pytest.fixture
def pair():
    rng = np.random.default_rng(0)
    sharp = rng.random((24, 31, 3))
    return np.clip(sharp + 0.1 * rng.standard_normal(sharp.shape), 0, 1), sharp


def as_tensor(picture: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(picture.transpose(2, 0, 1)[None].copy())


def test_by_hand():
    sharp = np.full((8, 8, 3), 0.5)
    assert psnr(sharp + 0.1, sharp) == pytest.approx(20)
    assert mae(sharp - 0.1, sharp) == pytest.approx(0.1)
    assert psnr(sharp, sharp) == math.inf
    assert ssim(sharp, sharp) == pytest.approx(1)


def test_against_scikit_image(pair):
    restored, sharp = pair
    assert psnr(restored, sharp) == pytest.approx(peak_signal_noise_ratio(sharp, restored, data_range=1), abs=1e-9)
    expected = structural_similarity(sharp, restored, channel_axis=2, data_range=1)
    assert ssim(restored, sharp) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("metric", [psnr, ssim, mae])
def test_tensors_and_arrays_agree(pair, metric):
    restored, sharp = pair
    expected = metric(restored, sharp)
    assert metric(as_tensor(restored), as_tensor(sharp)) == pytest.approx(expected, abs=1e-12)
    assert metric(as_tensor(restored)[0], as_tensor(sharp)[0]) == pytest.approx(expected, abs=1e-12)


def test_nothing_is_quantised_and_values_are_clipped():
    sharp = np.full((8, 8, 3), 0.999)
    assert psnr(sharp + 1e-4, sharp) == pytest.approx(80, abs=1e-6), "8-bit rounding would make these equal"
    assert mae(np.full((8, 8, 3), 3.0), np.ones((8, 8, 3))) == 0


def test_integers_count_by_their_depth(pair):
    restored, sharp = (np.round(p * 255).astype(np.uint8) for p in pair)
    assert psnr(restored, sharp) == pytest.approx(psnr(restored / 255.0, sharp / 255.0))
    deep = sharp.astype(np.uint16) * 257
    assert mae(deep, sharp / 255.0) == pytest.approx(0, abs=1e-12)


def test_crop_border_and_keys_of_the_host(pair):
    restored, sharp = pair
    assert psnr(restored, sharp, crop_border=4, better="higher") == psnr(restored[4:-4, 4:-4], sharp[4:-4, 4:-4])


@pytest.mark.parametrize(
    ("restored", "sharp", "message"),
    [
        (np.zeros((8, 8, 3)), np.zeros((8, 9, 3)), "unequal shapes"),
        (np.zeros((8, 8)), np.zeros((8, 8)), "an array must be"),
        (np.zeros((8, 8, 3), int), np.zeros((8, 8, 3)), "must be float"),
        (torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 8, 8), "a tensor must be"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), torch.zeros(3, 8, 8), "a tensor must be float"),
        (np.zeros((0, 8, 3)), np.zeros((0, 8, 3)), "without pixels"),
    ],
)
def test_wrong_arguments(restored, sharp, message):
    with pytest.raises(ValueError, match=message):
        psnr(restored, sharp)


def test_ssim_needs_its_window():
    with pytest.raises(ValueError, match="at least 7x7 pixels, not 9x6"):
        ssim(np.zeros((6, 9, 3)), np.zeros((6, 9, 3)))


def ssim_cases() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(1)
    photo = data.astronaut()[:96, 180:300] / 255.0
    noise = {
        f"noise {h}x{w}": (rng.random((h, w, 3)), rng.random((h, w, 3))) for h, w in ((7, 7), (7, 9), (8, 40), (33, 21))
    }
    return noise | {
        "photo": (np.clip(photo + 0.05 * rng.standard_normal(photo.shape), 0, 1), photo),
        "dark photo": (photo * 1e-3, photo * 1.1e-3),
        "equal": (photo, photo),
        "flat": (np.full((12, 10, 3), 0.7), np.full((12, 10, 3), 0.2)),
        "black and white": (np.zeros((9, 9, 3)), np.ones((9, 9, 3))),
        "one pixel": (np.pad(np.ones((1, 1, 3)), ((8, 8), (8, 8), (0, 0))), np.zeros((17, 17, 3))),
    }


@pytest.mark.parametrize("case", ssim_cases())
def test_ssim_as_a_pooling_is_scikit_images(case):
    """What runs on a GPU, in the CPU's float64."""
    restored, sharp = ssim_cases()[case]
    expected = structural_similarity(restored, sharp, channel_axis=2, data_range=1)
    found = full_reference.pooled_ssim(as_tensor(restored)[0], as_tensor(sharp)[0])
    assert found == pytest.approx(expected, abs=1e-6)
    assert ssim(as_tensor(restored), as_tensor(sharp)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_on_a_gpu():
    for case, (restored, sharp) in ssim_cases().items():
        on_gpu = [as_tensor(picture).cuda() for picture in (restored, sharp)]
        for metric in (psnr, ssim, mae):
            assert metric(*on_gpu) == pytest.approx(metric(restored, sharp), abs=1e-6), (case, metric)


def test_lpips_refuses_integers():
    with pytest.raises(ValueError, match="not integers"):
        lpips(np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64, 3), np.uint8))


def test_lpips_without_weights_says_so(monkeypatch):
    package = pytest.importorskip("lpips", reason="the lpips package isn't installed")

    def unreachable(**_):
        raise OSError("no route to the weights")

    monkeypatch.setattr(package, "LPIPS", unreachable)
    full_reference._lpips_network.cache_clear()
    with pytest.raises(MetricUnavailableError, match="weights of its backbone 'alex' can't be had: no route"):
        lpips(np.zeros((64, 64, 3)), np.zeros((64, 64, 3)))
    full_reference._lpips_network.cache_clear()


def test_lpips_equals_the_package(pair):
    network = reference_lpips()
    restored, sharp = (np.kron(p, np.ones((3, 3, 1))) for p in pair)
    with torch.no_grad():
        expected = network(as_tensor(restored).float() * 2 - 1, as_tensor(sharp).float() * 2 - 1)
    assert lpips(restored, sharp) == pytest.approx(float(expected), abs=1e-6)
