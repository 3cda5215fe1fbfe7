"""The kernels of the first dual-pixel simulator, which the simulator keeps for comparison."""

from __future__ import annotations

import numpy as np
import pytest

from ifan_plugin.common.errors import UserError
from ifan_plugin.simulation.abuolaim import AbuolaimOptics, psf
from ifan_plugin.simulation.camera import Camera
from ifan_plugin.simulation.simulator import simulate_dual_pixel


def centroid_x(kernel: np.ndarray) -> float:
    x = np.arange(kernel.shape[1]) - kernel.shape[1] // 2
    return float((kernel.sum(axis=0) * x).sum() / kernel.sum())


class TestPsf:
    @pytest.mark.parametrize("coc", [0.0, 0.4, 1.0, 2.7, 5.0, 12.3, -0.4, -3.0, -9.5])
    @pytest.mark.parametrize("shape", [(3, 2.5, 0.2), (9, 2.0, 0.1)])
    def test_sums_and_split(self, coc, shape):
        center, left, right = psf(coc, *shape)
        assert center.shape == (2 * int(np.ceil(abs(coc))) + 1,) * 2
        for kernel in (center, left, right):
            assert kernel.sum() == pytest.approx(1, abs=1e-5)
            assert kernel.min() >= 0
        np.testing.assert_allclose((left + right) / 2, center, atol=1e-7)
        np.testing.assert_allclose(left, right[:, ::-1], atol=1e-7)

    def test_sides_swap_across_the_focus_plane(self):
        behind, front = psf(6.0), psf(-6.0)
        np.testing.assert_array_equal(behind.left, front.right)
        assert centroid_x(behind.left) < -1 < 1 < centroid_x(front.left)

    def test_shift_grows_with_the_circle_of_confusion(self):
        shifts = [centroid_x(psf(c).right) - centroid_x(psf(c).left) for c in (0, 0.5, 1, 2, 4, 8, 16)]
        assert (np.diff(shifts) > 0.1).all()
        # A ramp of slope 1 / c over a disk of variance c^2 / 4 or more moves each side by c / 4 or more.
        assert 0.5 * 16 < shifts[-1] < 16

    def test_butterworth_profile(self):
        ring, disk = psf(20.0, 6, 2.0, 0.1).center, psf(20.0, 6, 2.0, 1.0).center
        middle = ring.shape[0] // 2
        # Smoothing takes a part off the bright rim, so the middle stands a little above beta.
        assert 0.1 < ring[middle, middle] / ring[middle].max() < 0.2
        assert np.argmax(ring[middle]) == 1
        assert disk[middle, middle] == pytest.approx(disk[middle, middle + 12], rel=1e-3)
        assert ring[0, 0] == pytest.approx(0, abs=1e-6)

    def test_changes_smoothly_with_the_circle_of_confusion(self):
        for coc in (1.0, 3.0, 7.0):
            below, above = (np.pad(psf(c).center, 1 if c < coc + 1e-9 else 0) for c in (coc, coc + 0.01))
            assert np.abs(below - above).sum() < 0.1

    @pytest.mark.parametrize("bad", [{"order": 0}, {"cutoff": -1}, {"beta": 0}, {"beta": 1.5}])
    def test_rejects_bad_shapes(self, bad):
        with pytest.raises(UserError, match="beta"):
            psf(3.0, **bad)


def test_the_simulator_keeps_the_sources_convention():
    """Its circle of confusion is a radius: the blur is as wide as that of optics with twice the aperture."""
    sharp, depth = np.zeros((61, 61, 3)), np.full((61, 61), 4.0)
    sharp[30, 30] = 1
    camera = Camera(focal_length_mm=50, f_number=2, focus_distance_m=2, pixel_pitch_um=50)
    radius = float(camera.circle_of_confusion(4.0))
    for optics, expected in ((AbuolaimOptics(beta=1.0), radius), (None, radius / 2)):
        chosen = {} if optics is None else {"optics": optics}
        columns = np.flatnonzero(simulate_dual_pixel(sharp, depth, camera, **chosen).center[30, :, 0] > 0.02)
        assert (columns[-1] - columns[0]) / 2 == pytest.approx(expected, abs=1)
