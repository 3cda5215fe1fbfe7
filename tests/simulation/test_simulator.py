"""The physics of the dual-pixel simulator."""

from __future__ import annotations

import numpy as np
import pytest

from ifan_plugin.common.errors import UserError
from ifan_plugin.images.color import linear_from_srgb, srgb_from_linear
from ifan_plugin.simulation.camera import Camera
from ifan_plugin.simulation.depth_values import depth_from_disparity, fill_depth_holes
from ifan_plugin.simulation.simulator import (
    simulate_dual_pixel,
)

CAMERA = Camera(focal_length_mm=50, f_number=2, focus_distance_m=2, pixel_pitch_um=50)


def depth_for_coc(camera: Camera, coc: float) -> float:
    """Depth at which the camera has this circle of confusion: c = a (d - s) / d solved for d."""
    at_infinity = float(camera.circle_of_confusion(1e12))
    return camera.focus_distance_m / (1 - coc / at_infinity)


def texture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((height, width, 3))


def centroid_x(kernel: np.ndarray) -> float:
    x = np.arange(kernel.shape[1]) - kernel.shape[1] // 2
    return float((kernel.sum(axis=0) * x).sum() / kernel.sum())


class TestLight:
    def test_known_values(self):
        np.testing.assert_allclose(linear_from_srgb(np.array([0, 0.5, 1])), [0, 0.21404114, 1], atol=1e-7)
        np.testing.assert_allclose(linear_from_srgb(0.04), 0.04 / 12.92)
        np.testing.assert_allclose(srgb_from_linear(0.002), 0.002 * 12.92)

    def test_round_trip(self):
        values = np.linspace(0, 1, 65536)
        np.testing.assert_allclose(srgb_from_linear(linear_from_srgb(values)), values, atol=1e-7)


class TestCamera:
    def test_hand_computed(self):
        # l = .05 * 2 / 1.95 = .0512821 m, D = .025 m; at 4 m: l D / 2 * 2 / 4 = 3.205128e-4 m = 6.410256 px
        assert float(CAMERA.circle_of_confusion(4.0)) == pytest.approx(6.410256, abs=1e-5)
        # at 1 m: l D / 2 * (1 - 2) / 1 = -6.410256e-4 m
        assert float(CAMERA.circle_of_confusion(1.0)) == pytest.approx(-12.820513, abs=1e-5)

    def test_sign_and_limit(self):
        coc = CAMERA.circle_of_confusion(np.array([0.5, 1.9, 2.0, 2.1, 1e9]))
        assert (coc[:2] < 0).all()
        assert coc[2] == 0
        assert (np.diff(coc) > 0).all()
        assert coc[4] == pytest.approx(12.820513, abs=1e-4)

    def test_halving_the_f_number_doubles_it(self):
        wide = Camera(50, 1, 2, 50)
        assert float(wide.circle_of_confusion(3.0)) == pytest.approx(2 * float(CAMERA.circle_of_confusion(3.0)))

    @pytest.mark.parametrize("bad", [(0, 2, 2, 50), (50, -1, 2, 50), (50, 2, np.nan, 50), (50, 2, 2, np.inf)])
    def test_rejects_what_is_not_positive(self, bad):
        with pytest.raises(UserError, match="must be positive"):
            Camera(*bad)

    def test_rejects_focus_inside_the_focal_length(self):
        with pytest.raises(UserError, match="not beyond the focal length 50 mm"):
            Camera(50, 2, 0.05, 50)


class TestSimulation:
    def slanted_scene(self):
        sharp = texture(60, 80)
        depth = np.broadcast_to(1 / np.linspace(1 / 1.4, 1 / 4, 80), (60, 80)).copy()
        depth[20:40, 30:50] = 1.2
        return sharp, depth

    def test_views_add_up_in_linear_light(self):
        views = simulate_dual_pixel(*self.slanted_scene(), CAMERA)
        left, right, center = (linear_from_srgb(view.astype(np.float64)) for view in views[:3])
        np.testing.assert_allclose((left + right) / 2, center, atol=1e-6)
        assert np.abs(left - right).max() > 0.05

    def test_views_add_up_after_16_bit_rounding(self):
        views = simulate_dual_pixel(*self.slanted_scene(), CAMERA)
        left, right, center = (linear_from_srgb(np.rint(view * 65535.0) / 65535.0) for view in views[:3])
        assert np.abs((left + right) / 2 - center).max() <= 2.3 / 65535

    def test_shapes_ranges_and_coc(self):
        sharp, depth = self.slanted_scene()
        views = simulate_dual_pixel(sharp, depth, CAMERA)
        for view in views[:3]:
            assert view.shape == (60, 80, 3)
            assert view.dtype == np.float32
            assert view.min() >= 0
            assert view.max() <= 1
        np.testing.assert_allclose(views.coc, CAMERA.circle_of_confusion(depth), rtol=1e-5)

    def test_one_plane_in_focus_is_untouched(self):
        sharp = texture(40, 50)
        views = simulate_dual_pixel(sharp, np.full((40, 50), 2.0), CAMERA)
        for view in views[:3]:
            np.testing.assert_allclose(view, sharp, atol=1e-5)

    def test_focused_part_beside_a_blurred_background_is_untouched(self):
        sharp, depth = texture(60, 80), np.full((60, 80), 5.0)
        depth[15:45, 20:60] = 2.0
        views = simulate_dual_pixel(sharp, depth, CAMERA)
        np.testing.assert_allclose(views.center[15:45, 20:60], sharp[15:45, 20:60], atol=1e-4)
        assert np.abs(views.center - sharp)[:10].mean() > 0.1

    @pytest.mark.parametrize("coc", [-18.0, -8.0, 8.0, 12.0])
    def test_a_point_moves_apart_with_its_circle_of_confusion(self, coc):
        sharp = np.zeros((61, 61, 3))
        sharp[30, 30] = 1
        views = simulate_dual_pixel(sharp, np.full((61, 61), depth_for_coc(CAMERA, coc)), CAMERA)
        left, right = (linear_from_srgb(view.astype(np.float64)).sum(axis=2) for view in (views.left, views.right))
        shift = centroid_x(left) - centroid_x(right)
        # What is far lies further left in the left view, as real cameras show it.
        assert np.sign(shift) == -np.sign(coc)
        # A ramp of amplitude a over a disk of radius r moves each view's middle by a r / 4; tanh's is a little less.
        assert abs(shift) == pytest.approx(2 * 0.4 * (abs(coc) / 2) / 4, rel=0.08)
        assert left.sum() == pytest.approx(3, rel=1e-3)
        assert right.sum() == pytest.approx(3, rel=1e-3)

    def test_energy_is_kept(self):
        sharp = texture(64, 96)
        light = linear_from_srgb(sharp).mean()
        views = simulate_dual_pixel(sharp, np.full((64, 96), depth_for_coc(CAMERA, 8)), CAMERA)
        for view in views[:3]:
            assert linear_from_srgb(view).mean() == pytest.approx(light, rel=0.01)

    @pytest.mark.parametrize("focus_m", [1.2, 1.9, 4.0])
    def test_a_uniform_scene_stays_uniform(self, focus_m):
        # Dark halos around occluders, seams between layers and dark borders would all show here.
        _, depth = self.slanted_scene()
        views = simulate_dual_pixel(np.full((60, 80, 3), 0.7), depth, Camera(50, 2, focus_m, 50))
        for view in views[:3]:
            np.testing.assert_allclose(view, 0.7, atol=1e-5)

    def occluder(self, focus_m: float, near: float = 1.0, far: float = 3.0):
        """A bright square in front of a dark wall."""
        sharp, depth = np.full((80, 100, 3), 0.1), np.full((80, 100), far)
        sharp[25:55, 35:65], depth[25:55, 35:65] = 0.9, near
        return simulate_dual_pixel(sharp, depth, Camera(50, 2, focus_m, 50))

    def test_blurred_foreground_spreads_over_a_focused_background(self):
        views = self.occluder(focus_m=3.0)
        row = linear_from_srgb(views.center[40, :, 0])
        edge = (linear_from_srgb(0.9) + linear_from_srgb(0.1)) / 2
        assert (row[36:40] < linear_from_srgb(0.9) - 0.05).all()  # the background shows through from under the square
        assert (row[28:33] > linear_from_srgb(0.1) + 0.02).all()  # and the square's blur lies over the background
        assert row[34:36].mean() == pytest.approx(edge, abs=0.05)
        assert (np.diff(row[15:50]) >= -1e-5).all()
        np.testing.assert_allclose(views.center[5], 0.1, atol=1e-4)

    def test_focused_foreground_does_not_spread(self):
        views = self.occluder(focus_m=1.0)
        np.testing.assert_allclose(views.center[40, 35:65], 0.9, atol=1e-4)
        np.testing.assert_allclose(views.center[40, :35], 0.1, atol=1e-4)

    def test_slanted_foreground_is_opaque(self):
        # Cut into many thin layers, a slanted plane mustn't let through what it hides. Its edges are another matter.
        sharp, depth = np.full((120, 120, 3), 0.1), np.full((120, 120), 3.0)
        sharp[20:100, 20:100] = 0.9
        depth[20:100, 20:100] = np.linspace(1.0, 1.8, 80)[:, None]
        views = simulate_dual_pixel(sharp, depth, Camera(50, 2, 3, 50))
        np.testing.assert_allclose(views.center[45:75, 45:75], 0.9, atol=0.02)

    def test_fine_layers_change_little(self):
        sharp, depth = self.slanted_scene()
        coarse = simulate_dual_pixel(sharp, depth, CAMERA).center
        fine = simulate_dual_pixel(sharp, depth, CAMERA, layer_step=0.1).center
        assert np.sqrt(np.square(coarse - fine).mean()) < 0.03  # of noise, which is the hardest; its blur has 0.2

    def test_holes_in_depth_do_not_matter_where_depth_is_plain(self):
        sharp, depth = texture(40, 50), np.full((40, 50), 3.0)
        whole = simulate_dual_pixel(sharp, depth, CAMERA).center
        depth[10:20, 10:20], depth[30], depth[0, 0] = np.nan, np.inf, np.nan
        np.testing.assert_array_equal(simulate_dual_pixel(sharp, depth, CAMERA).center, whole)

    @pytest.mark.parametrize(
        ("sharp", "depth", "options", "message"),
        [
            (np.zeros((4, 4, 3), np.uint8), np.ones((4, 4)), {}, "float array"),
            (np.zeros((4, 4)), np.ones((4, 4)), {}, "float array"),
            (np.zeros((4, 4, 3)), np.ones((4, 5)), {}, "sizes must be equal"),
            (np.full((4, 4, 3), 1.1), np.ones((4, 4)), {}, r"\[0, 1\]"),
            (np.full((4, 4, 3), np.nan), np.ones((4, 4)), {}, r"\[0, 1\]"),
            (np.zeros((4, 4, 3)), np.zeros((4, 4)), {}, "positive"),
            (np.zeros((4, 4, 3)), np.full((4, 4), np.nan), {}, "no finite value"),
            (np.zeros((4, 4, 3)), np.ones((4, 4)), {"layer_step": 0}, "layer_step"),
            (np.zeros((4, 4, 3)), np.full((4, 4), 0.001), {}, "circle of confusion"),
        ],
    )
    def test_rejects_invalid_input_in_one_line(self, sharp, depth, options, message):
        with pytest.raises(UserError, match=message) as caught:
            simulate_dual_pixel(sharp, depth, CAMERA, **options)
        assert "\n" not in str(caught.value)


class TestDepth:
    def test_disparity_of_middlebury(self):
        depth = depth_from_disparity(np.array([[10.0, np.nan, np.inf, 60.0]]), 1000, 0.2, doffs=30)
        np.testing.assert_allclose(depth, [[5.0, np.nan, np.nan, 200 / 90]])

    def test_disparity_rejects_points_behind_infinity(self):
        with pytest.raises(UserError, match="above -doffs"):
            depth_from_disparity(np.array([[0.0, 1.0]]), 1000, 0.2)

    def test_holes_take_the_farther_neighbour(self):
        nan = np.nan
        depth = fill_depth_holes(np.array([[nan, 1, nan, np.inf, 3, nan], [nan] * 6, [nan, 2, 2, 2, 2, 2]]))
        np.testing.assert_array_equal(depth[0], [1, 1, 3, 3, 3, 3])
        np.testing.assert_array_equal(depth[2], [2] * 6)
        assert np.isfinite(depth).all()

    def test_known_depth_stays(self):
        known = np.random.default_rng(0).uniform(1, 5, (8, 9)).astype(np.float32)
        holed = known.copy()
        holed[2:4, 3:6] = np.nan
        filled = fill_depth_holes(holed)
        keep = np.isfinite(holed)
        np.testing.assert_array_equal(filled[keep], known[keep])
        assert np.isnan(holed[2, 3])  # the caller's array is left alone
