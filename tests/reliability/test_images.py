"""Pictures with bytes changed: data sets and `deblur` refuse them in one line, or read them, and nobody else talks."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image
from reliability.attack import attack
from reliability.test_checkpoints import flipped

from ifan_plugin.images import image_io, reader
from ifan_plugin.photos.read_write import write_photo


def pictures(folder: Path) -> list[Path]:
    """Small files of every kind that is read without optional packages."""
    rng = np.random.default_rng(0)
    colours = cv2.GaussianBlur(rng.integers(0, 256, (24, 32, 3), np.uint8), (5, 5), 1)
    deep, alpha = colours.astype(np.uint16) * 257, np.dstack([colours, colours[..., :1]])
    names = {
        "rgb8.png": colours, "rgb16.png": deep, "grey.png": colours[..., 0], "alpha.png": alpha, "a.jpg": colours,
        "grey.jpg": colours[..., 0], "b.bmp": colours, "c.webp": alpha,
    }  # fmt: skip
    for name, pixels in names.items():
        assert cv2.imwrite(str(folder / name), pixels)
    tifffile.imwrite(folder / "d.tif", deep, compression="zlib", photometric="rgb")
    tifffile.imwrite(folder / "tiles.tif", colours, tile=(16, 16), photometric="rgb")
    image = Image.fromarray(colours)
    image.convert("P").save(folder / "palette.png")
    image.convert("CMYK").save(folder / "cmyk.jpg")
    image.save(folder / "progressive.jpg", progressive=True, exif=Image.Exif().tobytes(), comment=b"x", dpi=(72, 72))
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "caption"
    image.save(folder / "turned.jpg", exif=exif)
    image.save(folder / "turned.png", exif=exif)
    image.save(folder / "lzw.tif", compression="tiff_lzw", exif=exif)
    return sorted(folder.iterdir())


def case(files: list[Path], folder: Path, rng: random.Random) -> Callable[[], None]:
    source = rng.choice(files)
    data = source.read_bytes()
    path = folder / f"attack{source.suffix}"
    path.write_bytes(
        flipped(data, rng, only=rng.choice([None, range(min(len(data), 200)), range(len(data) - 64, len(data))]))
    )

    def as_photograph() -> None:
        photo = reader.read_photo(path, 10**6)
        write_photo(folder / "out.png", photo)

    def as_sample() -> None:
        pixels = image_io.read_image(path, None)
        assert pixels.ndim == 3
        assert pixels.shape[2] == 3
        assert 0 <= pixels.min() <= pixels.max() <= 1

    def by_header() -> None:
        header = image_io.read_header(path)
        assert min(header[:2]) > 0

    return rng.choice([as_photograph, as_sample, as_sample, by_header])


@pytest.mark.slow
def test_two_thousand_pictures(tmp_path, capfd):
    (tmp_path / "good").mkdir()
    (tmp_path / "bad").mkdir()
    files = pictures(tmp_path / "good")
    faults = attack(lambda rng: case(files, tmp_path / "bad", rng), cases=2000, seconds=90)
    others = [line for line in capfd.readouterr().err.splitlines() if " cases in " not in line]
    assert not faults, "\n".join(faults)
    assert not others, others[:20]
