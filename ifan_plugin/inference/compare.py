"""Before and after, side by side."""

from __future__ import annotations

import cv2
import numpy as np

from ifan_plugin.visual import contact_sheet

_GAP = 6
_LARGEST = 1000  # px: longer side of the whole pictures
_ZOOM = 2
_NOISE = 0.5  # of 255: detail below it is noise, and its growth no gain


def side_by_side(blurred: np.ndarray, restored: np.ndarray, name: str = "", network: str = "") -> np.ndarray:
    """The whole pictures, and below them, enlarged, the part that gained most.

    Args:
        blurred, restored: uint8 or uint16, RGB [H, W, 3] or grey [H, W], of one size.
        name: the picture's, for the caption.
        network: its name, for the caption.

    Returns:
        uint8 RGB [h, w, 3]; pictures larger than 1000 pixels are scaled down to that.
    """
    pictures = [_rgb8(blurred), _rgb8(restored)]
    top, left, side = gained_most(*pictures, _shown_width(pictures[0]) // _ZOOM)
    parts = [picture[top : top + side, left : left + side] for picture in pictures]
    place = f"{_ZOOM}00 %, {side} pixels from column {left}, row {top}"
    name = " ".join(name.split())  # on one line, whatever is in it
    captions = [(f"blurred: {name}", f"blurred, {place}"), (f"restored: {network}", f"restored, {place}")]
    columns = [_column(*both) for both in zip(pictures, parts, captions)]
    return np.concatenate(columns, axis=1)


def _column(picture: np.ndarray, part: np.ndarray, captions: tuple[str, str]) -> np.ndarray:
    """A sheet of one column, without the white that a square cell leaves beside an upright picture."""
    cell = min(_LARGEST, max(picture.shape))
    rows = [
        contact_sheet([[(captions[0], picture)]], cell, _GAP)[:, : _GAP + _shown_width(picture)],
        contact_sheet([[(captions[1], part)]], _ZOOM * len(part), _GAP),
    ]
    width = max(row.shape[1] for row in rows) + _GAP
    filled = [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows]
    return np.concatenate(filled, axis=0)


def _shown_width(picture: np.ndarray) -> int:
    height, width = picture.shape[:2]
    return max(round(width * min(_LARGEST, max(height, width)) / max(height, width)), 1)


def gained_most(blurred: np.ndarray, restored: np.ndarray, side: int) -> tuple[int, int, int]:
    """Top, left and side of the square where fine detail grew by the largest factor.

    Args:
        blurred, restored: uint8 RGB [H, W, 3].
        side: wished, in pixels; smaller where the picture is.
    """
    height, width = blurred.shape[:2]
    side = max(min(side, height, width), 1)
    gain = _detail(restored, side) / (_detail(blurred, side) + _NOISE)
    top, left = np.unravel_index(np.argmax(gain), gain.shape)
    return int(top), int(left), side


def _detail(picture: np.ndarray, side: int) -> np.ndarray:
    """How much a pixel differs from the mean around it, on average over each square."""
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32)
    sums = cv2.integral(np.abs(grey - cv2.blur(grey, (5, 5))))
    return (sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]) / side**2


def _rgb8(picture: np.ndarray) -> np.ndarray:
    picture = (picture >> 8).astype(np.uint8) if picture.dtype == np.uint16 else picture
    return np.dstack([picture] * 3) if picture.ndim == 2 else np.ascontiguousarray(picture)
