"""Colours of pictures: the sRGB transfer curve (IEC 61966-2-1) both ways, luminance, and 8 bits.

The curve keeps the dtype of a float array.
"""

from __future__ import annotations

import numpy as np

LUMA = (0.2126, 0.7152, 0.0722)
"""Weights of red, green and blue in the luminance, Rec. ITU-R BT.709."""


def linear_from_srgb(coded: np.ndarray) -> np.ndarray:
    """Decode sRGB (IEC 61966-2-1): values in [0, 1] of any shape to linear light in [0, 1]."""
    coded = np.asarray(coded)
    return np.where(coded <= 0.04045, coded / 12.92, ((np.maximum(coded, 0.04045) + 0.055) / 1.055) ** 2.4)


def srgb_from_linear(linear: np.ndarray) -> np.ndarray:
    """Encode sRGB (IEC 61966-2-1): linear light in [0, 1] of any shape to values in [0, 1]."""
    linear = np.asarray(linear)
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * np.maximum(linear, 0.0031308) ** (1 / 2.4) - 0.055)


def to_8bit(picture: np.ndarray) -> np.ndarray:
    """Float RGB [H, W, 3] in [0, 1] -> uint8, rounded."""
    return np.round(np.clip(picture, 0, 1) * 255).astype(np.uint8)
