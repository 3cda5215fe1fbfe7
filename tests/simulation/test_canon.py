"""The simulator against real dual-pixel pictures: a poster, sharp at f/20, blurred at f/4. data_files/canon_flat."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from helpers import ROOT, basicsr

from ifan_plugin.images.color import linear_from_srgb, srgb_from_linear
from ifan_plugin.images.image_io import read_image, write_image
from ifan_plugin.simulation.camera import Camera
from ifan_plugin.simulation.presets import PRESETS
from ifan_plugin.simulation.simulator import simulate_dual_pixel

FOLDER = ROOT / "tests/data_files/canon_flat"
CAMERA = Camera(focal_length_mm=50, f_number=4, focus_distance_m=1, pixel_pitch_um=36 / 768 * 1000)
INNER = np.s_[20:-20, 20:-20]  # what lies outside the crop blurs into its border
DISTANCES = {0.6: "0600", 1.5: "1500"}


def real(depth_m: float, stop: str) -> tuple[np.ndarray, np.ndarray]:
    return tuple(read_image(FOLDER / f"{DISTANCES[depth_m]}_{stop}_{side}.png", None) for side in "lr")


def sharp_of(depth_m: float) -> np.ndarray:
    left, right = real(depth_m, "f20")
    return srgb_from_linear((linear_from_srgb(left) + linear_from_srgb(right)) / 2).astype(np.float32)


def psnr(seen: tuple[np.ndarray, np.ndarray], depth_m: float) -> float:
    """Mean of both views, after one gain a colour in linear light."""
    figures = []
    for view, truth in zip(seen, real(depth_m, "f4")):
        light, wanted = linear_from_srgb(view[INNER]), linear_from_srgb(truth[INNER])
        gain = (light * wanted).sum((0, 1)) / (light * light).sum((0, 1))
        error = srgb_from_linear(np.clip(light * gain, 0, 1)) - truth[INNER]
        figures.append(-10 * np.log10(np.square(error).mean()))
    return float(np.mean(figures))


@pytest.mark.parametrize("depth_m", DISTANCES)
def test_a_thin_lens_comes_to_within_38_db(depth_m):
    sharp = sharp_of(depth_m)
    views = simulate_dual_pixel(sharp, np.full(sharp.shape[:2], depth_m), CAMERA)
    found = psnr((views.left, views.right), depth_m)
    assert found >= 38
    # Neither without blur nor with the views exchanged.
    assert found - psnr((sharp, sharp), depth_m) > 9
    assert found - psnr((views.right, views.left), depth_m) > 1.5


def test_the_fitted_optics_come_nearer_in_front_of_the_focus():
    sharp = sharp_of(0.6)
    depth = np.full(sharp.shape[:2], 0.6)
    fitted = simulate_dual_pixel(sharp, depth, CAMERA, optics=PRESETS["canon_rf50"], field=(0.0, 0.0))
    plain = simulate_dual_pixel(sharp, depth, CAMERA)
    assert psnr((fitted.left, fitted.right), 0.6) > psnr((plain.left, plain.right), 0.6) + 0.5


@pytest.mark.parametrize("depth_m", DISTANCES)
def test_real_things_move_to_the_side_where_ours_do(depth_m):
    """Near ones to the left from the left view to the right one, far ones to the right."""

    def shift(left: np.ndarray, right: np.ndarray) -> float:
        left, right = (cv2.cvtColor(view.astype(np.float32), cv2.COLOR_RGB2GRAY)[INNER] for view in (left, right))
        return cv2.phaseCorrelate(np.float64(left), np.float64(right))[0][0]

    sharp = sharp_of(depth_m)
    views = simulate_dual_pixel(sharp, np.full(sharp.shape[:2], depth_m), CAMERA)
    real_shift, our_shift = shift(*real(depth_m, "f4")), shift(views.left, views.right)
    assert np.sign(real_shift) == np.sign(our_shift) == (-1 if depth_m < 1 else 1)
    assert our_shift == pytest.approx(real_shift, abs=0.35)


def test_by_the_command(tmp_path):
    """One depth for each picture; all else are the numbers on the camera."""
    for depth_m, name in DISTANCES.items():
        sharp = sharp_of(depth_m)
        write_image(tmp_path / "sharp" / f"{name}.png", sharp, 16)
        (tmp_path / "depth").mkdir(exist_ok=True)
        np.save(tmp_path / "depth" / f"{name}.npy", np.full(sharp.shape[:2], depth_m))
    done = basicsr(
        "simulate", "--sharp", tmp_path / "sharp", "--depth", tmp_path / "depth", "--focal-length", 50, "--f-number", 4,
        "--focus-distance", 1, "--pixel-pitch", 46.875, "--split", "test", "--out", tmp_path / "out", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for depth_m, name in DISTANCES.items():
        seen = tuple(read_image(tmp_path / f"out/test_{side}/source/{name}.png", None) for side in "lr")
        assert psnr(seen, depth_m) >= 38
