"""The one reader of pictures: from a file's bytes to upright samples and the facts about them.

Data sets, LMDB, simulation, ``basicsr deblur``, the demo and the benchmark all read here, so that a file means the same
everywhere: which kinds are taken (told by the bytes, never by the name), how EXIF turns a picture, what of a damaged
file can be used, and what becomes of palettes and CMYK. Data sets go by :mod:`ifan_plugin.images.image_io`, which takes
the short way for plain files.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from ifan_plugin.common.errors import UserError
from ifan_plugin.images.formats import by_pillow, jpeg, png, raw, tiff
from ifan_plugin.images.formats.photo import MAX_PIXELS, VALID, Photo

PICTURE_SUFFIXES = frozenset(
    {
        ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".tif", ".tiff", ".webp", ".heic", ".heif", ".avif",
    }
)  # fmt: skip
"""Endings of picture files, in lower case, that are looked for in folders. What a file holds, its bytes tell."""

SUFFIXES = PICTURE_SUFFIXES | raw.SUFFIXES
"""The same with those of camera raw, which photographs may be, and data sets may not."""

_KNOWN = {
    b"GIF8": "GIF", b"8BPS": "Photoshop document", b"\0\0\0\x0cjP  ": "JPEG 2000", b"\xff\x0a": "JPEG XL",
    b"%PDF": "PDF", b"\0\0\0\x0cJXL ": "JPEG XL", b"qoif": "QOI", b"\x76\x2f\x31\x01": "OpenEXR",
}  # fmt: skip
_START = 16  # bytes that tell the kind

Reader = Callable[[bytes, str, int], Photo]


def read_photo(path: str | os.PathLike, max_pixels: int = MAX_PIXELS) -> Photo:
    """Read a picture of any kind named in :data:`~ifan_plugin.images.formats.photo.VALID`, upright.

    What a file is, is told by its bytes; only camera raw is told by its name, since most of it looks like TIFF. A
    palette becomes RGB, CMYK becomes sRGB; a transparent colour becomes alpha.

    Args:
        path: the file.
        max_pixels: refuse what says that it is larger, before it is decoded.

    Raises:
        UserError: one line that names the file and why it can't be read: missing, damaged, cut short, too large, of a
            kind or of samples that aren't handled (float, 1 bit, animated, several pages), or an optional package that
            its kind needs is missing.
    """
    with naming(path), open(path, "rb") as file:
        start = file.read(_START)
        reader = raw.read if Path(path).suffix.lower() in raw.SUFFIXES else _reader_of(start, str(path))
        data = start + file.read()
    return reader(data, str(path), max_pixels)


def decode(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> Photo:
    """As :func:`read_photo`, from a file's bytes; ``name`` is for messages."""
    return _reader_of(data[:_START], name)(data, name, max_pixels)


@contextlib.contextmanager
def naming(path: str | os.PathLike) -> Iterator[None]:
    """Turn the system's errors into ours; they are the user's (a missing file, a folder, no permission)."""
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(f"{path}: file not found") from error
    except OSError as error:
        raise UserError(f"{path}: can't be read: {error.strerror or error}") from error


def _reader_of(start: bytes, name: str) -> Reader:
    """Which module reads a file that begins so. Raises :class:`UserError`: none does."""
    if start.startswith(jpeg.SIGNATURE):
        return jpeg.read
    if start.startswith(png.SIGNATURE):
        return png.read
    if start.startswith(tiff.SIGNATURES):
        return tiff.read
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return by_pillow.read_webp
    if start.startswith(b"BM"):
        return by_pillow.read_bmp
    known = (*by_pillow.AVIF_BRANDS, *by_pillow.HEIF_BRANDS)
    if start[4:8] == b"ftyp" and start[8:12] in known:
        return by_pillow.read_heif
    raise UserError(f"{name}: {_what_else(start)}; {VALID}")


def _what_else(start: bytes) -> str:
    if not start:
        return "file is empty"
    if start[4:8] == b"ftyp":
        kind = {b"crx ": "camera raw, CR3"}.get(start[8:12], "a film")
        return f"is {kind} by its content"
    known = next((kind for mark, kind in _KNOWN.items() if start.startswith(mark)), None)
    return f"is {known} by its content" if known else "not a picture"
