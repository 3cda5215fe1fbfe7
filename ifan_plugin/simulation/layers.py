"""A picture as layers of nearly equal blur, and what lies hidden behind the edges of near things.

What is cut and invented here doesn't depend on the form of the blur, only on its size, so it is the same for files
(:mod:`ifan_plugin.simulation.simulator`) and on the device (:mod:`ifan_plugin.simulation.device`).
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

GROWTH = 0.15  # layers widen with the blur: a change of half a pixel can't be seen in a blur of ten
JUMP = 1.0  # px of the radius: where neighbours differ by more, one hides a part of the other


def boundaries(step: float, largest: float) -> tuple[np.ndarray, np.ndarray]:
    """Where layers meet, and each layer's blur.

    Args:
        step: width of a layer near the focus plane, px of the signed blur radius.
        largest: px, the largest radius that occurs.

    Returns:
        edges: float32 [2 n], ascending signed radii between the layers; ``searchsorted`` of a radius in them gives
            its layer, 0 the nearest to the camera.
        middles: float64 [2 n + 1], each layer's signed radius, 0 in the middle.
    """
    count = int(np.ceil(np.log1p(GROWTH * largest) / (GROWTH * step) + 0.5))
    numbers = np.arange(count + 1)
    middles = np.expm1(GROWTH * step * numbers) / GROWTH
    edges = np.expm1(GROWTH * step * (numbers[:-1] + 0.5)) / GROWTH
    return (
        np.concatenate([-edges[::-1], edges]).astype(np.float32),
        np.concatenate([-middles[:0:-1], middles]),
    )


class Hidden(NamedTuple):
    """What lies behind near things, close to their edges, where their blur lets it through.

    colour: H x W x 3 like the picture; radius: H x W float32, signed blur radius, NaN where nothing is hidden.
    """

    colour: np.ndarray
    radius: np.ndarray


def reveal(picture: np.ndarray, radius: np.ndarray, reach: int) -> Hidden:
    """Invent what near things hide, within ``reach`` px of their edges: the background's mirror image.

    Args:
        picture: H x W x 3.
        radius: H x W float32, signed blur radius, px, larger is farther away.
        reach: px.

    Only what lies within about two reaches of a pixel decides over it.
    """
    colour, behind = np.zeros_like(picture), np.full(radius.shape, np.nan, np.float32)
    best = np.full(radius.shape, reach + 0.5, np.float32)
    for threshold in _thresholds(radius):
        near = radius < threshold
        distance, tags = cv2.distanceTransformWithLabels(
            near.view(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
        )
        y, x = np.nonzero(near & (distance < best))
        if not len(y):
            continue
        places = np.zeros((tags.max() + 1, 2), np.int32)
        far_y, far_x = np.nonzero(~near)
        places[tags[far_y, far_x]] = np.stack([far_y, far_x], axis=1)
        edge_y, edge_x = places[tags[y, x]].T
        # There must be an edge, since a slope becomes as far away, too, and the near side of it must be this surface.
        longest = np.maximum(np.abs(edge_y - y), np.abs(edge_x - x))
        inner_y, inner_x = (
            edge + np.rint((own - edge) / longest).astype(int) for edge, own in ((edge_y, y), (edge_x, x))
        )
        inner, own = radius[inner_y, inner_x], radius[y, x]
        step = radius[edge_y, edge_x] - np.maximum(inner, own)
        farther = (step > JUMP) & (np.abs(inner - own) < step)
        y, x, edge_y, edge_x = (values[farther] for values in (y, x, edge_y, edge_x))
        best[y, x] = distance[y, x]
        # The mirror image is as textured as the background; where it isn't the same surface, the edge's own colour is.
        mirror_y = np.clip(2 * edge_y - y, 0, radius.shape[0] - 1)
        mirror_x = np.clip(2 * edge_x - x, 0, radius.shape[1] - 1)
        same = np.abs(radius[mirror_y, mirror_x] - radius[edge_y, edge_x]) <= JUMP
        mirror_y, mirror_x = np.where(same, mirror_y, edge_y), np.where(same, mirror_x, edge_x)
        colour[y, x] = picture[mirror_y, mirror_x]
        behind[y, x] = radius[mirror_y, mirror_x]
    return Hidden(colour, behind)


def _thresholds(radius: np.ndarray) -> np.ndarray:
    """Ascending radii, each between the two sides of some edge. From a fixed grid, so that a part gives the whole's."""
    found = []
    for axis in (0, 1):
        first, second = (np.take(radius, range(s, radius.shape[axis] - 1 + s), axis) for s in (0, 1))
        jumps = np.abs(first - second) > JUMP
        found.append(np.floor((first[jumps] + second[jumps]) / 2 / JUMP + 0.5))
    return np.unique(np.concatenate(found)) * np.float32(JUMP)
