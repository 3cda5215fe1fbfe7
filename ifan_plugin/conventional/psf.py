"""Two models of defocus, a Gaussian and a uniform disk, both sized by their standard deviation along an axis.

A uniform disk of radius r has the standard deviation r / 2 along each axis, so `sigma` means the same for both.
"""

from __future__ import annotations

import math

import numpy as np

from ifan_plugin.common.errors import UserError
from ifan_plugin.options.schema import Option, check_value

SHAPES = ("disk", "gaussian")
_SUBPIXELS = 9  # samples a pixel and axis of the disk; odd, so that a pixel's centre is one of them


def check_shape(shape: str, where: str = "psf") -> None:
    """Raises :class:`UserError` unless ``shape`` is one of :data:`SHAPES`."""
    check_value(shape, Option(str, choices=SHAPES), where)


def radius_of(sigma: float, shape: str) -> int:
    """Pixels that the kernel reaches from its centre: all of a disk, four sigma of a Gaussian."""
    return math.ceil((2 if shape == "disk" else 4) * sigma)


def kernel(sigma: float, shape: str) -> np.ndarray:
    """The point spread function, float32 [2 r + 1, 2 r + 1], sum 1.

    Args:
        sigma: standard deviation along an axis, pixels; 0 or more (0 gives ``[[1.]]``).
        shape: ``disk`` (each pixel has the share of it that the disk of radius 2 sigma covers) or ``gaussian``.

    Raises:
        UserError: ``sigma`` negative or not finite, or another shape.
    """
    check_shape(shape)
    if not 0 <= sigma < math.inf:
        raise UserError(f"sigma: must be finite and at least 0, not {sigma}")
    if sigma == 0:
        return np.ones((1, 1), np.float32)
    reach = radius_of(sigma, shape)
    if shape == "gaussian":
        line = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
        plane = np.outer(line, line)
    else:
        size = 2 * reach + 1
        fine = (np.arange(size * _SUBPIXELS) + 0.5) / _SUBPIXELS - size / 2
        covered = fine[:, None] ** 2 + fine[None] ** 2 <= (2 * sigma) ** 2
        plane = covered.reshape(size, _SUBPIXELS, size, _SUBPIXELS).mean(axis=(1, 3))
    return (plane / plane.sum()).astype(np.float32)


def edge_slope(sigma: np.ndarray, smoothing: float, shape: str) -> np.ndarray:
    """Steepest slope of a unit step blurred with ``sigma``, then smoothed with a Gaussian.

    It is the middle of the line spread function. A Gaussian gives 1 / sqrt(2 pi (sigma^2 + smoothing^2)), which is
    what Zhuo & Sim invert; a disk's line spread function is half an ellipse, and has to be integrated.

    Args:
        sigma: any shape, pixels, >= 0.
        smoothing: standard deviation of the smoothing, pixels, > 0.

    Returns:
        float64 of the shape of ``sigma``, per pixel.
    """
    check_shape(shape)
    sigma = np.asarray(sigma, np.float64)
    if shape == "gaussian":
        return 1 / np.sqrt(2 * math.pi * (sigma**2 + smoothing**2))
    # Substituting x = r sin(t) in the integral of the half ellipse times the Gaussian leaves a smooth integrand.
    t = (np.arange(256) + 0.5) / 256 * math.pi - math.pi / 2
    x = 2 * sigma[..., None] * np.sin(t)
    weight = 2 / math.pi * np.cos(t) ** 2 * (math.pi / 256)
    return (weight * np.exp(-(x**2) / (2 * smoothing**2))).sum(-1) / (math.sqrt(2 * math.pi) * smoothing)
