"""Odd files in a data set: folders, LMDB made of them, and photographs are read alike."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image

from ifan_plugin.data.dual_pixel_dataset import DualPixelDataset
from ifan_plugin.data.lmdb.create import create
from ifan_plugin.images.image_io import to_planes
from ifan_plugin.images.reader import read_photo

RGB = np.random.default_rng(0).integers(0, 256, (24, 32, 3)).astype(np.uint8)


def packed(kind: str, image: Image.Image | None = None, **options) -> bytes:
    file = io.BytesIO()
    (image or Image.fromarray(RGB)).save(file, kind, **options)
    return file.getvalue()


def turned(order: str, kind: int) -> bytes:
    """A JPEG whose orientation, 6, is BYTE (1), SHORT (3) or LONG (4)."""
    end = "<" if order == "II" else ">"
    value = struct.pack(end + {1: "B", 3: "H", 4: "I"}[kind], 6).ljust(4, b"\0")
    block = b"Exif\0\0" + order.encode() + struct.pack(end + "HIHHHI", 42, 8, 1, 0x112, kind, 1) + value + bytes(4)
    jpeg = packed("JPEG")
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + jpeg[2:]


EXIF = Image.Exif()
EXIF[0x112] = 6
OPAQUE = Image.fromarray(np.dstack([RGB, np.full(RGB.shape[:2], 255, np.uint8)]))
FILES = {
    **{f"{order}{kind}.jpg": turned(order, kind) for order in ("II", "MM") for kind in (1, 3, 4)},
    "turned.png": packed("PNG", exif=EXIF), "turned.webp": packed("WEBP", exif=EXIF, lossless=True),
    "turned.tif": packed("TIFF", tiffinfo={274: 6}), "motion.jpg": packed("JPEG") + b"\0\0\0\x18ftypmp42\xff\xda\0\x08",
    "no end.jpg": packed("JPEG")[:-2], "no end.png": packed("PNG")[:-12], "web.jfif": packed("JPEG"), "plain.bmp": packed("BMP"),
    "grey.png": packed("PNG", Image.fromarray(RGB[..., 0])), "palette.png": packed("PNG", Image.fromarray(RGB).quantize(16)),
    "opaque.png": packed("PNG", OPAQUE), "cmyk.jpg": packed("JPEG", Image.fromarray(RGB).convert("CMYK")),
    "UPPER.JPG": packed("PNG"),
}  # fmt: skip


@pytest.mark.parametrize("encoding", ["png", "raw"])
def test_folders_lmdb_and_photographs_are_read_alike(tmp_path, encoding):
    for number, (name, data) in enumerate(FILES.items()):
        (tmp_path / f"{number:02d} {name}").write_bytes(data)
    options = {"name": "odd", "phase": "test", "crop_multiple": 1}
    folder = DualPixelDataset(options | {"dataroot": str(tmp_path), "layout": "folder"})
    assert len(folder) == len(FILES)
    create(tmp_path / "out", layout="folder", root=tmp_path, encoding=encoding, workers=1)
    stored = DualPixelDataset(options | {"dataroot": str(tmp_path / "out"), "layout": "lmdb"})
    for number in range(len(folder)):
        name = folder.scenes[number].center.name
        photo = read_photo(folder.scenes[number].center)
        pixels = np.repeat(photo.pixels[..., None], 3, axis=2) if photo.grey else photo.pixels
        for dataset in (folder, stored):
            np.testing.assert_array_equal(dataset[number]["lq"].numpy(), to_planes(pixels), err_msg=name)
        is_turned = "turned" in name or name[3:5] in ("II", "MM")
        assert photo.size == ((32, 24) if is_turned else (24, 32)), name
