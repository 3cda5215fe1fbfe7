"""Light and sensor: what noise measures, what tone and JPEG do, and values out of range."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from ifan_plugin.common.errors import UserError
from ifan_plugin.images.color import linear_from_srgb, srgb_from_linear
from ifan_plugin.simulation.camera import Camera
from ifan_plugin.simulation.sensor import (
    IDEAL,
    SENSOR_PRESETS,
    SHOT_AT_ISO_100,
    LightAndSensor,
    decode,
    draw_sensor,
    encode,
)
from ifan_plugin.simulation.sensor_torch import jpeg, mosaicked, moved
from ifan_plugin.simulation.simulator import simulate_dual_pixel


@pytest.mark.parametrize("tone", [0.0, 0.3, 0.8])
def test_coding_and_decoding_undo_one_another(tone):
    values = np.linspace(0, 1, 1001)
    np.testing.assert_allclose(encode(np, decode(np, values, tone), tone), values, atol=1e-5)
    assert (np.diff(decode(np, values, tone)) > 0).all()
    if not tone:
        np.testing.assert_allclose(decode(np, values), linear_from_srgb(values), atol=1e-12)
        np.testing.assert_allclose(encode(np, values), srgb_from_linear(values), atol=1e-12)


def test_each_view_has_half_the_light():
    """At a signal of 0.5 and ISO 1600 the views' variance is twice the shot noise of a whole pixel, the centre's once."""
    sharp = np.full((200, 200, 3), srgb_from_linear(0.5), np.float32)
    views = simulate_dual_pixel(
        sharp, np.full((200, 200), 2.0), Camera(50, 2, 2, 50), light=LightAndSensor(iso=1600.0),
        rng=np.random.default_rng(0),
    )  # fmt: skip
    left, center = (linear_from_srgb(view.astype(np.float64)) for view in (views.left, views.center))
    shot = SHOT_AT_ISO_100 * 16 * 0.5
    assert left.var() == pytest.approx(2 * shot, rel=0.05)
    assert center.var() == pytest.approx(shot, rel=0.05)
    assert left.mean() == pytest.approx(0.5, rel=1e-3)


def test_highlights_shine_through_the_blur():
    """A lamp that was eight times brighter than white fills its whole disk with white; the sharp picture knew nothing."""
    sharp = np.zeros((61, 61, 3))
    sharp[29:32, 29:32] = 1
    depth, camera = np.full((61, 61), 4.0), Camera(50, 2, 2, 40)
    plain, lit = (
        simulate_dual_pixel(sharp, depth, camera, light=LightAndSensor(highlights=x)).center for x in (1.0, 8.0)
    )
    assert lit[30, 30, 0] == pytest.approx(1, abs=1e-5)
    assert plain[30, 30, 0] < 0.7


def test_motion_moves_to_the_right_and_down():
    picture = torch.zeros(1, 3, 9, 9)
    picture[..., 4, 4] = 1
    seen = moved(picture, 0.25, -0.5)[0, 0]
    assert seen[4, 4] == pytest.approx(0.75 * 0.5)
    assert seen[4, 5] == pytest.approx(0.25 * 0.5)
    assert seen[3, 4] == pytest.approx(0.75 * 0.5)
    assert seen.sum() == pytest.approx(1)


def test_a_mosaic_keeps_plain_colours_and_slopes():
    slope = torch.linspace(0, 1, 16).expand(1, 3, 16, 16)
    np.testing.assert_allclose(mosaicked(slope)[..., 1:-1, 1:-1], slope[..., 1:-1, 1:-1], atol=1e-6)
    texture = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(mosaicked(texture)[0, 1, 0, 1], texture[0, 1, 0, 1]), "green there is seen"


@pytest.mark.parametrize("quality", [40, 75, 95])
def test_jpeg_is_opencvs_but_for_its_rounding(quality):
    rng = np.random.default_rng(1)
    coarse = cv2.resize(rng.random((8, 9, 3)), (75, 61), interpolation=cv2.INTER_CUBIC)
    picture = np.rint((0.8 * coarse + 0.2 * rng.random((61, 75, 1))).clip(0, 1) * 255).astype(np.uint8)
    ours = (
        jpeg(torch.from_numpy(picture.transpose(2, 0, 1) / 255).float()[None], quality)[0].permute(1, 2, 0).numpy()
        * 255
    )
    coded = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    theirs = cv2.imdecode(coded, cv2.IMREAD_COLOR)[..., ::-1].astype(float)
    assert np.sqrt(np.square(ours - theirs).mean()) < 0.5 * np.sqrt(np.square(theirs - picture).mean())
    assert ours.shape == picture.shape


def test_draws_are_in_range_and_only_motion_moves():
    lights = [draw_sensor(np.random.default_rng(seed), "random", motion=False) for seed in range(100)]
    assert {light.mosaic for light in lights} == {True, False}
    assert 15 < sum(light.jpeg > 0 for light in lights) < 55
    assert all(light.shift_x == light.shift_y == 0 and light.exposure == 1 for light in lights)
    moving = draw_sensor(np.random.default_rng(0), "random", motion=True)
    assert 0 < abs(moving.shift_x) <= 0.5
    assert moving.iso == lights[0].iso, "one option doesn't change what another draws"
    assert draw_sensor(np.random.default_rng(0), "none", motion=False) == IDEAL
    assert LightAndSensor.from_tuple(moving.as_tuple()) == moving
    assert draw_sensor(np.random.default_rng(0), "phone", motion=False) == SENSOR_PRESETS["phone"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"highlights": 0.5}, "highlights is 0.5; it must be from 1 to 100"),
        ({"iso": -1}, "iso is -1"),
        ({"tone": 1}, "tone is 1; it must be from 0 to 0.8"),
        ({"jpeg": 101}, "jpeg is 101"),
        ({"shift_x": float("nan")}, "shift_x is nan"),
    ],
)
def test_values_out_of_range_are_refused(wrong, message):
    with pytest.raises(UserError, match=message):
        LightAndSensor(**wrong)
