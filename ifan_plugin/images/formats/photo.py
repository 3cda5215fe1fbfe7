"""A photograph in memory, and what reading one of any kind has in common."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from ifan_plugin.common.errors import UserError
from ifan_plugin.images.formats import exif
from ifan_plugin.images.formats.remarks import remarks

logger = logging.getLogger("ifan_plugin")

MAX_PIXELS = 400_000_000
"""A header that promises more is taken for a decompression bomb unless the caller allows it."""

VALID = (
    "valid: JPEG, PNG, TIFF, WebP, HEIC, AVIF or BMP of 8 or 16 bits, grey, RGB or CMYK, with or without alpha; "
    "or camera raw"
)

DAMAGED = (
    OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, AttributeError, AssertionError, EOFError,
    OverflowError, ZeroDivisionError, struct.error, zlib.error, cv2.error,
)  # fmt: skip
"""What other people's readers raise for damaged files. Only around calls of theirs."""

_XMP_ORIENTATION = re.compile(rb"(<tiff:Orientation>\s*|tiff:Orientation\s*=\s*[\"'])[1-8]")


@dataclass(frozen=True)
class Photo:
    """A photograph, standing upright.

    Args:
        pixels: uint8 or uint16, RGB [H, W, 3], or [H, W] for a grey one.
        format: the kind of file it came from: ``jpeg``, ``png``, ``tiff``, ``webp``, ``bmp``, ``heif`` or ``raw``.
        alpha: type as `pixels`, [H, W], or None. Colours are as stored, whether premultiplied by it or not.
        exif: EXIF data, beginning as a TIFF file does, its orientation 1; empty for none.
        icc: colour profile; empty for none.
        xmp: XMP packet; empty for none.
        dpi: resolution in x and y.
        orientation: what the file said, 1 to 8, before the picture was turned upright.
        lossless: whether the file was compressed without loss.
        premultiplied: whether a TIFF said so of its colours; None: it didn't say.
        chunks: of a PNG, what else tells of its colours and text: (type, data).
        resources: Photoshop's image resources, captions (IPTC) among them.
        comments: those of a JPEG, or of a PNG.
        notes: what was left out or assumed, for the user.
    """

    pixels: np.ndarray
    format: str
    alpha: np.ndarray | None = None
    exif: bytes = b""
    icc: bytes = b""
    xmp: bytes = b""
    dpi: tuple[float, float] | None = None
    orientation: int = 1
    lossless: bool = True
    premultiplied: bool | None = False
    chunks: tuple[tuple[bytes, bytes], ...] = ()
    resources: bytes = b""
    comments: tuple[bytes, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def grey(self) -> bool:
        """Whether it has one channel (and alpha) alone."""
        return self.pixels.ndim == 2

    @property
    def bit_depth(self) -> int:
        """8 or 16."""
        return 8 * self.pixels.dtype.itemsize

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.pixels.shape[0], self.pixels.shape[1]

    def samples(self) -> np.ndarray:
        """Colours and alpha together, [H, W] or [H, W, 2, 3 or 4]."""
        return self.pixels if self.alpha is None else np.dstack([self.pixels, self.alpha])


def require_size(name: str, height: int, width: int, max_pixels: int) -> None:
    """Refuse a picture before it is decoded.

    Raises:
        UserError: it is empty, or larger than ``max_pixels``.
    """
    if height < 1 or width < 1:
        raise UserError(f"{name}: picture of {width}x{height} pixels; {VALID}")
    if height * width > max_pixels:
        raise UserError(
            f"{name}: says it has {width}x{height} pixels, {_millions(height * width)} megapixels; "
            f"valid: at most {_millions(max_pixels)} (--max-megapixels)"
        )


def _millions(number: float) -> str:
    return f"{number / 1e6:,.0f}" if number >= 1e7 else f"{number / 1e6:.2g}"


def separated(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Pixels and alpha of samples [H, W] or [H, W, 1 to 4]; grey pixels are [H, W]."""
    if samples.ndim == 2:
        return samples, None
    colours = samples.shape[2] - (samples.shape[2] % 2 == 0)
    pixels = samples[..., 0] if colours == 1 else samples[..., :3]
    return np.ascontiguousarray(pixels), None if colours == samples.shape[2] else np.ascontiguousarray(samples[..., -1])


def turned(samples: np.ndarray, orientation: int) -> np.ndarray:
    """``samples`` [H, W, ...] of a file with EXIF's ``orientation``, upright."""
    if orientation in (5, 6, 7, 8):
        samples = samples.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        samples = samples[::-1]
    if orientation in (2, 3, 6, 7):
        samples = samples[:, ::-1]
    return np.ascontiguousarray(samples)


def described(
    samples: np.ndarray, format: str, block: bytes = b"", xmp: bytes = b"", orientation: int | None = None, **more
) -> Photo:
    """A photo of stored samples [H, W] or [H, W, 1 to 4], turned as ``orientation`` (None: its EXIF data) says."""
    notes = list(more.pop("notes", ()))
    block = block.removeprefix(exif.MARK)
    try:
        orientation = exif.orientation(block) if orientation is None else orientation
        samples = turned(samples, orientation)
        block = exif.made_upright(block, samples.shape[1], samples.shape[0])
    except (ValueError, struct.error) as error:
        notes.append(f"EXIF data left out: {error}")
        block = b""
    pixels, alpha = separated(samples)
    xmp = _XMP_ORIENTATION.sub(rb"\g<1>1", xmp)
    return Photo(
        pixels, format, alpha, block, xmp=xmp, orientation=orientation or 1, notes=tuple(notes), **more
    )  # fmt: skip


def from_cmyk(image, icc: bytes) -> tuple[np.ndarray, bytes, str]:
    """Pillow's CMYK picture as RGB.

    Args:
        image: in mode ``CMYK``.
        icc: its profile; empty for none.

    Returns:
        uint8 samples [H, W, 3] in sRGB, the profile that says so, and what was done, for the user.
    """
    from PIL import ImageCms

    target = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    note = "CMYK, converted to sRGB without a profile: colours may differ from the print"
    converted = None
    if icc:
        try:
            converted = ImageCms.profileToProfile(
                image, ImageCms.ImageCmsProfile(io.BytesIO(icc)), target, ImageCms.Intent.RELATIVE_COLORIMETRIC, "RGB",
                flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
            )  # fmt: skip
            note = "CMYK, converted to sRGB through its profile"
        except (ImageCms.PyCMSError, OSError):
            note = "CMYK, converted to sRGB without its profile, which can't be used: colours may differ from the print"
    return np.asarray(converted or image.convert("RGB")), target.tobytes(), note


@contextlib.contextmanager
def reading(name: str, kind: str) -> Iterator[None]:
    """Turn what other people's readers raise into one line."""
    try:
        yield
    except UserError:
        raise
    except MemoryError:
        raise UserError(f"{name}: too little memory to read this {kind}") from None
    except DAMAGED as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"{name}: {kind} is damaged or cut short{f' ({reason})' if reason else ''}") from error


@contextlib.contextmanager
def opened(data: bytes, name: str, kind: str, max_pixels: int) -> Iterator:
    """Pillow's picture of a file's bytes, not yet decoded, of at most ``max_pixels``."""
    from PIL import Image

    limit = Image.MAX_IMAGE_PIXELS
    with reading(name, kind), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of damaged EXIF data: they are read here, and their loss is noted
        # Pillow's limit warns at 89 megapixels, which cameras have; ours is asked in its place, before decoding.
        Image.MAX_IMAGE_PIXELS = None
        try:
            image = Image.open(io.BytesIO(data), formats=[kind])
        finally:
            Image.MAX_IMAGE_PIXELS = limit
        with image:
            require_size(name, image.height, image.width, max_pixels)
            yield image


def decoded_by_opencv(data: bytes, name: str | os.PathLike) -> np.ndarray | None:
    """OpenCV's samples as stored, in its order of channels; None for what it can't decode.

    What its libraries remark of damage that they pass over goes into the log, with the file's ``name``.
    """
    quiet = getattr(getattr(cv2, "utils", None), "logging", None)  # not every build has it
    level = quiet.setLogLevel(quiet.LOG_LEVEL_SILENT) if quiet else 0
    try:
        with remarks() as said:
            samples = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    finally:
        if quiet:
            quiet.setLogLevel(level)
    if said and samples is not None:
        logger.warning(f"{name}: is damaged, and was read all the same: {said[0]}")
    return samples


def dpi_of(image) -> tuple[float, float] | None:
    """Resolution as Pillow found it, if it makes sense."""
    dpi = image.info.get("dpi")
    try:
        x, y = (float(number) for number in dpi)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return (x, y) if 1 <= x <= 1e5 and 1 <= y <= 1e5 else None
