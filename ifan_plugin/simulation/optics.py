"""What a lens and a dual-pixel sensor make of a point: the blur of the two views, anywhere in the picture.

One description, :class:`Optics`, and one formula, :func:`view_kernels`, for NumPy and PyTorch alike: it is written
with the functions that both have under the same name, so that pictures on disk and those made on the device agree.

The picture of a point is the lens's pupil, as large as the circle of confusion and, in front of the focus plane,
upside down. The pupil isn't evenly bright, and each half of a dual pixel sees more of one side of it. What the
parameters should be was measured, see :mod:`ifan_plugin.simulation.presets` and ``docs/optics.md``.

Conventions: a circle of confusion is the blur's *diameter*, in pixels, negative in front of the focus plane and
positive behind it; x points right and y down; the field position (fx, fy) is counted from the middle of the picture
in halves of the longer side: the corners of a 3:2 picture lie at (±1, ±2/3).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from types import ModuleType
from typing import Any

import numpy as np

FIELD_LIMIT = 1.5  # of |field|^2: nothing was measured farther out, so the form stays there (a 3:2 corner has 1.44)
OVERSAMPLING = 3  # of a kernel, per axis: it changes smoothly with fractions of a pixel
MIN_EDGE = 1.0  # px, width of a blur's edge: what a pixel's area makes of the sharpest one


@dataclass(frozen=True)
class Optics:
    """The form of the blur; the size comes from the camera. The defaults are an ideal thin lens, split as measured.

    Args:
        split: how strongly the views lean to opposite sides: about the amplitude of the ramp 1 ± split x / r over
            the disk. 0: no difference; Canon R6 II: 0.4.
        split_limit: the most that one half of a pixel can lose to the other, in (0, 1].
        balance: how far the boundary between the halves' fields of view moves over the pupil from the middle of the
            picture to its right edge, in radii. It makes one view's blur narrow at the left and the other's at the
            right edge.
        brightness: of the left view at the right edge, above the centre view's, as a fraction; the right view's is
            as much below, and at the left edge the reverse.
        edge: width of the soft rim, as a fraction of the radius; never below one pixel.
        stretch: how much longer than wide the blur is at |field| = 1, towards the middle (astigmatism); grows with
            the field's square.
        curvature: how much larger the blur is at |field| = 1; grows with the field's square.
        vignetting: how far the barrel's shadow has moved over the pupil at |field| = 1, in radii: cat's eyes.
        lean: how much brighter the pupil's outer side is at |field| = 1.
        spherical: spherical aberration: behind the focus plane the rim is darker than the middle by this fraction,
            in front of it brighter.
        red, blue: longitudinal colour: how much smaller than green's the circles of confusion of red and blue are
            (signed: in front of the focus plane they are larger), px.
    """

    split: float = 0.4
    split_limit: float = 1.0
    balance: float = 0.0
    brightness: float = 0.0
    edge: float = 0.0
    stretch: float = 0.0
    curvature: float = 0.0
    vignetting: float = 0.0
    lean: float = 0.0
    spherical: float = 0.0
    red: float = 0.0
    blue: float = 0.0

    radius_per_coc = 0.5
    """The blur's radius over the circle of confusion, which is its diameter."""

    def as_tuple(self) -> tuple[float, ...]:
        """The parameters in order, as they travel to the device."""
        return tuple(float(getattr(self, field.name)) for field in fields(self))

    @property
    def chromatic(self) -> bool:
        """Whether the three colours blur differently."""
        return bool(self.red or self.blue)

    @property
    def varies(self) -> bool:
        """Whether the blur depends on the place in the picture."""
        return any((self.balance, self.brightness, self.stretch, self.curvature, self.vignetting, self.lean))

    def kernels(self, coc: float, field: Sequence[float] = (0.0, 0.0)) -> tuple[np.ndarray, np.ndarray]:
        """Left and right, float32 [1 or 3, k, k] each: of all colours, or of red, green and blue."""
        cocs = np.array([float(coc)])
        if self.chromatic:
            cocs = colour_cocs(np, self, cocs)[0]
        sides = view_kernels(np, self, cocs, field, self.reach(coc, field))
        return tuple(side.astype(np.float32) for side in sides)

    def gains(self, field: Sequence[float]) -> tuple[float, float]:
        """Brightness of the left and the right view; their mean is 1."""
        return 1 + self.brightness * field[0], 1 - self.brightness * field[0]

    def reach(self, coc: float, field: Sequence[float] = (0.0, 0.0)) -> int:
        """Pixels from the middle of the kernels of one circle of confusion to their rim, whatever the colour."""
        radius = (abs(coc) + max(abs(self.red), abs(self.blue))) / 2
        square = min(field[0] ** 2 + field[1] ** 2, FIELD_LIMIT)
        radius *= 1 + self.curvature * square
        rim = radius + max(self.edge * radius, MIN_EDGE) / 2
        rim *= max(1 + self.stretch * square * min(radius, 1.0), 1.0)
        return max(math.ceil(rim - 0.5), 0)


def view_kernels(xp: ModuleType, optics: Optics, cocs: Any, field: Sequence[float], half: int) -> tuple[Any, Any]:
    """Kernels of the left and the right view, for convolution.

    Args:
        xp: ``numpy`` or ``torch``.
        optics: the form of the blur.
        cocs: signed circles of confusion, px; an array of ``xp``, [N], of the float type that is wanted.
        field: (fx, fy), where in the picture.
        half: the kernels' half size; at least ``optics.reach`` of the largest.

    Returns:
        left, right: [N, 2 half + 1, 2 half + 1], like ``cocs``, each of sum 1. The centre view's is their mean.
    """
    fx, fy = float(field[0]), float(field[1])
    square = fx * fx + fy * fy
    if square > FIELD_LIMIT:
        fx, fy = (place * math.sqrt(FIELD_LIMIT / square) for place in (fx, fy))
        square = FIELD_LIMIT
    size = 2 * half + 1
    # Built from ``cocs`` so that type and device are its own.
    steps = xp.cumsum(xp.ones_like(cocs[:1]) * xp.ones_like(_many(xp, cocs, size * OVERSAMPLING)), 0)
    grid = (steps - 0.5) / OVERSAMPLING - size / 2
    x, y = grid[None, None, :], grid[None, :, None]
    radius = (xp.abs(cocs) / 2 * (1 + optics.curvature * square))[:, None, None]
    behind = xp.sign(cocs)[:, None, None]
    edge = xp.clip(optics.edge * radius, MIN_EDGE, None)
    # Over the pupil, in radii; a point's picture is upside down in front of the focus plane.
    scale = behind / xp.clip(radius, 1.0, None)
    ux, uy = x * scale, y * scale
    if square > 0:
        length = math.sqrt(square)
        ex, ey = fx / length, fy / length
        along, across = x * ex + y * ey, y * ex - x * ey
        # What is in focus isn't stretched.
        along = along / (1 + optics.stretch * square * xp.clip(radius, 0.0, 1.0))
        distance = xp.sqrt(along * along + across * across)
    else:
        distance = xp.sqrt(x * x + y * y)
    pupil = _soft(xp, (radius - distance) / edge)
    if square > 0 and optics.vignetting:
        shadow = xp.sqrt((ux - optics.vignetting * fx) ** 2 + (uy - optics.vignetting * fy) ** 2)
        pupil = pupil * _soft(xp, (1 - shadow) * xp.clip(radius, 1.0, None) / edge)
    if square > 0 and optics.lean:
        pupil = pupil * xp.clip(1 + optics.lean * (ux * fx + uy * fy), 0.05, None)
    if optics.spherical:
        rho = xp.clip(distance / xp.clip(radius, 1.0, None), 0.0, 1.0)
        pupil = pupil * (1 - optics.spherical * behind * (2 * rho * rho - 1))
    slope = optics.split / optics.split_limit
    tilt = optics.split_limit * xp.tanh(slope * (xp.clip(ux, -1.5, 1.5) - optics.balance * fx))
    left, right = _shrink(pupil * (1 - tilt), size), _shrink(pupil * (1 + tilt), size)
    return left / left.sum((1, 2))[:, None, None], right / right.sum((1, 2))[:, None, None]


def field_of(x: float, y: float, height: int, width: int) -> tuple[float, float]:
    """The field position of pixel coordinates (x, y), counted from the picture's corner, in a picture of this size."""
    longer = max(height, width)
    return (2 * x - width) / longer, (2 * y - height) / longer


def colour_cocs(xp: ModuleType, optics: Optics, cocs: Any) -> Any:
    """Circles of confusion [N, 3] of red, green and blue, from green's [N]."""
    return xp.stack([cocs - optics.red, cocs, cocs - optics.blue], 1)


def _many(xp: ModuleType, like: Any, count: int) -> Any:
    return xp.broadcast_to(like[:1], (count,))


def _soft(xp: ModuleType, distance: Any) -> Any:
    """0 to 1 while ``distance`` goes from -1/2 to 1/2, smoothly."""
    t = xp.clip(distance + 0.5, 0.0, 1.0)
    return t * t * (3 - 2 * t)


def _shrink(fine: Any, size: int) -> Any:
    """Mean of each pixel's samples."""
    return fine.reshape(-1, size, OVERSAMPLING, size, OVERSAMPLING).mean((2, 4))
