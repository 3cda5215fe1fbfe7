"""A metric for pictures without ground truth: sharpness.

It doesn't say how near a picture is to the truth, and can be fooled: noise and ringing count as sharp.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from ifan_plugin.images.color import LUMA
from ifan_plugin.metrics.full_reference import Picture, as_array


def sharpness(img: Picture, crop_border: int = 0, **_: Any) -> float:
    """Gradient energy (Tenengrad): the mean of Gx^2 + Gy^2, times 1000, over all pixels; higher is sharper.

    Gx and Gy are the 3x3 Sobel derivatives of the luminance 0.2126 R + 0.7152 G + 0.0722 B of the coded values,
    divided by 8, so that a ramp that rises by g a pixel has a gradient of g; the picture is mirrored at its borders.
    Comparable only between pictures of one scene and size: blurred and restored, say (``val: baseline``).

    Args:
        img: restored picture as in :func:`ifan_plugin.metrics.psnr`; RGB; any size from 2x2 on.
        crop_border: pixels left out at each side.

    Returns:
        0 or more.

    Raises:
        ValueError: a shape or type that doesn't fit.
    """
    picture = cropped(img, crop_border)
    if min(picture.shape[:2]) < 2:
        raise ValueError(f"sharpness needs pictures of at least 2x2 pixels, not {picture.shape[1]}x{picture.shape[0]}")
    luminance = picture @ np.asarray(LUMA)
    energy = np.zeros_like(luminance)
    for dx, dy in ((1, 0), (0, 1)):
        energy += cv2.Sobel(luminance, cv2.CV_64F, dx, dy, ksize=3, scale=1 / 8, borderType=cv2.BORDER_REFLECT_101) ** 2
    return 1000 * float(energy.mean())


def cropped(img: Picture, crop_border: int) -> np.ndarray:
    """float64 [H, W, 3] in [0, 1]."""
    picture = as_array(img)
    if picture.shape[2] != 3:
        raise ValueError(f"a picture must have 3 channels, not {picture.shape[2]}")
    if crop_border:
        picture = picture[crop_border:-crop_border, crop_border:-crop_border]
    if picture.size == 0:
        raise ValueError("pictures without pixels")
    return picture.clip(0, 1)
