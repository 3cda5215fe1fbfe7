"""Shrinking a part by areas against OpenCV's shrinking of the whole."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from ifan_plugin.images.resample import area_axis, area_resample


def cut(image, rows, columns):
    part = image[rows.start : rows.start + rows.length, columns.start : columns.start + columns.length]
    return np.ascontiguousarray(part.transpose(2, 0, 1))


def by_opencv(image, size):
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)


def test_parts_of_random_places_and_ratios():
    dice = np.random.default_rng(0)
    for trial in range(400):
        old = dice.integers(20, 180, 2)
        new = [max(1, int(side * dice.uniform(0.15 if trial % 4 == 0 else 0.7, 1.0))) for side in old]
        count = [int(dice.integers(1, side + 1)) for side in new]
        # Both ends of the picture as often as its middle.
        start = [int(dice.choice([0, side - n, dice.integers(0, side - n + 1)])) for side, n in zip(new, count)]
        rows, columns = (area_axis(int(o), n, s, c) for o, n, s, c in zip(old, new, start, count))
        image = dice.random((*old, 3), dtype=np.float32)
        got = area_resample(cut(image, rows, columns), rows, columns)
        expected = by_opencv(image, new)[start[0] : start[0] + count[0], start[1] : start[1] + count[1]]
        assert got.dtype == np.float32
        np.testing.assert_allclose(got.transpose(1, 2, 0), expected, atol=1.5e-6, err_msg=f"{old} {new} {start}")


def test_every_size_a_picture_of_the_data_set_may_take():
    image = np.random.default_rng(1).random((4, 1680, 3), dtype=np.float32)
    rows = area_axis(4, 4, 0, 4)
    for new in range(1176, 1681):
        columns = area_axis(1680, new, new - 256, 256)
        got = area_resample(cut(image, rows, columns), rows, columns)
        np.testing.assert_allclose(got.transpose(1, 2, 0), by_opencv(image, (4, new))[:, -256:], atol=1.5e-6)


def test_by_hand():
    rows, columns = area_axis(1, 1, 0, 1), area_axis(5, 4, 1, 2)
    assert (columns.start, columns.length) == (1, 3)
    # Each new pixel covers 1.25 old ones: of the second and third, old ones 1.25 to 2.5 and 2.5 to 3.75.
    got = area_resample(np.array([[[1.0, 2.0, 3.0]]], np.float32), rows, columns)
    np.testing.assert_allclose(got, [[[(0.75 * 1 + 0.5 * 2) / 1.25, (0.5 * 2 + 0.75 * 3) / 1.25]]], rtol=1e-6)


def test_nothing_is_changed_along_an_axis_that_keeps_its_size():
    image = np.random.default_rng(2).random((40, 50, 3), dtype=np.float32)
    rows, columns = area_axis(40, 40, 3, 20), area_axis(50, 50, 30, 20)
    np.testing.assert_array_equal(
        area_resample(cut(image, rows, columns), rows, columns).transpose(1, 2, 0), image[3:23, 30:50]
    )


def test_reads_no_more_than_the_patch_covers():
    for new in (1176, 1300, 1500, 1679):
        axis = area_axis(1680, new, 100, 256)
        assert axis.length <= np.ceil(256 * 1680 / new) + 1
        # The first and the last sample read do count.
        weights = axis.weights.toarray()
        assert weights[0, 0] > 0
        assert weights[-1, -1] > 0
        np.testing.assert_allclose(weights.sum(axis=1), 1, atol=2e-3)  # slivers are left out


@pytest.mark.parametrize("wrong", [(10, 11, 0, 1), (10, 0, 0, 1), (10, 8, -1, 2), (10, 8, 7, 2), (10, 8, 0, 0)])
def test_impossible_axes(wrong):
    with pytest.raises(ValueError, match="shrunk to"):
        area_axis(*wrong)


def test_planes_of_another_size():
    axis = area_axis(10, 8, 0, 8)
    with pytest.raises(ValueError, match="are read"):
        area_resample(np.zeros((3, 10, 9), np.float32), axis, axis)
