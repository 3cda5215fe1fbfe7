"""Metrics for pictures without ground truth: NIQE as the host has it, and a measure of sharpness.

Neither says how near a picture is to the truth. Both can be fooled: noise and ringing count as sharp.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import cv2
import numpy as np

from ifan_plugin.data.augment import LUMA
from ifan_plugin.metrics.full_reference import MetricUnavailableError, Picture, _as_array

NIQE_BLOCK = 96  # px; the host's, and its authors'


def niqe(img: Picture, crop_border: int = 0, **_: Any) -> float:
    """Natural image quality (Mittal et al., IEEE SPL 2013), computed by BasicSR's ``calculate_niqe``; lower is better.

    The picture is rounded to 8 bits, as that function expects; blocks of 96x96 pixels of its luma (BT.601) are
    compared with those of natural photographs. Figures of pictures of different sizes don't compare well.

    Args:
        img: restored picture as in :func:`ifan_plugin.metrics.psnr`; RGB.
        crop_border: pixels left out at each side.

    Returns:
        0 or more; NaN where it isn't defined, as for a picture without any texture.

    Raises:
        MetricUnavailableError: the picture has fewer than two blocks, or the host lacks its parameter file.
        ValueError: a shape or type that doesn't fit.
    """
    from ifan_plugin import host

    host.prepare()
    from basicsr.metrics.niqe import calculate_niqe

    picture = _cropped(img, crop_border)
    height, width = picture.shape[:2]
    if (height // NIQE_BLOCK) * (width // NIQE_BLOCK) < 2:
        raise MetricUnavailableError(
            f"niqe: a picture of {width}x{height} is too small; it needs two blocks of {NIQE_BLOCK}x{NIQE_BLOCK}"
        )
    bgr = np.ascontiguousarray(np.round(picture * 255).astype(np.uint8)[..., ::-1])
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore", RuntimeWarning)  # blocks without texture: nan, which it leaves out
            return calculate_niqe(bgr, crop_border=0)
    except np.linalg.LinAlgError:  # too few blocks with texture
        return math.nan
    except FileNotFoundError as error:
        raise MetricUnavailableError(f"niqe: BasicSR's parameter file is missing: {error.filename}") from None


def sharpness(img: Picture, crop_border: int = 0, **_: Any) -> float:
    """Gradient energy (Tenengrad): the mean of Gx^2 + Gy^2, times 1000, over all pixels; higher is sharper.

    Gx and Gy are the 3x3 Sobel derivatives of the luminance 0.2126 R + 0.7152 G + 0.0722 B of the coded values,
    divided by 8, so that a ramp that rises by g a pixel has a gradient of g; the picture is mirrored at its borders.
    Comparable only between pictures of one scene and size: blurred and restored, say (``val: baseline``).

    Arguments and errors as in :func:`niqe`; any size from 2x2 on.
    """
    picture = _cropped(img, crop_border)
    if min(picture.shape[:2]) < 2:
        raise ValueError(f"sharpness needs pictures of at least 2x2 pixels, not {picture.shape[1]}x{picture.shape[0]}")
    luminance = picture @ np.asarray(LUMA)
    energy = np.zeros_like(luminance)
    for dx, dy in ((1, 0), (0, 1)):
        energy += cv2.Sobel(luminance, cv2.CV_64F, dx, dy, ksize=3, scale=1 / 8, borderType=cv2.BORDER_REFLECT_101) ** 2
    return 1000 * float(energy.mean())


def _cropped(img: Picture, crop_border: int) -> np.ndarray:
    """float64 [H, W, 3] in [0, 1]."""
    picture = _as_array(img)
    if picture.shape[2] != 3:
        raise ValueError(f"a picture must have 3 channels, not {picture.shape[2]}")
    if crop_border:
        picture = picture[crop_border:-crop_border, crop_border:-crop_border]
    if picture.size == 0:
        raise ValueError("pictures without pixels")
    return picture.clip(0, 1)
