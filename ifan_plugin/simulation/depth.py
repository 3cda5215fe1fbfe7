"""Depth for pictures that have none: invented by chance, and yet the blur made with it is exact.

A network for deblurring needn't know the true depth of its training pictures; it must have seen all sizes of blur, and
their edges. What is invented: slanted planes, corners, bumps and steps; segments of the picture, each with a plane of
its own; and cut-outs of pictures laid in front.
"""

from __future__ import annotations

import cv2
import numpy as np

NEAR_M, FAR_OVER_NEAR = (0.8, 2.0), (1.8, 5.0)
"""Metres of the nearest thing, and how much farther the farthest may be."""


def invent_depth(
    sharp: np.ndarray, rng: np.random.Generator, other: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """A picture, perhaps with cut-outs laid in front, and a depth for it.

    Args:
        sharp: float [H, W, 3], coded.
        rng: the only source of chance.
        other: a picture of the same size that cut-outs are taken from; the picture itself, mirrored, if there is none.

    Returns:
        float32 [H, W, 3], and depth in metres, float32 [H, W].
    """
    height, width = sharp.shape[:2]
    near = rng.uniform(*NEAR_M)
    far = near * rng.uniform(*FAR_OVER_NEAR)
    surface = _segments(sharp, rng) if rng.random() < 0.4 else random_surface(rng, height, width)
    inverse = 1 / far + (1 / near - 1 / far) * 0.6 * surface  # the nearest part is left to the cut-outs
    sharp = np.asarray(sharp, np.float32)
    for _ in range(rng.integers(0, 4)):
        matte = random_matte(rng, height, width)
        texture = sharp[::-1, ::-1] if other is None else other
        texture = np.roll(texture, rng.integers(0, (height, width)), (0, 1))
        sharp, inverse = lay_in_front(sharp, inverse, texture, matte, 1 / near, rng)
    return sharp, (1 / inverse).astype(np.float32)


def lay_in_front(
    sharp: np.ndarray,
    inverse: np.ndarray,
    texture: np.ndarray,
    matte: np.ndarray,
    nearest: float,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Lay ``texture`` in the form of ``matte`` in front of a picture of inverse depth ``inverse``."""
    covered = matte > 0.02  # an edge's pixels show both, and belong to the near one
    if not covered.any():
        return sharp, inverse
    matte = matte[..., None].astype(sharp.dtype)
    behind = inverse[covered].max()
    plane = random_plane(rng, *inverse.shape)
    inverse = np.where(covered, behind + (nearest - behind) * rng.uniform(0.2, 1.0) * (0.7 + 0.3 * plane), inverse)
    return sharp * (1 - matte) + texture * matte, inverse


def _segments(sharp: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Inverse depth in [0, 1]: parts of similar colour, each a plane of its own. Their edges are the picture's."""
    height, width = sharp.shape[:2]
    scale = min(1.0, 96 / max(height, width))
    small = (max(round(width * scale), 2), max(round(height * scale), 2))
    tiny = cv2.resize(np.asarray(sharp, np.float32), small, interpolation=cv2.INTER_AREA)
    tiny = cv2.GaussianBlur(tiny, (0, 0), 1.0)
    y, x = grid(*tiny.shape[:2])
    points = np.concatenate([tiny * rng.uniform(1, 4), y[..., None], x[..., None]], axis=2).reshape(-1, 5)
    seeds = points[rng.integers(0, len(points), rng.integers(4, 12))]
    distance = np.square(points[:, None] - seeds[None]).sum(2)
    segment = distance.argmin(1).reshape(tiny.shape[:2]).astype(np.uint8)
    segment = cv2.medianBlur(segment, 3)
    segment = cv2.resize(segment, (width, height), interpolation=cv2.INTER_NEAREST)
    slopes = rng.uniform(-0.4, 0.4, (len(seeds), 2))
    rows, columns = grid(height, width)
    surface = rng.random(len(seeds))[segment] + slopes[segment, 0] * (rows - 0.5) + slopes[segment, 1] * (columns - 0.5)
    return (surface - surface.min()) / max(float(np.ptp(surface)), 1e-6)


def random_surface(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Inverse depth of a background in [0, 1]: a slanted plane, a corner of a room, bumps, or steps."""
    kind = rng.integers(4)
    surface = random_plane(rng, height, width)
    if kind == 1:
        surface = np.minimum(surface, random_plane(rng, height, width))
    elif kind == 2:
        surface = 0.5 * surface + 0.5 * random_noise(rng, height, width, int(rng.integers(3, 7)))
    elif kind == 3:
        steps = rng.integers(3, 6)
        surface = np.floor(surface * steps * 0.999) / (steps - 1)
    return surface


def random_plane(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Inverse depth of a plane of random slant, which is linear over the picture; spans [0, 1]."""
    y, x = grid(height, width)
    angle = rng.uniform(0, 2 * np.pi)
    plane = np.cos(angle) * x + np.sin(angle) * y
    return (plane - plane.min()) / (plane.max() - plane.min())


def random_noise(rng: np.random.Generator, height: int, width: int, cells: int) -> np.ndarray:
    """Smooth noise with about ``cells`` bumps a side, scaled to [0, 1]."""
    noise = cv2.resize(rng.random((cells, cells)), (width, height), interpolation=cv2.INTER_CUBIC)
    return (noise - noise.min()) / (noise.max() - noise.min())


def random_matte(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Shape of a cut-out, height x width in [0, 1], with smooth edges: ellipse, polygon, bars or blobs."""
    fine = 4  # drawn larger and averaged, so that edges are as smooth as a photograph's
    size = min(height, width)
    canvas = np.zeros((height * fine, width * fine), np.uint8)
    centre = rng.uniform(0.1, 0.9, 2) * (width * fine, height * fine)
    reach = rng.uniform(0.1, 0.35) * size * fine
    kind = rng.integers(4)
    if kind == 0:
        axes = (int(reach), int(reach * rng.uniform(0.3, 1)))
        cv2.ellipse(canvas, [int(c) for c in centre], axes, rng.uniform(0, 180), 0, 360, 255, -1)
    elif kind == 1:
        angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 8)))
        corners = centre + reach * rng.uniform(0.6, 1.4, (len(angles), 1)) * np.stack(
            [np.cos(angles), np.sin(angles)], axis=1
        )
        cv2.fillPoly(canvas, [corners.astype(np.int32)], 255)
    elif kind == 2:
        for _ in range(rng.integers(1, 5)):
            start, end = rng.uniform(-0.2, 1.2, (2, 2)) * (width * fine, height * fine)
            thickness = int(rng.integers(3, 22) * fine)
            cv2.line(canvas, start.astype(int).tolist(), end.astype(int).tolist(), 255, thickness)
    else:
        noise = random_noise(rng, height * fine, width * fine, int(rng.integers(3, 8)))
        canvas[noise > rng.uniform(0.65, 0.8)] = 255
    return cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA) / 255.0


def grid(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of each pixel, both scaled to [0, 1]."""
    rows, columns = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    return rows, columns
