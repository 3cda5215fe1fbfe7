"""WebP, BMP, AVIF and HEIC, as Pillow reads them; HEIC through the optional package pillow-heif."""

from __future__ import annotations

import io
from typing import cast

import numpy as np

from ifan_plugin.common.errors import UserError
from ifan_plugin.images.formats.photo import VALID, Photo, described, opened, reading, require_size

INSTALL = "HEIC needs pillow-heif: pip install 'ifan_plugin[heif]'"
AVIF_BRANDS = (b"avif", b"avis")
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


def read_webp(data: bytes, name: str, max_pixels: int) -> Photo:
    """A photo of a WebP's bytes. Raises :class:`UserError`: damaged, too large or animated."""
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


def read_bmp(data: bytes, name: str, max_pixels: int) -> Photo:
    """A photo of a BMP's bytes. Raises :class:`UserError`: damaged, too large or of 1 bit."""
    with opened(data, name, "BMP", max_pixels) as image:
        if image.mode == "1":
            raise UserError(f"{name}: BMP is black and white, of 1 bit; {VALID}")
        samples = np.asarray(image if image.mode in ("RGB", "RGBA", "L") else image.convert("RGB"))
    return described(samples, "bmp")


def read_heif(data: bytes, name: str, max_pixels: int) -> Photo:
    """A photo of an AVIF's or HEIC's bytes; more than 8 bits become 16. The decoder turns it upright.

    Raises:
        UserError: damaged, too large or animated; or neither Pillow nor pillow-heif can read it here.
    """
    if data[8:12] in AVIF_BRANDS:
        return _read_avif(data, name, max_pixels)
    try:
        import pillow_heif
    except ImportError:
        raise UserError(f"{name}: is HEIC or a film by its content; {INSTALL}") from None
    with reading(name, "HEIC"):
        file = pillow_heif.open_heif(io.BytesIO(data), convert_hdr_to_8bit=False, bgr_mode=False)
        image = file[file.primary_index]
        require_size(name, image.size[1], image.size[0], max_pixels)
        samples, info = np.asarray(image), cast(dict[str, bytes | None], image.info)
    notes = ["the first of several pictures in the file; the others are left out"] if len(file) > 1 else []
    icc = info.get("icc_profile") or b""
    return _upright(samples, info.get("exif") or b"", info.get("xmp") or b"", icc=icc, notes=notes)


def _read_avif(data: bytes, name: str, max_pixels: int) -> Photo:
    from PIL import features

    if not features.check("avif"):
        raise UserError(f"{name}: AVIF needs a Pillow that reads it: pip install 'pillow>=11.3'")
    with opened(data, name, "AVIF", max_pixels) as image:
        if getattr(image, "n_frames", 1) > 1:
            raise UserError(f"{name}: AVIF is animated; {VALID}, one picture a file")
        samples = np.asarray(image if image.mode in ("RGB", "RGBA", "L") else image.convert("RGB"))
        info = dict(image.info)
    # Pillow turns nothing, but tells how to, in the EXIF data: the file's own mark, or what they said.
    icc = info.get("icc_profile") or b""
    return described(samples, "heif", info.get("exif", b""), info.get("xmp", b""), icc=icc, lossless=False)


def _upright(samples: np.ndarray, block: bytes, xmp: bytes, **more) -> Photo:
    return described(samples, "heif", block, xmp, orientation=1, lossless=False, **more)
