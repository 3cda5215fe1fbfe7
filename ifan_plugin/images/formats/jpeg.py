"""JPEG: where its parts lie, and whether all of its pixels are there. Source: ITU-T T.81, annex B."""

from __future__ import annotations

import io
import mmap
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from ifan_plugin.common.errors import UserError
from ifan_plugin.images.formats import exif, resources
from ifan_plugin.images.formats.photo import (
    VALID,
    Photo,
    described,
    dpi_of,
    from_cmyk,
    opened,
    reading,
    require_size,
)  # fmt: skip

SIGNATURE = b"\xff\xd8\xff"
END = b"\xff\xd9"

_SOI, _EOI, _SOS, _COM, _APP1, _APP13 = 0xD8, 0xD9, 0xDA, 0xFE, 0xE1, 0xED
_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_ALONE = frozenset({0x01, *range(0xD0, 0xD8)})  # markers without content: nothing, and restarts
# What may follow a scan. Anything else after 0xff, in a damaged file, is no marker.
_AFTER_SCAN = re.compile(rb"\xff[\xc4\xcc\xd9-\xdd\xe0-\xef\xfe]")
_COLOURS = {1: "grey", 3: "rgb", 4: "cmyk"}
_MOTION = re.compile(rb"((?:MotionPhoto|MicroVideo)\s*(?:=\s*[\"']|>\s*))1")


@dataclass
class Facts:
    """What the markers of a JPEG say.

    Args:
        height, width, bits, components: of the frame; 0 where there is none.
        progressive: whether its pixels come in several passes.
        exif: EXIF data without their mark.
        resources: Photoshop's, as stored.
        comments: of the COM segments.
        end: offset behind the end mark; None: there is none.
        scans: for each scan its components, first and last coefficient, and how many bits are still to come.
    """

    height: int = 0
    width: int = 0
    bits: int = 0
    components: int = 0
    progressive: bool = False
    exif: bytes = b""
    resources: bytes = b""
    comments: tuple[bytes, ...] = ()
    end: int | None = None
    scans: list[tuple[bytes, int, int, int]] = field(default_factory=list)

    @property
    def colour(self) -> str:
        """As :class:`ifan_plugin.images.image_io.ImageHeader` names it."""
        return _COLOURS.get(self.components, f"of {self.components} channels")

    @property
    def all_scans(self) -> bool:
        """Whether every coefficient of every component has come in full."""
        open_bits = {}
        for names, first, last, low in self.scans:
            for name in names:
                open_bits.update({(name, number): low for number in range(first, last + 1)})
        return len(open_bits) == 64 * self.components and not any(open_bits.values())


def facts(data: bytes | mmap.mmap, *, head_only: bool = False) -> Facts:
    """Read the markers of a JPEG.

    Args:
        data: the file.
        head_only: stop where the pixels begin; `end` is None then.

    Raises:
        ValueError: it has no frame, or ends before its pixels.
    """
    found = Facts()
    for marker, start, end in _segments(data):
        if marker in _FRAMES and not found.components:
            found.bits, found.height, found.width, found.components = struct.unpack_from(">BHHB", data, start)
            found.progressive = marker in _PROGRESSIVE
        elif marker == _APP1 and data[start : start + 6] == exif.MARK:
            found.exif += data[start + 6 : end]  # large ones go on in the next segment
        elif marker == _APP13 and data[start : start + 14] == resources.JPEG_MARK:
            found.resources += data[start + 14 : end]
        elif marker == _COM:
            found.comments += (data[start:end],)
        elif marker == _SOS:
            if head_only:
                break
            count = data[start]
            names = data[start + 1 : start + 1 + 2 * count : 2]
            first, last, bits = data[start + 1 + 2 * count : start + 4 + 2 * count] or (0, 63, 0)
            found.scans.append((names, first, last, bits & 15) if found.progressive else (names, 0, 63, 0))
        elif marker == _EOI:
            found.end = end
    if not found.components or not (head_only or found.scans):
        raise ValueError("truncated before its pixels")
    return found


def _segments(data: bytes | mmap.mmap) -> Iterator[tuple[int, int, int]]:
    """Marker, and where its content begins and ends; up to the end mark, or as far as the file goes."""
    position = 2
    while position + 1 < len(data):
        if data[position] != 0xFF or data[position + 1] == 0xFF:  # fill bytes
            position += 1
            continue
        marker, position = data[position + 1], position + 2
        if marker == _EOI:
            yield marker, position, position
            return
        if marker in _ALONE or marker in (0, _SOI):
            continue
        if position + 2 > len(data):
            return
        end = position + struct.unpack_from(">H", data, position)[0]
        if end > len(data) or end < position + 2:
            return
        yield marker, position + 2, end
        position = end
        if marker == _SOS:
            following = _AFTER_SCAN.search(data, position)
            if following is None:
                return
            position = following.start()


def read(data: bytes, name: str, max_pixels: int) -> Photo:
    """A photo of a JPEG's bytes; CMYK is converted through its profile.

    Raises:
        UserError: damaged, too large, or of colours that aren't handled.
    """
    notes: list[str] = []
    with reading(name, "JPEG"):
        found = facts(data)
        require_size(name, found.height, found.width, max_pixels)
        whole = data if found.end is not None else _completed(data, found, name, max_pixels)
    if found.end is None:
        notes.append("its end mark is missing; all pixels are there")
    with opened(whole, name, "JPEG", max_pixels) as image:
        if image.mode not in ("RGB", "L", "CMYK"):
            raise UserError(f"{name}: JPEG is {image.mode}; {VALID}")
        several = getattr(image, "n_frames", 1) > 1
        image.load()
        info, dpi = dict(image.info), dpi_of(image)
        icc = info.get("icc_profile") or b""
        if image.mode == "CMYK":
            samples, icc, note = from_cmyk(image, icc)
            notes.append(note)
        else:
            samples = np.asarray(image)
    xmp = info.get("xmp", b"")
    behind = len(data[found.end :].strip(b"\0\xff")) if found.end is not None else 0
    if several:
        notes.append("the first of several pictures in the file; the others (a second view, a gain map) are left out")
        xmp = b""  # it would tell where the others stand
    elif behind:
        notes.append(f"{behind} bytes behind the picture's end (the film of a motion photo, say) are left out")
        xmp = _MOTION.sub(rb"\g<1>0", xmp)
    blocks = b""
    try:
        blocks = resources.kept(found.resources)
    except ValueError as error:
        notes.append(f"{error} and left out")
    return described(
        samples, "jpeg", found.exif, xmp, icc=icc, dpi=dpi, lossless=False, notes=notes, resources=blocks,
        comments=found.comments,
    )  # fmt: skip


def _completed(data: bytes, found: Facts, name: str, max_pixels: int) -> bytes:
    """A file without its end mark, with one.

    Whether its pixels are all there shows when other data follow: decoders make pixels of those where any are wanting.

    Raises:
        ValueError: some are wanting.
    """
    cut = data.rstrip(b"\xff")
    candidates = [cut + END, cut + b"\x5a\xa5" * 64 + END]
    decoded = []
    for candidate in candidates:
        with opened(candidate, name, "JPEG", max_pixels) as image:
            decoded.append(np.array(image))
    if not found.all_scans or not np.array_equal(decoded[0], decoded[1]):
        raise ValueError("ends before its end mark; truncated")
    return candidates[0]


def segments(blocks: bytes, comments: tuple[bytes, ...]) -> bytes:
    """Resources and comments as segments of a JPEG."""
    parts = io.BytesIO()
    room = 65533 - len(resources.JPEG_MARK)
    for start in range(0, len(blocks), room):
        _put(parts, _APP13, resources.JPEG_MARK + blocks[start : start + room])
    for comment in comments:
        _put(parts, _COM, comment[:65533])
    return parts.getvalue()


def _put(file: io.BytesIO, marker: int, content: bytes) -> None:
    file.write(struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content)
