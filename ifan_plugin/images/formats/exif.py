"""EXIF data, which is a small TIFF file: orientation read and set in place, and carried over to and from TIFF files.

Source: TIFF 6.0 (directories of tagged values) and CIPA DC-008 (EXIF: which tags, in which sub-directories).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple, Union

import numpy as np

ORIENTATION = 0x0112
MARK = b"Exif\0\0"
"""What stands before EXIF data in a JPEG and in some WebP files."""

_EXIF, _GPS, _INTEROPERABILITY = 0x8769, 0x8825, 0xA005
_POINTERS = (_EXIF, _GPS, _INTEROPERABILITY)
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}  # bytes of each type
_SWAPPED = {3: 2, 4: 4, 5: 4, 8: 2, 9: 4, 10: 4, 11: 4, 12: 8, 13: 4}  # what of it has a byte order
_SHORT, _LONG = 3, 4
_WHOLE = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I"}  # kinds of whole numbers, as struct packs them
_MAX_ENTRIES = 4096
_MAKERS_NOTE = 0x927C
_WIDTHS, _HEIGHTS = (0x0100, 0xA002), (0x0101, 0xA003)

DESCRIPTIVE = frozenset(
    {
        0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x013C, 0x4746, 0x4749, 0x8298,
        0x9C9B, 0x9C9C, 0x9C9D, 0x9C9E, 0x9C9F, _EXIF, _GPS,
    }
)  # fmt: skip
"""Tags of a TIFF file's first directory that tell of the photograph (camera, date, author), not of how it is stored."""


class Value(NamedTuple):
    """A tag's value: TIFF's number of its type, how many, and their bytes, little-endian."""

    kind: int
    count: int  # type: ignore[assignment]  # a tuple's method of this name isn't wanted here
    data: bytes


Directory = dict[int, Union[Value, "Directory"]]
"""Tag -> value, or -> a directory below this one (EXIF, GPS, interoperability)."""


def value(kind: int, *numbers: int) -> Value:
    """A value of 16 (kind 3) or 32-bit (kind 4) numbers."""
    return Value(kind, len(numbers), struct.pack(f"<{len(numbers)}{'H' if kind == _SHORT else 'I'}", *numbers))


def rational(number: float) -> Value:
    """A positive number as TIFF's fraction."""
    return Value(5, 1, struct.pack("<II", round(number * 1000), 1000))


def raw(data: bytes, kind: int = 7) -> Value:
    """Bytes (kind 7: of no type)."""
    return Value(kind, len(data), data)


class _Place(NamedTuple):
    """Where an entry stands in a block: its tag, type, count, and the offset of its value."""

    tag: int
    kind: int
    count: int  # type: ignore[assignment]  # a tuple's method of this name isn't wanted here
    offset: int


def _start(block: bytes) -> tuple[str, int]:
    """Byte order and the first directory's offset."""
    order = {b"II*\0": "<", b"MM\0*": ">", b"IIRO": "<", b"IIRS": "<", b"IIU\0": "<"}.get(bytes(block[:4]))
    if order is None or len(block) < 8:  # the last three are camera raw of Olympus and Panasonic
        raise ValueError("EXIF data doesn't begin as TIFF does")
    return order, struct.unpack_from(f"{order}I", block, 4)[0]


def _places(block: bytes, order: str, offset: int) -> tuple[list[_Place], int]:
    """A directory's entries, and the offset of the pointer to the next directory."""
    if offset < 8 or offset + 2 > len(block):
        raise ValueError("EXIF data points beyond its end")
    number = struct.unpack_from(f"{order}H", block, offset)[0]
    end = offset + 2 + 12 * number
    if number > _MAX_ENTRIES or end > len(block):
        raise ValueError("EXIF data is cut short")
    places = []
    for at in range(offset + 2, end, 12):
        tag, kind, count = struct.unpack_from(f"{order}HHI", block, at)
        if kind not in _SIZES:
            continue
        size = _SIZES[kind] * count
        where = at + 8 if size <= 4 else struct.unpack_from(f"{order}I", block, at + 8)[0]
        if where + size <= len(block):  # else it can't be read, and others can
            places.append(_Place(tag, kind, count, where))
    return places, end


def _number(block: bytes, order: str, place: _Place) -> int | None:
    if place.kind not in _WHOLE or place.count < 1:
        return None
    return struct.unpack_from(f"{order}{_WHOLE[place.kind]}", block, place.offset)[0]


def _main_and_exif(block: bytes) -> Iterator[tuple[str, _Place]]:
    """Byte order and entries of the first directory and of the EXIF directory below it."""
    order, first = _start(block)
    places, _ = _places(block, order, first)
    for place in places:
        yield order, place
    for place in places:
        below = _number(block, order, place) if place.tag == _EXIF else None
        if below is not None:
            for inner in _places(block, order, below)[0]:
                yield order, inner


def orientation(block: bytes) -> int:
    """How a picture must be turned to stand upright, 1 (it does) to 8, as EXIF numbers it; 1 where it isn't said.

    EXIF stores the number as SHORT; some programs write LONG or BYTE, which viewers take, too.

    Args:
        block: EXIF data without :data:`MARK`; may be empty.

    Raises:
        ValueError: damaged.
    """
    if not block:
        return 1
    order, first = _start(block)
    for place in _places(block, order, first)[0]:
        if place.tag == ORIENTATION:
            number = _number(block, order, place)
            return number if number is not None and 1 <= number <= 8 else 1
    return 1


def orientation_or_upright(block: bytes) -> int:
    """As :func:`orientation`; 1 where the data are damaged, which then count as left out. :data:`MARK` may be there."""
    try:
        return orientation(block.removeprefix(MARK))
    except (ValueError, struct.error):
        return 1


def made_upright(block: bytes, width: int, height: int) -> bytes:
    """EXIF data of a picture that has been turned upright: orientation 1, and the size it has now.

    The thumbnail, a small copy of the picture as it was, is unlinked. All else keeps its bytes and its place, since
    makers' notes hold offsets of their own.

    Raises:
        ValueError: damaged.
    """
    if not block:
        return b""
    changed = bytearray(block)
    for order, place in _main_and_exif(block):
        new = 1 if place.tag == ORIENTATION else width if place.tag in _WIDTHS else height
        named = place.tag == ORIENTATION or (place.tag in (*_WIDTHS, *_HEIGHTS) and place.count == 1)
        if named and place.count >= 1 and place.kind in _WHOLE:
            bits = 8 * _SIZES[place.kind] - _WHOLE[place.kind].islower()  # lower case: with a sign
            if new < 2**bits:
                struct.pack_into(f"{order}{_WHOLE[place.kind]}", changed, place.offset, new)
    order, first = _start(block)
    _, following = _places(block, order, first)
    if following + 4 <= len(changed):
        struct.pack_into(f"{order}I", changed, following, 0)
    return bytes(changed)


def without_makers_note(block: bytes) -> bytes:
    """EXIF data without the camera maker's own part, which is most of large ones; the rest is packed anew.

    Raises:
        ValueError: damaged.
    """
    directory = parse(block)
    below = directory.get(_EXIF)
    if isinstance(below, dict):
        below.pop(_MAKERS_NOTE, None)
    return build(directory)


def parse(block: bytes, wanted: frozenset[int] | None = None) -> Directory:
    """The first directory of EXIF data, or of a TIFF file, with those below it.

    Args:
        block: EXIF data without :data:`MARK`, or a file's bytes.
        wanted: only these tags of the first directory; None: all.

    Raises:
        ValueError: damaged, or no TIFF.
    """
    if not block:
        return {}
    order, first = _start(block)
    return _parsed(block, order, first, wanted, frozenset())


def _parsed(block: bytes, order: str, offset: int, wanted: frozenset[int] | None, above: frozenset[int]) -> Directory:
    if offset in above:
        raise ValueError("EXIF data goes in circles")
    directory: Directory = {}
    for place in _places(block, order, offset)[0]:
        if wanted is not None and place.tag not in wanted:
            continue
        if place.tag in _POINTERS:
            below = _number(block, order, place)
            if below is not None:
                directory[place.tag] = _parsed(block, order, below, None, above | {offset})
            continue
        data = bytes(block[place.offset : place.offset + _SIZES[place.kind] * place.count])
        if order == ">" and place.kind in _SWAPPED:
            data = np.frombuffer(data, f">u{_SWAPPED[place.kind]}").astype(f"<u{_SWAPPED[place.kind]}").tobytes()
        directory[place.tag] = Value(place.kind, place.count, data)
    return directory


def serialise(directory: Directory, offset: int) -> bytes:
    """A directory, those below it and all values as bytes that will stand at ``offset`` (even) of a little-endian file.

    Raises:
        ValueError: it would reach beyond the 4 GiB that TIFF's offsets can tell.
    """
    entries = []
    head = 2 + 12 * len(directory) + 4
    tail = bytearray()
    size = head + sum(len(held.data) for held in directory.values() if isinstance(held, Value))
    if offset + size >= 2**32 - 2**20:  # with room for the directories below this one
        raise ValueError("a TIFF file can't be larger than 4 GiB")
    for tag in sorted(directory):
        held = directory[tag]
        if isinstance(held, dict):
            at = offset + head + len(tail)
            tail += serialise(held, at)
            entries.append(struct.pack("<HHII", tag, _LONG, 1, at))
        elif len(held.data) <= 4:
            entries.append(struct.pack("<HHI", tag, held.kind, held.count) + held.data.ljust(4, b"\0"))
        else:
            entries.append(struct.pack("<HHII", tag, held.kind, held.count, offset + head + len(tail)))
            tail += held.data
        tail += b"\0" * (len(tail) % 2)
    return struct.pack("<H", len(directory)) + b"".join(entries) + bytes(4) + bytes(tail)


def build(directory: Directory) -> bytes:
    """EXIF data without :data:`MARK` of a directory; empty for an empty one."""
    return struct.pack("<4sI", b"II*\0", 8) + serialise(directory, 8) if directory else b""
