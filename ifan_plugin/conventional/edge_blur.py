"""How blurred the edges of a picture are, from how much steeper they are than when blurred once more.

Zhuo & Sim, Defocus map estimation from a single image, Pattern Recognition 2011: a step edge that a Gaussian of
sigma blurred, blurred again with sigma_0, loses slope by R = sqrt(1 + sigma_0^2 / sigma^2), whatever its contrast;
so sigma = sigma_0 / sqrt(R^2 - 1). The slopes here are those of the picture smoothed a little, which is
allowed for. In the way of EBDB (Karaali & Jung, IEEE TIP 2018) there are several scales, and each edge is measured by
one that fits it; where scales contradict each other, a neighbouring edge or noise has a part in it, and the edge
counts less.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from ifan_plugin.conventional import psf

SCALES = ((0.8, 1.0), (1.2, 2.0), (2.0, 4.0))
"""Smoothing of the derivative and sigma_0, px, from fine to coarse."""

_ESCALATE = (1.0, 1.5)  # px: an edge more blurred than this at one scale is looked at in the next
_CANNY_SMOOTHING = 1.5
_LOW, _HIGH = 0.4, 1.0  # Canny's thresholds, times the least slope that counts
_LEAST_SLOPE = 0.012  # of values in [0, 1], per px; less is mostly shading, which has no edge to measure
_NOISE_FACTOR = 6.0  # an edge stands out of noise by so many standard deviations
_HALF_CONTRAST = 0.1  # of luminance, at which an edge counts half
_DISAGREEMENT = 0.5  # of ln sigma between two scales, at which an edge's weight has fallen to exp(-1/2)
_OFFSET = 0.3  # px, added to sigma before its logarithm is taken: about what a sharp pixel's own width is
_SPREAD = 0.3  # of that logarithm among neighbours
_NEIGHBOURHOOD = 5.0  # px, within which an edge's neighbours say what it should be


class EdgeBlur(NamedTuple):
    """What is known at edges and nowhere else; float32 [H, W] both."""

    sigma: np.ndarray  # px; 0 where there is no edge
    confidence: np.ndarray  # in [0, 1]; 0 where there is no edge


def estimate(
    luminance: np.ndarray, detected_on: np.ndarray | None = None, shape: str = "gaussian", largest: float = 6.0
) -> EdgeBlur:
    """Measure the blur of a picture's edges.

    Args:
        luminance: [H, W], float, in [0, 1]: where the slopes are compared. Blur happens in linear light, so it should
            be linear.
        detected_on: [H, W], where edges are looked for; default ``luminance``. Values coded for display find those in
            the dark, too.
        shape: of the blur, which the ratio of slopes is read by: ``gaussian`` (Zhuo & Sim) or ``disk``.
        largest: of sigma, px; edges found more blurred than that count as so blurred.

    Returns:
        :class:`EdgeBlur`, without any edge where the picture has none.

    Raises:
        UserError: another shape.
    """
    psf.check_shape(shape)
    luminance = np.ascontiguousarray(luminance, np.float32)
    edges = find_edges(luminance if detected_on is None else np.ascontiguousarray(detected_on, np.float32))
    sigma, confidence = np.zeros_like(luminance), np.zeros_like(luminance)
    ys, xs, horizontal = _inner(edges, luminance)
    if len(ys) == 0:
        return EdgeBlur(sigma, confidence)

    value, weight = np.empty(0, np.float32), np.empty(0, np.float32)
    for level, (smoothing, reblur) in enumerate(SCALES):
        slope = _peak(_slope(luminance, smoothing), ys, xs, horizontal)
        again = _peak(_slope(luminance, float(np.hypot(smoothing, reblur))), ys, xs, horizontal)
        here = _sigma_of_ratio(slope / again, smoothing, reblur, shape, largest)
        if level == 0:
            contrast = slope * np.sqrt(2 * np.pi) * np.hypot(here, smoothing)
            value, weight = here, contrast / (contrast + _HALF_CONTRAST)
            continue
        # Disks have rims, and lines are no steps: both look sharper than they are when looked at closely. A sharp
        # edge isn't looked at from afar, where its neighbours reach into the measure.
        replaced = (value > _ESCALATE[level - 1]) & (here > value)
        disagreement = np.log((here[replaced] + _OFFSET) / (value[replaced] + _OFFSET))
        weight[replaced] *= np.exp(-0.5 * (disagreement / _DISAGREEMENT) ** 2)
        value[replaced] = here[replaced]
    good = np.isfinite(value) & np.isfinite(weight)
    sigma[ys[good], xs[good]] = value[good]
    confidence[ys[good], xs[good]] = weight[good]
    return _without_outliers(EdgeBlur(sigma, confidence))


def find_edges(luminance: np.ndarray) -> np.ndarray:
    """Canny's edges, bool [H, W], of slopes that stand out of the picture's noise."""
    if min(luminance.shape) < 3:
        return np.zeros(luminance.shape, bool)
    dx, dy = _derivatives(luminance, _CANNY_SMOOTHING)
    # Noise of deviation s has slopes of deviation s / (sqrt(8 pi) smoothing^2) after a Gaussian derivative.
    noise = noise_level(luminance) / (np.sqrt(8 * np.pi) * _CANNY_SMOOTHING**2)
    least = max(_LEAST_SLOPE, _NOISE_FACTOR * noise)
    scale = 2000 / least  # Canny wants 16-bit integers
    across, down = (np.clip(np.rint(d * scale), -32000, 32000).astype(np.int16) for d in (dx, dy))
    return cv2.Canny(across, down, _LOW * 2000, _HIGH * 2000, L2gradient=True) > 0


def noise_level(luminance: np.ndarray) -> float:
    """Standard deviation of white noise, from the median of a second difference in both directions (Immerkaer 1996)."""
    if min(luminance.shape) < 3:
        return 0.0
    mask = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
    response = cv2.filter2D(luminance, cv2.CV_32F, mask, borderType=cv2.BORDER_REFLECT)
    return float(np.median(np.abs(response))) / 0.6745 / 6.0


def _gaussian_line(sigma: float) -> np.ndarray:
    reach = int(np.ceil(4 * sigma))
    line = np.exp(-(np.arange(-reach, reach + 1, dtype=np.float64) ** 2) / (2 * sigma**2))
    return line / line.sum()


def _derivatives(picture: np.ndarray, smoothing: float) -> tuple[np.ndarray, np.ndarray]:
    """Along x and y, of the picture smoothed with a Gaussian; a ramp of slope 1 gives exactly 1."""
    line = _gaussian_line(smoothing)
    position = np.arange(len(line), dtype=np.float64) - len(line) // 2
    derivative = line * position
    derivative /= (derivative * position).sum()
    return (
        cv2.sepFilter2D(picture, cv2.CV_32F, derivative, line, borderType=cv2.BORDER_REFLECT),
        cv2.sepFilter2D(picture, cv2.CV_32F, line, derivative, borderType=cv2.BORDER_REFLECT),
    )


def _slope(picture: np.ndarray, smoothing: float) -> np.ndarray:
    """The gradient's magnitude, of the picture smoothed with a Gaussian."""
    return cv2.magnitude(*_derivatives(picture, smoothing))


def _inner(edges: np.ndarray, luminance: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Edge pixels that aren't at the picture's rim, and whether each edge is crossed along x rather than y."""
    edges = edges.copy()
    edges[[0, -1]] = edges[:, [0, -1]] = False
    ys, xs = np.nonzero(edges)
    dx, dy = _derivatives(luminance, SCALES[0][0])
    return ys, xs, np.abs(dx[ys, xs]) >= np.abs(dy[ys, xs])


def _peak(magnitude: np.ndarray, ys: np.ndarray, xs: np.ndarray, horizontal: np.ndarray) -> np.ndarray:
    """The slope between pixels where it is steepest: half a pixel aside it is less, and less so after blurring.

    A parabola through the logarithms of three neighbours across the edge, exact for a Gaussian's profile. NaN where
    there is no top within a pixel.
    """
    step_x, step_y = horizontal.astype(np.int64), (~horizontal).astype(np.int64)
    floor = 1e-12
    middle = np.log(magnitude[ys, xs] + floor)
    before = np.log(magnitude[ys - step_y, xs - step_x] + floor)
    after = np.log(magnitude[ys + step_y, xs + step_x] + floor)
    curvature = before - 2 * middle + after
    peaked = (curvature < 0) & (np.abs(before - after) <= -2 * curvature)
    peak = np.exp(middle - (before - after) ** 2 / (8 * np.where(peaked, curvature, -np.inf)))
    return np.where(peaked, peak, np.nan)


def _sigma_of_ratio(ratio: np.ndarray, smoothing: float, reblur: float, shape: str, largest: float) -> np.ndarray:
    """Sigma at which a step loses so much slope by being blurred again; NaN where it gained."""
    both = float(np.hypot(smoothing, reblur))
    known = np.concatenate([[0], np.geomspace(0.1, largest, 200)])
    curve = psf.edge_slope(known, smoothing, shape) / psf.edge_slope(known, both, shape)
    found = np.interp(ratio, curve[::-1], known[::-1])  # it falls with sigma; interp wants it rising, and clips
    return np.where(ratio > 1, found, np.nan)


def _without_outliers(found: EdgeBlur) -> EdgeBlur:
    """Each edge's sigma replaced by its neighbours' mean, those weighing little that are far from the first mean."""
    present = found.confidence > 0
    value = np.where(present, np.log(found.sigma + _OFFSET), 0).astype(np.float32)

    def around(part: np.ndarray) -> np.ndarray:
        return cv2.GaussianBlur(part, (0, 0), _NEIGHBOURHOOD, borderType=cv2.BORDER_REFLECT)

    def mean(weight: np.ndarray) -> np.ndarray:
        return around(weight * value) / np.maximum(around(weight), 1e-20)

    agreement = np.exp(-0.5 * ((value - mean(found.confidence)) / _SPREAD) ** 2)
    confidence = found.confidence * agreement
    second = mean(confidence)
    sigma = np.where(present, np.maximum(np.exp(second) - _OFFSET, 0), 0)
    return EdgeBlur(sigma.astype(np.float32), np.where(present, confidence, 0).astype(np.float32))
