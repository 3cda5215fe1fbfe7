"""Colours under full transparency: nobody sees them, before or after."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt

from ifan_plugin.archs.ifan_arch import IFAN
from ifan_plugin.images.transparency import filled, hidden_in, with_hidden
from ifan_plugin.inference.api import restore
from ifan_plugin.weights.networks import Network

KINDS = [np.uint8, np.uint16, np.float32]


def picture(kind, channels=3, seed=0):
    rng = np.random.default_rng(seed)
    shape = (24, 32, channels) if channels else (24, 32)
    return rng.random(shape, np.float32) if kind is np.float32 else rng.integers(0, np.iinfo(kind).max, shape, kind)


def half_hidden(kind):
    alpha = np.zeros((24, 32), kind)
    alpha[4:20, 8:20] = 1.0 if kind is np.float32 else np.iinfo(kind).max
    alpha[4, 8:20] = 0.5 if kind is np.float32 else np.iinfo(kind).max // 2
    return alpha


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", [0, 3, 4])
def test_hidden_colours_are_those_of_the_nearest_visible_pixel(kind, channels):
    pixels, alpha = picture(kind, channels), half_hidden(kind)
    found = filled(pixels, alpha)
    assert np.array_equal(found[alpha > 0], pixels[alpha > 0])
    distance = distance_transform_edt(alpha == 0)
    for row, column in np.argwhere(alpha == 0)[::17]:
        same = (found[row, column] == pixels).reshape(24, 32, -1).all(2) & (alpha > 0)
        nearest = np.hypot(*(np.argwhere(same) - (row, column)).T).min()
        assert nearest <= distance[row, column] + 1.5  # OpenCV's distances are approximate
    assert np.array_equal(with_hidden(found, pixels, alpha), pixels)


@pytest.mark.parametrize("alpha", [None, np.full((24, 32), 255, np.uint8), np.zeros((24, 32), np.uint8)])
def test_nothing_to_fill(alpha):
    pixels = picture(np.uint8)
    assert filled(pixels, alpha) is pixels
    assert hidden_in(alpha) is None


def test_what_8_bits_would_round_to_nothing_is_hidden():
    alpha = np.array([[0, 200, 65535]], np.uint16)
    assert hidden_in(alpha).tolist() == [[True, True, False]]


@pytest.mark.parametrize("kind", KINDS)
def test_visible_pixels_do_not_depend_on_hidden_ones(kind):
    torch.manual_seed(0)
    net = IFAN(width=4, num_steps=2, res_units=1).eval().requires_grad_(False)
    network = Network(net, ("center",), "IFAN", None, "")
    alpha, results = half_hidden(kind), []
    visible = picture(kind)
    for seed in (1, 2):
        pixels = np.where(alpha[..., None] > 0, visible, picture(kind, seed=seed))
        rgba = np.dstack([pixels, alpha])
        results.append(restore(rgba, network))
        assert np.array_equal(results[-1][alpha == 0], rgba[alpha == 0])  # and stay what they were
        assert np.array_equal(results[-1][..., 3], alpha)
    assert np.array_equal(results[0][alpha > 0], results[1][alpha > 0])
