"""What Photoshop and news agencies put beside a picture: image resources, and captions (IPTC) among them.

JPEG holds resources in APP13 segments, TIFF in a tag. Source: Adobe Photoshop File Formats Specification, image
resource blocks; IPTC-IIM 4.2.
"""

from __future__ import annotations

import struct

JPEG_MARK = b"Photoshop 3.0\0"
TIFF_RESOURCES, TIFF_IPTC = 34377, 33723
_SIGNATURE = b"8BIM"
_IPTC = 0x0404
# Thumbnails of the picture as it was, and what is carried in places of its own: colour profile, EXIF data, XMP packet.
_LEFT_OUT = frozenset({0x0409, 0x040C, 0x040F, 0x0422, 0x0423, 0x0424})


def kept(blocks: bytes) -> bytes:
    """The resources that still hold after the picture was restored.

    Raises:
        ValueError: damaged.
    """
    parts, position = [], 0
    while position < len(blocks) and blocks[position : position + 1] != b"\0":
        if blocks[position : position + 4] not in (_SIGNATURE, b"MeSa", b"PHUT", b"AgHg", b"DCSR"):
            raise ValueError("Photoshop's resources are damaged")
        try:
            (number,) = struct.unpack_from(">H", blocks, position + 4)
            name = 1 + blocks[position + 6]
            at = position + 6 + name + name % 2
            (size,) = struct.unpack_from(">I", blocks, at)
        except (struct.error, IndexError):
            raise ValueError("Photoshop's resources are cut short") from None
        end = at + 4 + size
        if end > len(blocks):
            raise ValueError("Photoshop's resources are cut short")
        if number not in _LEFT_OUT:
            parts.append(blocks[position:end] + b"\0" * (size % 2))
        position = end + size % 2
    return b"".join(parts)


def of_iptc(records: bytes) -> bytes:
    """Bare IPTC records as a resource."""
    head = _SIGNATURE + struct.pack(">HH", _IPTC, 0) + struct.pack(">I", len(records))
    return head + records + b"\0" * (len(records) % 2)


def iptc_of(blocks: bytes) -> bytes:
    """The IPTC records among resources that :func:`kept` gave; empty where there are none."""
    position = 0
    while position < len(blocks):
        (number,) = struct.unpack_from(">H", blocks, position + 4)
        name = 1 + blocks[position + 6]
        at = position + 6 + name + name % 2
        (size,) = struct.unpack_from(">I", blocks, at)
        if number == _IPTC:
            return blocks[at + 4 : at + 4 + size]
        position = at + 4 + size + size % 2
    return b""
