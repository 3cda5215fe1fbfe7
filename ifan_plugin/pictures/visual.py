"""Pictures for people: disparity and error maps, kernels, contact sheets. Arrays are RGB; 8 bit unless it is said."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import cv2
import numpy as np

CAPTION_HEIGHT = 22
LINE_HEIGHT = 17
TITLE_HEIGHT = 36

ERROR_SCALE = 0.2
"""The absolute difference (mean of RGB, in [0, 1]) that has the brightest colour of an error map."""

_INK, _FRAME = (30, 30, 30), (150, 150, 150)


def colour_signed(values: np.ndarray, limit: float | None = None) -> np.ndarray:
    """Signed numbers as colours: blue below zero, white at zero, red above.

    Args:
        values: [H, W]; NaN is shown as zero.
        limit: the magnitude with the fullest colour; None: the largest one there.

    Returns:
        uint8 [H, W, 3].
    """
    limit = limit if limit is not None else float(np.nanmax(np.abs(values), initial=0))
    level = np.clip(np.nan_to_num(values) / (limit or 1), -1, 1)[..., None]
    white, red, blue = np.full(3, 255.0), np.array([178.0, 24.0, 43.0]), np.array([33.0, 102.0, 172.0])
    full = np.where(level >= 0, red, blue)
    return np.round(white + np.abs(level) * (full - white)).astype(np.uint8)


def colour_disparity(disparity: np.ndarray, limit: float | None = None) -> np.ndarray:
    """A disparity map [H, W], in pixels, in the colours of :func:`colour_signed`; white is in focus."""
    return colour_signed(disparity, limit)


def colour_error(level: np.ndarray) -> np.ndarray:
    """Numbers [H, W] as colours (inferno): black at 0, ever brighter to 1 and beyond; evenly to the eye. uint8."""
    grey = np.round(np.clip(np.nan_to_num(level, nan=1.0), 0, 1) * 255).astype(np.uint8)
    return np.ascontiguousarray(cv2.applyColorMap(grey, cv2.COLORMAP_INFERNO)[..., ::-1])


def error_map(picture: np.ndarray, sharp: np.ndarray, scale: float = ERROR_SCALE) -> np.ndarray:
    """Absolute difference of two pictures, mean of RGB, as colours: black for none, brightest for ``scale`` or more.

    Args:
        picture, sharp: float RGB [H, W, 3] in [0, 1].

    Returns:
        uint8 [H, W, 3].
    """
    return colour_error(np.abs(picture - sharp).mean(2) / scale)


def colour_bar(*, signed: bool, width: int = 256, height: int = 12) -> np.ndarray:
    """The colours of :func:`colour_signed` (from -limit to limit) or of :func:`error_map` (from 0 to its scale)."""
    ramp = np.linspace(-1 if signed else 0, 1, width)[None].repeat(height, 0)
    return colour_signed(ramp, 1.0) if signed else colour_error(ramp)


def kernel_picture(
    weights: np.ndarray, side: int = 360, limit: float | None = None, scale: int = 8, text: float = 1.0
) -> np.ndarray:
    """A kernel as coloured squares, with axes and a colour bar.

    Below and on the left the axes count pixels of the kernel, above and on the right pixels of the picture.

    Args:
        weights: [S, S], S odd; blue below zero, white at zero, red above.
        side: the squares' area gets about this size, in pixels; each square is a whole number of them.
        limit: as in :func:`colour_signed`.
        scale: pixels of the picture for one of the kernel.
        text: size of the axes' texts, 1 being readable when the picture is shown as it is and ``side`` is 360.

    Returns:
        uint8 [H, W, 3], somewhat larger than ``side``.
    """
    size, radius = weights.shape[0], weights.shape[0] // 2
    if limit is None:
        limit = float(np.nanmax(np.abs(weights), initial=0))
    square = max(1, side // size)
    area = size * square
    unit = text * max(side / 360, 0.75)  # texts and margins grow with the picture
    margin, bar = round(44 * unit), round(14 * unit)
    right = margin + bar + round(58 * unit)
    canvas = np.full((area + 2 * margin, margin + area + right, 3), 255, np.uint8)
    squares = colour_signed(weights, limit).repeat(square, 0).repeat(square, 1)
    if square >= 8:  # thin lines, so that white squares can be counted
        squares[::square] = squares[:, ::square] = 225
    canvas[margin : margin + area, margin : margin + area] = squares
    cv2.rectangle(canvas, (margin - 1, margin - 1), (margin + area, margin + area), _FRAME, 1)

    font = 0.4 * unit
    gap = round(5 * unit)
    for step in _ticks(radius):
        at = margin + round((radius + step + 0.5) * square)
        _mark(canvas, f"{step:d}", at, margin + area + gap, font, "top")
        _mark(canvas, f"{step * scale:d}", at, margin - gap, font, "bottom")
        _mark(canvas, f"{step:d}", margin - gap, at, font, "right")
        _mark(canvas, f"{step * scale:d}", margin + area + gap, at, font, "left")
    middle = margin + area // 2
    _mark(canvas, f"px at 1/{scale} size", middle, margin + area + round(22 * unit), font, "top")
    _mark(canvas, "px at full size", middle, margin - round(22 * unit), font, "bottom")

    left = 2 * margin + area
    ramp = cv2.rotate(colour_bar(signed=True, width=area, height=bar), cv2.ROTATE_90_COUNTERCLOCKWISE)
    canvas[margin : margin + area, left : left + bar] = ramp
    cv2.rectangle(canvas, (left - 1, margin - 1), (left + bar, margin + area), _FRAME, 1)
    for value, at in ((limit, margin), (0.0, middle), (-limit, margin + area)):
        _mark(canvas, f"{value:.2g}", left + bar + gap, at, font, "left")
    return canvas


def kernel_grid(
    kernels: Sequence[Sequence[np.ndarray]], side: int = 300, *, each: bool = False, limit: float | None = None
) -> np.ndarray:
    """Kernels in rows and columns, each as coloured squares.

    Args:
        kernels: for each row its kernels [S, S], all of one size.
        side: the longer side gets about this size, in pixels.
        each: every kernel has a scale of its own instead of one for all.
        limit: the magnitude with the fullest colour; None: the largest one in the grid (or, with ``each``, the kernel).

    Returns:
        uint8 [H, W, 3].
    """
    if not kernels or not all(len(row) == len(kernels[0]) > 0 for row in kernels):
        raise ValueError("a grid of kernels needs rows of one length")
    if limit is None and not each:
        limit = max(float(np.nanmax(np.abs(kernel), initial=0)) for row in kernels for kernel in row)
    size, gap = kernels[0][0].shape[0], 3
    most = max(len(kernels), len(kernels[0]))
    square = max(1, (side // most - gap) // size)
    rows = []
    for row in kernels:
        cells = [colour_signed(kernel, limit).repeat(square, 0).repeat(square, 1) for kernel in row]
        rows.append(np.concatenate([_framed(cell, gap) for cell in cells], axis=1))
    grid = np.concatenate(rows, axis=0)
    return np.pad(grid, ((gap, 0), (gap, 0), (0, 0)), constant_values=_FRAME[0])


def contact_sheet(
    rows: Sequence[Sequence[tuple[str, np.ndarray]]],
    cell: int = 300,
    gap: int = 6,
    titles: Sequence[str] | None = None,
    *,
    pixels: bool = False,
) -> np.ndarray:
    """Pictures in rows and columns, each scaled to fit its cell, under a caption.

    Args:
        rows: for each row its (caption, uint8 picture [H, W, 3]) pairs; a caption may have several lines.
        cell: side of the square each picture is fitted into, in pixels.
        gap: white space between cells.
        titles: a line above each row.
        pixels: small pictures are enlarged by whole factors, so that each of their pixels is a square.

    Returns:
        uint8 [H, W, 3].
    """
    if not rows or not all(rows):
        raise ValueError("a contact sheet needs rows with a picture each")
    lines = []
    for number, row in enumerate(rows):
        text_lines = max(caption.count("\n") for caption, _ in row) + 1
        line = _row([_cell(caption, picture, cell, text_lines, pixels) for caption, picture in row], gap)
        if titles is not None:
            band = np.full((TITLE_HEIGHT, line.shape[1], 3), 255, np.uint8)
            band[2 * gap : 2 * gap + 1, gap:] = 190  # a thin rule
            _write(band, titles[number], gap + 2, TITLE_HEIGHT - 5, 0.5, bold=True)
            line = np.concatenate([band, line], axis=0)
        lines.append(line)
    width = max(line.shape[1] for line in lines)
    filled = [np.pad(line, ((0, 0), (0, width - line.shape[1]), (0, 0)), constant_values=255) for line in lines]
    sheet = np.concatenate(filled, axis=0)
    return np.pad(sheet, ((gap, 0), (0, gap if titles is not None else 0), (0, 0)), constant_values=255)


def _row(cells: list[np.ndarray], gap: int) -> np.ndarray:
    height = max(c.shape[0] for c in cells) + gap
    return np.concatenate(
        [np.pad(c, ((0, height - c.shape[0]), (gap, 0), (0, 0)), constant_values=255) for c in cells], axis=1
    )


def _cell(caption: str, picture: np.ndarray, side: int, text_lines: int, pixels: bool) -> np.ndarray:
    scale = side / max(picture.shape[:2])
    enlarging = cv2.INTER_CUBIC
    if pixels and scale > 1:
        scale, enlarging = int(scale), cv2.INTER_NEAREST
    size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
    fitted = picture
    if size != picture.shape[1::-1]:
        fitted = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else enlarging)
    space = np.full((CAPTION_HEIGHT + LINE_HEIGHT * (text_lines - 1), side, 3), 255, np.uint8)
    for number, line in enumerate(caption.split("\n")):
        _write(space, line, 2, CAPTION_HEIGHT - 7 + LINE_HEIGHT * number, 0.45)
    fitted = np.pad(fitted, ((0, 0), (0, side - fitted.shape[1]), (0, 0)), constant_values=255)
    return np.concatenate([space, fitted], axis=0)


def _framed(cell: np.ndarray, gap: int) -> np.ndarray:
    return np.pad(cell, ((0, gap), (0, gap), (0, 0)), constant_values=_FRAME[0])


def _ticks(radius: int) -> list[int]:
    """At most seven whole numbers from -radius to radius, evenly apart, with 0."""
    step = max(1, radius // 2)
    return list(range(-(radius // step) * step, radius + 1, step))


def _mark(canvas: np.ndarray, text: str, x: int, y: int, size: float, side: str) -> None:
    """One line of text that has (``x``, ``y``) in the middle of its ``side``: top, bottom, left or right."""
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, 1)
    left = {"left": x, "right": x - width}.get(side, x - width // 2)
    base = {"top": y + height, "bottom": y}.get(side, y + height // 2)
    thickness = 2 if size > 0.7 else 1
    cv2.putText(canvas, text, (left, base), cv2.FONT_HERSHEY_SIMPLEX, size, _INK, thickness, cv2.LINE_AA)


def _write(canvas: np.ndarray, text: str, x: int, y: int, size: float, bold: bool = False) -> None:
    """One line of text from (``x``, ``y``) on, its base line; smaller where it wouldn't fit."""
    # OpenCV's built-in font has ASCII alone: accents are dropped, and other letters come out as question marks.
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    plain = plain.encode("ascii", "replace").decode()
    width = cv2.getTextSize(plain, cv2.FONT_HERSHEY_SIMPLEX, size, 1)[0][0]
    size *= min(1.0, (canvas.shape[1] - 2 * x) / max(width, 1))
    thickness = 2 if bold and size > 0.45 else 1
    cv2.putText(canvas, plain, (x, y), cv2.FONT_HERSHEY_SIMPLEX, size, _INK, thickness, cv2.LINE_AA)
