"""Photographs written as they came: with EXIF data, captions, colour profile, bit depth and alpha.

They are read by :mod:`ifan_plugin.images.reader`, as all pictures are.
"""

from __future__ import annotations

import dataclasses
import os
import struct
from pathlib import Path
from typing import IO, Any

import numpy as np

from ifan_plugin.common.errors import UserError
from ifan_plugin.common.files import written_aside
from ifan_plugin.images.formats import exif, jpeg, png, tiff
from ifan_plugin.images.formats.photo import MAX_PIXELS, VALID, Photo
from ifan_plugin.images.reader import SUFFIXES, read_photo

__all__ = [
    "FORMATS", "MAX_PIXELS", "SUFFIXES", "VALID", "Photo", "format_of", "put_photo", "read_photo", "require_writable",
    "write_photo",
]  # fmt: skip

FORMATS = {
    ".jpg": "jpeg", ".jpeg": "jpeg", ".jpe": "jpeg", ".jfif": "jpeg", ".png": "png", ".tif": "tiff", ".tiff": "tiff",
    ".webp": "webp",
}  # fmt: skip
"""Ending of a file's name, in lower case -> the kind of file that is written."""

_MAX_EXIF_IN_JPEG = 65533 - len(exif.MARK)  # a JPEG segment's length has 16 bits
_MAX_SIDES = {"jpeg": 65500, "webp": 16383}


def format_of(path: str | os.PathLike) -> str:
    """The kind of file that is written under this name: ``jpeg``, ``png``, ``tiff`` or ``webp``.

    Raises:
        UserError: another ending.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in FORMATS:
        raise UserError(f"{path}: pictures are written as {', '.join(FORMATS)}; '{suffix}' is none of them")
    return FORMATS[suffix]


def write_photo(path: str | os.PathLike, photo: Photo, format: str | None = None, quality: int = 95) -> tuple[str, ...]:
    """Write a photograph aside, then put it in its place; its folder must exist.

    Args:
        path: the file; replaced if it exists.
        photo, quality, returned notes and errors: as in :func:`put_photo`.
        format: ``jpeg``, ``png``, ``tiff`` or ``webp``; None: by the name's ending.

    Raises:
        UserError: also for a place that can't be written to; ``__cause__`` is the ``OSError`` then.
    """
    format = format_of(path) if format is None else format
    with written_aside(path, durable=False) as file:
        return put_photo(file, photo, format, quality, path)


def put_photo(
    file: IO[bytes], photo: Photo, format: str, quality: int = 95, name: str | os.PathLike = "picture"
) -> tuple[str, ...]:
    """Write a photograph into an open file.

    Args:
        file: open for writing, empty, can be sought in.
        photo: JPEG and WebP have 8 bits: 16 are rounded. PNG and TIFF keep them.
        format: ``jpeg``, ``png``, ``tiff`` or ``webp``.
        quality: 1 to 100, of JPEG and of WebP that wasn't lossless.
        name: for messages.

    Returns:
        What couldn't be kept, for the user.

    Raises:
        UserError: alpha into JPEG, or more pixels than the kind of file can hold.
        OSError: as ``file`` does.
    """
    require_writable(photo, format, name)
    notes = []
    if photo.alpha is not None and format == "jpeg":  # opaque, so nothing is lost
        photo = dataclasses.replace(photo, alpha=None)
        notes.append("alpha channel left out: it was opaque everywhere")
    if photo.format != format:  # the details of one kind of file mean nothing to another
        photo = dataclasses.replace(photo, chunks=(), lossless=format != "webp")
    try:
        if format == "png":
            png.write(file, photo)
        elif format == "tiff":
            tiff.write(file, photo)
        else:
            notes += _write_by_pillow(file, photo, format, quality)
    except ValueError as error:
        raise UserError(f"{name}: can't be written: {' '.join(str(error).split())}") from error
    return tuple(notes)


def require_writable(photo: Photo, format: str, name: str | os.PathLike = "picture") -> None:
    """What :func:`put_photo` would refuse, told before a picture is restored.

    Raises:
        UserError: alpha that isn't opaque into JPEG, or more pixels than the kind of file can hold.
    """
    height, width = photo.size
    if format == "jpeg" and photo.alpha is not None and photo.alpha.min() < np.iinfo(photo.alpha.dtype).max:
        raise UserError(f"{name}: JPEG can't hold the alpha channel; valid: --format png, tiff or webp")
    if max(height, width) > _MAX_SIDES.get(format, 2**31 - 1):
        raise UserError(
            f"{name}: {format.upper()} holds at most {_MAX_SIDES[format]} pixels a side, not {width}x{height}; "
            "valid: --format png or tiff"
        )


def _write_by_pillow(file: IO[bytes], photo: Photo, format: str, quality: int) -> list[str]:
    from PIL import Image

    notes = []
    if photo.bit_depth == 16:
        photo = dataclasses.replace(
            photo, pixels=_eight_bits(photo.pixels), alpha=None if photo.alpha is None else _eight_bits(photo.alpha)
        )
        notes.append(f"16 bits became 8, {format.upper()} holds no more")
    block, icc = photo.exif, photo.icc
    if len(block) > _MAX_EXIF_IN_JPEG and format == "jpeg":
        block = _shortened(block)
        left_out = "the maker's note of the EXIF data" if block else "EXIF data"
        notes.append(f"{left_out} left out: more than JPEG can hold")
    if photo.grey and format == "webp":
        photo = dataclasses.replace(photo, pixels=np.repeat(photo.pixels[..., None], 3, axis=2))
        if icc:
            notes.append("grey colour profile left out: WebP has no grey")
            icc = b""
    more: dict[str, Any] = {"icc_profile": icc or None, "exif": exif.MARK + block if block else b""}
    if photo.xmp:
        more["xmp"] = photo.xmp
    image = Image.fromarray(np.ascontiguousarray(photo.samples()))
    if format == "jpeg":
        if photo.dpi:
            more["dpi"] = tuple(round(number) for number in photo.dpi)
        if len(photo.xmp) > _MAX_EXIF_IN_JPEG - 64:
            notes.append("XMP left out: more than JPEG can hold")
            del more["xmp"]
        more["extra"] = jpeg.segments(photo.resources, photo.comments)
        # Colour at full size: the input's own blocks are gone, halving it once more would show at fine edges.
        image.save(file, "JPEG", quality=quality, subsampling=0, **more)
    else:
        if photo.resources or photo.comments:
            notes.append("captions (IPTC) and comments left out: WebP has no place for them")
        image.save(file, "WEBP", quality=quality, lossless=photo.lossless, exact=True, **more)
    return notes


def _shortened(block: bytes) -> bytes:
    """EXIF data that JPEG can hold, without the maker's note; empty where that doesn't help."""
    try:
        block = exif.without_makers_note(block)
    except (ValueError, struct.error):
        return b""
    return block if len(block) <= _MAX_EXIF_IN_JPEG else b""


def _eight_bits(samples: np.ndarray) -> np.ndarray:
    """uint16 samples as uint8, to the nearest level."""
    return ((samples.astype(np.uint32) + 128) // 257).astype(np.uint8)
