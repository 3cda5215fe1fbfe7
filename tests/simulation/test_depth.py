"""Depth for pictures that have none, and what lies hidden behind an edge."""

from __future__ import annotations

import numpy as np

from ifan_plugin.simulation.depth import FAR_OVER_NEAR, NEAR_M, invent_depth
from ifan_plugin.simulation.layers import boundaries, reveal


def test_invented_depth_is_a_scene_in_reach():
    sharp = np.random.default_rng(0).random((70, 90, 3)).astype(np.float32)
    kinds = set()
    for seed in range(40):
        picture, depth = invent_depth(sharp, np.random.default_rng(seed))
        assert picture.shape == sharp.shape
        assert 0 <= picture.min() <= picture.max() <= 1
        assert depth.shape == (70, 90)
        assert NEAR_M[0] * 0.99 < depth.min() < depth.max() < NEAR_M[1] * FAR_OVER_NEAR[1] * 1.01
        kinds.add((bool((picture != sharp).any()), len(np.unique(depth)) > 4000))
        again = invent_depth(sharp, np.random.default_rng(seed))
        np.testing.assert_array_equal(again[0], picture)
        np.testing.assert_array_equal(again[1], depth)
    assert len(kinds) >= 3, "with and without cut-outs, smooth and in steps"


def test_segments_follow_the_pictures_edges():
    """Two plain halves: where a depth has an edge along the whole middle it is where the picture has it."""
    sharp = np.zeros((64, 96, 3), np.float32)
    sharp[:, 48:] = 1
    jumps = np.zeros(95)
    for seed in range(60):
        picture, depth = invent_depth(sharp, np.random.default_rng(seed))
        if (picture == sharp).all():  # no cut-outs
            jumps += (np.abs(np.diff(1 / depth, axis=1)) > 0.02).all(axis=0)
    assert jumps[46:50].sum() > jumps[:40].sum() + jumps[56:].sum()


class TestReveal:
    def scene(self):
        picture = np.zeros((40, 60, 3), np.float32)
        picture[..., 0] = np.arange(60) / 60
        radius = np.full((40, 60), 2.0, np.float32)
        radius[:, 30:] = -6.0
        return picture, radius

    def test_the_background_goes_on_behind_the_edge_mirrored(self):
        picture, radius = self.scene()
        hidden = reveal(picture, radius, 8)
        known = np.isfinite(hidden.radius)
        assert known[:, 30:38].all()
        assert not known[:, :30].any()
        assert not known[:, 40:].any()
        np.testing.assert_array_equal(hidden.radius[known], 2.0)
        np.testing.assert_allclose(hidden.colour[20, 30:34, 0], picture[20, [28, 27, 26, 25], 0])

    def test_a_slope_hides_nothing(self):
        picture, radius = self.scene()
        radius[:] = np.linspace(-20, 20, 60)
        assert not np.isfinite(reveal(picture, radius, 12).radius).any()

    def test_layers_meet_half_way(self):
        edges, middles = boundaries(0.5, 7.0)
        assert middles[len(middles) // 2] == 0
        assert (np.diff(middles) > 0.45).all()
        assert middles[-1] > 7
        assert np.searchsorted(edges, np.float32(0.0)) == len(middles) // 2
        for number, radius in enumerate(middles):
            assert np.searchsorted(edges, np.float32(radius)) == number
