"""Pictures for people."""

from __future__ import annotations

import numpy as np
import pytest

from ifan_plugin.visual import CAPTION_HEIGHT, LINE_HEIGHT, TITLE_HEIGHT, colour_disparity, contact_sheet, to_8bit


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


def test_captions_of_two_lines_and_titles_make_room():
    red = np.full((20, 40, 3), (255, 0, 0), np.uint8)
    sheet = contact_sheet([[("red\n40x20", red), ("red", red)]] * 2, cell=100, gap=4, titles=["one", "two"])
    row = TITLE_HEIGHT + CAPTION_HEIGHT + LINE_HEIGHT + 50 + 4
    assert sheet.shape == (4 + 2 * row, 2 * 104 + 4, 3)
    assert (sheet == [255, 0, 0]).all(-1).sum() == 4 * 100 * 50
    for number in range(2):
        top = 4 + number * row
        assert sheet[top : top + TITLE_HEIGHT].min() < 100, "a title"
        second_line = top + TITLE_HEIGHT + CAPTION_HEIGHT
        assert sheet[second_line : second_line + LINE_HEIGHT - 5, :104].min() < 100
        assert sheet[second_line : second_line + LINE_HEIGHT - 5, 108:].min() > 200


def test_pixels_stay_squares_when_asked_for():
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    sheet = contact_sheet([[("a", picture)]], cell=100, gap=4, pixels=True)
    large = picture.repeat(3, axis=0).repeat(3, axis=1)  # 30 fits into 100 three times
    np.testing.assert_array_equal(sheet[4 + CAPTION_HEIGHT : 4 + CAPTION_HEIGHT + 60, 4:94], large)
    same = contact_sheet([[("a", picture)]], cell=30, gap=4, pixels=True)
    np.testing.assert_array_equal(same[4 + CAPTION_HEIGHT : 24 + CAPTION_HEIGHT, 4:34], picture)


def test_long_captions_shrink_into_their_cell():
    white = np.full((100, 100, 3), 255, np.uint8)
    for caption in ("x" * 60, "Größe", "Größe" * 30):
        sheet = contact_sheet([[(caption, white), ("", white)]], cell=100, gap=4)
        assert sheet[:, 4:104].min() < 200
        assert sheet[:, 104:].min() == 255, "nothing runs over"


def test_an_empty_sheet_is_an_error():
    with pytest.raises(ValueError, match="needs rows"):
        contact_sheet([])
