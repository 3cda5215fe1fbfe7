"""Metrics without ground truth, against a direct computation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage import data

import ifan_plugin
from ifan_plugin.host.metrics import niqe
from ifan_plugin.metrics import sharpness

ifan_plugin.register()


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """uint8 [200, 300, 3], RGB, of unequal channels."""
    return data.astronaut()[:200, 100:400]


def as_tensor(photo: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(photo.astype(np.float32) / 255).permute(2, 0, 1)[None]


def test_sharpness_of_a_ramp_is_its_slope_squared():
    ramp = np.tile(np.arange(64) / 100.0, (32, 1))[..., None] * np.array([1.0, 1.0, 1.0])
    # Mirrored at both ends, where the gradient is 0: 62 of 64 columns count.
    assert sharpness(ramp) == pytest.approx(1000 * 0.01**2 * 62 / 64)
    assert sharpness(ramp.transpose(1, 0, 2)) == pytest.approx(sharpness(ramp)), "both directions count alike"
    green = ramp * np.array([0.0, 1.0, 0.0])
    assert sharpness(green) == pytest.approx(sharpness(ramp) * 0.7152**2)


def test_sharpness_by_hand(photo):
    luminance = (photo / 255.0) @ np.array([0.2126, 0.7152, 0.0722])
    padded = np.pad(luminance, 1, mode="reflect")
    height, width = luminance.shape

    def at(dy, dx):
        return padded[1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width]

    gx = sum(w * (at(dy, 1) - at(dy, -1)) for dy, w in ((-1, 1), (0, 2), (1, 1))) / 8
    gy = sum(w * (at(1, dx) - at(-1, dx)) for dx, w in ((-1, 1), (0, 2), (1, 1))) / 8
    energy = gx**2 + gy**2
    assert sharpness(photo) == pytest.approx(1000 * energy.mean())
    assert sharpness(as_tensor(photo)) == pytest.approx(1000 * energy.mean(), rel=1e-5)
    inner = photo[4:-4, 4:-4]
    assert sharpness(photo, crop_border=4) == pytest.approx(sharpness(inner))


def test_blur_is_less_sharp(photo):
    import cv2

    blurred = cv2.GaussianBlur(photo, (0, 0), 2.0)
    assert sharpness(blurred) < 0.5 * sharpness(photo)
    assert niqe(blurred) > niqe(photo)


@pytest.mark.parametrize("metric", [niqe, sharpness])
def test_shapes_that_do_not_fit(metric):
    for wrong in (
        np.zeros((200, 200)),
        np.zeros((200, 200, 1)),
        torch.zeros(2, 3, 200, 200),
        np.zeros((200, 200, 3), int),
    ):
        with pytest.raises(ValueError):
            metric(wrong)
    with pytest.raises(ValueError, match="without pixels"):
        metric(np.zeros((8, 8, 3)), crop_border=4)


def test_option_files_find_them():
    from basicsr.utils.registry import METRIC_REGISTRY

    assert METRIC_REGISTRY.get("niqe") is niqe
    assert METRIC_REGISTRY.get("sharpness") is sharpness
