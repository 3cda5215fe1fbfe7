"""Values of 10, 12 or 14 bits in 16-bit files: near black, unless somebody says what white is."""

from __future__ import annotations

import os
from collections.abc import Iterable

import numpy as np

LARGEST = 65535
_BITS = (10, 12, 14)


def usual_white(pixels: np.ndarray) -> int | None:
    """The white of as few bits as the values of a picture need: 1023, 4095 or 16383.

    None where it has 8 bits, where its values use all 16, or where it is black.
    """
    most = int(pixels.max(initial=0))
    if pixels.dtype != np.uint16 or most == 0:
        return None
    return next((2**bits - 1 for bits in _BITS if most < 2**bits), None)


def note_on(pictures: Iterable[np.ndarray], name: str | os.PathLike, option: str) -> str | None:
    """One line where none of several pictures goes beyond 12 bits (or 10), though their files have 16.

    Pictures of up to 14 bits are said nothing of: there are many dark ones.

    Args:
        pictures: [H, W, ...] each.
        name: what messages call them.
        option: how scaling is asked for, with ``{}`` for the number.
    """
    whites, most = [], 0
    for pixels in pictures:
        whites.append(usual_white(pixels))
        most = max(most, int(pixels.max(initial=0)))
        if whites[-1] is None or whites[-1] > 4095:
            return None
    if not whites:
        return None
    white = max(white for white in whites if white is not None)
    bits = white.bit_length()
    return (
        f"{name}: 16-bit values that don't go beyond {most}, as values of {bits} bits would, and so near black; "
        f"if that is what they are, {option.format(white)} scales them"
    )


def scaled(pixels: np.ndarray, white: int | None) -> np.ndarray:
    """uint16 pixels with ``white`` as full scale, larger ones clipped; others, and for None all, as they are."""
    if white is None or white == LARGEST or pixels.dtype != np.uint16:
        return pixels
    table = np.minimum(np.rint(np.arange(LARGEST + 1) * (LARGEST / white)), LARGEST).astype(np.uint16)
    return table[pixels]
