"""Every part of the augmentation against the paper's words, and the whole against its parts."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from ifan_plugin.common.errors import UserError
from ifan_plugin.data import augment as parts
from ifan_plugin.data.augment import AugmentConfig, apply_plan, augment, draw_plan
from ifan_plugin.images.resample import area_axis

ROLES = ("center", "left", "right", "target")
OFF = {"noise_probability": 0.0, "grey_probability": 0.0, "scale_probability": 0.0}


def pictures(height=40, width=56, roles=ROLES, seed=0):
    rng = np.random.default_rng(seed)
    return {role: rng.random((height, width, 3), dtype=np.float32) for role in roles}


def rng(seed=0):
    return np.random.default_rng(seed)


def test_defaults_are_the_papers():
    assert AugmentConfig() == AugmentConfig(0.05, (0.001, 0.0707), 0.3, 0.5, (0.7, 1.0), 256, 0.0)


def test_noise_is_the_same_on_all_views_and_not_on_the_target():
    images = {role: np.full((200, 300, 3), 0.5, np.float32) for role in ROLES}
    noisy = parts.add_noise(images, 0.03, rng())
    np.testing.assert_array_equal(noisy["left"], noisy["right"])
    np.testing.assert_array_equal(noisy["left"], noisy["center"])
    np.testing.assert_array_equal(noisy["target"], images["target"])
    noise = noisy["left"] - 0.5
    assert noise.std() == pytest.approx(0.03, rel=0.01)
    assert noise.mean() == pytest.approx(0, abs=5e-4)
    # Independent between the channels and between neighbours.
    assert abs(np.corrcoef(noise[..., 0].ravel(), noise[..., 1].ravel())[0, 1]) < 0.02
    assert abs(np.corrcoef(noise[:, 1:].ravel(), noise[:, :-1].ravel())[0, 1]) < 0.02
    assert noisy["left"].dtype == np.float32


def test_noise_is_clipped():
    white, black = np.ones((50, 50, 3), np.float32), np.zeros((50, 50, 3), np.float32)
    noisy = parts.add_noise({"center": white, "left": black}, 0.05, rng())
    assert noisy["center"].max() == 1
    assert noisy["left"].min() == 0
    assert 0.4 < (noisy["center"] == 1).mean() < 0.6


def test_grey_by_hand():
    pixels = np.array([[[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.5, 0.25, 1.0], [0.01, 0.0, 0.0]]], np.float32)
    grey = parts.to_grey({"center": pixels})["center"]
    # y = .2126*.5 + .7152*.25 + .0722 = .3573; 1.055 * y**(1/2.4) - .055 = .63204; .002126 is on the linear piece
    np.testing.assert_allclose(grey[0, :, 0], [0, 1, 0.63209, 12.92 * 0.002126], atol=1e-5)
    np.testing.assert_array_equal(grey[..., 0], grey[..., 1])
    np.testing.assert_array_equal(grey[..., 0], grey[..., 2])
    assert grey.shape == pixels.shape
    assert grey.dtype == np.float32


def test_grey_reaches_the_target_too():
    grey = parts.to_grey(pictures())
    assert all(np.array_equal(grey[role][..., 0], grey[role][..., 2]) for role in ROLES)
    assert not np.array_equal(grey["left"], grey["target"])


def test_scale_takes_the_mean_of_areas():
    images = pictures(40, 56)
    small = parts.scale(images, area_axis(40, 20, 0, 20), area_axis(56, 28, 0, 28))
    for role in ROLES:
        blocks = images[role].reshape(20, 2, 28, 2, 3).mean(axis=(1, 3))
        np.testing.assert_allclose(small[role], blocks, atol=1e-6)


def test_scale_of_grey_is_that_of_any_picture():
    grey = parts.to_grey(pictures())
    copies = {role: image.copy() for role, image in grey.items()}
    axes = area_axis(40, 30, 0, 30), area_axis(56, 42, 0, 42)
    one, other = parts.scale(grey, *axes), parts.scale(copies, *axes)
    assert all(np.array_equal(one[role], other[role]) for role in ROLES)
    assert one["left"].shape == (30, 42, 3)


def test_scale_stays_within_one():
    white = {"center": np.ones((400, 400, 3), np.float32)}
    for new in (281, 300, 333, 399):
        (small,) = parts.scale(white, area_axis(400, new, 0, new), area_axis(400, new, 0, new)).values()
        assert small.max() <= 1


def test_mirror_swaps_the_side_views():
    images = pictures()
    mirrored = parts.mirror(images)
    np.testing.assert_array_equal(mirrored["left"], images["right"][:, ::-1])
    np.testing.assert_array_equal(mirrored["right"], images["left"][:, ::-1])
    np.testing.assert_array_equal(mirrored["center"], images["center"][:, ::-1])
    np.testing.assert_array_equal(mirrored["target"], images["target"][:, ::-1])


def test_nothing_but_a_crop_where_all_is_off():
    images = pictures()
    result = augment(images, AugmentConfig(**OFF, patch_size=16), rng(3))
    plan = draw_plan(40, 56, AugmentConfig(**OFF, patch_size=16), rng(3))
    for role in ROLES:
        expected = images[role][plan.top : plan.top + 16, plan.left : plan.left + 16]
        np.testing.assert_array_equal(result[role], expected)


@pytest.mark.parametrize("scale_probability", [0.0, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_the_order_is_noise_grey_scale_crop(seed, scale_probability):
    always = AugmentConfig(1.0, (0.05, 0.07), 1.0, scale_probability, (0.7, 0.9), patch_size=16, hflip_probability=1.0)
    images = pictures()
    result = augment(images, always, rng(seed))
    dice = rng(seed)
    plan = draw_plan(40, 56, always, dice)
    assert (plan.size == (40, 56)) == (scale_probability == 0)
    # The noise is drawn last, plane by plane, for what is cut alone: elsewhere it doesn't matter.
    top, left, height, width = plan.cut().region
    noise = np.full((40, 56, 3), np.nan, np.float32)
    drawn = dice.standard_normal((3, height, width), dtype=np.float32).transpose(1, 2, 0)
    noise[top : top + height, left : left + width] = drawn * np.float32(plan.sigma)
    swapped = {"left": "right", "right": "left"}
    for role in ROLES:
        source = swapped.get(role, role)
        step = images[source] if role == "target" else np.clip(images[source] + noise, 0, 1)
        y = step.astype(np.float64) @ [0.2126, 0.7152, 0.0722]
        y = np.where(y <= 0.0031308, 12.92 * y, 1.055 * y ** (1 / 2.4) - 0.055)
        step = cv2.resize(np.stack([y] * 3, -1), plan.size[::-1], interpolation=cv2.INTER_AREA)
        step = step[plan.top : plan.top + 16, plan.left : plan.left + 16][:, ::-1]
        np.testing.assert_allclose(result[role], step, atol=2e-6)


@pytest.mark.parametrize("grey_probability", [0.0, 1.0])
def test_a_part_is_worth_the_whole(grey_probability):
    """Pixels outside the region don't matter, and reading the region alone gives the same."""
    config = AugmentConfig(0.5, (0.05, 0.07), grey_probability, 0.7, patch_size=16, hflip_probability=0.5)
    images = pictures()
    regions = set()
    for seed in range(30):
        expected = augment(images, config, rng(seed))
        dice = rng(seed)
        plan = draw_plan(40, 56, config, dice)
        cut = plan.cut()
        top, left, height, width = cut.region
        regions.add((height, width))
        assert 0 <= top <= 40 - height
        assert 0 <= left <= 56 - width
        read = {role: image[top : top + height, left : left + width] for role, image in images.items()}
        got = apply_plan(read, plan, cut, dice)
        for role in ROLES:
            np.testing.assert_array_equal(got[role], expected[role])
            assert got[role].transpose(2, 0, 1).flags.c_contiguous
            assert got[role].flags.writeable
    assert len(regions) > 5
    assert max(max(region) for region in regions) <= 24  # 16 / 0.7, and a partial pixel at each end


def test_a_region_of_another_size_is_refused():
    plan = draw_plan(40, 56, AugmentConfig(patch_size=16), rng())
    with pytest.raises(ValueError, match="region"):
        apply_plan(pictures(40, 56), plan, plan.cut(), rng())


@pytest.mark.parametrize("scale_probability", [0.0, 1.0])
def test_all_pictures_keep_their_place(scale_probability):
    # The same picture in every role must come out the same: one crop, one scale, one grey for all.
    image = pictures()["center"]
    config = AugmentConfig(0.0, (0.0, 0.0), 0.5, scale_probability, patch_size=16)
    for seed in range(10):
        result = augment(dict.fromkeys(ROLES, image), config, rng(seed))
        assert all(np.array_equal(result[role], result["center"]) for role in ROLES)


def test_inputs_are_left_as_they_were():
    images = pictures()
    before = {role: image.copy() for role, image in images.items()}
    for probability in (0.0, 1.0):
        config = AugmentConfig(1.0, (0.05, 0.05), 1.0, probability, patch_size=16, hflip_probability=1.0)
        augment(images, config, rng())
    for role in ROLES:
        np.testing.assert_array_equal(images[role], before[role])


def test_result_depends_on_the_generator_alone():
    config = AugmentConfig(0.5, (0.05, 0.07), 0.5, 0.5, patch_size=16)
    images = pictures()
    for seed in range(5):
        first, again = augment(images, config, rng(seed)), augment(images, config, rng(seed))
        assert all(np.array_equal(first[role], again[role]) for role in ROLES)
    assert not np.array_equal(augment(images, config, rng(1))["left"], augment(images, config, rng(2))["left"])


def test_one_parts_probability_leaves_the_others_alone():
    base = AugmentConfig(patch_size=256)
    for seed in range(50):
        plan = draw_plan(1120, 1680, base, rng(seed))
        other = draw_plan(1120, 1680, AugmentConfig(noise_probability=1.0, grey_probability=0.0), rng(seed))
        assert plan.size == other.size
        assert (plan.top, plan.left) == (other.top, other.left)


def test_frequencies_and_ranges_over_many_draws():
    config = AugmentConfig(hflip_probability=0.25)
    dice = rng()
    plans = [draw_plan(1120, 1680, config, dice) for _ in range(20000)]
    sigmas = np.array([plan.sigma for plan in plans if plan.sigma is not None])
    factors = np.array([plan.size[0] / 1120 for plan in plans if plan.size != (1120, 1680)])
    assert len(sigmas) / 20000 == pytest.approx(0.05, abs=0.006)
    assert len(factors) / 20000 == pytest.approx(0.5, abs=0.015)
    assert np.mean([plan.grey for plan in plans]) == pytest.approx(0.3, abs=0.015)
    assert np.mean([plan.flip for plan in plans]) == pytest.approx(0.25, abs=0.015)
    assert 0.001 <= sigmas.min() < 0.005
    assert 0.067 < sigmas.max() <= 0.0707
    assert sigmas.mean() == pytest.approx((0.001 + 0.0707) / 2, rel=0.05)
    assert 0.699 < factors.min() < 0.701
    assert 0.998 < factors.max() <= 1
    assert factors.mean() == pytest.approx(0.85, abs=0.005)
    # The parts are independent of one another.
    both = np.mean([plan.grey and plan.size != (1120, 1680) for plan in plans])
    assert both == pytest.approx(0.15, abs=0.012)


def test_scaled_sizes_are_truncated_not_rounded():
    config = AugmentConfig(scale_probability=1.0, patch_size=8)
    sizes = set()
    for seed in range(300):
        factor_draw = np.random.default_rng(seed).random(8)[4]
        plan = draw_plan(101, 203, config, np.random.default_rng(seed))
        factor = 0.7 + 0.3 * factor_draw
        assert plan.size == (int(101 * factor), int(203 * factor))
        sizes.add(plan.size)
    assert len(sizes) > 25


def test_crops_reach_every_corner():
    config = AugmentConfig(**OFF, patch_size=16)
    dice = rng()
    places = {(plan.top, plan.left) for plan in (draw_plan(18, 19, config, dice) for _ in range(500))}
    assert places == {(top, left) for top in range(3) for left in range(4)}


@pytest.mark.parametrize("shape", [(256, 256), (256, 400), (300, 257), (290, 1680), (365, 366)])
def test_scaling_never_goes_below_the_patch(shape):
    config = AugmentConfig(scale_probability=1.0)
    dice = rng()
    plans = [draw_plan(*shape, config, dice) for _ in range(500)]
    for plan in plans:
        assert min(plan.size) >= 256
        assert plan.size[0] <= shape[0]
        assert plan.size[1] <= shape[1]
        assert plan.top + 256 <= plan.size[0]
        assert plan.left + 256 <= plan.size[1]
        # Both sides by one factor, but for the truncation.
        assert plan.size[0] / shape[0] == pytest.approx(plan.size[1] / shape[1], abs=1 / 256)
    factors = [plan.size[1] / shape[1] for plan in plans]
    assert min(factors) <= max(0.7, 256 / min(shape)) + 0.01  # and the range that is left is used
    assert max(factors) > 0.99


def test_small_pictures_give_whole_patches():
    config = AugmentConfig(0.5, (0.01, 0.02), 0.5, 1.0, patch_size=16)
    for seed in range(20):
        result = augment(pictures(17, 18), config, rng(seed))
        assert {image.shape for image in result.values()} == {(16, 16, 3)}


def test_impossible_calls():
    with pytest.raises(ValueError, match="smaller than the patch"):
        augment(pictures(15, 40), AugmentConfig(patch_size=16), rng())
    with pytest.raises(ValueError, match="unequal"):
        augment(pictures(roles=["left"]) | pictures(20, 20, roles=["right"]), AugmentConfig(patch_size=16), rng())
    with pytest.raises(ValueError, match="swaps"):
        augment(pictures(roles=["left"]), AugmentConfig(patch_size=16, hflip_probability=0.5), rng())


def test_options():
    config = AugmentConfig.from_options({"noise_sigma": [0, 0.1], "scale_probability": 1}, 64)
    assert config == AugmentConfig(noise_sigma=(0.0, 0.1), scale_probability=1, patch_size=64)
    assert AugmentConfig.from_options(True, 64) == AugmentConfig(patch_size=64)
    assert AugmentConfig.from_options(False, 64) == AugmentConfig(**OFF, patch_size=64)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"noise_propability": 0.1}, "did you mean 'noise_probability'?"),
        ({"grey_probability": 1.5}, "grey_probability: must be at most 1.0"),
        ({"grey_probability": "often"}, "must be a number"),
        ({"scale_range": [1.0, 0.7]}, "scale_range: must be [lower, upper]"),
        ({"scale_range": [0.7]}, "scale_range: must be [lower, upper]"),
        ({"scale_range": [0.7, 1.2]}, "must be at most 1.0"),
        ({"noise_sigma": 0.1}, "must be a list"),
    ],
)
def test_wrong_options(options, words):
    with pytest.raises(UserError) as caught:
        AugmentConfig.from_options(options, 64, "train.yml: augment")
    message = str(caught.value)
    assert message.startswith("train.yml: augment")
    assert words in message
    assert "\n" not in message
