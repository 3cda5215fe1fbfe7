"""What C libraries print about damaged files reaches nobody as it is."""

from __future__ import annotations

import logging
import os
import sys
import threading

import cv2
import numpy as np
import pytest
import tifffile

from ifan_plugin.common.errors import UserError
from ifan_plugin.images.formats.remarks import remarks
from ifan_plugin.images.image_io import read_image

PICTURE = (np.arange(64 * 64 * 3).reshape(64, 64, 3) % 251).astype(np.uint8)


def write(path, cut=0.6):
    """A file that ends too early, its end mark in place."""
    data = cv2.imencode(path.suffix, PICTURE if path.suffix != ".png" else PICTURE.astype(np.uint16) * 257)[1].tobytes()
    end = {".png": data[-12:], ".jpg": data[-2:]}[path.suffix]
    path.write_bytes(data[: int(cut * len(data))] + end)
    return path


def test_a_png_that_is_cut_short_gives_one_line(tmp_path, capfd):
    with pytest.raises(UserError, match=r"a\.png"):
        read_image(write(tmp_path / "a.png"))
    assert capfd.readouterr().err == ""


def test_a_jpeg_that_is_read_all_the_same_is_told_by_its_name(tmp_path, capfd, caplog):
    with caplog.at_level(logging.WARNING, "ifan_plugin"):
        read_image(write(tmp_path / "a.jpg"))
    assert "libjpeg" not in capfd.readouterr().err
    (line,) = caplog.messages
    assert line.startswith(f"{tmp_path / 'a.jpg'}: is damaged, and was read all the same: ")


def test_a_damaged_tiff_says_nothing_of_its_own(tmp_path, caplog):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, PICTURE, photometric="rgb", compression="zlib")
    data = bytearray(path.read_bytes())
    data[8:40] = bytes(32)
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"a\.tif"):
        read_image(path)
    assert not caplog.records


def test_other_text_is_passed_on(capfd):
    with remarks() as said:
        os.write(2, b"libpng error: IDAT: CRC error\nours\n")
        sys.stderr.flush()
    assert said == ["libpng error: IDAT: CRC error"]
    assert capfd.readouterr().err == "ours\n"


def test_blocks_of_several_threads_overlap(capfd):
    begun, go_on, found = threading.Event(), threading.Event(), []

    def first():
        with remarks() as said:
            begun.set()
            assert go_on.wait(10)
        found.append(said)

    thread = threading.Thread(target=first)
    thread.start()
    assert begun.wait(10)
    with remarks() as said:
        os.write(2, b"libpng error: x\n")
    go_on.set()
    thread.join()
    assert said == found[0] == []  # nobody can tell whose it was
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "after\n"
