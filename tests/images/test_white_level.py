"""Few bits in 16-bit files: said in one line, and scaled where somebody says what is white."""

from __future__ import annotations

import logging

import cv2
import numpy as np
import pytest
import torch
from helpers import write_dpdd

from ifan_plugin.data.dual_pixel_dataset import DualPixelDataset
from ifan_plugin.images.white_level import note_on, scaled, usual_white


@pytest.mark.parametrize(
    ("most", "kind", "white"),
    [
        (4095, np.uint16, 4095), (4080, np.uint16, 4095), (1023, np.uint16, 1023), (1024, np.uint16, 4095),
        (4096, np.uint16, 16383), (16384, np.uint16, None), (65535, np.uint16, None), (0, np.uint16, None), (255, np.uint8, None),
    ],
)  # fmt: skip
def test_bits_that_values_need(most, kind, white):
    assert usual_white(np.array([[0, most]], kind)) == white


@pytest.mark.parametrize(
    ("greatest", "said"),
    [([4000, 900], "don't go beyond 4000, as values of 12 bits"), ([900, 800], "10 bits"), ([4000, 5000], None),
     ([4000, 65535], None), ([9000], None), ([0], None), ([], None)],
)  # fmt: skip
def test_the_note(greatest, said):
    note = note_on([np.array([[most]], np.uint16) for most in greatest], "dark", "--white-level {}")
    assert (note is None) == (said is None)
    if said:
        assert note.startswith("dark: ")
        assert said in note
        assert f"--white-level {4095 if '12' in said else 1023} scales them" in note
        assert "\n" not in note


def test_scaling():
    pixels = np.array([0, 2048, 4095, 5000], np.uint16)
    assert scaled(pixels, 4095).tolist() == [0, 32776, 65535, 65535]
    assert scaled(pixels, None) is pixels
    assert scaled(pixels, 65535) is pixels
    eight = np.array([3], np.uint8)
    assert scaled(eight, 4095) is eight


@pytest.fixture
def dark(tmp_path):
    """A data set whose 12-bit values lie in 16-bit files."""
    root = write_dpdd(tmp_path, {"val": 2})
    for path in root.rglob("*.png"):
        pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(path), pixels >> 4)
    return root


@pytest.mark.parametrize("bit_depth", [8, 16])
def test_a_data_set_says_so_and_scales(dark, tmp_path_factory, caplog, bit_depth):
    options = {"phase": "val", "name": "dark", "dataroot": str(dark), "bit_depth": bit_depth}
    with caplog.at_level(logging.WARNING, logger="basicsr"):
        assert DualPixelDataset(options)[0]["lq"].max() < 0.07
    (line,) = [record.getMessage() for record in caplog.records if "near black" in record.getMessage()]
    assert line.endswith("white_level: 4095 scales them")
    caplog.clear()
    bright = DualPixelDataset({**options, "white_level": 4095})
    usual = write_dpdd(tmp_path_factory.mktemp("usual"), {"val": 2})
    expected = DualPixelDataset({**options, "dataroot": str(usual)})[0]
    for role in ("lq", "gt"):
        assert torch.allclose(bright[0][role], expected[role], atol=1.01 / (255 if bit_depth == 8 else 4095))
    assert not [record for record in caplog.records if "near black" in record.getMessage()]
