"""Pictures that come from a browser: looked at before they are decoded, and refused in one line."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from ifan_plugin.common.errors import UserError
from ifan_plugin.images.reader import PICTURE_SUFFIXES
from ifan_plugin.photos.read_write import Photo, read_photo

SUFFIXES = (".jpg", *sorted(PICTURE_SUFFIXES - {".jpg"}))
MIN_SIDE = 8
"""Pixels: below it IFAN's features at 1/8 size have no pixel."""


@dataclass(frozen=True)
class Limits:
    """What an upload may be.

    Args:
        megabytes: of the file, 2**20 bytes each.
        megapixels: of the picture, 10**6 pixels each.
        at_once: megapixels that are restored at once; larger pictures are reduced to it first, and whole on request.
    """

    megabytes: float = 100.0
    megapixels: float = 100.0
    at_once: float = 4.0

    @property
    def bytes(self) -> int:
        """The largest file, in bytes."""
        return round(self.megabytes * 2**20)

    @property
    def pixels(self) -> int:
        """The largest picture, in pixels."""
        return round(self.megapixels * 1e6)

    def described(self) -> str:
        """In a few words, for the page."""
        return f"JPEG, PNG, TIFF or WebP, up to {self.megabytes:g} MB and {self.megapixels:g} megapixels"


def read_picture(path: str | os.PathLike, limits: Limits, name: str | None = None) -> Photo:
    """Read an upload, upright as its EXIF data says. Its size in bytes and its header are looked at first.

    Args:
        path: the file.
        name: what messages call it; None: the file's own name.

    Raises:
        UserError: too large, too small, no picture, or a damaged one; one line to be shown on the page.
    """
    path = Path(path)
    name = name or path.name
    size = path.stat().st_size if path.is_file() else 0
    if size > limits.bytes:
        raise UserError(
            f"{name}: {size / 2**20:.1f} MB is too large; at most {limits.megabytes:g} MB (--max-upload-mb)"
        )
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"{name}: not a kind of picture that this page takes; valid: {', '.join(SUFFIXES)}")
    try:
        photo = read_photo(path, max_pixels=limits.pixels)
    except UserError as error:  # the folder it lies in is nobody's business
        raise UserError(str(error).replace(str(path), name)) from error
    height, width = photo.size
    if min(height, width) < MIN_SIDE:
        raise UserError(f"{name}: {width}x{height} pixels is too small; at least {MIN_SIDE}x{MIN_SIDE}")
    return photo


def reduced(photo: Photo, megapixels: float) -> Photo:
    """The picture at a size that has so many pixels at most; the same one where it has."""
    height, width = photo.size
    scale = (megapixels * 1e6 / (height * width)) ** 0.5
    if scale >= 1:
        return photo
    size = max(MIN_SIDE, int(width * scale)), max(MIN_SIDE, int(height * scale))
    pixels = cv2.resize(photo.pixels, size, interpolation=cv2.INTER_AREA)
    alpha = None if photo.alpha is None else cv2.resize(photo.alpha, size, interpolation=cv2.INTER_AREA)
    return replace(photo, pixels=pixels, alpha=alpha)


def blended(before: np.ndarray, after: np.ndarray, strength: float) -> np.ndarray:
    """Between two pictures of one shape, uint8 or uint16: ``strength`` 0 gives ``before``, 1 ``after``."""
    if strength >= 1:
        return after
    mixed = before.astype(np.float32) * np.float32(1 - strength) + after.astype(np.float32) * np.float32(strength)
    return np.rint(mixed).astype(before.dtype)


def as_rgb(pixels: np.ndarray) -> np.ndarray:
    """uint8 or uint16, [H, W] or [H, W, 3] -> float32 RGB [H, W, 3] in [0, 1]."""
    floats = pixels.astype(np.float32) / np.float32(np.iinfo(pixels.dtype).max)
    return floats if floats.ndim == 3 else np.repeat(floats[..., None], 3, axis=2)


def as_rgb8(pixels: np.ndarray) -> np.ndarray:
    """uint8 or uint16, [H, W] or [H, W, 3] -> uint8 RGB [H, W, 3], for the screen."""
    if pixels.dtype == np.uint16:
        pixels = np.round(pixels / np.float32(257)).astype(np.uint8)
    return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
