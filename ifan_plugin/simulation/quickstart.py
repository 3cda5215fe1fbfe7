"""The ``quickstart`` preset: a small dual-pixel data set made from the pictures in scikit-image's own wheel.

Nothing is downloaded. The splits share no picture. **test**: Middlebury 2014's *Motorcycle* with its
measured disparity, focused near and far, and a photograph with an invented depth. **val**: another
photograph. **train**: collages, each a crop of one picture with cut-outs of others in front, on an invented
depth that they have exactly, seen by a random camera. Only train depends on the seed.
"""

from __future__ import annotations

from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from ifan_plugin.common.errors import UserError
from ifan_plugin.simulation.camera import Camera
from ifan_plugin.simulation.data_set import Scene, SceneContent
from ifan_plugin.simulation.depth import grid, lay_in_front, random_matte, random_surface
from ifan_plugin.simulation.depth_values import depth_from_disparity, fill_depth_holes
from ifan_plugin.simulation.presets import PRESETS, draw_optics

# Middlebury 2014 Motorcycle at a quarter of its size, as scikit-image ships it (its documented calibration).
MOTORCYCLE_FOCAL_PX, MOTORCYCLE_BASELINE_M, MOTORCYCLE_DOFFS_PX = 994.978, 0.193001, 31.086

TRAIN_SIZE = 200  # px, square
BACKGROUNDS = ("astronaut.png", "coffee.png", "camera.png", "ihc.png", "brick.png", "gravel.png", "grass.png")
CUT_OUTS = (*BACKGROUNDS, "coins.png", "page.png", "text.png")
FOCAL_LENGTH_MM = 50.0
PIXEL_PITCH_UM = 50.0  # a full-frame sensor shrunk to about 720 px


def quickstart_scenes(seed: int = 0, train_count: int = 280) -> list[Scene]:
    """The scenes of the preset, for :func:`ifan_plugin.simulation.data_set.write_set`.

    Args:
        seed: of the training scenes; test and val are always the same.
        train_count: number of training pictures, each TRAIN_SIZE x TRAIN_SIZE.

    Raises:
        UserError: scikit-image isn't installed or lacks a picture, or ``seed`` is negative.
    """
    if seed < 0:
        raise UserError(f"seed is {seed}; it must be 0 or more")
    needed = {*CUT_OUTS, "motorcycle_left.png", "motorcycle_disp.npz", "chelsea.png", "rocket.jpg"}
    for name in sorted(needed):
        if not (_picture_folder() / name).is_file():
            raise UserError(f"{_picture_folder() / name}: missing; install scikit-image from its wheel (>= 0.20)")
    scenes = [Scene("train", f"train_{i:04d}", partial(_collage_scene, seed, i)) for i in range(train_count)]
    scenes += [
        Scene("val", "chelsea_near", partial(_chelsea_scene, 1.1)),
        Scene("val", "chelsea_far", partial(_chelsea_scene, 1.6)),
        Scene("test", "motorcycle_near", partial(_motorcycle_scene, 2.4)),
        Scene("test", "motorcycle_far", partial(_motorcycle_scene, 4.2)),
        Scene("test", "rocket", _rocket_scene),
    ]
    return scenes


# ------------------------------------------------------------------------------------------------ val and test


def _motorcycle_scene(focus_m: float) -> SceneContent:
    with np.load(_picture_folder() / "motorcycle_disp.npz") as archive:
        disparity = archive["arr_0"]
    depth = depth_from_disparity(disparity, MOTORCYCLE_FOCAL_PX, MOTORCYCLE_BASELINE_M, MOTORCYCLE_DOFFS_PX)
    # A pixel at an object's edge shows both; counted as background it would leave a sharp rim around a blurred object.
    depth = cv2.erode(fill_depth_holes(depth), np.ones((3, 3), np.uint8))
    # The pitch follows from the set's own calibration, so the angle of view is the real one.
    camera = Camera(FOCAL_LENGTH_MM, 1.3, focus_m, FOCAL_LENGTH_MM / MOTORCYCLE_FOCAL_PX * 1000)
    return SceneContent(_load_picture("motorcycle_left.png"), depth, camera, {"optics": PRESETS["canon_rf50"]})


def _chelsea_scene(focus_m: float) -> SceneContent:
    """A cat: a rounded head in front of a room."""
    sharp = _load_picture("chelsea.png")
    y, x = grid(*sharp.shape[:2])
    head = np.clip(1 - ((x - 0.5) / 0.45) ** 2 - ((y - 0.45) / 0.75) ** 2, 0, None)
    depth = np.where(head > 0, 1.1 - 0.4 * np.sqrt(head), 1.6 + 0.4 * y)
    return SceneContent(sharp, depth, _camera_for_blur(depth, focus_m, 16.0), {"optics": PRESETS["canon_rf50"]})


def _rocket_scene() -> SceneContent:
    """A row of towers that recedes from left to right."""
    sharp = _load_picture("rocket.jpg")
    _, x = grid(*sharp.shape[:2])
    depth = 1 / (1 / 2.0 + (1 / 8.0 - 1 / 2.0) * x)
    return SceneContent(sharp, depth, _camera_for_blur(depth, 3.2, 16.0), {"optics": PRESETS["pixel4"]})


# ------------------------------------------------------------------------------------------------------- train


def _collage_scene(seed: int, index: int) -> SceneContent:
    """Training scene ``index``: a background, and up to four cut-outs, each nearer than what it covers."""
    rng = np.random.default_rng([seed, index])
    size = TRAIN_SIZE
    sharp = _random_crop(rng, BACKGROUNDS[index % len(BACKGROUNDS)], size)
    near = rng.uniform(0.8, 2.0)
    far = near * rng.uniform(1.8, 4.0)
    surface = random_surface(rng, size, size)
    inverse = 1 / far + (1 / near - 1 / far) * 0.6 * surface  # the nearest part is left to the cut-outs
    for _ in range(rng.integers(1, 5)):
        matte = random_matte(rng, size, size)
        texture = _random_crop(rng, CUT_OUTS[rng.integers(len(CUT_OUTS))], size)
        sharp, inverse = lay_in_front(sharp, inverse, texture, matte, 1 / near, rng)
    depth = 1 / inverse
    low, high = np.percentile(inverse, [3, 97])
    focus_m = 1 / rng.uniform(low, high)
    camera = _camera_for_blur(depth, focus_m, rng.uniform(4.0, 16.0))
    # Each is a small part of a larger picture, so that one place's kernels serve all of it.
    field = (float(rng.uniform(-1, 1)), float(rng.uniform(-0.7, 0.7)))
    return SceneContent(sharp, depth, camera, {"optics": draw_optics(rng), "field": field})


def _camera_for_blur(depth: np.ndarray, focus_m: float, largest_coc_px: float) -> Camera:
    """The camera whose aperture gives the scene this largest circle of confusion."""
    wide_open = Camera(FOCAL_LENGTH_MM, 1.0, focus_m, PIXEL_PITCH_UM)
    largest = float(np.abs(wide_open.circle_of_confusion(depth)).max())
    return Camera(FOCAL_LENGTH_MM, largest / largest_coc_px, focus_m, PIXEL_PITCH_UM)


def _random_crop(rng: np.random.Generator, name: str, size: int) -> np.ndarray:
    """A random square of a picture, perhaps shrunk, mirrored or turned; grey pictures get a tint."""
    picture = _load_picture(name)
    short = min(picture.shape[:2])
    scale = rng.uniform(min(1, size / short), 1)
    if scale < 1:
        picture = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    lack = [max(size - length, 0) for length in picture.shape[:2]]
    picture = np.pad(picture, [(0, lack[0]), (0, lack[1]), (0, 0)], mode="reflect")
    top, left = (rng.integers(length - size + 1) for length in picture.shape[:2])
    picture = np.rot90(picture[top : top + size, left : left + size], int(rng.integers(4)))
    if rng.random() < 0.5:
        picture = picture[:, ::-1]
    if np.ptp(picture, axis=2).max() == 0:
        picture = picture ** rng.uniform(0.8, 1.25, 3) * rng.uniform(0.85, 1.0, 3)
    return np.ascontiguousarray(np.clip(picture, 0, 1))  # resizing may leave 1 by a rounding error


@cache
def _load_picture(name: str) -> np.ndarray:
    """A picture of scikit-image as float RGB in [0, 1]; grey ones get three equal channels. Don't write to it."""
    path = _picture_folder() / name
    try:
        with Image.open(path) as opened:  # not OpenCV, which complains aloud about a colour profile in one of them
            picture = np.asarray(opened.convert("RGB")) / 255.0
    except OSError:
        raise UserError(f"{path}: can't be read as a picture; reinstall scikit-image") from None
    picture.flags.writeable = False
    return picture


def _picture_folder() -> Path:
    # Found without importing: skimage.data would fetch what the wheel lacks.
    spec = find_spec("skimage")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("--preset quickstart needs scikit-image's pictures: pip install scikit-image")
    return Path(spec.submodule_search_locations[0]) / "data"
