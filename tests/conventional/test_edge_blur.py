"""The estimator on edges whose blur is known."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from ifan_plugin.common.errors import UserError
from ifan_plugin.conventional import edge_blur, psf

SUPERSAMPLING = 4


def step_edge(sigma: float, shape: str, degrees: float, size: int = 96) -> np.ndarray:
    """A straight edge through the middle, from 0.2 to 0.7, blurred at a finer resolution."""
    y, x = (np.mgrid[: size * SUPERSAMPLING, : size * SUPERSAMPLING] + 0.5) / SUPERSAMPLING - size / 2
    angle = np.deg2rad(degrees)
    fine = np.where(x * np.cos(angle) + y * np.sin(angle) > 0.2, 0.7, 0.2).astype(np.float32)
    if shape == "gaussian":
        fine = gaussian_filter(fine, sigma * SUPERSAMPLING)
    else:
        fine = cv2.filter2D(fine, -1, psf.kernel(sigma * SUPERSAMPLING, "disk"), borderType=cv2.BORDER_REFLECT)
    return cv2.resize(fine, (size, size), interpolation=cv2.INTER_AREA)


def measured(found: edge_blur.EdgeBlur, margin: int = 16) -> np.ndarray:
    """The sigmas at edges, away from the rim."""
    inner = slice(margin, -margin)
    return found.sigma[inner, inner][found.confidence[inner, inner] > 0]


@pytest.mark.parametrize("shape", psf.SHAPES)
@pytest.mark.parametrize("sigma", [1.0, 1.5, 2.0, 3.0, 4.0])
@pytest.mark.parametrize("degrees", [0, 30, 45, 100])
def test_finds_the_sigma_of_a_blurred_step(sigma: float, shape: str, degrees: float) -> None:
    sigmas = measured(edge_blur.estimate(step_edge(sigma, shape, degrees), shape=shape))
    assert len(sigmas) > 40
    np.testing.assert_allclose(np.percentile(sigmas, [10, 50, 90]), sigma, rtol=0.06)


@pytest.mark.parametrize("contrast", [0.2, 0.5, 1.2])
def test_contrast_and_brightness_do_not_matter(contrast: float) -> None:
    sigmas = measured(edge_blur.estimate(0.05 + contrast * step_edge(2.0, "gaussian", 20), shape="gaussian"))
    assert np.median(sigmas) == pytest.approx(2.0, rel=0.03)


def test_a_little_noise_is_borne() -> None:
    rng = np.random.default_rng(0)
    picture = step_edge(2.0, "gaussian", 20)
    sigmas = measured(edge_blur.estimate(picture + rng.normal(0, 0.01, picture.shape), shape="gaussian"))
    assert np.median(sigmas) == pytest.approx(2.0, rel=0.15)


def test_noise_alone_has_no_edges() -> None:
    noise = np.random.default_rng(0).normal(0.5, 0.03, (128, 128)).astype(np.float32)
    assert edge_blur.noise_level(noise) == pytest.approx(0.03, rel=0.1)
    assert edge_blur.find_edges(noise).mean() < 0.001


def test_a_sharp_step_measures_below_the_threshold_of_deblurring() -> None:
    sharp = np.full((64, 64), 0.2, np.float32)
    sharp[:, 32:] = 0.8
    sigmas = measured(edge_blur.estimate(sharp, shape="gaussian"))
    assert len(sigmas) > 0
    assert sigmas.max() < 0.5


def test_no_more_than_the_largest_is_found() -> None:
    sigmas = measured(edge_blur.estimate(step_edge(4.0, "gaussian", 0), shape="gaussian", largest=2.5))
    assert np.median(sigmas) == pytest.approx(2.5, rel=0.01)


def test_edges_are_found_where_they_are_looked_for() -> None:
    picture = step_edge(1.5, "gaussian", 0)
    flat = np.full_like(picture, 0.5)
    assert edge_blur.estimate(picture, flat, "gaussian").confidence.max() == 0
    found = edge_blur.estimate(picture, picture**0.5, "gaussian")
    assert np.median(measured(found)) == pytest.approx(1.5, rel=0.05)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 2), (3, 5), (64, 48)])
@pytest.mark.parametrize("value", [0.0, 0.4, 1.0])
def test_constant_pictures_of_any_size_have_no_edges(size: tuple[int, int], value: float) -> None:
    found = edge_blur.estimate(np.full(size, value, np.float32))
    assert found.sigma.shape == found.confidence.shape == size
    assert not found.sigma.any()
    assert not found.confidence.any()


def test_outliers_are_drawn_to_their_neighbours() -> None:
    sigma, confidence = np.zeros((2, 41, 41), np.float32)
    sigma[20, 5:36], confidence[20, 5:36] = 1.0, 1.0
    sigma[20, 20] = 5.0
    cleaned = edge_blur._without_outliers(edge_blur.EdgeBlur(sigma, confidence))
    assert cleaned.sigma[20, 20] == pytest.approx(1.0, abs=0.1)
    assert cleaned.confidence[20, 20] < 0.01
    assert cleaned.confidence[20, 10] > 0.9
    assert not cleaned.sigma[10].any()


def test_another_shape_is_refused() -> None:
    with pytest.raises(UserError, match="psf: must be one of 'disk', 'gaussian', not 'dsik'; did you mean 'disk'"):
        edge_blur.estimate(step_edge(1.0, "gaussian", 0), shape="dsik")
