"""The kernels of the two views: size, side, light, and that NumPy and PyTorch have the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ifan_plugin.common.errors import UserError
from ifan_plugin.simulation.optics import Optics, colour_cocs, field_of, view_kernels
from ifan_plugin.simulation.presets import PRESETS, RANDOM_RANGES, draw_optics, preset

PLACES = [(0.0, 0.0), (-0.9, 0.0), (0.4, -0.6), (1.0, 0.66), (-1.0, 1.0)]


def middle(kernel: np.ndarray) -> tuple[float, float]:
    y, x = (np.arange(side) - side // 2 for side in kernel.shape)
    return float((kernel.sum(0) * x).sum() / kernel.sum()), float((kernel.sum(1) * y).sum() / kernel.sum())


def all_optics() -> list[Optics]:
    return [*PRESETS.values(), *(draw_optics(np.random.default_rng(seed)) for seed in range(6))]


@pytest.mark.parametrize("field", PLACES)
@pytest.mark.parametrize("coc", [-13.0, -1.2, 0.0, 0.3, 4.0, 25.0])
def test_light_is_kept_and_none_is_cut_off(coc, field):
    for optics in all_optics():
        half = optics.reach(coc, field)
        for kernel, wider in zip(
            optics.kernels(coc, field), view_kernels(np, optics, np.array([coc]), field, half + 2)
        ):
            assert kernel.min() >= 0
            np.testing.assert_allclose(kernel.sum((1, 2)), 1, rtol=1e-5)
            beside = wider.copy()
            beside[:, 2:-2, 2:-2] = 0
            assert beside.sum() < 1e-9, "the kernel ends where reach says"


@pytest.mark.parametrize("coc", [-14.0, 6.0, 14.0])
def test_the_blur_is_as_wide_as_the_circle_of_confusion(coc):
    left, right = Optics(split=0).kernels(coc)
    np.testing.assert_array_equal(left, right)
    row = left[0][left.shape[1] // 2]
    assert row.sum() / row.max() == pytest.approx(abs(coc), rel=0.03)
    # A uniform disk of radius r has the variance r^2 / 4 along each axis.
    x = np.arange(len(row)) - len(row) // 2
    assert np.sqrt((left[0].sum(0) * x * x).sum()) == pytest.approx(abs(coc) / 4, rel=0.04)


def test_in_front_of_the_focus_the_pupil_is_upside_down():
    for optics in (Optics(), PRESETS["pixel4"]):
        for field in PLACES:
            for near, far in zip(optics.kernels(-9.0, field), optics.kernels(9.0, field)):
                turned = near[:, ::-1, ::-1]
                if not optics.spherical:
                    np.testing.assert_allclose(turned, far, atol=1e-7)
    (near_left, near_right), (far_left, far_right) = (Optics().kernels(coc) for coc in (-9.0, 9.0))
    assert middle(near_left[0])[0] > 0.3 > -0.3 > middle(near_right[0])[0], "near things: the left view leans right"
    assert middle(far_left[0])[0] < -0.3 < 0.3 < middle(far_right[0])[0]


def test_a_mirrored_place_has_the_mirrored_kernels_with_the_views_exchanged():
    for optics in all_optics():
        left, right = optics.kernels(11.0, (0.7, 0.3))
        other_left, other_right = optics.kernels(11.0, (-0.7, 0.3))
        np.testing.assert_allclose(left[:, :, ::-1], other_right, atol=1e-6)
        np.testing.assert_allclose(right[:, :, ::-1], other_left, atol=1e-6)


def test_the_balance_reverses_across_the_field():
    """Pixel 4: at the left edge the right view's blur is the narrow one, at the right edge the left view's."""

    def width(kernel: np.ndarray) -> float:
        x = np.arange(kernel.shape[1]) - kernel.shape[1] // 2
        mean = (kernel.sum(0) * x).sum()
        return float(np.sqrt((kernel.sum(0) * (x - mean) ** 2).sum()))

    at_left, at_right = (PRESETS["pixel4"].kernels(22.6, (place, 0.0)) for place in (-0.875, 0.875))
    assert width(at_left[1][0]) < width(at_left[0][0]) - 0.2
    assert width(at_right[0][0]) < width(at_right[1][0]) - 0.2
    left, right = PRESETS["canon_rf50"].gains((1.0, 0.0))
    assert left < 1 < right
    assert left + right == pytest.approx(2)


def test_aberrations_tell_near_from_far():
    optics = Optics(split=0, spherical=-0.5, red=1.0, blue=0.5)

    def rim_over_middle(coc: float) -> float:
        green = optics.kernels(coc)[0][1]
        centre = green.shape[0] // 2
        return float(green[centre, centre + round(abs(coc) / 2) - 2] / green[centre, centre])

    assert rim_over_middle(20.0) > 1.3
    assert rim_over_middle(-20.0) < 0.8
    np.testing.assert_allclose(colour_cocs(np, optics, np.array([4.0, -4.0])), [[3, 4, 3.5], [-5, -4, -4.5]])


@pytest.mark.parametrize("field", PLACES)
def test_numpy_and_pytorch_agree(field):
    cocs = np.array([-17.0, -2.5, 0.0, 0.7, 9.0])
    for optics in all_optics():
        half = optics.reach(17.0, field)
        ours = view_kernels(np, optics, cocs, field, half)
        theirs = view_kernels(torch, optics, torch.from_numpy(cocs), field, half)
        for a, b in zip(ours, theirs):
            np.testing.assert_allclose(a, b.numpy(), atol=1e-12)


def test_draws_stay_in_their_ranges_and_presets_lie_near_them():
    drawn = [draw_optics(np.random.default_rng(seed)) for seed in range(200)]
    for name, (low, high) in RANDOM_RANGES.items():
        values = [getattr(optics, name) for optics in drawn]
        assert low <= min(values) < low + 0.1 * (high - low)
        assert high - 0.1 * (high - low) < max(values) <= high
    with pytest.raises(UserError, match="must be one of thin_lens, pixel4, canon_rf50"):
        preset("pixel3")


def test_field_positions():
    assert field_of(0, 0, 400, 600) == (-1, pytest.approx(-2 / 3))
    assert field_of(300, 200, 400, 600) == (0, 0)
    assert field_of(400, 600, 600, 400) == (pytest.approx(2 / 3), 1)
