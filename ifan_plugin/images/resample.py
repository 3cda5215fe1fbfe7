"""Shrinking a part of a picture by areas, from the pixels that this part needs alone.

The result is that of ``cv2.resize(whole, size, interpolation=cv2.INTER_AREA)``, cropped: each new pixel is the mean
of the area that it covers. OpenCV can't be asked for a part, since a part begins between two pixels.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from scipy.sparse import csr_array

_SLIVER = 1e-3
"""OpenCV leaves out a pixel of which so little is covered, so we do."""


class AreaAxis(NamedTuple):
    """Some neighbouring new samples along one axis, and how they come from old ones."""

    start: int
    """The first old sample that is read."""
    length: int
    """How many old samples are read."""
    weights: csr_array
    """float32 [new samples, ``length``]: a few numbers a row. Sparse, since a dense product is slow and BLAS rounds
    it as the number of threads will have it."""


def area_axis(old: int, new: int, start: int, count: int) -> AreaAxis:
    """Weights of the new samples ``start`` to ``start + count``, where ``old`` samples shrink to ``new``.

    Raises:
        ValueError: ``new`` is larger than ``old``, or the samples wanted lie outside.
    """
    if not (0 < new <= old and start >= 0 and 0 < count <= new - start):
        raise ValueError(f"samples {start} to {start + count} of {old} shrunk to {new}")
    ratio = 1.0 / (new / old)  # rounded as OpenCV does it, for the same slivers
    low = np.arange(start, start + count) * ratio
    high = low + ratio
    first = np.floor(low).astype(np.int32)
    taps = int((np.ceil(high) - first).max())
    index = first[:, None] + np.arange(taps, dtype=np.int32)
    covered = np.minimum(high[:, None], index + 1) - np.maximum(low[:, None], index)
    used = (covered > _SLIVER) & (index < old)
    weights = (covered / np.minimum(ratio, old - low)[:, None])[used].astype(np.float32)
    index = index[used]
    begin, end = int(index.min()), int(index.max()) + 1
    ends = np.concatenate([[0], np.cumsum(used.sum(axis=1))]).astype(np.int32)
    return AreaAxis(begin, end - begin, csr_array((weights, index - begin, ends), shape=(count, end - begin)))


def area_resample(planes: np.ndarray, rows: AreaAxis, columns: AreaAxis) -> np.ndarray:
    """Shrink planes along both axes.

    Args:
        planes: float32 [C, rows.length, columns.length], each plane contiguous: the old samples that are read.
        rows, columns: from :func:`area_axis`.

    Returns:
        float32 [C, new rows, new columns], contiguous.

    Raises:
        ValueError: planes of another size.
    """
    if planes.shape[1:] != (rows.length, columns.length):
        raise ValueError(f"planes of {planes.shape[1:]} where {(rows.length, columns.length)} are read")
    result = np.empty((len(planes), rows.weights.shape[0], columns.weights.shape[0]), np.float32)
    for plane, new in zip(planes, result):
        # Sums of whole rows are what runs fast, so the columns get their turn as rows.
        shrunk = columns.weights @ cv2.transpose(rows.weights @ plane)
        cv2.transpose(shrunk, dst=new)
    return result
