"""Pictures for people."""

from __future__ import annotations

import numpy as np
import pytest

from ifan_plugin.visual import CAPTION_HEIGHT, colour_disparity, contact_sheet, to_8bit


def test_rounding_to_8_bit():
    assert to_8bit(np.array([[[-1.0, 0.5, 2.0]]])).tolist() == [[[0, 128, 255]]]


def test_disparity_is_blue_below_white_at_and_red_above_zero():
    colours = colour_disparity(np.array([[-2.0, 0.0, 2.0, 1.0]]))[0]
    assert colours[0][2] > colours[0][0]
    assert colours[1].tolist() == [255, 255, 255]
    assert colours[2][0] > colours[2][2]
    assert colours[3].astype(int).sum() > colours[2].astype(int).sum(), "half the disparity is paler"
    assert (colour_disparity(np.zeros((2, 2))) == 255).all()
    assert colour_disparity(np.array([[np.nan, 1.0]])).dtype == np.uint8
    fixed = colour_disparity(np.array([[1.0]]), limit=2.0)
    assert (fixed == colours[3]).all()


def test_a_contact_sheet_holds_every_picture():
    red, blue = np.zeros((20, 40, 3), np.uint8), np.zeros((60, 30, 3), np.uint8)
    red[..., 0], blue[..., 2] = 255, 255
    sheet = contact_sheet([[("red", red), ("blue ü", blue)], [("red", red)]], cell=100, gap=4)
    assert sheet.dtype == np.uint8
    assert sheet.shape[1] == 2 * 104
    assert sheet.shape[0] == 4 + (CAPTION_HEIGHT + 100 + 4) + (CAPTION_HEIGHT + 50 + 4)
    pure_red = (sheet == [255, 0, 0]).all(-1).sum()
    assert pure_red == 2 * 100 * 50
    assert (sheet == [0, 0, 255]).all(-1).sum() == 100 * 50


def test_an_empty_sheet_is_an_error():
    with pytest.raises(ValueError, match="needs rows"):
        contact_sheet([])
