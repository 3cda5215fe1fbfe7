"""Filling a sparse map: it follows the picture, stays within what was found, and knows no holes."""

from __future__ import annotations

import numpy as np
import pytest

from ifan_plugin.common.errors import UserError
from ifan_plugin.conventional import propagation
from ifan_plugin.conventional.edge_blur import EdgeBlur


def two_halves(size: int = 80) -> tuple[EdgeBlur, np.ndarray, np.ndarray]:
    """A dark half of sigma 1 and a bright one of sigma 4, known at some pixels; the guide, and the true map."""
    rng = np.random.default_rng(0)
    right = np.broadcast_to(np.arange(size) >= size // 2, (size, size))
    true = np.where(right, 4.0, 1.0).astype(np.float32)
    guide = np.where(right, 0.8, 0.2).astype(np.float32) + rng.normal(0, 0.01, (size, size)).astype(np.float32)
    known = rng.random((size, size)) < 0.03
    return EdgeBlur(np.where(known, true, 0), known.astype(np.float32)), guide, true


@pytest.mark.parametrize("method", propagation.METHODS)
def test_the_map_changes_where_the_picture_does(method: str) -> None:
    found, guide, true = two_halves()
    error = np.abs(propagation.propagate(found, guide, method) - true)
    unguided = np.abs(propagation.propagate(found, np.full_like(guide, 0.5), method) - true)
    assert error.mean() < 0.25
    assert error[:, [38, 41]].mean() < 0.8 * unguided[:, [38, 41]].mean()


@pytest.mark.parametrize("method", propagation.METHODS)
def test_pictures_above_the_working_size(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(propagation, "WORKING_SIZE", 40)
    monkeypatch.setattr(propagation, "MATTING_SIZE", 40)
    found, guide, true = two_halves(161)
    result = propagation.propagate(found, guide, method)
    assert result.shape == (161, 161)
    assert np.abs(result - true).mean() < 0.3


@pytest.mark.parametrize("method", propagation.METHODS)
def test_one_known_pixel_fills_everything(method: str) -> None:
    sigma, confidence = np.zeros((2, 37, 53), np.float32)
    sigma[30, 3], confidence[30, 3] = 2.5, 0.3
    guide = np.random.default_rng(0).random((37, 53))
    np.testing.assert_allclose(propagation.propagate(EdgeBlur(sigma, confidence), guide, method), 2.5, rtol=1e-5)


@pytest.mark.parametrize("method", propagation.METHODS)
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (2, 2), (5, 3), (33, 47)])
def test_nothing_known_gives_zero_at_any_size(method: str, size: tuple[int, int]) -> None:
    nothing = np.zeros(size, np.float32)
    result = propagation.propagate(EdgeBlur(nothing, nothing), nothing, method)
    assert result.shape == size
    assert not result.any()


@pytest.mark.parametrize("method", propagation.METHODS)
def test_the_map_stays_within_what_was_found(method: str) -> None:
    rng = np.random.default_rng(1)
    known = rng.random((60, 60)) < 0.1
    sigma = np.where(known, rng.uniform(0.5, 3.5, (60, 60)), 0).astype(np.float32)
    result = propagation.propagate(EdgeBlur(sigma, known.astype(np.float32)), rng.random((60, 60)), method)
    assert sigma[known].min() <= result.min() < result.max() <= sigma[known].max()


def test_confident_values_count_more() -> None:
    sigma, confidence = np.zeros((2, 40, 40), np.float32)
    sigma[:, ::4], confidence[:, ::4] = 1.0, 1.0
    sigma[:, 2::4], confidence[:, 2::4] = 3.0, 0.05
    assert propagation.propagate(EdgeBlur(sigma, confidence), np.full((40, 40), 0.5)).mean() < 1.3


def test_the_matting_laplacian_ignores_linear_functions_of_the_guide() -> None:
    guide = np.random.default_rng(0).random((9, 11))
    laplacian = propagation.matting_laplacian(guide, epsilon=1e-10)
    assert laplacian.shape == (99, 99)
    assert abs(laplacian - laplacian.T).max() < 1e-9
    np.testing.assert_allclose(laplacian @ np.ones(99), 0, atol=1e-9)
    np.testing.assert_allclose(laplacian @ (3 * guide.ravel() - 1), 0, atol=1e-6)
    other = np.random.default_rng(1).random(99)
    assert other @ (laplacian @ other) > 0.1


def test_another_method_is_refused() -> None:
    nothing = np.zeros((4, 4), np.float32)
    with pytest.raises(UserError, match="propagation: must be one of 'guided', 'matting', not 'mating'; did you mean"):
        propagation.propagate(EdgeBlur(nothing, nothing), nothing, "mating")
