"""Pictures for people: coloured disparity maps and contact sheets. Arrays are RGB; 8 bit unless it is said."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import cv2
import numpy as np

CAPTION_HEIGHT = 22
LINE_HEIGHT = 17
TITLE_HEIGHT = 36


def to_8bit(picture: np.ndarray) -> np.ndarray:
    """Float RGB [H, W, 3] in [0, 1] -> uint8, rounded."""
    return np.round(np.clip(picture, 0, 1) * 255).astype(np.uint8)


def colour_disparity(disparity: np.ndarray, limit: float | None = None) -> np.ndarray:
    """A signed disparity map as colours: blue below zero, white at zero (in focus), red above.

    Args:
        disparity: [H, W], in pixels.
        limit: the value with the fullest colour; None: the largest magnitude in the map.

    Returns:
        uint8 [H, W, 3].
    """
    limit = limit if limit is not None else float(np.nanmax(np.abs(disparity), initial=0))
    level = np.clip(np.nan_to_num(disparity) / (limit or 1), -1, 1)[..., None]
    white, red, blue = np.full(3, 255.0), np.array([178.0, 24.0, 43.0]), np.array([33.0, 102.0, 172.0])
    full = np.where(level >= 0, red, blue)
    return np.round(white + np.abs(level) * (full - white)).astype(np.uint8)


def contact_sheet(
    rows: Sequence[Sequence[tuple[str, np.ndarray]]],
    cell: int = 300,
    gap: int = 6,
    titles: Sequence[str] | None = None,
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


def _write(canvas: np.ndarray, text: str, x: int, y: int, size: float, bold: bool = False) -> None:
    """One line of text from (``x``, ``y``) on, its base line; smaller where it wouldn't fit."""
    # OpenCV's built-in font has ASCII alone: accents are dropped, and other letters come out as question marks.
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    plain = plain.encode("ascii", "replace").decode()
    width = cv2.getTextSize(plain, cv2.FONT_HERSHEY_SIMPLEX, size, 1)[0][0]
    size *= min(1.0, (canvas.shape[1] - 2 * x) / max(width, 1))
    thickness = 2 if bold and size > 0.45 else 1
    cv2.putText(canvas, plain, (x, y), cv2.FONT_HERSHEY_SIMPLEX, size, (30, 30, 30), thickness, cv2.LINE_AA)
