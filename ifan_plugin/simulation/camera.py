"""The camera of the simulator: a thin lens focused at one distance, and the size of the blur that it makes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ifan_plugin.common.errors import UserError


@dataclass(frozen=True)
class Camera:
    """A thin lens focused at one distance.

    Args:
        focal_length_mm: focal length f, millimetres.
        f_number: f-number N; the aperture's diameter is f / N.
        focus_distance_m: distance s of the focus plane from the lens, metres; beyond the focal length.
        pixel_pitch_um: distance of two pixels of the *picture* on the sensor, micrometres (a picture shrunk
            four times has four times the sensor's pitch).

    Raises:
        UserError: a value isn't positive and finite, or the focus distance isn't beyond the focal length.
    """

    focal_length_mm: float
    f_number: float
    focus_distance_m: float
    pixel_pitch_um: float

    def __post_init__(self) -> None:
        for name in ("focal_length_mm", "f_number", "focus_distance_m", "pixel_pitch_um"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise UserError(f"{name.replace('_', ' ')} is {value}; it must be positive")
        if self.focus_distance_m * 1000 <= self.focal_length_mm:
            raise UserError(
                f"focus distance {self.focus_distance_m:g} m is not beyond the focal length "
                f"{self.focal_length_mm:g} mm; nothing can be in focus there"
            )

    def circle_of_confusion(self, depth_m: np.ndarray | float) -> np.ndarray:
        """Signed circle of confusion, in pixels, of points at ``depth_m`` metres (any shape, positive).

        c(d) = l D / s * (d - s) / d, with the lens-to-sensor distance l = f s / (s - f) and the aperture D
        = f / N, divided by the pixel pitch (geometrical optics of a thin lens). Negative in front
        of the focus plane, 0 on it, positive behind it, where it tends to l D / s. Its size is the *diameter* of the
        disk that a point becomes.
        """
        focal = self.focal_length_mm * 1e-3
        focus = self.focus_distance_m
        aperture = focal / self.f_number
        lens_to_sensor = focal * focus / (focus - focal)
        depth = np.asarray(depth_m, np.float64)
        coc_m = lens_to_sensor * aperture / focus * (depth - focus) / depth
        return coc_m / (self.pixel_pitch_um * 1e-6)
