"""The two kernels, and how steep they leave an edge."""

from __future__ import annotations

import numpy as np
import pytest

from ifan_plugin.common.errors import UserError
from ifan_plugin.conventional import psf


@pytest.mark.parametrize("shape", psf.SHAPES)
@pytest.mark.parametrize("sigma", [0.0, 0.8, 1.0, 2.3, 6.0])
def test_kernels_have_their_standard_deviation(shape: str, sigma: float) -> None:
    kernel = psf.kernel(sigma, shape)
    reach = kernel.shape[0] // 2
    position = np.arange(-reach, reach + 1)
    assert kernel.shape == (2 * reach + 1, 2 * reach + 1)
    assert kernel.sum() == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(kernel, kernel[::-1, ::-1], atol=1e-9)
    np.testing.assert_allclose(kernel, kernel.T, atol=1e-9)
    # A pixel that the disk's rim crosses counts at its centre, which adds up to its own width.
    assert np.sqrt((kernel.sum(0) * position**2).sum()) == pytest.approx(sigma, abs=0.06)


def test_a_disk_is_flat_inside_and_nothing_outside() -> None:
    kernel = psf.kernel(3.0, "disk")
    y, x = np.mgrid[-6:7, -6:7]
    distance = np.hypot(y, x)
    assert kernel.shape == (13, 13)
    np.testing.assert_allclose(kernel[distance < 5], kernel[6, 6])
    assert kernel[distance > 7].max() == 0


@pytest.mark.parametrize("shape", psf.SHAPES)
def test_edge_slope_is_the_middle_of_the_line_spread_function(shape: str) -> None:
    fine, sigma, smoothing = 20, 2.0, 1.5
    line = psf.kernel(sigma * fine, shape).sum(0)
    position = (np.arange(len(line)) - len(line) // 2) / fine
    expected = (line * np.exp(-(position**2) / (2 * smoothing**2))).sum() / (np.sqrt(2 * np.pi) * smoothing)
    assert psf.edge_slope(np.array(sigma), smoothing, shape) == pytest.approx(expected, rel=2e-3)
    assert psf.edge_slope(np.array(0.0), smoothing, shape) == pytest.approx(1 / (np.sqrt(2 * np.pi) * smoothing))


@pytest.mark.parametrize(("sigma", "shape"), [(-1.0, "disk"), (float("nan"), "disk"), (float("inf"), "gaussian")])
def test_impossible_sigmas_are_refused(sigma: float, shape: str) -> None:
    with pytest.raises(UserError, match="sigma: must be finite and at least 0"):
        psf.kernel(sigma, shape)
