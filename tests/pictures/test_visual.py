"""Pictures for people."""

from __future__ import annotations

import numpy as np
import pytest

from ifan_plugin.images.color import to_8bit
from ifan_plugin.pictures.visual import (
    CAPTION_HEIGHT,
    ERROR_SCALE,
    LINE_HEIGHT,
    TITLE_HEIGHT,
    colour_bar,
    colour_disparity,
    colour_error,
    colour_signed,
    contact_sheet,
    error_map,
    kernel_grid,
    kernel_picture,
)


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


class TestSignedColours:
    def test_zero_is_white_and_signs_have_their_colours(self):
        colours = colour_signed(np.array([[-1.0, -0.5, 0.0, 0.5, 1.0]]))[0].astype(int)
        assert colours[2].tolist() == [255, 255, 255]
        assert colours[0].tolist() == [33, 102, 172]
        assert colours[4].tolist() == [178, 24, 43]
        assert (colour_signed(np.array([[5.0]]), limit=1.0) == colours[4]).all(), "beyond the limit it stays"

    def test_the_bars_are_the_maps_own_colours(self):
        signed, error = colour_bar(signed=True, width=5, height=2), colour_bar(signed=False, width=5, height=2)
        assert signed.shape == error.shape == (2, 5, 3)
        np.testing.assert_array_equal(signed[0], colour_signed(np.linspace(-1, 1, 5)[None])[0])
        np.testing.assert_array_equal(error[1], colour_error(np.linspace(0, 1, 5)[None])[0])


class TestErrorMap:
    def test_scale(self):
        sharp = np.full((2, 3, 3), 0.3, np.float32)
        levels = [error_map(sharp + step, sharp)[0, 0].astype(int) for step in (0, 0.04, 0.08, ERROR_SCALE, 0.6)]
        assert levels[0].max() < 8, "none is black"
        assert (levels[3] == levels[4]).all(), "the scale is the brightest"
        brightness = [level @ [0.2126, 0.7152, 0.0722] for level in levels]
        assert brightness[:4] == sorted(brightness[:4])
        assert (error_map(sharp + 0.04, sharp, scale=0.1)[0, 0] == levels[2]).all()
        assert (error_map(sharp - 0.04, sharp)[0, 0] == levels[1]).all()

    def test_the_mean_of_the_colours_counts(self):
        sharp = np.zeros((1, 2, 3))
        picture = np.array([[[0.24, 0, 0], [0.08, 0.08, 0.08]]])
        found = error_map(picture, sharp)
        assert (found[0, 0] == found[0, 1]).all()

    def test_what_is_no_number_is_shown_as_the_largest(self):
        assert (colour_error(np.array([[np.nan]])) == colour_error(np.array([[1.0]]))).all()


class TestKernelPicture:
    weights = np.zeros((5, 5), np.float32)
    weights[2, 2], weights[1, 2], weights[4, 0] = 0.8, -0.4, -0.8

    def test_every_weight_is_a_square_of_its_colour(self):
        shown = kernel_picture(self.weights, side=360)
        red, blue = np.array([178, 24, 43]), np.array([33, 102, 172])
        square = 360 // 5
        lines = 2 * square - 1  # each square's first row and column are a thin line
        assert (shown == red).all(-1).sum() >= square**2 - lines
        (top, left), (bottom, right) = (
            getattr(np.argwhere((shown[:, :410] == red).all(-1)), edge)(0) for edge in ("min", "max")
        )
        assert (bottom - top + 1, right - left + 1) == (square - 1, square - 1)
        corner = np.argwhere((shown[:, :410] == blue).all(-1)).mean(0)
        assert corner[0] - (top + bottom) / 2 == pytest.approx(2 * square, abs=1)
        assert corner[1] - (left + right) / 2 == pytest.approx(-2 * square, abs=1)
        assert (shown == colour_signed(self.weights)[1, 2]).all(-1).any(), "half the weight is paler"

    def test_axes_and_scale_are_written(self):
        shown = kernel_picture(self.weights, side=360)
        height, width = shown.shape[:2]
        area = slice(44, height - 44)
        for margin in (shown[:40], shown[-40:], shown[area, :40], shown[area, -55:]):
            assert margin.min() < 100, "texts"
        plain = kernel_picture(self.weights, side=360, limit=100)
        assert plain.shape == shown.shape
        assert (plain != shown).any()
        assert kernel_picture(self.weights, side=360, text=1.5).shape[1] > width

    def test_kernels_of_zeros_and_single_weights(self):
        assert kernel_picture(np.zeros((3, 3))).shape[2] == 3
        assert kernel_picture(np.ones((1, 1))).dtype == np.uint8
        assert kernel_picture(np.ones((89, 89)), side=60).shape[0] > 89, "never less than a pixel a weight"


class TestKernelGrid:
    def test_one_scale_for_all_or_each_its_own(self):
        weak, strong = np.zeros((3, 3)), np.zeros((3, 3))
        weak[1, 1], strong[1, 1] = 0.1, -1.0
        together, each = kernel_grid([[weak, strong]], 66), kernel_grid([[weak, strong]], 66, each=True)
        full = [178, 24, 43]
        assert not (together == full).all(-1).any()
        assert (each == full).all(-1).any()
        blue = (together == [33, 102, 172]).all(-1)
        assert blue.sum() == 10**2, "33 px a kernel, 3 of them the gap, 3 squares a side"
        assert (blue == (each == [33, 102, 172]).all(-1)).all()
        assert np.argwhere(blue)[:, 1].min() > 33, "in the second kernel"
        assert (kernel_grid([[weak]], 66, limit=0.1) == full).all(-1).any()

    def test_rows_must_be_of_one_length(self):
        for rows in ([], [[]], [[np.ones((3, 3))], []]):
            with pytest.raises(ValueError, match="rows of one length"):
                kernel_grid(rows)
