"""Depth as stored: from disparity, and with its holes filled."""

from __future__ import annotations

import numpy as np

from ifan_plugin.common.errors import UserError


def depth_from_disparity(disparity_px: np.ndarray, focal_px: float, baseline: float, doffs: float = 0.0) -> np.ndarray:
    """Depth of a rectified stereo pair, as Middlebury defines it: ``baseline * focal / (disparity + doffs)``.

    Args:
        disparity_px: H x W, pixels. NaN and inf mean unknown and come back as NaN.
        focal_px: focal length in pixels of the same resolution.
        baseline: distance of the two cameras; depth comes in its unit (metres here).
        doffs: x-difference of the principal points, pixels (0 for most sets).

    Raises:
        UserError: a known disparity isn't above ``-doffs``, or focal length or baseline isn't positive.
    """
    if not (focal_px > 0 and baseline > 0):
        raise UserError(f"focal length {focal_px} px and baseline {baseline}: both must be positive")
    disparity = np.asarray(disparity_px, np.float64)
    known = np.isfinite(disparity)
    shifted = np.where(known, disparity + doffs, 1.0)
    if (shifted <= 0).any():
        low = float(disparity[known].min())
        raise UserError(f"disparity reaches {low:g} px; every known one must be above -doffs = {-doffs:g} px")
    return np.where(known, baseline * focal_px / shifted, np.nan)


def fill_depth_holes(depth: np.ndarray) -> np.ndarray:
    """Fill unknown depth (NaN or inf), H x W; known values stay as they are.

    A hole takes the farther of its two known neighbours in its row, since the holes of stereo are mostly
    background that one camera couldn't see; a row without known values takes the nearest known row's.

    Raises:
        UserError: nothing is known, or a known depth isn't positive.
    """
    depth = np.asarray(depth, np.float32)
    known = np.isfinite(depth)
    if not known.any():
        raise UserError("depth has no finite value; at least one pixel must be known")
    if (depth[known] <= 0).any():
        count = int((depth[known] <= 0).sum())
        raise UserError(f"depth is 0 or negative at {count} pixels; it must be positive (NaN marks unknown)")
    if known.all():
        return depth.copy()
    rows = np.flatnonzero(known.any(axis=1))
    nearest_row = rows[np.abs(np.arange(len(depth))[:, None] - rows[None]).argmin(axis=1)]
    depth, known = depth[nearest_row], known[nearest_row]
    columns = np.broadcast_to(np.arange(depth.shape[1]), depth.shape)
    before = np.maximum.accumulate(np.where(known, columns, -1), axis=1)
    after = np.minimum.accumulate(np.where(known, columns, depth.shape[1])[:, ::-1], axis=1)[:, ::-1]
    row = np.arange(len(depth))[:, None]
    left = np.where(before >= 0, depth[row, np.maximum(before, 0)], 0)
    right = np.where(after < depth.shape[1], depth[row, np.minimum(after, depth.shape[1] - 1)], 0)
    return np.where(known, depth, np.maximum(left, right))
