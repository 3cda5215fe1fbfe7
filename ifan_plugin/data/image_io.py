"""Pictures from and to files: 8 and 16-bit RGB as float arrays; errors are one line and name the file."""

from __future__ import annotations

import contextlib
import io
import os
import struct
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from ifan_plugin.errors import UserError
from ifan_plugin.files import written_aside

PICTURE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
"""Endings of picture files, in lower case. What a file holds is told by its bytes, not by its name."""

_VALID = "valid: an 8 or 16-bit RGB picture"
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_COLOURS = {0: "grey", 2: "rgb", 3: "palette", 4: "grey with alpha", 6: "rgba"}
_JPEG_COLOURS = {"RGB": "rgb", "L": "grey", "CMYK": "cmyk"}
_JPEG_SIGNATURE = b"\xff\xd8\xff"
_EXIF_ORIENTATION = 0x0112
_HEADER_BYTES = 33  # a PNG's signature and its whole IHDR chunk


class ImageHeader(NamedTuple):
    """What a file says of its picture, as :func:`read_image` delivers it (a JPEG already turned upright)."""

    height: int
    width: int
    bit_depth: int
    colour: str
    """``rgb``, or what else it is: ``grey``, ``palette``, ``rgba``, ``grey with alpha``, ``cmyk``."""


class Region(NamedTuple):
    """Part of a picture: rows ``top`` to ``top + height``, columns ``left`` to ``left + width``."""

    top: int
    left: int
    height: int
    width: int


def read_image(path: str | os.PathLike, bit_depth: int | None = 8) -> np.ndarray:
    """Read a colour picture as float RGB.

    Args:
        path: the file; any name the file system allows.
        bit_depth: 8: values are ``k / 255``; a 16-bit file is shifted right by 8 bits first, as OpenCV's
            colour reading does, which is how the 8-bit variant of DPDD is defined. 16: ``k / 65535``, and
            the file must hold 16 bits. ``None``: the file's own depth.

    Returns:
        float32 array [H, W, 3], RGB, in [0, 1]. A JPEG is turned upright as its EXIF data says.

    Raises:
        UserError: the file is missing, truncated or no picture, isn't RGB (grey, palette, alpha channel), or
            holds 8 bits where 16 are asked for.
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
    header = _parse_header(data, name)
    if header is not None:
        require_rgb(header, name, bit_depth)
    _require_whole(data, name)
    pixels = _decode(data, name)
    if header is None:
        require_rgb(_header_of(pixels), name, bit_depth)
    elif pixels.ndim != 3 or pixels.shape[2] != 3:  # an RGB PNG may declare one colour transparent
        raise UserError(f"{name}: picture has a transparent colour; {_VALID} without transparency")
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


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
    return _parse_header(data, name) or _header_of(_decode(data, name))


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
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_aside(path, durable=False) as file:
            file.write(encoded)
    except OSError as error:
        raise UserError(f"{path}: can't be written: {error.strerror or error}") from error


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
        raise UserError(f"{name}: OpenCV could not encode a picture of size {rgb.shape[0]}x{rgb.shape[1]}")
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
    with _naming(path), open(path, "rb") as file:
        start = file.read(_HEADER_BYTES)
        if start.startswith(_JPEG_SIGNATURE):
            file.seek(0)
            return _jpeg_header(file, path)
        header = _parse_header(start, path)
        data = start + file.read() if header is None else b""
    return header or _header_of(_decode(data, path))


def require_rgb(header: ImageHeader, name: str | os.PathLike, bit_depth: int | None = None) -> None:
    """Raise :class:`UserError` unless the picture is RGB and can be read at ``bit_depth`` (8, 16 or any)."""
    if header.colour != "rgb":
        raise UserError(f"{name}: picture is {header.colour}; {_VALID}")
    if header.bit_depth not in (8, 16):
        raise UserError(f"{name}: picture has {header.bit_depth} bits a channel; {_VALID}")
    if bit_depth == 16 and header.bit_depth != 16:
        raise UserError(
            f"{name}: picture has {header.bit_depth} bits a channel, but bit_depth is 16; "
            "valid: a 16-bit PNG, or bit_depth: 8"
        )


@contextlib.contextmanager
def _naming(path: str | os.PathLike):
    """Turn the system's errors into ours; they are the user's (a missing file, a folder, no permission)."""
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(f"{path}: file not found") from error
    except OSError as error:
        raise UserError(f"{path}: can't be read: {error.strerror or error}") from error


def read_bytes(path: str | os.PathLike) -> bytes:
    """A whole file.

    Raises:
        UserError: it is missing or can't be read.
    """
    with _naming(path):
        return Path(path).read_bytes()


def _parse_header(data: bytes, name: str | os.PathLike) -> ImageHeader | None:
    """Header of a PNG or JPEG; ``None`` for other formats."""
    if data.startswith(_JPEG_SIGNATURE):
        return _jpeg_header(io.BytesIO(data), name)
    if not data:
        raise UserError(f"{name}: file is empty; {_VALID}")
    if not data.startswith(_PNG_SIGNATURE):
        return None
    if len(data) < _HEADER_BYTES or data[12:16] != b"IHDR":
        raise UserError(f"{name}: PNG is truncated or damaged; {_VALID}")
    width, height, bits, colour = struct.unpack(">IIBB", data[16:26])
    return ImageHeader(height, width, bits, _PNG_COLOURS.get(colour, f"of unknown colour type {colour}"))


def _jpeg_header(file, name: str | os.PathLike) -> ImageHeader:
    from PIL import Image, UnidentifiedImageError  # Pillow is only needed for JPEG

    try:
        with Image.open(file, formats=["JPEG"]) as image:
            width, height = image.size
            turned = image.getexif().get(_EXIF_ORIENTATION, 1) in (5, 6, 7, 8)
            colour = _JPEG_COLOURS.get(image.mode, image.mode)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{name}: JPEG is truncated or damaged; {_VALID}") from error
    return ImageHeader(width, height, 8, colour) if turned else ImageHeader(height, width, 8, colour)


def _require_whole(data: bytes, name: str | os.PathLike) -> None:
    """Refuse a truncated PNG or JPEG by its end mark: some OpenCV versions return what they got that far."""
    if data.startswith(_PNG_SIGNATURE):
        position = len(_PNG_SIGNATURE)
        while position + 12 <= len(data):
            length, kind = struct.unpack_from(">I4s", data, position)
            position += 12 + length  # length, type and checksum take 12 bytes
            if kind == b"IEND" and position <= len(data):
                return
        raise UserError(f"{name}: PNG is truncated; {_VALID}")
    # Thumbnails in the EXIF data have end marks too, but stand before the last start of scan.
    if data.startswith(_JPEG_SIGNATURE) and data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda"):
        raise UserError(f"{name}: JPEG is truncated; {_VALID}")


def _decode(data: bytes, name: str | os.PathLike) -> np.ndarray:
    """The samples as stored, BGR; only a JPEG is turned upright, as its header says."""
    flags = cv2.IMREAD_COLOR if data.startswith(_JPEG_SIGNATURE) else cv2.IMREAD_UNCHANGED
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    except cv2.error:
        pixels = None
    if pixels is None:
        raise UserError(f"{name}: not a picture, or a damaged one; {_VALID}")
    return pixels


def _header_of(pixels: np.ndarray) -> ImageHeader:
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    colour = {1: "grey", 3: "rgb", 4: "rgba"}.get(channels, f"of {channels} channels")
    bits = pixels.dtype.itemsize * 8
    if pixels.dtype not in (np.uint8, np.uint16):
        colour = f"of {pixels.dtype} samples"
    return ImageHeader(pixels.shape[0], pixels.shape[1], bits, colour)
