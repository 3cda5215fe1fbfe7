"""Pictures for people: coloured disparity maps and contact sheets. Arrays are RGB; 8 bit unless it is said."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

CAPTION_HEIGHT = 22


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


def contact_sheet(rows: Sequence[Sequence[tuple[str, np.ndarray]]], cell: int = 300, gap: int = 6) -> np.ndarray:
    """Pictures in rows and columns, each scaled to fit its cell, under a caption.

    Args:
        rows: for each row its (caption, uint8 picture [H, W, 3]) pairs.
        cell: side of the square each picture is fitted into, in pixels.
        gap: white space between cells.

    Returns:
        uint8 [H, W, 3].
    """
    if not rows or not all(rows):
        raise ValueError("a contact sheet needs rows with a picture each")
    lines = [_row([_cell(caption, picture, cell) for caption, picture in row], gap) for row in rows]
    width = max(line.shape[1] for line in lines)
    filled = [np.pad(line, ((0, 0), (0, width - line.shape[1]), (0, 0)), constant_values=255) for line in lines]
    sheet = np.concatenate(filled, axis=0)
    return np.pad(sheet, ((gap, 0), (0, 0), (0, 0)), constant_values=255)


def _row(cells: list[np.ndarray], gap: int) -> np.ndarray:
    height = max(c.shape[0] for c in cells) + gap
    return np.concatenate(
        [np.pad(c, ((0, height - c.shape[0]), (gap, 0), (0, 0)), constant_values=255) for c in cells], axis=1
    )


def _cell(caption: str, picture: np.ndarray, side: int) -> np.ndarray:
    scale = side / max(picture.shape[:2])
    size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
    fitted = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    space = np.full((CAPTION_HEIGHT, side, 3), 255, np.uint8)
    # OpenCV's built-in font has ASCII alone; other letters would come out as question marks anyway.
    text = caption.encode("ascii", "replace").decode()
    cv2.putText(space, text, (2, CAPTION_HEIGHT - 7), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (30, 30, 30), 1, cv2.LINE_AA)
    fitted = np.pad(fitted, ((0, 0), (0, side - fitted.shape[1]), (0, 0)), constant_values=255)
    return np.concatenate([space, fitted], axis=0)
