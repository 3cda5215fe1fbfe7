"""From the blur at edges to the blur everywhere: a confidence-weighted guided filter, or closed-form matting.

Both let the map change where the picture changes. The guided filter (He et al., TPAMI 2013) is fast at any size. The
matting Laplacian (Levin et al., TPAMI 2008), which Zhuo & Sim use, is solved at a reduced size.
"""

from __future__ import annotations

import cv2
import numpy as np
from scipy import sparse
from scipy.sparse.linalg import cg

from ifan_plugin.conventional.edge_blur import EdgeBlur
from ifan_plugin.options.schema import Option, check_value

METHODS = ("guided", "matting")

WORKING_SIZE = 512
"""Longer side, px, at which the map is filled in: it is smooth but for its edges, which the last step brings back."""

MATTING_SIZE = 128
"""Longer side, px, at which the matting Laplacian is solved."""

_EPSILON = 1e-3  # of the guided filter; a picture's variance below it doesn't guide
_FILL_WEIGHT = 0.02  # of a value that only stands in for missing edges, against an edge's 1
_MATTING_WEIGHT = 1.0  # of the edges' values against the Laplacian (Zhuo & Sim's lambda: 0.005 at full size)


def propagate(found: EdgeBlur, guide: np.ndarray, method: str = "guided") -> np.ndarray:
    """Fill a sparse map.

    Args:
        found: sigma and confidence at edges, [H, W] both.
        guide: the picture's luminance as it is looked at, [H, W], in [0, 1].
        method: ``guided`` or ``matting``.

    Returns:
        Sigma, px, float32 [H, W], within the range of those found; 0 everywhere where none was.

    Raises:
        UserError: another method.
    """
    check_value(method, Option(str, choices=METHODS), "propagation")
    known = found.confidence > 0
    guide = np.ascontiguousarray(guide, np.float32)
    if not known.any():
        return np.zeros(guide.shape, np.float32)
    height, width = guide.shape
    shrink = max(1.0, max(height, width) / (WORKING_SIZE if method == "guided" else MATTING_SIZE))
    size = (max(1, round(width / shrink)), max(1, round(height / shrink)))
    # Areas, not samples: an edge is one pixel wide, and none may get lost.
    weight = cv2.resize(found.confidence, size, interpolation=cv2.INTER_AREA)
    weighted = cv2.resize(found.confidence * found.sigma, size, interpolation=cv2.INTER_AREA)
    small_guide = cv2.resize(guide, size, interpolation=cv2.INTER_AREA)
    sigma = weighted / np.maximum(weight, 1e-9)
    weight = np.minimum(weight * shrink, 1)  # an edge through a small pixel covers 1/shrink of its area

    filled = _fill(sigma, weight)
    radius = max(2, round(max(size) / 32))
    if method == "matting":
        filled = _matting(filled, weight, small_guide)
        weight = np.ones_like(weight)
    slope, offset = _guided_model(filled, weight + _FILL_WEIGHT, small_guide, radius)
    if shrink > 1:
        slope, offset = (cv2.resize(part, (width, height), interpolation=cv2.INTER_LINEAR) for part in (slope, offset))
    low, high = float(found.sigma[known].min()), float(found.sigma[known].max())
    return np.clip(slope * guide + offset, low, high).astype(np.float32)


def _fill(value: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """A value everywhere: where weights are small, that of coarser and coarser neighbourhoods (a pyramid)."""
    if min(value.shape) <= 2 or (weight > 0.5).all():
        return np.full_like(value, np.average(value, weights=weight + 1e-9)) if weight.max() < 0.5 else value
    size = ((value.shape[1] + 1) // 2, (value.shape[0] + 1) // 2)
    share = cv2.resize(weight, size, interpolation=cv2.INTER_AREA)
    total = cv2.resize(weight * value, size, interpolation=cv2.INTER_AREA)
    coarse = _fill(total / np.maximum(share, 1e-9), np.minimum(3 * share, 1))
    coarse = cv2.GaussianBlur(coarse, (0, 0), 1.0, borderType=cv2.BORDER_REFLECT)
    above = cv2.resize(coarse, value.shape[::-1], interpolation=cv2.INTER_LINEAR)
    return weight * value + (1 - weight) * above


def _guided_model(
    value: np.ndarray, weight: np.ndarray, guide: np.ndarray, radius: int
) -> tuple[np.ndarray, np.ndarray]:
    """The guided filter's linear model, value = slope * guide + offset, each window's sums weighted by confidence."""

    def mean(part: np.ndarray) -> np.ndarray:
        side = 2 * radius + 1
        return cv2.boxFilter(part, cv2.CV_32F, (side, side), borderType=cv2.BORDER_REFLECT)

    total = mean(weight)
    mean_guide, mean_value = mean(weight * guide) / total, mean(weight * value) / total
    variance = np.maximum(mean(weight * guide * guide) / total - mean_guide**2, 0)
    covariance = mean(weight * guide * value) / total - mean_guide * mean_value
    slope = covariance / (variance + _EPSILON)
    offset = mean_value - slope * mean_guide
    return mean(total * slope) / mean(total), mean(total * offset) / mean(total)


def _matting(value: np.ndarray, weight: np.ndarray, guide: np.ndarray) -> np.ndarray:
    """Minimise the matting Laplacian's energy plus the weighted squared distance to the known values."""
    if min(value.shape) < 3:
        return value
    laplacian = matting_laplacian(guide)
    data = sparse.diags_array(_MATTING_WEIGHT * weight.ravel().astype(np.float64) + 1e-7)
    system = (laplacian + data).tocsr()
    jacobi = sparse.diags_array(1 / system.diagonal())
    solution, _ = cg(
        system, data @ value.ravel(), x0=value.ravel().astype(np.float64), rtol=1e-4, maxiter=500, M=jacobi
    )
    return solution.reshape(value.shape).astype(np.float32)


def matting_laplacian(guide: np.ndarray, epsilon: float = 1e-4) -> sparse.csr_array:
    """Levin et al.'s matting Laplacian of a grey picture, 3x3 windows: sparse [H W, H W], rows that sum to 0.

    Its energy is 0 for maps that are a linear function of the guide in every window.
    """
    height, width = guide.shape
    index = np.arange(height * width).reshape(height, width)
    windows = np.lib.stride_tricks.sliding_window_view(index, (3, 3)).reshape(-1, 9)
    values = guide.astype(np.float64).ravel()[windows]
    centred = values - values.mean(1, keepdims=True)
    variance = (centred**2).mean(1)
    affinity = (1 + centred[:, :, None] * centred[:, None, :] / (variance + epsilon / 9)[:, None, None]) / 9
    rows, columns = np.repeat(windows, 9, axis=1).ravel(), np.tile(windows, (1, 9)).ravel()
    matrix = sparse.coo_array((affinity.ravel(), (rows, columns)), shape=(height * width,) * 2).tocsr()
    return (sparse.diags_array(matrix.sum(1)) - matrix).tocsr()
