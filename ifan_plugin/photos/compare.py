"""Before and after, side by side."""

from __future__ import annotations

import cv2
import numpy as np

from ifan_plugin.common.errors import UserError
from ifan_plugin.pictures.visual import contact_sheet

_GAP = 6
_LARGEST = 1000  # px: longer side of the whole pictures
_ZOOM = 2
_PART = 0.4  # of the shorter side at least: of a large photograph less is half a face
_NOISE = 0.5  # of 255: detail below it is noise, and its growth no gain
_MOST = 25.0  # of 255: more detail at a place is an edge of a lamp, or an artefact, and would outweigh all else
_FINE, _COARSE = 5, 25  # px: detail at the one says how sharp a place is, against that at the other
_SHARP = 0.5  # fine detail of so large a part of coarse detail is sharp: a step edge has about that


Crop = tuple[int, int, int, int]
"""Column and row of the upper left corner, width and height, in pixels."""


def require_inside(crop: Crop, pixels: np.ndarray) -> None:
    """Raise :class:`UserError` unless `crop` lies in a picture [H, W, ...]."""
    left, top, width, height = crop
    if left + width > pixels.shape[1] or top + height > pixels.shape[0]:
        raise UserError(
            f"--crop {left},{top},{width},{height}: lies outside of the picture, {pixels.shape[1]}x{pixels.shape[0]}"
        )


def side_by_side(
    blurred: np.ndarray, restored: np.ndarray, name: str = "", network: str = "", crop: Crop | None = None
) -> np.ndarray:
    """The whole pictures, and below them, enlarged, the part that gained most, or the one asked for.

    Args:
        blurred, restored: uint8 or uint16, RGB [H, W, 3] or grey [H, W], of one size.
        name: the picture's, for the caption.
        network: its name, for the caption.
        crop: the part; None: :func:`gained_most`.

    Returns:
        uint8 RGB [h, w, 3]; pictures larger than 1000 pixels are scaled down to that.
    """
    pictures = [_rgb8(blurred), _rgb8(restored)]
    if crop is None:
        wished = max(_shown_width(pictures[0]) // _ZOOM, round(_PART * min(pictures[0].shape[:2])))
        top, left, side = gained_most(pictures[0], pictures[1], wished)
        crop = left, top, side, side
    left, top, width, height = crop
    parts = [picture[top : top + height, left : left + width] for picture in pictures]
    zoom = min(_ZOOM, _LARGEST / max(width, height))
    place = f"{100 * zoom:.0f} %, {width}x{height} pixels from column {left}, row {top}"
    name = " ".join(name.split())  # on one line, whatever is in it
    captions = [(f"blurred: {name}", f"blurred, {place}"), (f"restored: {network}", f"restored, {place}")]
    columns = [_column(*both, zoom) for both in zip(pictures, parts, captions)]
    return np.concatenate(columns, axis=1)


def _column(picture: np.ndarray, part: np.ndarray, captions: tuple[str, str], zoom: float) -> np.ndarray:
    """A sheet of one column, without the white that a square cell leaves beside an upright picture."""
    cell = min(_LARGEST, max(picture.shape))
    rows = [
        contact_sheet([[(captions[0], picture)]], cell, _GAP)[:, : _GAP + _shown_width(picture)],
        contact_sheet([[(captions[1], part)]], max(round(zoom * max(part.shape[:2])), 1), _GAP),
    ]
    width = max(row.shape[1] for row in rows) + _GAP
    filled = [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows]
    return np.concatenate(filled, axis=0)


def _shown_width(picture: np.ndarray) -> int:
    height, width = picture.shape[:2]
    return max(round(width * min(_LARGEST, max(height, width)) / max(height, width)), 1)


def gained_most(blurred: np.ndarray, restored: np.ndarray, side: int) -> tuple[int, int, int]:
    """Top, left and side of the square that gained most fine detail where there was blur.

    The gain is a difference, not a ratio, which would be largest where there was next to nothing; what was sharp before
    counts little, whatever became of it. Large pictures are looked at as they are shown, 1000 pixels wide.

    Args:
        blurred, restored: uint8 RGB [H, W, 3].
        side: wished, in pixels; smaller where the picture is.
    """
    height, width = blurred.shape[:2]
    side = max(min(side, height, width), 1)
    scale = min(1.0, _LARGEST / max(height, width))
    if scale < 1:
        size = max(1, round(scale * width)), max(1, round(scale * height))
        before, after = (cv2.resize(picture, size, interpolation=cv2.INTER_AREA) for picture in (blurred, restored))
        top, left, _ = gained_most(before, after, max(1, int(scale * side)))
        return min(round(top / scale), height - side), min(round(left / scale), width - side), side
    before, after = (_detail(picture, _FINE) for picture in (blurred, restored))
    near = (_COARSE, _COARSE)
    sharpness = cv2.blur(before, near) / (cv2.blur(_detail(blurred, _COARSE), near) + _NOISE)
    gain = np.clip(after - before, 0, _MOST) * np.clip(1 - sharpness / _SHARP, 0, 1)
    sums = cv2.integral(gain)
    sums = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    row, column = np.unravel_index(np.argmax(sums), sums.shape)
    return int(row), int(column), side


def _detail(picture: np.ndarray, size: int) -> np.ndarray:
    """How much each pixel differs from the mean around it."""
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return np.abs(grey - cv2.blur(grey, (size, size)))


def _rgb8(picture: np.ndarray) -> np.ndarray:
    picture = (picture >> 8).astype(np.uint8) if picture.dtype == np.uint16 else picture
    return np.dstack([picture] * 3) if picture.ndim == 2 else np.ascontiguousarray(picture)
