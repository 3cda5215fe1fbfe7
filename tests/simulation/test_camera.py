"""The size of the blur, by hand."""

from __future__ import annotations

import pytest

from ifan_plugin.simulation.camera import Camera


@pytest.mark.parametrize(
    ("camera", "depth_m", "diameter_px"),
    [
        # c = f^2 / (N (s - f)) * |d - s| / d, the textbook's form, over the pitch.
        # 50 mm f/2 at 2 m, a point at 4 m: .0025 / (2 * 1.95) * 2 / 4 = 320.5128 um; 36 mm over 6000 px: 6 um
        (Camera(50, 2, 2, 6), 4.0, 53.4188),
        # 85 mm f/1.4 at 3 m, a point at 2.5 m: .007225 / (1.4 * 2.915) * .5 / 2.5 = 354.0799 um; 24 um: shrunk four times
        (Camera(85, 1.4, 3, 24), 2.5, -14.7533),
        # A phone: 4.38 mm f/1.73 at .5 m, far away: 1.91844e-5 / (1.73 * .49562) = 22.3745 um; 1.4 um
        (Camera(4.38, 1.73, 0.5, 1.4), 1e9, 15.9818),
        # The Canon of the pictures in data_files: 50 mm f/4 at 1 m, a poster at .6 m: 657.8947 um * .4 / .6 = 438.5965 um
        (Camera(50, 4, 1, 46.875), 0.6, -9.3567),
    ],
)
def test_circles_of_confusion_of_textbook_cameras(camera, depth_m, diameter_px):
    assert float(camera.circle_of_confusion(depth_m)) == pytest.approx(diameter_px, rel=1e-4)
