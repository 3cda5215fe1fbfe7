"""Known blurs undone, in whole and by a map."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
import pytest
from skimage import data

from ifan_plugin.common.errors import UserError
from ifan_plugin.conventional import deconvolution, psf
from ifan_plugin.images.color import linear_from_srgb, srgb_from_linear


@cache
def photograph(name: str) -> np.ndarray:
    """A part of one of scikit-image's pictures, linear light."""
    return linear_from_srgb(getattr(data, name)()[:256, 60:380].astype(np.float32) / 255)


def blurred(linear: np.ndarray, sigma: float, shape: str, noise: float = 0.003) -> np.ndarray:
    """As a camera would store it, 0.3 % noise, and decoded again."""
    soft = cv2.filter2D(linear, -1, psf.kernel(sigma, shape), borderType=cv2.BORDER_REFLECT)
    coded = srgb_from_linear(soft) + np.random.default_rng(0).normal(0, noise, soft.shape)
    return linear_from_srgb(coded.clip(0, 1).astype(np.float32))


def psnr(restored: np.ndarray, sharp: np.ndarray) -> float:
    """Of coded values, as pictures are compared."""
    restored, sharp = srgb_from_linear(restored.clip(0, 1)), srgb_from_linear(sharp)
    return float(-10 * np.log10(np.mean((restored - sharp) ** 2)))


@pytest.mark.parametrize("name", ["astronaut", "coffee"])
@pytest.mark.parametrize(
    ("shape", "sigma", "method", "gain"),
    [
        ("disk", 1.0, "hyper_laplacian", 2.5), ("disk", 2.0, "hyper_laplacian", 3.0),
        ("disk", 3.0, "hyper_laplacian", 3.0), ("gaussian", 1.0, "hyper_laplacian", 2.5),
        ("gaussian", 2.0, "hyper_laplacian", 1.5), ("gaussian", 3.0, "hyper_laplacian", 1.5),
        ("disk", 2.0, "wiener", 1.5), ("gaussian", 2.0, "wiener", 1.2),
    ],
)  # fmt: skip
def test_raises_psnr_where_the_blur_is_known(name: str, shape: str, sigma: float, method: str, gain: float) -> None:
    sharp = photograph(name)
    soft = blurred(sharp, sigma, shape)
    assert psnr(deconvolution.deconvolve(soft, sigma, shape, method), sharp) > psnr(soft, sharp) + gain


@pytest.mark.parametrize("method", deconvolution.METHODS)
def test_borders_do_not_ring(method: str) -> None:
    sharp = photograph("coffee")
    restored = deconvolution.deconvolve(blurred(sharp, 2.0, "disk"), 2.0, "disk", method)
    rim = np.ones(sharp.shape[:2], bool)
    rim[12:-12, 12:-12] = False
    assert psnr(restored[rim], sharp[rim]) > psnr(blurred(sharp, 2.0, "disk")[rim], sharp[rim])


def test_a_constant_map_is_the_same_as_one_blur() -> None:
    soft = blurred(photograph("astronaut"), 2.0, "disk")
    sigma = 0.6 * deconvolution.LADDER_RATIO**5
    whole = deconvolution.deconvolve(soft, sigma)
    by_map = deconvolution.deconvolve_by_map(soft, np.full(soft.shape[:2], sigma, np.float32))
    # Tiles see less of the picture than the whole does, and nothing else is different.
    assert np.abs(by_map - whole).mean() < 2e-3
    assert np.abs(by_map - whole)[100:, 100:].max() < 0.1


def test_no_seams_between_tiles() -> None:
    soft = blurred(photograph("coffee"), 2.0, "disk")
    by_map = deconvolution.deconvolve_by_map(soft, np.full(soft.shape[:2], 2.0, np.float32))
    difference = np.abs(by_map - deconvolution.deconvolve(soft, 2.0)).mean(axis=(0, 2))
    tile = deconvolution._TILE
    assert difference[tile - 20 : tile + 4].mean() < 3 * np.median(difference) + 1e-4


def test_each_part_is_restored_by_its_own_sigma() -> None:
    sharp = photograph("astronaut")
    left, right = blurred(sharp, 1.0, "disk"), blurred(sharp, 2.5, "disk")
    half = np.broadcast_to(np.arange(sharp.shape[1]) < 160, sharp.shape[:2])
    soft = np.where(half[..., None], left, right)
    sigma_map = np.where(half, 1.0, 2.5).astype(np.float32)
    restored = deconvolution.deconvolve_by_map(soft, sigma_map)
    for part in (slice(0, 140), slice(180, None)):
        assert psnr(restored[:, part], sharp[:, part]) > psnr(soft[:, part], sharp[:, part]) + 2.0


def test_sharp_parts_stay_exactly_as_they_are() -> None:
    picture = photograph("coffee")
    sigma_map = np.full(picture.shape[:2], 0.6, np.float32)
    np.testing.assert_array_equal(deconvolution.deconvolve_by_map(picture, sigma_map), picture)
    sigma_map[:, 200:] = 2.0
    result = deconvolution.deconvolve_by_map(picture, sigma_map)
    np.testing.assert_array_equal(result[:, :200], picture[:, :200])
    assert np.abs(result[:, 200:] - picture[:, 200:]).max() > 0.01


@pytest.mark.parametrize("size", [(1, 1), (1, 30), (7, 3), (161, 159), (176, 177)])
def test_any_size(size: tuple[int, int]) -> None:
    picture = np.random.default_rng(0).random((*size, 3)).astype(np.float32)
    result = deconvolution.deconvolve_by_map(picture, np.full(size, 3.0, np.float32), method="wiener")
    assert result.shape == picture.shape
    assert np.isfinite(result).all()
    np.testing.assert_allclose(
        deconvolution.deconvolve_by_map(np.full_like(picture, 0.4), np.full(size, 3.0, np.float32)), 0.4, atol=1e-4
    )
    assert deconvolution.deconvolve(picture[..., 0], 3.0).shape == size


@pytest.mark.parametrize("length", [1, 159, 160, 161, 175, 176, 177, 500])
def test_the_tiles_weights_add_up_to_one(length: int) -> None:
    total = np.zeros(length)
    for origin in range(0, length, deconvolution._TILE):
        part = slice(max(0, origin - deconvolution._FEATHER), min(length, origin + deconvolution._TILE))
        total[part] += deconvolution._ramp(part, origin, length)
    np.testing.assert_allclose(total, 1, atol=1e-6)


def test_the_ladder_reaches_the_largest() -> None:
    ladder = deconvolution.ladder_up_to(4.0, 0.6)
    assert ladder[0] == 0.6
    assert ladder[-2] < 4.0 <= ladder[-1]
    np.testing.assert_allclose(ladder[1:] / ladder[:-1], deconvolution.LADDER_RATIO)
    assert list(deconvolution.ladder_up_to(0.2, 0.6)) == [0.6]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "winer"}, "method: must be one of 'hyper_laplacian', 'wiener', not 'winer'; did you mean 'wiener'"),
        ({"noise": 0.0}, "noise: must be at least"),
        ({"shape": "box"}, "psf: must be one of 'disk', 'gaussian', not 'box'"),
        ({"threshold": 0.0}, "threshold: must be at least"),
    ],
)
def test_impossible_arguments_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        deconvolution.deconvolve_by_map(np.zeros((8, 8, 3), np.float32), np.ones((8, 8), np.float32), **arguments)
