"""Large photographs: their blur is measured, they are restored where it fits, and keep what they have at full size."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from ifan_plugin.common.errors import UserError
from ifan_plugin.demo.samples import disc_blurred
from ifan_plugin.photos.scale import REACH, automatic_scale, blended, blur_of, restored_at, shrunk


def scene(height: int = 900, width: int = 1350) -> np.ndarray:
    """Sharp uint8 RGB: rectangles of all sizes and colours, one on the other."""
    rng = np.random.default_rng(0)
    picture = np.full((height, width, 3), 128, np.uint8)
    for _ in range(400):
        x, y, w, h = (rng.random(4) * [width, height, width / 6, height / 6]).astype(int)
        cv2.rectangle(picture, (x, y), (x + w, y + h), rng.integers(0, 256, 3).tolist(), -1)
    return picture


def blurred(sharp: np.ndarray, radius: float) -> np.ndarray:
    return np.round(disc_blurred(sharp / 255, radius) * 255).astype(np.uint8)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return 10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2))


@pytest.mark.parametrize("radius", [5, 10, 20])
def test_blur_is_measured_wherever_it_lies(radius):
    """A disc's standard deviation is half its radius; found to a third, though a fifth of the picture is sharp."""
    sharp = scene()
    photo = blurred(sharp, radius)
    photo[:, :270] = sharp[:, :270]
    for kind in (photo, photo[..., 1], photo.astype(np.uint16) * 257):
        assert blur_of(kind).sigma == pytest.approx(radius / 2, rel=0.35)


def test_what_fits_and_what_is_small_is_left_as_it_is():
    assert automatic_scale(scene())[0] == 1
    assert automatic_scale(blurred(scene(), 5))[0] == 1
    assert automatic_scale(blurred(scene(600, 900), 20)) == (1, None)
    assert automatic_scale(np.full((1200, 1200, 3), 80, np.uint8)) == (1, None)  # nothing to measure


def test_a_network_of_small_reach_restores_a_large_photograph():
    """What stands for a network knows the sharp picture, and gives it back only where the blur is within its reach."""
    sharp = scene()
    photo = blurred(sharp, 16)
    photo[:, :200] = sharp[:, :200]
    scale, blur = automatic_scale(photo)
    assert blur.sigma > REACH
    assert 0.2 < scale < 0.5

    def run(views):
        assert 16 * scale <= 2 * REACH
        return shrunk(sharp, scale)

    restored = restored_at(scale, {"center": photo}, run)
    assert restored.dtype == photo.dtype
    assert psnr(restored[:, 300:], sharp[:, 300:]) > psnr(photo[:, 300:], sharp[:, 300:]) + 4
    assert psnr(restored[:, :150], sharp[:, :150]) > 40, "what was sharp at full size stays"


@pytest.mark.parametrize("shape", [(64, 90, 3), (64, 90), (33, 47, 3)])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_a_network_that_changes_nothing_changes_nothing(shape, kind):
    photo = np.random.default_rng(0).integers(0, np.iinfo(kind).max, shape).astype(kind)
    views = {"center": photo, "left": photo[::-1], "right": photo}
    seen = {}

    def run(given):
        seen.update(given)
        return given["center"]

    np.testing.assert_array_equal(restored_at(0.5, views, run), photo)
    assert {each.shape for each in seen.values()} == {(round(shape[0] / 2), round(shape[1] / 2), *shape[2:])}
    assert not np.array_equal(seen["left"], seen["right"])


def test_too_small_a_scale_is_refused():
    with pytest.raises(UserError, match=r"--scale 0.1: leaves 9x6 pixels; valid: at least 0.25"):
        restored_at(0.1, {"center": np.zeros((64, 90, 3), np.uint8)}, lambda views: views["center"])


def test_strength_mixes():
    photo, restored = np.full((600, 3, 3), 100, np.uint8), np.full((600, 3, 3), 201, np.uint8)
    assert np.unique(blended(photo, restored, 0.5)).tolist() == [150]
    assert blended(photo, restored, 1) is restored
    deep = blended(photo.astype(np.uint16) * 257, restored.astype(np.uint16) * 257, 0.25)
    assert np.unique(deep).tolist() == [32189]
