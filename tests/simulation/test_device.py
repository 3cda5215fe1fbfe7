"""The simulator in PyTorch: that of the files, to rounding, batched, and each sample for itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from ifan_plugin.images.color import linear_from_srgb
from ifan_plugin.simulation.camera import Camera
from ifan_plugin.simulation.device import FFT_SIZE, prepare, simulate_batch
from ifan_plugin.simulation.optics import Optics
from ifan_plugin.simulation.presets import PRESETS, draw_optics
from ifan_plugin.simulation.sensor import IDEAL, LightAndSensor
from ifan_plugin.simulation.simulator import simulate_dual_pixel

SIZE, FIELD = 64, (0.5, -0.3)


def scene(context: int, largest: float) -> tuple[np.ndarray, np.ndarray, Camera]:
    """A slope, a box and a bar in front of it, textured."""
    side = SIZE + 2 * context
    sharp = np.random.default_rng(3).random((side, side, 3)).astype(np.float32)
    depth = 1 / np.linspace(1 / 1.3, 1 / 5, side)[None] * np.ones((side, 1))
    middle = side // 2
    depth[middle - 10 : middle + 20, middle - 20 : middle + 10] = 1.0
    depth[middle - 30 : middle - 22] = 1.5
    wide = Camera(50, 1, 1.8, 40)
    stop = float(np.abs(wide.circle_of_confusion(depth)).max()) / largest
    return sharp, depth.astype(np.float32), replace(wide, f_number=stop)


def both(optics: Optics, largest: float, light: LightAndSensor = IDEAL):
    """The patch by the device's code and by NumPy's."""
    reach = optics.reach(largest, FIELD)
    context = 5 * reach + 2
    sharp, depth, camera = scene(context, largest)
    coc = camera.circle_of_confusion(depth).astype(np.float32)
    sample = prepare(
        sharp, coc, optics, light, field=FIELD, reach=reach, context=context, layer_step=0.5, seed=1
    )  # fmt: skip
    views = simulate_dual_pixel(
        sharp, depth, camera, optics=optics, light=light, region=(context, context, SIZE, SIZE), field=FIELD
    )
    return sample, reach, views


def batch_of(*samples):
    return torch.utils.data.default_collate(list(samples))


@pytest.mark.parametrize("largest", [2.0, 12.0, 40.0])
@pytest.mark.parametrize("name", ["thin_lens", "pixel4", "canon_rf50", "random"])
def test_it_is_the_simulator_of_the_files(name, largest):
    optics = PRESETS[name] if name in PRESETS else draw_optics(np.random.default_rng(2))
    size = 2 * optics.reach(largest, FIELD) + 1
    assert size < FFT_SIZE if largest == 2 else size >= FFT_SIZE or largest == 12, "both ways of blurring are compared"
    sample, reach, views = both(optics, largest)
    seen = simulate_batch(batch_of(sample, sample), reach)
    for role in ("left", "right", "center"):
        assert seen[role].shape == (2, 3, SIZE, SIZE)
        np.testing.assert_allclose(seen[role][1].permute(1, 2, 0), getattr(views, role), atol=1e-5)
    np.testing.assert_allclose(seen["coc"][0, 0], views.coc, atol=1e-6)
    left, right, center = (linear_from_srgb(seen[role].double().numpy()) for role in ("left", "right", "center"))
    np.testing.assert_allclose((left + right) / 2, center, atol=1e-6)


@pytest.mark.parametrize(
    "light",
    [
        LightAndSensor(highlights=5.0, tone=0.4, exposure=1.02),
        LightAndSensor(shift_x=0.4, shift_y=-0.3),
        LightAndSensor(mosaic=True),
        LightAndSensor(jpeg=80),
    ],
    ids=["light", "motion", "mosaic", "jpeg"],
)
def test_light_and_sensor_agree_too(light):
    sample, reach, views = both(PRESETS["canon_rf50"], 8.0, light)
    seen = simulate_batch(batch_of(sample), reach)
    # At the border, what lies outside of the patch is invented by mosaic and motion, and JPEG rounds.
    for role in ("left", "right", "center"):
        difference = np.abs(seen[role][0].permute(1, 2, 0).numpy() - getattr(views, role))
        assert np.mean(difference > 1e-4) < (0.02 if light.jpeg else 1e-9)


def test_a_sample_depends_on_itself_alone():
    noisy = LightAndSensor(iso=3200.0)
    first, reach, _ = both(PRESETS["pixel4"], 9.0, noisy)
    other = first | {"noise_seed": torch.tensor(2), "sharp": first["sharp"].flip(-1)}
    alone = simulate_batch(batch_of(first), reach)
    together = simulate_batch(batch_of(other, first), reach)
    for role in ("left", "right", "center", "target"):
        assert torch.equal(alone[role][0], together[role][1])
    assert not torch.equal(
        simulate_batch(batch_of(first | {"noise_seed": torch.tensor(9)}), reach)["left"], alone["left"]
    )
    assert torch.equal(alone["target"][0], first["sharp"][:, reach:-reach, reach:-reach]), "the sharp side stays clean"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_same_on_a_gpu():
    sample, reach, views = both(PRESETS["canon_rf50"], 30.0)
    seen = simulate_batch(batch_of(sample), reach, "cuda")
    for role in ("left", "right", "center"):
        np.testing.assert_allclose(seen[role][0].permute(1, 2, 0).cpu(), getattr(views, role), atol=1e-4)
