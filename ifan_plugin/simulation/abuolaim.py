"""The kernels of the first dual-pixel simulator, in its own convention, for people who compare with it.

A. Abuolaim, M. Delbracio, D. Kelly, M. S. Brown, P. Milanfar, "Learning to Reduce Defocus Blur by Realistically
Modeling Dual-Pixel Data", ICCV 2021. Real cameras differ: there the circle of confusion is the blur's diameter
and not its radius, the views overlap more, and the middle of the blur isn't dark. See
:mod:`ifan_plugin.simulation.optics`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np

from ifan_plugin.common.errors import UserError

_OVERSAMPLING = 8  # of a point spread function, per axis, so that its size can change by fractions of a pixel


class PointSpread(NamedTuple):
    """Point spread functions of the three views, k x k each, float32, sum 1; (left + right) / 2 = center."""

    center: np.ndarray
    left: np.ndarray
    right: np.ndarray


@lru_cache(maxsize=512)
def psf(coc: float, order: int = 3, cutoff: float = 2.5, beta: float = 0.2) -> PointSpread:
    """Point spread functions at one circle of confusion (Abuolaim et al. 2021, the Butterworth disk).

    The centre view's is a disk of diameter 2 |c| + 1 px whose brightness rises from ``beta`` in the middle
    to 1 at the rim as a Butterworth curve: H = e / (1 + e), e = (rho^2 / D0^2)^order, D0 = 2 |c| / cutoff;
    smoothed by a small Gaussian. The left view's is that times a ramp from 2 at the left rim to 0 at the right one,
    the right view's is its mirror image; in front of the focus plane (c < 0) the two change places. (The source's
    ramps rise the other way round, and its kernels are applied by correlation.)

    Args:
        coc: signed circle of confusion, pixels, taken for the radius; fractions are honoured.
        order: steepness of the rise (the source uses 3, 6 and 9).
        cutoff: where it rises; larger is nearer to the middle (the source uses 2 and 2.5).
        beta: brightness in the middle, in (0, 1]; 1 is a uniform disk (the source uses 0.1 and 0.2).

    Returns:
        Read-only arrays of odd size k = 2 ceil(|c|) + 1, meant for convolution. At c = 0 each is ``[[1.]]``.

    Raises:
        UserError: an argument outside its range.
    """
    if not (order > 0 and cutoff > 0 and 0 < beta <= 1):
        raise UserError(f"order {order} and cutoff {cutoff} must be positive, beta {beta} in (0, 1]")
    radius = abs(coc)
    half = math.ceil(radius) if radius > 1e-3 else 0
    size = 2 * half + 1
    if half == 0:
        center = np.ones((1, 1))
    else:
        fine = (np.arange(size * _OVERSAMPLING) + 0.5) / _OVERSAMPLING - size / 2
        rho = np.hypot(fine[:, None], fine[None])
        energy = (rho * cutoff / (2 * radius)) ** (2 * order)
        rise = energy / (1 + energy)
        disk = rho <= radius + 0.5
        center = (beta + (1 - beta) * rise / rise[disk].max()) * disk
        # The window is about k / 7 wide in the source: three standard deviations each way.
        center = cv2.GaussianBlur(center, (0, 0), max(size / 42, 1e-3) * _OVERSAMPLING, borderType=cv2.BORDER_CONSTANT)
        center = center.reshape(size, _OVERSAMPLING, size, _OVERSAMPLING).mean(axis=(1, 3))
        center = center + center[:, ::-1]  # the mirror symmetry is then exact, which (left + right) / 2 needs
        center /= center.sum()
    x = np.arange(-half, half + 1)
    ramp = np.clip(1 + x / radius, 0, 2) if half else np.ones(1)
    right = center * ramp
    left = right[:, ::-1]
    if coc < 0:
        left, right = right, left
    kernels = [np.ascontiguousarray(kernel, np.float32) for kernel in (center, left, right)]
    for kernel in kernels:
        kernel.flags.writeable = False
    return PointSpread(*kernels)


@dataclass(frozen=True)
class AbuolaimOptics:
    """The source's kernels where the simulator wants optics: the same everywhere in the picture, c taken for a radius.

    Args:
        order, cutoff, beta: the kernels' form, see :func:`psf`.

    Raises:
        UserError: a value outside its range.
    """

    order: int = 3
    cutoff: float = 2.5
    beta: float = 0.2

    radius_per_coc = 1.0
    chromatic = False
    varies = False

    def __post_init__(self) -> None:
        psf(0.0, self.order, self.cutoff, self.beta)

    def reach(self, coc: float, field: Sequence[float] = (0.0, 0.0)) -> int:
        """Pixels from the middle of the kernel to its rim."""
        return psf(coc, self.order, self.cutoff, self.beta).center.shape[0] // 2

    def kernels(self, coc: float, field: Sequence[float] = (0.0, 0.0)) -> tuple[np.ndarray, np.ndarray]:
        """Left and right, [1, k, k] each: one for all colours."""
        found = psf(coc, self.order, self.cutoff, self.beta)
        return found.left[None], found.right[None]

    def gains(self, field: Sequence[float]) -> tuple[float, float]:
        """Both views are equally bright."""
        return 1.0, 1.0
