"""Large photographs at a size where their blur fits what a network can undo.

A network learned blur of a few pixels: data sets have pictures of 1 or 2 megapixels. The same lens blurs a photograph
of 24 megapixels four times as wide, and the network gives it back as it was. Restored at a smaller size, the blur fits;
what that changed is then added to the picture at full size, so that what was sharp there, and its grain, stay.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import cv2
import numpy as np

from ifan_plugin.common.errors import UserError
from ifan_plugin.conventional import edge_blur
from ifan_plugin.images.color import linear_from_srgb

REACH = 4.0
"""px: standard deviation of the widest blur that is left to the network at full size. A disc's radius is twice that;
in DPDD, which networks are trained on, few are wider."""

_WISHED = 2.5  # px: what wider blur is brought to
_SMALLEST = 256  # px: shorter side that automatic scaling leaves
_LEAST_SIDE = 16  # px: of a size asked for
_ASKED_FROM = 10**6  # pixels: smaller photographs are as those of data sets
_MEASURED_AT = 1.5e6  # pixels: the first size that blur is measured at; others are halves of it
_MEASURABLE = 2.0  # px: what is wider comes out too narrow, and is measured at half the size
_CELLS = 8  # parts each way, measured each for itself
_FEW_EDGES, _FEW_CELLS = 12, 4  # pixels, and parts: fewer say nothing
_SHARE = 0.6  # of the parts are sharper than what is called the picture's blur
_LUMINANCE = np.array([0.2126, 0.7152, 0.0722], np.float32)  # ITU-R BT.709, of linear light

Run = Callable[[dict[str, np.ndarray]], np.ndarray]
"""Views by name, float32 in [0, 1], of one size -> the restored picture, float32 of that size."""


class Blur(NamedTuple):
    """How blurred a photograph is: standard deviation in pixels at full size, and whether that is a lower bound."""

    sigma: float
    at_least: bool = False


def blur_of(pixels: np.ndarray) -> Blur | None:
    """Measure the blur that most parts of a photograph don't exceed.

    Each part is measured at several sizes, from large to small, until its blur is narrow enough to be measured well.

    Args:
        pixels: uint8 or uint16, RGB [H, W, 3] or grey [H, W].

    Returns:
        None where there are too few edges.
    """
    shrinking = max(1.0, float(np.sqrt(pixels.shape[0] * pixels.shape[1] / _MEASURED_AT)))
    found: dict[tuple[int, int], Blur] = {}
    while True:
        small = shrunk(pixels, 1 / shrinking)
        for cell, sigma in _sigmas(small).items():
            if cell not in found or found[cell].at_least:
                found[cell] = Blur(sigma * shrinking, sigma > _MEASURABLE)
        settled = len(found) == _CELLS**2 and not any(blur.at_least for blur in found.values())
        shrinking *= 2
        if settled or min(pixels.shape[:2]) / shrinking < _SMALLEST / 2:
            break
    if len(found) < _FEW_CELLS:
        return None
    return sorted(found.values())[int(_SHARE * (len(found) - 1))]


def _sigmas(picture: np.ndarray) -> dict[tuple[int, int], float]:
    """The parts of a picture that have enough edges, and their blur: the median of their edges, by confidence."""
    coded = picture if picture.ndim == 2 else picture @ _LUMINANCE
    linear = linear_from_srgb(picture)
    edges = edge_blur.estimate(linear if linear.ndim == 2 else linear @ _LUMINANCE, coded)
    rows, columns = (np.linspace(0, side, _CELLS + 1).astype(int) for side in coded.shape)
    sigmas = {}
    for y in range(_CELLS):
        for x in range(_CELLS):
            part = np.s_[rows[y] : rows[y + 1], columns[x] : columns[x + 1]]
            there = edges.confidence[part] > 0
            sigma, weight = edges.sigma[part][there], edges.confidence[part][there]
            if len(sigma) >= _FEW_EDGES:
                order = np.argsort(sigma)
                share = np.cumsum(weight[order]) / weight.sum()
                sigmas[y, x] = float(sigma[order][np.searchsorted(share, 0.5)])
    return sigmas


def automatic_scale(pixels: np.ndarray) -> tuple[float, Blur | None]:
    """The size to restore a photograph at, as a factor of its own, and its blur; 1 where its blur fits, or is unknown.

    Photographs of a megapixel or less are left as they are.
    """
    height, width = pixels.shape[:2]
    if height * width <= _ASKED_FROM:
        return 1.0, None
    blur = blur_of(pixels)
    if blur is None or blur.sigma <= REACH:
        return 1.0, blur
    scale = max(_WISHED / blur.sigma, _SMALLEST / min(height, width))
    return (round(scale, 2), blur) if scale < 0.9 else (1.0, blur)


def shrunk(pixels: np.ndarray, scale: float) -> np.ndarray:
    """Integers as float32 in [0, 1], at `scale` of their size (at most 1), by areas."""
    size = [max(1, round(scale * side)) for side in pixels.shape[1::-1]]
    small = pixels if size == [*pixels.shape[1::-1]] else cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return small.astype(np.float32) / np.float32(np.iinfo(pixels.dtype).max)


def restored_at(scale: float, views: Mapping[str, np.ndarray], run: Run) -> np.ndarray:
    """Restore at a smaller size, and put what changed there into the picture at full size.

    Args:
        scale: above 0 and below 1.
        views: by name, with ``center``; uint8 or uint16, RGB [H, W, 3] or grey [H, W].
        run: the network.

    Returns:
        Shape and type of the centre view.

    Raises:
        UserError: fewer than 16 pixels a side would be left; and what `run` raises.
    """
    pixels = views["center"]
    height, width = pixels.shape[:2]
    if scale * min(height, width) < _LEAST_SIDE:
        raise UserError(
            f"--scale {scale:g}: leaves {scale * width:.0f}x{scale * height:.0f} pixels; valid: at least "
            f"{_LEAST_SIDE / min(height, width):.2g}"
        )
    small = {view: shrunk(each, scale) for view, each in views.items()}
    change = run(small) - small["center"]
    largest = np.iinfo(pixels.dtype).max
    result = np.empty_like(pixels)
    planes = [...] if pixels.ndim == 2 else [(..., channel) for channel in range(3)]
    for plane in planes:  # one at a time, since they are large
        full = cv2.resize(np.ascontiguousarray(change[plane]), (width, height), interpolation=cv2.INTER_CUBIC)
        full *= np.float32(largest)
        full += pixels[plane]
        result[plane] = np.rint(np.clip(full, 0, largest, out=full), out=full)
    return result


def blended(pixels: np.ndarray, restored: np.ndarray, strength: float) -> np.ndarray:
    """The photograph and what was made of it, mixed: `strength` 0 is the one, 1 the other."""
    if strength == 1:
        return restored
    result = np.empty_like(pixels)
    for row in range(0, len(pixels), 256):  # as float32 a large photograph takes four times its memory
        part = slice(row, row + 256)
        mixed = pixels[part] + np.float32(strength) * (restored[part].astype(np.float32) - pixels[part])
        result[part] = np.rint(mixed)
    return result
