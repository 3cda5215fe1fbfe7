"""Camera raw, developed by LibRaw through the optional package rawpy."""

from __future__ import annotations

import io
import struct

import numpy as np

from ifan_plugin.common.errors import UserError
from ifan_plugin.images.formats import exif
from ifan_plugin.images.formats.photo import Photo, described, reading, require_size

SUFFIXES = frozenset(
    {
        ".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".fff", ".iiq", ".kdc", ".mef", ".mos", ".mrw",
        ".nef", ".nrw", ".orf", ".pef", ".raf", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f",
    }
)  # fmt: skip
"""Endings of camera raw files, in lower case. Many look like TIFF from inside: here the name tells."""

INSTALL = "camera raw needs rawpy: pip install 'ifan_plugin[raw]'"


def is_available() -> bool:
    """Whether rawpy can be imported."""
    try:
        import rawpy  # noqa: F401
    except ImportError:
        return False
    return True


def read(data: bytes, name: str, max_pixels: int) -> Photo:
    """A raw file's photo: 16 bits, sRGB, white balance of the camera, upright, brightness as LibRaw chooses it.

    EXIF data are the file's own where it is built like TIFF (most are), else those of the preview inside it.

    Raises:
        UserError: rawpy isn't installed, or the file is damaged or of no camera that LibRaw knows.
    """
    try:
        import rawpy
    except ImportError:
        raise UserError(f"{name}: {INSTALL}") from None
    try:
        with reading(name, "camera raw"), rawpy.imread(io.BytesIO(data)) as file:
            require_size(name, file.sizes.height, file.sizes.width, max_pixels)
            pixels = file.postprocess(use_camera_wb=True, output_bps=16, output_color=rawpy.ColorSpace.sRGB)
            block = _exif(data) or _exif_of_preview(file)
    except rawpy.LibRawError as error:
        reason = error.args[0].decode("utf-8", "replace") if isinstance(error.args[0], bytes) else str(error)
        raise UserError(f"{name}: LibRaw can't read it as camera raw: {' '.join(reason.split())}") from None
    # LibRaw has turned it: nothing more is to be done than to say so.
    photo = described(np.ascontiguousarray(pixels), "raw", block, orientation=1, icc=_srgb())
    return photo


def _exif(data: bytes) -> bytes:
    try:
        return exif.build(exif.parse(data, exif.DESCRIPTIVE))
    except (ValueError, struct.error):
        return b""


def _exif_of_preview(file) -> bytes:
    """EXIF data of the JPEG that a camera puts into its raw files; empty where there is none."""
    import rawpy
    from PIL import Image, UnidentifiedImageError

    try:
        preview = file.extract_thumb()
        if preview.format != rawpy.ThumbFormat.JPEG:
            return b""
        with Image.open(io.BytesIO(preview.data), formats=["JPEG"]) as image:
            return image.info.get("exif", b"").removeprefix(exif.MARK)
    except (rawpy.LibRawError, UnidentifiedImageError, OSError, ValueError, SyntaxError):
        return b""


def _srgb() -> bytes:
    """The sRGB profile, where Pillow was built with Little CMS."""
    try:
        from PIL import ImageCms

        return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    except ImportError:
        return b""
