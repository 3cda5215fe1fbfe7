"""Photographs from and to files, with what belongs to them: EXIF data, colour profile, bit depth, alpha.

Unlike :mod:`ifan_plugin.data.image_io`, which reads data sets and is strict, this takes whatever cameras and editors
write, turns it upright, and gives it back in kind.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from ifan_plugin.data.image_io import read_bytes
from ifan_plugin.errors import UserError
from ifan_plugin.files import written_aside
from ifan_plugin.inference.photo_formats import exif, png, raw, tiff
from ifan_plugin.inference.photo_formats.photo import (
    MAX_PIXELS,
    VALID,
    Photo,
    described,
    dpi_of,
    opened,
)

__all__ = [
    "FORMATS", "MAX_PIXELS", "SUFFIXES", "Photo", "format_of", "put_photo", "read_photo", "write_photo", "writing",
]  # fmt: skip

FORMATS = {
    ".jpg": "jpeg", ".jpeg": "jpeg", ".jpe": "jpeg", ".png": "png", ".tif": "tiff", ".tiff": "tiff", ".webp": "webp",
}  # fmt: skip
"""Ending of a file's name, in lower case -> the kind of file that is written."""

SUFFIXES = frozenset(FORMATS) | raw.SUFFIXES
"""Endings, in lower case, of the files that are looked for in folders."""

_JPEG = b"\xff\xd8\xff"
_KNOWN = {
    b"GIF8": "GIF", b"BM": "BMP", b"8BPS": "Photoshop document", b"\0\0\0\x0cjP  ": "JPEG 2000", b"\xff\x0a": "JPEG XL",
    b"%PDF": "PDF", b"\0\0\0\x0cJXL ": "JPEG XL", b"qoif": "QOI", b"\x76\x2f\x31\x01": "OpenEXR",
}  # fmt: skip
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


def read_photo(path: str | os.PathLike, max_pixels: int = MAX_PIXELS) -> Photo:
    """Read a photograph of any kind named in :data:`~ifan_plugin.inference.photo_formats.photo.VALID`, upright.

    What a file is, is told by its bytes; only camera raw is told by its name, since most of it looks like TIFF. A
    palette becomes RGB; a transparent colour becomes alpha.

    Args:
        path: the file.
        max_pixels: refuse what says that it is larger, before it is decoded.

    Raises:
        UserError: one line that names the file and why it can't be read: missing, damaged, cut short, too large, of a
            kind or of samples that aren't handled (float, 1 bit, CMYK, animated, several pages), or rawpy is missing.
    """
    name = str(path)
    if Path(path).suffix.lower() in raw.SUFFIXES:
        return raw.read(read_bytes(path), name, max_pixels)
    try:
        with open(path, "rb") as file:
            start = file.read(16)
    except FileNotFoundError:
        raise UserError(f"{name}: file not found") from None
    except OSError as error:
        raise UserError(f"{name}: can't be read: {error.strerror or error}") from None
    reader = _reader(start)
    if reader is None:
        raise UserError(f"{name}: {_what_else(start)}; {VALID}")
    return reader(read_bytes(path), name, max_pixels)


def _reader(start: bytes):
    if start.startswith(_JPEG):
        return _read_jpeg
    if start.startswith(png.SIGNATURE):
        return png.read
    if start.startswith(tiff.SIGNATURES):
        return tiff.read
    return _read_webp if start[:4] == b"RIFF" and start[8:12] == b"WEBP" else None


def _what_else(start: bytes) -> str:
    if not start:
        return "file is empty"
    if start[4:8] == b"ftyp":
        kind = {b"avif": "AVIF", b"crx ": "camera raw, CR3"}.get(start[8:12], "HEIC or a film")
        return f"is {kind} by its content"
    kind = next((kind for mark, kind in _KNOWN.items() if start.startswith(mark)), None)
    return f"is {kind} by its content" if kind else "not a picture"


def _read_jpeg(data: bytes, name: str, max_pixels: int) -> Photo:
    notes = []
    with opened(data, name, "JPEG", max_pixels) as image:
        if image.mode not in ("RGB", "L"):
            raise UserError(f"{name}: JPEG is {image.mode}; {VALID}")
        several = getattr(image, "n_frames", 1) > 1
        if several:
            notes.append(
                "the first of several pictures in the file; the others (a second view, a gain map) are left out"
            )
        samples = np.asarray(image)
        info, dpi = dict(image.info), dpi_of(image)
    xmp = b"" if several else info.get("xmp", b"")  # it would tell where the others stand
    icc = info.get("icc_profile") or b""
    return described(samples, "jpeg", info.get("exif", b""), xmp, icc=icc, dpi=dpi, lossless=False, notes=notes)


def _read_webp(data: bytes, name: str, max_pixels: int) -> Photo:
    with opened(data, name, "WEBP", max_pixels) as image:
        if getattr(image, "n_frames", 1) > 1:
            raise UserError(f"{name}: WebP is animated; {VALID}, one picture a file")
        samples = np.asarray(image if image.mode in ("RGB", "RGBA") else image.convert("RGB"))
        info = dict(image.info)
    return described(
        samples, "webp", info.get("exif", b""), info.get("xmp", b""), icc=info.get("icc_profile") or b"",
        lossless=_is_lossless_webp(data),
    )  # fmt: skip


def _is_lossless_webp(data: bytes) -> bool:
    position = 12
    while position + 8 <= len(data):
        kind, size = data[position : position + 4], int.from_bytes(data[position + 4 : position + 8], "little")
        if kind in (b"VP8L", b"VP8 "):
            return kind == b"VP8L"
        position += 8 + size + size % 2
    return False


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
    with writing(path), written_aside(path, durable=False) as file:
        return put_photo(file, photo, format, quality, path)


@contextlib.contextmanager
def writing(path: str | os.PathLike) -> Iterator[None]:
    """Turn the system's errors (disk full, no permission) into one line; ``__cause__`` is the ``OSError``."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: can't be written: {error.strerror or error}") from error


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
    height, width = photo.size
    if format == "jpeg" and photo.alpha is not None:
        raise UserError(f"{name}: JPEG can't hold the alpha channel; valid: --format png, tiff or webp")
    if max(height, width) > _MAX_SIDES.get(format, 2**31 - 1):
        raise UserError(
            f"{name}: {format.upper()} holds at most {_MAX_SIDES[format]} pixels a side, not {width}x{height}; "
            "valid: --format png or tiff"
        )
    if photo.format != format:  # the details of one kind of file mean nothing to another
        photo = dataclasses.replace(photo, chunks=(), lossless=format != "webp")
    try:
        if format == "png":
            png.write(file, photo)
        elif format == "tiff":
            tiff.write(file, photo)
        else:
            return tuple(_write_by_pillow(file, photo, format, quality))
    except ValueError as error:
        raise UserError(f"{name}: can't be written: {' '.join(str(error).split())}") from error
    return ()


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
    more = {"icc_profile": icc or None, "exif": exif.MARK + block if block else b""}
    if photo.xmp:
        more["xmp"] = photo.xmp
    image = Image.fromarray(np.ascontiguousarray(photo.samples()))
    if format == "jpeg":
        if photo.dpi:
            more["dpi"] = tuple(round(number) for number in photo.dpi)
        if len(photo.xmp) > _MAX_EXIF_IN_JPEG - 64:
            notes.append("XMP left out: more than JPEG can hold")
            del more["xmp"]
        # Colour at full size: the input's own blocks are gone, halving it once more would show at fine edges.
        image.save(file, "JPEG", quality=quality, subsampling=0, **more)
    else:
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
