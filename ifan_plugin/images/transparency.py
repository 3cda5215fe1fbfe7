"""Colours that nobody sees: under full transparency a file may hold any, and a network would spread them."""

from __future__ import annotations

import cv2
import numpy as np

_VISIBLE = 1 / 255
"""From this opacity on a pixel shows: what 8 bits would round to nothing doesn't."""


def filled(pixels: np.ndarray, alpha: np.ndarray | None) -> np.ndarray:
    """Pixels whose hidden colours are those of the nearest visible pixel.

    Args:
        pixels: [H, W] or [H, W, C].
        alpha: opacity [H, W], uint8, uint16 or float in [0, 1]; None: all is visible.

    Returns:
        ``pixels`` itself where nothing is hidden or all is; else a copy.
    """
    hidden = hidden_in(alpha)
    if hidden is None:
        return pixels
    _, labels = cv2.distanceTransformWithLabels(
        hidden.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    visible = ~hidden
    colours = np.zeros((int(labels.max()) + 1, *pixels.shape[2:]), pixels.dtype)
    colours[labels[visible]] = pixels[visible]  # each visible pixel has a label of its own
    result = pixels.copy()
    result[hidden] = colours[labels[hidden]]
    return result


def with_hidden(restored: np.ndarray, pixels: np.ndarray, alpha: np.ndarray | None) -> np.ndarray:
    """What was made of :func:`filled` pixels, with the hidden colours that the file had. Shapes as there."""
    hidden = hidden_in(alpha)
    if hidden is None:
        return restored
    result = restored.copy()
    result[hidden] = pixels[hidden]
    return result


def hidden_in(alpha: np.ndarray | None) -> np.ndarray | None:
    """Where pixels are invisible, bool [H, W]; None where none is, or all are."""
    if alpha is None:
        return None
    most = np.iinfo(alpha.dtype).max if alpha.dtype.kind == "u" else 1.0
    hidden = alpha < most * _VISIBLE
    return hidden if hidden.any() and not hidden.all() else None
