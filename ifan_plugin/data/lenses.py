"""The lens and sensor that a simulated sample is seen through, drawn by chance within an option file's ranges."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ifan_plugin.simulation.abuolaim import AbuolaimOptics
from ifan_plugin.simulation.camera import Camera
from ifan_plugin.simulation.optics import Optics
from ifan_plugin.simulation.presets import PRESETS, draw_optics
from ifan_plugin.simulation.sensor import LightAndSensor, draw_sensor

ABUOLAIM = {"psf_order": [3, 6, 9], "psf_cutoff": [2.0, 2.5], "psf_beta": [0.1, 0.2]}
"""Parameters of ``camera: abuolaim`` -> what is picked from where the options don't say: the source's values."""

# Tell the random numbers of each part from those of the augmentation, so that one doesn't change what others draw.
_CAMERA_STREAM, _OPTICS_STREAM, _SENSOR_STREAM = 1, 2, 3
_CLOSED = 1e6  # an f-number without blur


class Lens(NamedTuple):
    """What a scene is seen through: the camera, the form of its blur, and what happens to the light."""

    camera: Camera
    optics: Optics | AbuolaimOptics
    light: LightAndSensor


def draw_lens(
    options: Mapping[str, Any],
    depth: np.ndarray,
    pitch_um: float,
    key: list[int],
    *,
    training: bool,
    focal_px: float | None = None,
) -> Lens:
    """A lens by chance; always as many numbers are drawn, so that one option doesn't change what the others draw.

    Args:
        options: of :class:`ifan_plugin.data.simulated_dataset.SimulatedDualPixelDataset`, checked.
        depth: [H, W], metres; with ``depth_kind: invented`` it has no true size, and that of the blur is drawn.
        pitch_um: micrometres from pixel to pixel.
        key: what the random numbers follow from.
        training: whether samples may be without blur (``sharp_share``) and apart (``motion``).
        focal_px: the focal length in pixels, where the pitch follows from it and from the focal length drawn.

    Raises:
        UserError: a camera that can't be.
    """
    focal, stop, focus, *shape, largest_part, share = np.random.default_rng([*key, _CAMERA_STREAM]).random(8)
    focal_mm = _between(options["focal_length_mm"], focal)
    low, high = options["f_number"]
    f_number = float(low * (high / low) ** stop)
    focus_m = float(1 / _between(_inverse_distances(options["focus_distance_m"], depth), focus))
    if focal_px is not None:
        pitch_um = focal_mm / focal_px * 1000
    camera = Camera(focal_mm, f_number, focus_m, pitch_um)
    # The blur grows with the distance from the focus plane, so it is largest at one of the ends.
    largest = float(np.abs(camera.circle_of_confusion(np.array([depth.min(), depth.max()]))).max())
    limit = options["max_coc_px"]
    if options["depth_kind"] == "invented":
        f_number *= largest / (limit * (0.1 + 0.9 * largest_part))
        camera = Camera(focal_mm, f_number, focus_m, pitch_um)
    elif largest > limit:
        camera = Camera(focal_mm, f_number * largest / limit, focus_m, pitch_um)
    light = draw_sensor(
        np.random.default_rng([*key, _SENSOR_STREAM]), options["sensor"], motion=options["motion"] and training
    )
    optics = _draw_optics(options, key, shape)
    if training and share < options["sharp_share"]:  # without blur, and without the lens's own faults
        camera, optics = Camera(focal_mm, _CLOSED, focus_m, pitch_um), PRESETS["thin_lens"]
    return Lens(camera, optics, light)


def _inverse_distances(focus_m: tuple[float, float] | None, depth: np.ndarray) -> tuple[float, float]:
    """Between which inverse distances the focus lies: the options', or the scene's own."""
    if focus_m:
        nearest, farthest = focus_m
        return 1 / farthest, 1 / nearest
    step = max(1, min(depth.shape) // 256)  # a sample of the pixels will do
    near, far = np.percentile(1 / depth[::step, ::step], [5, 95])
    return near, far


def _draw_optics(options: Mapping[str, Any], key: list[int], shape: list[float]) -> Optics | AbuolaimOptics:
    name = options["camera"]
    if name == "random":
        return draw_optics(np.random.default_rng([*key, _OPTICS_STREAM]))
    if name == "abuolaim":
        return AbuolaimOptics(*(options[k][int(u * len(options[k]))] for k, u in zip(ABUOLAIM, shape)))
    return PRESETS[name]


def _between(bounds: tuple[float, float], u: float) -> float:
    return float(bounds[0] + (bounds[1] - bounds[0]) * u)
