"""Pictures for data sets: 8 and 16-bit RGB as float arrays; errors are one line and name the file.

The short way for plain files (an RGB PNG, a grey or RGB JPEG) is OpenCV's. All others, and whatever is odd about a
file, go through :mod:`ifan_plugin.images.reader`, which gives the same for the plain ones.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from ifan_plugin.common.errors import UserError
from ifan_plugin.common.files import make_folder, written_aside
from ifan_plugin.common.machine import usable_cores
from ifan_plugin.images.formats import exif, jpeg, png
from ifan_plugin.images.formats.photo import Photo, decoded_by_opencv, reading, require_size, turned
from ifan_plugin.images.reader import PICTURE_SUFFIXES, decode, naming

__all__ = [
    "PICTURE_SUFFIXES", "ImageHeader", "Region", "decode_image", "decode_pixels", "encode_png", "has_alpha",
    "header_of_bytes", "image_size", "read_bytes", "read_header", "read_image", "read_pixels", "require_opaque",
    "require_rgb", "to_float", "to_planes", "write_image",
]  # fmt: skip

_VALID = "valid: an 8 or 16-bit picture, RGB, grey, CMYK or of a palette, without transparency"
_PNG_COLOURS = {0: "grey", 2: "rgb", 3: "palette", 4: "grey with alpha", 6: "rgba"}
_MOST_PIXELS = 2**30  # what OpenCV takes


class ImageHeader(NamedTuple):
    """What a file says of its picture; height, width and bits as :func:`read_image` delivers them, upright."""

    height: int
    width: int
    bit_depth: int
    colour: str
    """``rgb``, or what becomes RGB: ``grey``, ``palette``, ``cmyk``; and ``rgba``, ``grey with alpha`` if opaque."""


class Region(NamedTuple):
    """Part of a picture: rows ``top`` to ``top + height``, columns ``left`` to ``left + width``."""

    top: int
    left: int
    height: int
    width: int


def read_image(path: str | os.PathLike, bit_depth: int | None = 8) -> np.ndarray:
    """Read a picture as float RGB: grey becomes three equal channels, a palette its colours, CMYK sRGB by its profile.

    Args:
        path: the file; any name the file system allows.
        bit_depth: 8: values are ``k / 255``; a 16-bit file is shifted right by 8 bits first, as OpenCV's
            colour reading does, which is how the 8-bit variant of DPDD is defined. 16: ``k / 65535``, and
            the file must hold 16 bits. ``None``: the file's own depth.

    Returns:
        float32 array [H, W, 3], RGB, in [0, 1], turned upright as its EXIF data say.

    Raises:
        UserError: the file is missing, truncated or no picture, is transparent somewhere, or holds 8 bits where 16 are
            asked for.
    """
    return decode_image(read_bytes(path), path, bit_depth)


def decode_image(data: bytes, name: str | os.PathLike, bit_depth: int | None = 8) -> np.ndarray:
    """As :func:`read_image`, from the bytes of a file (or of a database entry); ``name`` is for messages."""
    if bit_depth not in (8, 16, None):
        raise ValueError(f"bit_depth must be 8, 16 or None, not {bit_depth!r}")
    return to_float(decode_pixels(data, name, bit_depth), bit_depth)


def read_pixels(path: str | os.PathLike, bit_depth: int | None = None) -> np.ndarray:
    """As :func:`decode_pixels`, of a file."""
    return decode_pixels(read_bytes(path), path, bit_depth)


def decode_pixels(data: bytes, name: str | os.PathLike, bit_depth: int | None = None) -> np.ndarray:
    """The samples as stored in a file's bytes: uint8 or uint16 [H, W, 3], RGB, not yet reduced to ``bit_depth``.

    Raises:
        UserError: as :func:`read_image`.
    """
    pixels = _decoded_plain(data, name)
    if pixels is None:
        pixels = _as_rgb(decode(data, str(name), _MOST_PIXELS), name)
    height, width = pixels.shape[:2]
    require_rgb(ImageHeader(height, width, 8 * pixels.dtype.itemsize, "rgb"), name, bit_depth)
    return pixels


def _decoded_plain(data: bytes, name: str | os.PathLike) -> np.ndarray | None:
    """RGB of a plain file, the short way; None for all others, and for what can't be decoded."""
    if data.startswith(png.SIGNATURE):
        plain = png.is_plain(data)
        if plain is False:
            return None
        pixels, orientation = decoded_by_opencv(data if plain else png.without_extras(data), name), 1
    elif data.startswith(jpeg.SIGNATURE):
        try:
            found = jpeg.facts(data, head_only=data.endswith(jpeg.END))
        except ValueError:
            return None
        if found.components not in (1, 3) or not (found.end or data.endswith(jpeg.END)):
            return None
        pixels, orientation = decoded_by_opencv(data, name), exif.orientation_or_upright(found.exif)
    else:
        return None
    if pixels is None:
        return None
    pixels = cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB if pixels.ndim == 2 else cv2.COLOR_BGR2RGB)
    return pixels if orientation == 1 else turned(pixels, orientation)


def has_alpha(header: ImageHeader) -> bool:
    """Whether only the pixels tell if the picture can be used: it can where its alpha is opaque."""
    return header.colour in ("rgba", "grey with alpha")


def require_opaque(paths: Sequence[Path]) -> None:
    """Look at the pixels of pictures that have alpha.

    Args:
        paths: those files whose header says so (:func:`has_alpha`).

    Raises:
        UserError: some are transparent somewhere; all of these are named.
    """

    def refusal(path: Path) -> str | None:
        try:
            read_pixels(path)
        except UserError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(usable_cores()) as pool:
        found = [(path, message) for path, message in zip(paths, pool.map(refusal, paths)) if message is not None]
    if len(found) == 1:
        raise UserError(found[0][1])
    if found:
        others = ", ".join(path.name for path, _ in found[1:])
        raise UserError(f"{found[0][1]}; so with {len(found) - 1} more: {others}")


def _as_rgb(photo: Photo, name: str | os.PathLike) -> np.ndarray:
    if photo.alpha is not None and photo.alpha.min() < np.iinfo(photo.alpha.dtype).max:
        raise UserError(f"{name}: picture is {'grey with alpha' if photo.grey else 'rgba'}, not opaque; {_VALID}")
    return np.repeat(photo.pixels[..., None], 3, axis=2) if photo.grey else photo.pixels


def to_float(pixels: np.ndarray, bit_depth: int | None = None) -> np.ndarray:
    """uint8 or uint16 samples as float32 in [0, 1]; 16 bits become 8 first where ``bit_depth`` is 8."""
    pixels = _reduced(pixels, bit_depth)
    return pixels.astype(np.float32) / np.float32(np.iinfo(pixels.dtype).max)


def to_planes(pixels: np.ndarray, bit_depth: int | None = None) -> np.ndarray:
    """The values of :func:`to_float` as networks eat them: from [H, W, 3] to float32 [3, H, W], contiguous."""
    pixels = _reduced(pixels, bit_depth)
    planes = np.empty((3, *pixels.shape[:2]), np.float32)
    for plane, samples in zip(planes, cv2.split(pixels)):  # twice as fast as a cast through a transposed view
        plane[...] = samples
    planes /= np.float32(np.iinfo(pixels.dtype).max)
    return planes


def _reduced(pixels: np.ndarray, bit_depth: int | None) -> np.ndarray:
    """16 bits cut to 8 where 8 are asked for."""
    return (pixels >> 8).astype(np.uint8) if bit_depth == 8 and pixels.dtype == np.uint16 else pixels


def header_of_bytes(data: bytes, name: str | os.PathLike) -> ImageHeader:
    """As :func:`read_header`, of a file's bytes."""
    return _header(data, name)


def write_image(path: str | os.PathLike, rgb: np.ndarray, bit_depth: int = 8) -> None:
    """Write a PNG so that the name never stands for a half-written file; missing folders are created.

    Args:
        path: the file, ending in ``.png``; replaced if it exists.
        rgb: float array [H, W, 3], RGB; clipped to [0, 1], then rounded to one of 2**bit_depth levels.
        bit_depth: 8 or 16.

    Raises:
        UserError: a name that doesn't end in ``.png``, a value that isn't finite, or a place that can't be
            written to.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise UserError(f"{path}: pictures are written as PNG; give a name that ends in .png")
    encoded = encode_png(rgb, bit_depth, path)
    make_folder(path.parent)
    with written_aside(path, durable=False) as file:
        file.write(encoded)


def encode_png(rgb: np.ndarray, bit_depth: int = 8, name: str | os.PathLike = "picture") -> bytes:
    """The bytes of a PNG of ``rgb``; arguments and errors as in :func:`write_image`."""
    if bit_depth not in (8, 16):
        raise ValueError(f"bit_depth must be 8 or 16, not {bit_depth!r}")
    if rgb.ndim != 3 or rgb.shape[2] != 3 or not np.issubdtype(rgb.dtype, np.floating):
        raise ValueError(f"rgb must be a float array [H, W, 3], not {rgb.dtype} {list(rgb.shape)}")
    if not np.isfinite(rgb).all():
        raise UserError(f"{name}: the picture holds NaN or infinite values; valid: numbers in [0, 1]")
    dtype = np.uint8 if bit_depth == 8 else np.uint16
    # float16 can't count to 65535
    values = np.clip(rgb.astype(np.promote_types(rgb.dtype, np.float32)), 0, 1) * np.iinfo(dtype).max
    pixels = np.rint(values).astype(dtype)
    done, encoded = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    if not done:
        raise UserError(f"{name}: OpenCV could not encode a picture of size {rgb.shape[1]}x{rgb.shape[0]}")
    return encoded.tobytes()


def image_size(path: str | os.PathLike) -> tuple[int, int]:
    """(height, width) in pixels, from the header alone where the format allows (PNG, JPEG).

    Raises:
        UserError: the file is missing or no picture.
    """
    header = read_header(path)
    return header.height, header.width


def read_header(path: str | os.PathLike) -> ImageHeader:
    """Size, bit depth and colour type without decoding the picture (PNG, JPEG; other formats are decoded).

    Raises:
        UserError: the file is missing or no picture.
    """
    with naming(path), open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            return _header(b"", path)
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:  # of large files little is looked at
            return _header(data, path)


def _header(data: bytes | mmap.mmap, name: str | os.PathLike) -> ImageHeader:
    if data[:3] == jpeg.SIGNATURE:
        with reading(str(name), "JPEG"):
            found = jpeg.facts(data, head_only=True)
        height, width, bits, colour = found.height, found.width, found.bits, found.colour
        orientation = exif.orientation_or_upright(found.exif)
    elif data[:8] == png.SIGNATURE:
        with reading(str(name), "PNG"):
            width, height, bits, number, orientation = png.header(data)
        colour = _PNG_COLOURS.get(number, f"of unknown colour type {number}")
        bits = 8 if colour == "palette" or bits in (2, 4) else bits
    else:
        photo = decode(bytes(data[:]), str(name), _MOST_PIXELS)
        colour = "grey" if photo.grey else "rgb"
        if photo.alpha is not None:
            colour = "grey with alpha" if photo.grey else "rgba"
        return ImageHeader(*photo.size, photo.bit_depth, colour)
    require_size(str(name), height, width, _MOST_PIXELS)
    return ImageHeader(*((width, height) if orientation >= 5 else (height, width)), bits, colour)


def require_rgb(header: ImageHeader, name: str | os.PathLike, bit_depth: int | None = None) -> None:
    """Raise :class:`UserError` unless the picture can become RGB and be read at ``bit_depth`` (8, 16 or any).

    Whether alpha is opaque, only the pixels tell: :func:`decode_pixels`.
    """
    if header.colour.startswith("of "):
        raise UserError(f"{name}: picture is {header.colour}; {_VALID}")
    if header.bit_depth not in (8, 16):
        raise UserError(f"{name}: picture has {header.bit_depth} bits a channel; {_VALID}")
    if bit_depth == 16 and header.bit_depth != 16:
        raise UserError(
            f"{name}: picture has {header.bit_depth} bits a channel, but bit_depth is 16; "
            "valid: a 16-bit PNG, or bit_depth: 8"
        )


def read_bytes(path: str | os.PathLike) -> bytes:
    """A whole file.

    Raises:
        UserError: it is missing or can't be read.
    """
    with naming(path):
        return Path(path).read_bytes()
