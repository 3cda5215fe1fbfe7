"""PNG of 8 and 16 bits with its colour profile and EXIF data.

Pillow cuts 16 bits of colour to 8, and OpenCV writes neither profiles nor EXIF data nor grey with alpha: so files are
read by one of the two and written here. Source: W3C, Portable Network Graphics, third edition.
"""

from __future__ import annotations

import binascii
import io
import mmap
import struct
import zlib
from collections.abc import Iterable, Sequence
from typing import IO

import cv2
import numpy as np

from ifan_plugin.common.errors import UserError
from ifan_plugin.images.formats import exif, resources
from ifan_plugin.images.formats.photo import VALID, Photo, decoded_by_opencv, described, opened, reading, require_size

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_END = b"\0\0\0\0IEND\xaeB`\x82"
_COLOURS = {1: 0, 2: 4, 3: 2, 4: 6}  # samples a pixel -> PNG's number
_COLOUR_CHUNKS = {b"cHRM": 32, b"gAMA": 4, b"sRGB": 1, b"cICP": 4, b"mDCV": 24, b"cLLI": 8, b"pHYs": 9}  # bytes
_PIXELS = (b"IHDR", b"IDAT", b"IEND")  # all that an RGB file needs
_TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt")
_XMP_START = b"XML:com.adobe.xmp\0"
_RAW_PROFILE = b"Raw profile type "  # as ImageMagick writes what PNG has no chunk for, or had none
_EXIF_TEXT = (_RAW_PROFILE + b"exif", _RAW_PROFILE + b"APP1")
_IPTC_TEXT = (_RAW_PROFILE + b"iptc", _RAW_PROFILE + b"8bim")
_PASSES = (
    (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2),
)  # fmt: skip
"""Of an interlaced file: the first column and row of each pass, and the steps to the next ones."""
_MAX_INFLATED = 2**20  # bytes a compressed chunk may hold: Pillow and others refuse files with larger ones
_STRIP = 2**22  # bytes filtered and compressed at a time
_PALETTE = 3


def read(data: bytes, name: str, max_pixels: int) -> Photo:
    """A photo of a PNG's bytes. Damaged or huge pieces beside its pixels are left out with a note.

    Raises:
        UserError: its pixels are damaged or not all there; too large, animated or of 1 bit.
    """
    with reading(name, "PNG"):
        parts = _parts(data)
        kinds = dict(reversed(parts.chunks))  # the first of each kind
        width, height, bits, colour = struct.unpack(">IIBB", kinds[b"IHDR"][:10])
    require_size(name, height, width, max_pixels)
    if b"acTL" in kinds:
        raise UserError(f"{name}: PNG is animated; {VALID}, one picture a file")
    if bits == 1 and colour != _PALETTE:
        raise UserError(f"{name}: PNG is black and white, of 1 bit; {VALID}")
    with reading(name, "PNG"):
        alone = parts.pixels_alone()
        samples = _decoded16(alone, kinds, name) if bits == 16 else _decoded8(alone, name, max_pixels, bits)
    texts = _Texts(parts.chunks, parts.notes)
    icc = _profile(kinds[b"iCCP"], parts.notes) if b"iCCP" in kinds else b""
    kept = [chunk for chunk in parts.chunks if _is_sound(*chunk, parts.notes)] + texts.others
    return described(
        samples, "png", kinds.get(b"eXIf", texts.exif), texts.xmp, icc=icc, dpi=_dpi(kinds.get(b"pHYs")),
        chunks=tuple(kept), resources=texts.resources, comments=texts.comments, notes=parts.notes,
    )  # fmt: skip


class _Parts:
    """A PNG taken to pieces: `chunks` but the pixels' and the end mark, `pixels` as compressed, `notes`."""

    def __init__(self) -> None:
        self.chunks: list[tuple[bytes, bytes]] = []
        self.pixels: list[memoryview | bytes] = []
        self.notes: list[str] = []

    def pixels_alone(self) -> bytes:
        """A file of what decoders need: they unpack texts and profiles whatever their size, and remark on others."""
        file = io.BytesIO()
        file.write(SIGNATURE)
        for kind, content in self.chunks:
            if kind in (b"IHDR", b"PLTE", b"tRNS"):
                _put(file, kind, content)
        for pixels in self.pixels:
            _put(file, b"IDAT", pixels)
        _put(file, b"IEND", b"")
        return file.getvalue()


def _parts(data: bytes) -> _Parts:
    """The pieces of a file; every checksum is looked at.

    Raises:
        ValueError: damage that concerns the pixels.
    """
    parts, position, view = _Parts(), len(SIGNATURE), memoryview(data)
    ended = False
    while not ended and position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        start, end = position + 8, position + 8 + length
        position = end + 4
        if position > len(data):
            if kind == b"IDAT":
                parts.pixels.append(view[start:end])
            break
        if kind == b"IEND":  # it says nothing but that it is there
            ended = True
        elif binascii.crc32(view[start - 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            if kind in (b"IHDR", b"PLTE", b"IDAT"):
                raise ValueError(f"wrong checksum of {_called(kind)}")
            parts.notes.append(f"{_called(kind)} left out: wrong checksum")
        elif kind == b"IDAT":
            parts.pixels.append(view[start:end])
        else:
            parts.chunks.append((kind, bytes(view[start:end])))
    if not any(kind == b"IHDR" for kind, _ in parts.chunks):
        raise ValueError("ends before its pixels; truncated")
    if not ended:
        parts.pixels = [_recovered(dict(parts.chunks)[b"IHDR"], parts.pixels)]
        parts.notes.append("its end mark is missing; all pixels are there")
    return parts


def _called(kind: bytes) -> str:
    return kind.decode("ascii", "replace")


def _recovered(header: bytes, pixels: Sequence[memoryview | bytes]) -> bytes:
    """The compressed pixels of a file without end mark. Raises ``ValueError`` unless they are all there."""
    width, height, bits, colour, _, _, interlaced = struct.unpack(">IIBBBBB", header[:13])
    bits *= {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    steps = _PASSES if interlaced else ((0, 0, 1, 1),)
    sizes = [(len(range(x, width, dx)), len(range(y, height, dy))) for x, y, dx, dy in steps]
    expected = sum((1 + -(-columns * bits // 8)) * rows for columns, rows in sizes if columns)
    inflater = zlib.decompressobj()
    found = inflater.decompress(b"".join(pixels), expected)
    inflater.decompress(inflater.unconsumed_tail, 1)  # their checksum
    if len(found) < expected or not inflater.eof:
        raise ValueError("ends before its end mark; truncated")
    return zlib.compress(found, 1)


def _profile(chunk: bytes, notes: list[str]) -> bytes:
    """The colour profile; empty, with a note, for what is none or so large that other programs refuse the file."""
    try:
        profile = _inflated(chunk.partition(b"\0")[2][1:])
    except (ValueError, zlib.error) as error:
        notes.append(f"colour profile left out: {_why(error)}")
        return b""
    if profile[36:40] != b"acsp":
        notes.append("colour profile left out: it is none")
        return b""
    return profile


def _why(error: Exception) -> str:
    return "damaged" if isinstance(error, (zlib.error, IndexError)) else str(error)


def _is_sound(kind: bytes, content: bytes, notes: list[str]) -> bool:
    """Whether it is one of the chunks on colours, as long as those are."""
    if kind not in _COLOUR_CHUNKS:
        return False
    if len(content) != _COLOUR_CHUNKS[kind]:
        notes.append(f"{_called(kind)} left out: damaged")
        return False
    return True


def is_plain(data: bytes) -> bool | None:
    """Whether a PNG's pixels can be taken as OpenCV decodes them: RGB, whole, upright, nothing transparent.

    Returns:
        None where its other chunks should be taken away first (:func:`without_extras`).
    """
    position, plain = len(SIGNATURE), True
    if data[12:16] != b"IHDR" or data[24:25] not in (b"\x08", b"\x10") or data[25:26] != b"\x02":
        return False
    while position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        start, position = position + 8, position + 12 + length
        if position > len(data) or kind in (b"eXIf", b"tRNS", b"acTL"):
            return False
        if kind in _TEXT_CHUNKS and data[start : start + 17] == _RAW_PROFILE:
            return False
        if kind == b"IEND":
            return False if data[position - 12 : position] != _END else True if plain else None
        plain = plain and kind in _PIXELS
    return False


def without_extras(data: bytes) -> bytes:
    """A plain file's pixels alone."""
    parts, position, view = [], len(SIGNATURE), memoryview(data)
    kind, start = b"", 0  # of the chunks that are kept together
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if kind not in _PIXELS:
            parts.append(view[start:position])
            start = end
        position = end
    return b"".join([*parts, view[start:position]])


def header(data: bytes | mmap.mmap) -> tuple[int, int, int, int, int]:
    """Width, height, bits, PNG's number of its colours and EXIF's orientation, without decoding.

    EXIF data are looked for before the pixels, and in the last 128 KiB.

    Raises:
        ValueError: it ends before its pixels.
    """
    position, sizes = len(SIGNATURE), data[16:26]
    turned = False
    if len(data) < 33 or data[12:16] != b"IHDR":
        raise ValueError("ends before its pixels; truncated")
    while position + 8 <= len(data):
        length, kind = struct.unpack(">I4s", data[position : position + 8])
        raw_profile = kind in _TEXT_CHUNKS and data[position + 8 : position + 25] == _RAW_PROFILE
        turned = turned or kind == b"eXIf" or raw_profile
        if kind == b"IDAT":
            break
        position += 12 + length
    tail = data[max(len(data) - 2**17, position) :]
    orientation = 1
    if turned or b"eXIf" in tail or _RAW_PROFILE in tail:
        parts = _parts(bytes(data[:]))
        block = dict(reversed(parts.chunks)).get(b"eXIf", _Texts(parts.chunks, []).exif)
        orientation = exif.orientation_or_upright(block)
    return (*struct.unpack(">IIBB", sizes), orientation)


def _inflated(data: bytes) -> bytes:
    inflater = zlib.decompressobj()
    content = inflater.decompress(data, _MAX_INFLATED)
    if inflater.unconsumed_tail:
        raise ValueError(f"more than {_MAX_INFLATED >> 20} MiB")
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


def _decoded16(data: bytes, kinds: dict[bytes, bytes], name: str) -> np.ndarray:
    samples = decoded_by_opencv(data, name)
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


class _Texts:
    """What stands in text chunks: EXIF data, XMP packet, Photoshop's resources, comments, and the `others` as they are.

    Damaged ones, and those so large that other programs refuse the file, are left out with a note.
    """

    def __init__(self, chunks: list[tuple[bytes, bytes]], notes: list[str]) -> None:
        self.exif = self.xmp = self.resources = b""
        self.comments: tuple[bytes, ...] = ()
        self.others: list[tuple[bytes, bytes]] = []
        for kind, content in chunks:
            if kind in _TEXT_CHUNKS:
                keyword = content.partition(b"\0")[0][:79].decode("latin-1")
                try:
                    self._take(kind, content)
                except (ValueError, IndexError, zlib.error) as error:
                    notes.append(f"text '{keyword}' left out: {_why(error)}")

    def _take(self, kind: bytes, content: bytes) -> None:
        keyword, _, text = content.partition(b"\0")
        if kind == b"zTXt":
            text = _inflated(text[1:])
        elif kind == b"iTXt":
            compressed, text = text[0], text[2:].split(b"\0", 2)[2]
            text = _inflated(text) if compressed else text
        if keyword == b"XML:com.adobe.xmp" and kind == b"iTXt":
            self.xmp = text
        elif keyword in _EXIF_TEXT:
            self.exif = self._unhexed(text)
        elif keyword in _IPTC_TEXT:
            found = self._unhexed(text)
            self.resources = resources.kept(resources.of_iptc(found) if found[:1] == b"\x1c" else found)
        elif not content.startswith(_RAW_PROFILE):
            self.others.append((kind, content))
            if keyword == b"Comment" and kind != b"iTXt":
                self.comments += (text,)

    @staticmethod
    def _unhexed(text: bytes) -> bytes:
        lines = text.split()  # the kind, the number of bytes, the bytes as hexadecimal digits
        return bytes.fromhex(b"".join(lines[2:]).decode("ascii"))


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
    if photo.resources:
        digits = photo.resources.hex().encode()
        profile = b"\niptc\n%8d\n%s\n" % (len(photo.resources), digits)
        extra.append((b"zTXt", _RAW_PROFILE + b"iptc\0\0" + zlib.compress(profile)))
    if photo.format != "png":  # else they are among its chunks
        extra += [(b"tEXt", b"Comment\0" + comment.replace(b"\0", b" ")) for comment in photo.comments]
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


def _put(file: IO[bytes], kind: bytes, content: memoryview | bytes) -> None:
    file.write(struct.pack(">I", len(content)))
    file.write(kind)
    file.write(content)
    file.write(struct.pack(">I", binascii.crc32(content, binascii.crc32(kind))))
