"""TIFF of 8 and 16 bits with its colour profile, EXIF data and XMP.

Read by tifffile, or, where a compression needs a codec that isn't there (LZW, JPEG), by Pillow (8 bits) or OpenCV
(16 bits). Written here, since Pillow can't write 16-bit RGB, and nobody else writes EXIF directories. Source: TIFF 6.0.
"""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from collections.abc import Iterator
from typing import IO, Any

import numpy as np

from ifan_plugin.common.errors import UserError
from ifan_plugin.images.formats import exif, resources
from ifan_plugin.images.formats.photo import (
    VALID,
    Photo,
    decoded_by_opencv,
    described,
    from_cmyk,
    opened,
    reading,
    require_size,
)  # fmt: skip
from ifan_plugin.images.formats.remarks import quiet_logger, remarks

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two: BigTIFF

_ICC, _XMP, _ORIENTATION = 34675, 700, 274
_MIN_IS_WHITE, _MIN_IS_BLACK, _RGB, _PALETTE, _CMYK, _YCBCR = 0, 1, 2, 3, 5, 6
_WANTED = exif.DESCRIPTIVE | {resources.TIFF_RESOURCES, resources.TIFF_IPTC}
_RAW = {32803: "a colour filter array", 34892: "linear raw"}
_OTHERS = {4: "a transparency mask", 8: "CIE L*a*b*", 9: "ICC L*a*b*", 10: "ITU L*a*b*", 32844: "LogL"}
_UNSIGNED = 1  # SampleFormat
_PREMULTIPLIED, _UNASSOCIATED = 1, 2  # ExtraSamples
_DEFLATE, _DIFFERENCES = 8, 2  # Compression, Predictor
_TAG_TYPES = {1: "B", 3: "H", 4: "I", 16: "Q"}
_STRIP = 2**20  # bytes before compression


@contextlib.contextmanager
def _faults_as_values() -> Iterator[None]:
    """tifffile's own error for damage, which before 2025.10 was no ValueError."""
    import tifffile

    try:
        yield
    except tifffile.TiffFileError as error:
        raise ValueError(str(error)) from error


def read(data: bytes, name: str, max_pixels: int) -> Photo:
    """A photo of a TIFF's bytes.

    Raises:
        UserError: damaged, too large, of several pages, or of samples or colours that aren't handled.
    """
    import tifffile

    # Its remarks on damaged files are raised below.
    with (
        reading(name, "TIFF"),
        quiet_logger("tifffile"),
        _faults_as_values(),
        tifffile.TiffFile(io.BytesIO(data)) as file,
    ):
        pages = [page for page in (file.pages[i] for i in range(len(file.pages))) if not int(page.subfiletype) & 1]
        if len(pages) != 1:
            what = f"{len(pages)} pages" if pages else "only a thumbnail"
            raise UserError(f"{name}: TIFF has {what}; {VALID}, one picture a file")
        page = pages[0]
        facts = _checked(page, name, max_pixels)
        orientation = page.tags[_ORIENTATION].value if _ORIENTATION in page.tags else 1
        orientation = orientation[0] if isinstance(orientation, (bytes, tuple)) and orientation else orientation
        samples = _decoded(page, data, name, max_pixels, file.byteorder)
        icc, xmp = (bytes(page.tags[tag].value) if tag in page.tags else b"" for tag in (_ICC, _XMP))
        resolution = _dpi(page.tags)
    if facts["photometric"] == _MIN_IS_WHITE:
        samples = samples.copy()
        colours = samples if samples.ndim == 2 else samples[..., :1]
        np.subtract(np.iinfo(samples.dtype).max, colours, out=colours)
    notes = []
    if facts["photometric"] == _CMYK:
        from PIL import Image

        samples, icc, note = from_cmyk(Image.fromarray(samples, "CMYK"), icc)
        notes.append(note)
    try:
        directory = exif.parse(data, _WANTED) if data[2:4] in (b"*\0", b"\0*") else {}
        blocks = _resources(directory, notes)
        block = exif.build(directory)
    except (ValueError, struct.error) as error:
        notes.append(f"EXIF data left out: {error}")
        block = blocks = b""
    turn = orientation if isinstance(orientation, int) and orientation in range(1, 9) else 1
    return described(
        samples, "tiff", block, xmp, orientation=turn, icc=icc,
        dpi=resolution, premultiplied=facts["premultiplied"], notes=notes, resources=blocks,
    )  # fmt: skip


def _resources(directory: exif.Directory, notes: list[str]) -> bytes:
    """Photoshop's resources and the captions (IPTC) of a directory, which loses them."""
    held = directory.pop(resources.TIFF_RESOURCES, None)
    iptc = directory.pop(resources.TIFF_IPTC, None)
    try:
        blocks = resources.kept(held.data) if isinstance(held, exif.Value) else b""
    except ValueError as error:
        notes.append(f"{error} and left out")
        blocks = b""
    if isinstance(iptc, exif.Value) and not resources.iptc_of(blocks):
        # Records are bytes, though many programs say that they are 32-bit numbers.
        swapped = np.frombuffer(iptc.data[: len(iptc.data) // 4 * 4], "<u4").byteswap().tobytes()
        records = next((each for each in (iptc.data, swapped) if each[:1] == b"\x1c"), b"")
        blocks += resources.of_iptc(records.rstrip(b"\0")) if records else b""
    return blocks


def _checked(page: Any, name: str, max_pixels: int) -> dict[str, Any]:
    """What a page says of its samples, if they can be handled."""
    require_size(name, page.imagelength, page.imagewidth, max_pixels)
    photometric = int(page.photometric) if page.photometric is not None else _MIN_IS_BLACK
    if photometric in _RAW:
        raise UserError(f"{name}: TIFF holds {_RAW[photometric]}, camera raw; rename it to its own ending, as .dng")
    if photometric not in (_MIN_IS_WHITE, _MIN_IS_BLACK, _RGB, _PALETTE, _CMYK, _YCBCR):
        raise UserError(f"{name}: TIFF is {_OTHERS.get(photometric, f'of colours {photometric}')}; {VALID}")
    bits, kind = page.bitspersample, int(page.sampleformat or _UNSIGNED)
    if kind != _UNSIGNED or bits not in (8, 16) or (bits == 16 and photometric in (_PALETTE, _CMYK, _YCBCR)):
        kind_name = {2: "signed ", 3: "float ", 5: "complex ", 6: "complex "}.get(kind, "")
        raise UserError(f"{name}: TIFF has {kind_name}samples of {bits} bits; {VALID}")
    if page.imagedepth != 1:
        raise UserError(f"{name}: TIFF has {page.imagedepth} layers; {VALID}")
    colours = {_RGB: 3, _YCBCR: 3, _CMYK: 4}.get(photometric, 1)
    extra = page.samplesperpixel - colours
    if extra not in (0, 1) or (extra and photometric in (_PALETTE, _CMYK, _YCBCR)):
        raise UserError(f"{name}: TIFF has {page.samplesperpixel} samples a pixel; {VALID}")
    extras = [int(number) for number in page.extrasamples]
    premultiplied = {_PREMULTIPLIED: True, _UNASSOCIATED: False}.get(extras[0]) if extras else None
    return {"photometric": photometric, "premultiplied": premultiplied}


def _decoded(page: Any, data: bytes, name: str, max_pixels: int, byte_order: str) -> np.ndarray:
    """The samples as stored, [H, W] or [H, W, C]."""
    needs_pillow = int(page.photometric or 0) in (_PALETTE, _YCBCR)
    if not needs_pillow:
        try:
            planes = page.asarray(squeeze=False)  # [planes, 1, H, W, samples], and one of the two numbers is 1
        except (ValueError, KeyError, ImportError) as error:
            if "imagecodecs" not in str(error):
                raise
        else:
            return _squeezed(planes[0, 0] if planes.shape[0] == 1 else planes[:, 0, :, :, 0].transpose(1, 2, 0))
    # The other two turn the picture themselves, each in some cases: they aren't told.
    if _ORIENTATION in page.tags:
        tag, changed = page.tags[_ORIENTATION], bytearray(data)
        struct.pack_into(f"{byte_order}{_TAG_TYPES.get(int(tag.dtype), 'H')}", changed, tag.valueoffset, 1)
        data = bytes(changed)
    if page.bitspersample == 8:
        samples: np.ndarray | None
        with remarks(), opened(data, name, "TIFF", max_pixels) as image:  # libtiff's, on what is raised here, too
            mode = {"P": "RGB", "YCbCr": "RGB", "RGBX": "RGBX", "RGBa": "RGBa"}.get(image.mode, image.mode)
            samples = np.asarray(image if mode == image.mode else image.convert(mode))
    else:
        samples = decoded_by_opencv(data, name)
        if samples is not None and samples.ndim == 3:
            samples = samples[..., [2, 1, 0, 3][: samples.shape[2]]]
    expected = (page.imagelength, page.imagewidth, 3 if needs_pillow else page.samplesperpixel, page.bitspersample)
    found = (*samples.shape, 1)[:3] if samples is not None else ()
    if samples is None or (*found, 8 * samples.dtype.itemsize) != expected:
        kind = getattr(page.compression, "name", page.compression)
        raise UserError(
            f"{name}: TIFF, compression {kind}, is damaged or cut short, or needs a codec: pip install imagecodecs"
        )
    return _squeezed(samples)


def _squeezed(samples: np.ndarray) -> np.ndarray:
    samples = samples[..., 0] if samples.ndim == 3 and samples.shape[2] == 1 else samples
    return np.ascontiguousarray(samples, samples.dtype.newbyteorder("="))


def _dpi(tags: Any) -> tuple[float, float] | None:
    try:
        found = [tags[tag].value for tag in (282, 283)]
        x, y = (numerator / denominator for numerator, denominator in found)
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    unit = int(tags[296].value) if 296 in tags else 2
    factor = {2: 1.0, 3: 2.54}.get(unit, 0.0)
    return (x * factor, y * factor) if x * factor >= 1 and y * factor >= 1 else None


def write(file: IO[bytes], photo: Photo) -> None:
    """Write a photo with its profile, EXIF data and XMP, compressed without loss (deflate, differences of neighbours).

    Raises:
        ValueError: larger than the 4 GiB of TIFF.
        OSError: it can't be written.
    """
    samples = photo.samples()
    samples = samples if samples.ndim == 3 else samples[..., None]
    height, width, channels = samples.shape
    directory = exif.parse(photo.exif, exif.DESCRIPTIVE)
    strips = _write_strips(file, samples)
    long = 4
    directory |= {
        256: exif.value(long, width),
        257: exif.value(long, height),
        258: exif.value(3, *[8 * samples.dtype.itemsize] * channels),
        259: exif.value(3, _DEFLATE),
        262: exif.value(3, _MIN_IS_BLACK if channels < 3 else _RGB),
        273: exif.value(long, *(offset for offset, _ in strips)),
        _ORIENTATION: exif.value(3, 1),
        277: exif.value(3, channels),
        278: exif.value(long, _rows_a_strip(samples)),
        279: exif.value(long, *(size for _, size in strips)),
        284: exif.value(3, 1),  # samples of a pixel side by side
        317: exif.value(3, _DIFFERENCES),
        339: exif.value(3, *[_UNSIGNED] * channels),
    }
    if photo.alpha is not None:
        kind = {True: _PREMULTIPLIED, False: _UNASSOCIATED, None: 0}[photo.premultiplied]
        directory[338] = exif.value(3, kind)
    if photo.dpi is not None:
        directory |= {282: exif.rational(photo.dpi[0]), 283: exif.rational(photo.dpi[1]), 296: exif.value(3, 2)}
    if photo.icc:
        directory[_ICC] = exif.raw(photo.icc)
    if photo.xmp:
        directory[_XMP] = exif.raw(photo.xmp, kind=1)
    if photo.resources:
        directory[resources.TIFF_RESOURCES] = exif.raw(photo.resources, kind=1)
        records = resources.iptc_of(photo.resources)
        directory |= {resources.TIFF_IPTC: exif.raw(records)} if records else {}
    if photo.comments and 0x010E not in directory:  # ImageDescription
        directory[0x010E] = exif.raw(photo.comments[0].rstrip(b"\0") + b"\0", kind=2)
    start = file.tell()
    file.write(exif.serialise(directory, start))
    file.seek(4)
    file.write(struct.pack("<I", start))
    file.seek(0, io.SEEK_END)


def _rows_a_strip(samples: np.ndarray) -> int:
    return max(1, _STRIP // samples[0].nbytes)


def _write_strips(file: IO[bytes], samples: np.ndarray) -> list[tuple[int, int]]:
    """Header and pixels. Returns offset and size of each strip."""
    file.write(b"II*\0" + bytes(4))
    strips, offset = [], 8
    rows = _rows_a_strip(samples)
    for top in range(0, len(samples), rows):
        strip = samples[top : top + rows].astype(samples.dtype.newbyteorder("<"))
        strip[:, 1:] -= samples[top : top + rows, :-1]
        packed = zlib.compress(strip.tobytes(), 4)
        packed += b"\0" * (len(packed) % 2)  # offsets are even
        if offset + len(packed) >= 2**32:
            raise ValueError("a TIFF file can't be larger than 4 GiB")
        file.write(packed)
        strips.append((offset, len(packed)))
        offset += len(packed)
    return strips
