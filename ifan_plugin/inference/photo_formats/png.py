"""PNG of 8 and 16 bits with its colour profile and EXIF data.

Pillow cuts 16 bits of colour to 8, and OpenCV writes neither profiles nor EXIF data nor grey with alpha: so files are
read by one of the two and written here. Source: W3C, Portable Network Graphics, third edition.
"""

from __future__ import annotations

import binascii
import struct
import zlib
from collections.abc import Iterable
from typing import IO

import cv2
import numpy as np

from ifan_plugin.errors import UserError
from ifan_plugin.inference.photo_formats import exif
from ifan_plugin.inference.photo_formats.photo import (
    VALID,
    Photo,
    decoded_by_opencv,
    described,
    opened,
    reading,
    require_size,
)

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOURS = {1: 0, 2: 4, 3: 2, 4: 6}  # samples a pixel -> PNG's number
_COLOUR_CHUNKS = (b"cHRM", b"gAMA", b"sRGB", b"cICP", b"mDCV", b"cLLI", b"pHYs")
_TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt")
_XMP_START = b"XML:com.adobe.xmp\0"
_EXIF_TEXT = (b"Raw profile type exif\0", b"Raw profile type APP1\0")  # EXIF as ImageMagick wrote it before eXIf
_MAX_INFLATED = 2**26  # bytes a compressed chunk may hold
_STRIP = 2**22  # bytes filtered and compressed at a time
_PALETTE = 3


def read(data: bytes, name: str, max_pixels: int) -> Photo:
    """A photo of a PNG's bytes.

    Raises:
        UserError: damaged, too large, animated or of 1 bit.
    """
    with reading(name, "PNG"):
        chunks = list(_chunks(data))
        kinds = dict(reversed(chunks))  # the first of each kind
        width, height, bits, colour = struct.unpack(">IIBB", kinds[b"IHDR"][:10])
    require_size(name, height, width, max_pixels)
    if b"acTL" in kinds:
        raise UserError(f"{name}: PNG is animated; {VALID}, one picture a file")
    if bits == 1 and colour != _PALETTE:
        raise UserError(f"{name}: PNG is black and white, of 1 bit; {VALID}")
    with reading(name, "PNG"):
        samples = _decoded16(data, kinds) if bits == 16 else _decoded8(data, name, max_pixels, bits)
        block, xmp, texts = _texts(chunks)
        icc = _inflated(kinds[b"iCCP"].partition(b"\0")[2][1:]) if b"iCCP" in kinds else b""
    kept = [chunk for chunk in chunks if chunk[0] in _COLOUR_CHUNKS] + texts
    return described(
        samples, "png", kinds.get(b"eXIf", block), xmp, icc=icc, dpi=_dpi(kinds.get(b"pHYs")), chunks=tuple(kept)
    )


def _chunks(data: bytes) -> Iterable[tuple[bytes, bytes]]:
    """Type and data of each chunk but the pixels'; every checksum is looked at."""
    position, view = len(SIGNATURE), memoryview(data)
    while True:
        if position + 12 > len(data):
            raise ValueError("ends before its end mark")
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 8 + length
        if end + 4 > len(data):
            raise ValueError("ends before its end mark")
        if binascii.crc32(view[position + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            raise ValueError(f"wrong checksum of {kind.decode('ascii', 'replace')}")
        if kind == b"IEND":
            return
        if kind != b"IDAT":
            yield kind, bytes(view[position + 8 : end])
        position = end + 4


def _pixels_alone(data: bytes) -> bytes:
    """A checked file without what libpng would remark on, or unpack whatever its size: profiles and texts."""
    parts, position, view = [SIGNATURE], len(SIGNATURE), memoryview(data)
    kind = b""
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", data, position)
        if kind in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
            parts.append(view[position : position + 12 + length])
        position += 12 + length
    return b"".join(parts)


def _inflated(data: bytes) -> bytes:
    inflater = zlib.decompressobj()
    content = inflater.decompress(data, _MAX_INFLATED)
    if inflater.unconsumed_tail:
        raise ValueError(f"a chunk of more than {_MAX_INFLATED >> 20} MiB")
    return content


def _decoded8(data: bytes, name: str, max_pixels: int, bits: int) -> np.ndarray:
    with opened(data, name, "PNG", max_pixels) as image:
        key = image.info.get("transparency")
        mode = image.mode
        if mode == "L" and key is not None:
            largest = 2**bits - 1  # Pillow has made the samples 8 bits, but not the key
            return _with_key(np.asarray(image), (key & largest) * (255 // largest))
        if mode == "P":
            mode = "RGB" if key is None else "RGBA"
        elif mode == "RGB" and key is not None:
            mode = "RGBA"
        return np.asarray(image if mode == image.mode else image.convert(mode))


def _with_key(samples: np.ndarray, key: int) -> np.ndarray:
    """Grey [H, W] with alpha: 0 where it is the declared transparent value."""
    opaque = np.iinfo(samples.dtype).max
    return np.dstack([samples, np.where(samples == key, 0, opaque).astype(samples.dtype)])


def _decoded16(data: bytes, kinds: dict[bytes, bytes]) -> np.ndarray:
    samples = decoded_by_opencv(_pixels_alone(data))
    if samples is None or samples.dtype != np.uint16:
        raise ValueError("OpenCV can't decode it")
    colour = kinds[b"IHDR"][9]
    if colour == 4:  # grey with alpha comes as blue, green, red, alpha
        return samples[..., [0, 3]]
    if colour == 0:
        if b"tRNS" not in kinds:
            return samples
        (key,) = struct.unpack(">H", kinds[b"tRNS"][:2])
        return _with_key(samples, key)
    return cv2.cvtColor(samples, cv2.COLOR_BGR2RGB if samples.shape[2] == 3 else cv2.COLOR_BGRA2RGBA)


def _texts(chunks: list[tuple[bytes, bytes]]) -> tuple[bytes, bytes, list[tuple[bytes, bytes]]]:
    """EXIF data and XMP packet that stand in text chunks, and the other text chunks."""
    block = xmp = b""
    others = []
    for kind, content in chunks:
        if kind not in _TEXT_CHUNKS:
            continue
        if kind == b"iTXt" and content.startswith(_XMP_START):
            compressed = content[len(_XMP_START)]
            xmp = content[len(_XMP_START) + 2 :].split(b"\0", 2)[2]
            xmp = _inflated(xmp) if compressed else xmp
        elif content.startswith(_EXIF_TEXT):
            text = content.partition(b"\0")[2]
            text = _inflated(text[1:]) if kind == b"zTXt" else text
            lines = text.split()  # the kind, the number of bytes, the bytes as hexadecimal digits
            block = bytes.fromhex(b"".join(lines[2:]).decode("ascii"))
        elif not content.startswith(b"Raw profile type "):
            others.append((kind, content))
    return block, xmp, others


def _dpi(chunk: bytes | None) -> tuple[float, float] | None:
    if chunk is None or len(chunk) < 9 or chunk[8] != 1:  # 1: pixels a metre
        return None
    x, y = struct.unpack(">II", chunk[:8])
    return (x * 0.0254, y * 0.0254) if x and y else None


def write(file: IO[bytes], photo: Photo) -> None:
    """Write a photo with its profile and EXIF data. Raises ``OSError``."""
    kept = list(photo.chunks)
    extra = [chunk for chunk in kept if chunk[0] in _COLOUR_CHUNKS]
    if photo.icc:
        extra = [chunk for chunk in extra if chunk[0] != b"sRGB"]  # one of the two is allowed
        extra.append((b"iCCP", b"ICC profile\0\0" + zlib.compress(photo.icc)))
    if photo.dpi and not any(kind == b"pHYs" for kind, _ in extra):
        extra.append((b"pHYs", struct.pack(">IIB", *(round(dpi / 0.0254) for dpi in photo.dpi), 1)))
    if photo.exif:
        extra.append((b"eXIf", photo.exif.removeprefix(exif.MARK)))
    if photo.xmp:
        extra.append((b"iTXt", _XMP_START + b"\0\0\0\0" + photo.xmp))
    extra += [chunk for chunk in kept if chunk[0] in _TEXT_CHUNKS]
    write_samples(file, photo.samples(), extra)


def text(keyword: str, words: str) -> tuple[bytes, bytes]:
    """A text chunk; both in Latin-1."""
    return b"tEXt", keyword.encode("latin-1") + b"\0" + words.encode("latin-1")


def write_samples(file: IO[bytes], samples: np.ndarray, extra: Iterable[tuple[bytes, bytes]] = ()) -> None:
    """Write uint8 or uint16 samples [H, W] or [H, W, 1 to 4] as PNG, a few rows at a time.

    Args:
        file: open for writing.
        samples: grey, grey and alpha, RGB, or RGB and alpha.
        extra: chunks that stand before the pixels: (type, data).

    Raises:
        OSError: it can't be written.
    """
    samples = samples if samples.ndim == 3 else samples[..., None]
    height, width, channels = samples.shape
    item = samples.dtype.itemsize
    file.write(SIGNATURE)
    _put(file, b"IHDR", struct.pack(">IIBBBBB", width, height, 8 * item, _COLOURS[channels], 0, 0, 0))
    for kind, content in extra:
        _put(file, kind, content)
    compressor = zlib.compressobj(3, strategy=zlib.Z_FILTERED)
    rows = max(1, _STRIP // (width * channels * item))
    above = np.zeros(width * channels * item, np.uint8)
    for top in range(0, height, rows):
        strip = samples[top : top + rows]
        strip = np.ascontiguousarray(strip, strip.dtype.newbyteorder(">")).reshape(len(strip), -1).view(np.uint8)
        packed = compressor.compress(_filtered(strip, above, channels * item).tobytes())
        above = strip[-1].copy()
        if packed:
            _put(file, b"IDAT", packed)
    _put(file, b"IDAT", compressor.flush())
    _put(file, b"IEND", b"")


def _filtered(rows: np.ndarray, above: np.ndarray, step: int) -> np.ndarray:
    """Rows of bytes less what is predicted from their left or upper neighbours, each under the number of the filter.

    1: left, 2: above, 3: their mean. For all these rows the one that leaves least, as the specification recommends for
    each row; every 16th is tried.
    """
    up = np.concatenate([above[None], rows[:-1]])
    left = np.zeros_like(rows)
    left[:, step:] = rows[:, :-step]

    def rest(number: int, some: slice) -> np.ndarray:
        a, b = left[some], up[some]
        return rows[some] - (a if number == 1 else b if number == 2 else (a >> 1) + (b >> 1) + (a & b & 1))

    def cost(number: int) -> int:
        return int(np.abs(rest(number, slice(None, None, 16)).view(np.int8).astype(np.int16)).sum(dtype=np.int64))

    best = min((1, 2, 3), key=cost)
    filtered = np.empty((len(rows), rows.shape[1] + 1), np.uint8)
    filtered[:, 0] = best
    filtered[:, 1:] = rest(best, slice(None))
    return filtered


def _put(file: IO[bytes], kind: bytes, content: bytes) -> None:
    file.write(struct.pack(">I", len(content)))
    file.write(kind)
    file.write(content)
    file.write(struct.pack(">I", binascii.crc32(content, binascii.crc32(kind))))
