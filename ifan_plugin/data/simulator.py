"""Dual-pixel pictures with defocus blur, simulated from a sharp picture and its depth.

The optics follow A. Abuolaim, M. Delbracio, D. Kelly, M. S. Brown, P. Milanfar, "Learning to Reduce Defocus
Blur by Realistically Modeling Dual-Pixel Data", ICCV 2021: a thin lens, a Butterworth-shaped disk as point
spread function, and a linear ramp over the aperture that splits it into the two views of a dual-pixel sensor.
Three things differ from that work, each nearer to what a camera does:

* light is added up in linear light, not in coded sRGB;
* the depth layers are composited with blurred mattes, front to back, so that the blur of something near
  spreads over what lies behind it, and what a near object hides is filled in from beside it;
* nothing is rounded to 8 bits.

Nothing here needs BasicSR or PyTorch: arrays in, arrays out.

Conventions: pictures are H x W x 3, RGB, sRGB-coded, in [0, 1]; depth is H x W in metres from the lens; a
circle of confusion (``coc``) is in pixels, negative in front of the focus plane and positive behind it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np

from ifan_plugin.data.color import linear_from_srgb, srgb_from_linear
from ifan_plugin.errors import UserError

MAX_COC = 100.0  # px: a kernel 201 px wide; more than that is nearly always depth in the wrong unit
REGION_MARGIN = 3  # blur radii around a region; with fewer, what is invented behind near objects differs visibly
_HIDDEN_WEIGHT = 0.02  # of an invented pixel in a layer's colour, where a seen pixel has 1
_OVERSAMPLING = 8  # of a point spread function, per axis, so that its size can change by fractions of a pixel


# --------------------------------------------------------------------------------------------- depth


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


# ------------------------------------------------------------------------------------------------------- optics


@dataclass(frozen=True)
class Camera:
    """A thin lens focused at one distance.

    Args:
        focal_length_mm: focal length f, millimetres.
        f_number: f-number N; the aperture's diameter is f / N.
        focus_distance_m: distance s of the focus plane from the lens, metres; beyond the focal length.
        pixel_pitch_um: distance of two pixels of the *picture* on the sensor, micrometres (a picture shrunk
            four times has four times the sensor's pitch).

    Raises:
        UserError: a value isn't positive and finite, or the focus distance isn't beyond the focal length.
    """

    focal_length_mm: float
    f_number: float
    focus_distance_m: float
    pixel_pitch_um: float

    def __post_init__(self) -> None:
        for name in ("focal_length_mm", "f_number", "focus_distance_m", "pixel_pitch_um"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise UserError(f"{name.replace('_', ' ')} is {value}; it must be positive")
        if self.focus_distance_m * 1000 <= self.focal_length_mm:
            raise UserError(
                f"focus distance {self.focus_distance_m:g} m is not beyond the focal length "
                f"{self.focal_length_mm:g} mm; nothing can be in focus there"
            )

    def circle_of_confusion(self, depth_m: np.ndarray | float) -> np.ndarray:
        """Signed circle of confusion, in pixels, of points at ``depth_m`` metres (any shape, positive).

        c(d) = l D / s * (d - s) / d, with the lens-to-sensor distance l = f s / (s - f) and the aperture D
        = f / N, divided by the pixel pitch (Abuolaim et al. 2021, the thin-lens model). Negative in front
        of the focus plane, 0 on it, positive behind it, where it tends to l D / s.

        A thin lens's c is the blur's *diameter*; that work takes it for the kernel's radius (:func:`psf`,
        size 2 |c| + 1), and so does this. For strict thin-lens blur give twice the real f-number.
        """
        focal = self.focal_length_mm * 1e-3
        focus = self.focus_distance_m
        aperture = focal / self.f_number
        lens_to_sensor = focal * focus / (focus - focal)
        depth = np.asarray(depth_m, np.float64)
        coc_m = lens_to_sensor * aperture / focus * (depth - focus) / depth
        return coc_m / (self.pixel_pitch_um * 1e-6)


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
    smoothed by a small Gaussian. The left view's is that times a ramp from 0 at the left rim to 2 at the
    right one, the right view's is its mirror image; in front of the focus plane (c < 0) the two change
    places. Beyond the focus plane a point thus moves right in the left view and left in the right view.

    Args:
        coc: signed circle of confusion, pixels; fractions are honoured.
        order: steepness of the rise (the source uses 3, 6 and 9).
        cutoff: where it rises; larger is nearer to the middle (the source uses 2 and 2.5).
        beta: brightness in the middle, in (0, 1]; 1 is a uniform disk (the source uses 0.1 and 0.2).

    Returns:
        Read-only arrays of odd size k = 2 ceil(|c|) + 1, meant for convolution. At c = 0 each is ``[[1.]]``.

    Raises:
        UserError: an argument outside its range, or |coc| above ``MAX_COC``.
    """
    if not (order > 0 and cutoff > 0 and 0 < beta <= 1):
        raise UserError(f"order {order} and cutoff {cutoff} must be positive, beta {beta} in (0, 1]")
    if not abs(coc) <= MAX_COC:
        raise UserError(
            f"circle of confusion reaches {coc:g} px; at most {MAX_COC:g} is simulated (is depth in metres?)"
        )
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
    left = center * ramp
    right = left[:, ::-1]
    if coc < 0:
        left, right = right, left
    kernels = [np.ascontiguousarray(kernel, np.float32) for kernel in (center, left, right)]
    for kernel in kernels:
        kernel.flags.writeable = False
    return PointSpread(*kernels)


# ---------------------------------------------------------------------------------------------------- rendering


class DualPixelViews(NamedTuple):
    """What :func:`simulate_dual_pixel` returns.

    left, right, center: H x W x 3 float32, RGB, sRGB-coded, in [0, 1].
    coc: H x W float32, signed circle of confusion in pixels.
    """

    left: np.ndarray
    right: np.ndarray
    center: np.ndarray
    coc: np.ndarray


def simulate_dual_pixel(
    sharp: np.ndarray,
    depth: np.ndarray,
    camera: Camera,
    *,
    order: int = 3,
    cutoff: float = 2.5,
    beta: float = 0.2,
    layer_step: float = 0.5,
    region: tuple[int, int, int, int] | None = None,
) -> DualPixelViews:
    """What a dual-pixel camera sees of a scene: both views, and the picture they add up to.

    The depth is cut into layers of nearly equal circle of confusion, each blurred with its own :func:`psf`
    and composited with its blurred matte. ``(left + right) / 2 == center`` holds exactly (to float32
    rounding) in linear light, that is after :func:`linear_from_srgb`. In files of 16 bits each view is
    rounded by up to half a step after encoding, so there it holds to within 2.3 / 65535, the slope of the
    sRGB curve at white times one step.

    Args:
        sharp: H x W x 3, float, RGB, sRGB-coded, in [0, 1].
        depth: H x W, metres, positive; NaN and inf are filled (:func:`fill_depth_holes`).
        camera: the lens and where it is focused.
        order, cutoff, beta: shape of the point spread function, see :func:`psf`.
        layer_step: width of a layer near the focus plane, px of the circle of confusion; layers widen by 15
            % of the step for each px away from it. Smaller is finer and slower.
        region: (top, left, height, width) of the only part wanted, which is cheaper than the whole. It is cut
            into the whole picture's layers and simulated with ``REGION_MARGIN`` blur radii around it. All that
            is seen through the blur lies within one, so it is the whole picture's, to rounding. What is invented
            behind near objects is mirrored in from beside them, and where many stand before one another from
            ever farther away: there a region may be filled otherwise than the whole. (Middlebury's Motorcycle,
            blur up to 10 px: 0.02 % of the values differ by more than 1e-4, up to 18 px: 0.25 %.)

    Raises:
        UserError: shapes, value ranges or ``layer_step`` that don't fit the above.
        ValueError: a region that isn't inside the picture.
    """
    sharp = np.asarray(sharp)
    depth = np.asarray(depth)
    if sharp.ndim != 3 or sharp.shape[2] != 3 or not np.issubdtype(sharp.dtype, np.floating):
        raise UserError(f"sharp is {sharp.dtype} {sharp.shape}; it must be a float array H x W x 3 in [0, 1]")
    if depth.shape != sharp.shape[:2]:
        raise UserError(f"depth is {depth.shape} and the picture {sharp.shape[:2]}; sizes must be equal")
    if not (sharp.min() >= 0 and sharp.max() <= 1):
        raise UserError(f"sharp spans [{sharp.min():g}, {sharp.max():g}]; it must lie in [0, 1]")
    if not layer_step > 0:
        raise UserError(f"layer_step is {layer_step}; it must be positive")
    coc = camera.circle_of_confusion(fill_depth_holes(depth)).astype(np.float32)
    labels, layer_cocs = _cut_layers(coc, layer_step)
    kernels = [psf(c, order, cutoff, beta) for c in layer_cocs]
    height, width = coc.shape
    top, left_edge, rows, columns = region or (0, 0, height, width)
    if not (rows > 0 and columns > 0 and 0 <= top <= height - rows and 0 <= left_edge <= width - columns):
        raise ValueError(f"region {region} isn't inside a picture of {height}x{width}")
    if region is not None:
        margin = REGION_MARGIN * max(kernel.center.shape[0] // 2 for kernel in kernels) + 2
        above, before = min(margin, top), min(margin, left_edge)
        part = np.s_[top - above : top + rows + margin, left_edge - before : left_edge + columns + margin]
        sharp, labels = sharp[part], labels[part]
        coc = coc[top : top + rows, left_edge : left_edge + columns]
        top, left_edge = above, before

    # What lies just outside the frame also blurs into it: mirroring keeps the borders as bright as the inside.
    pad = max(kernel.center.shape[0] // 2 for kernel in kernels)
    linear = linear_from_srgb(sharp).astype(np.float32)
    linear = cv2.copyMakeBorder(linear, pad, pad, pad, pad, cv2.BORDER_REFLECT_101)
    labels = cv2.copyMakeBorder(labels, pad, pad, pad, pad, cv2.BORDER_REFLECT_101)
    left, right = _composite(linear, labels, kernels)
    inside = np.s_[pad + top : pad + top + rows, pad + left_edge : pad + left_edge + columns]
    left, right = (np.clip(view[inside], 0, 1) for view in (left, right))
    views = (srgb_from_linear(view).astype(np.float32) for view in (left, right, (left + right) / 2))
    return DualPixelViews(*views, coc)


def _cut_layers(coc: np.ndarray, step: float) -> tuple[np.ndarray, list[float]]:
    """Layer number of each pixel (int16, 0 nearest to the camera) and each layer's circle of confusion."""
    growth = 0.15  # a step that grows with the blur: a change of half a pixel can't be seen in a blur of ten
    index = np.rint(np.sign(coc) * np.log1p(growth * np.abs(coc)) / (growth * step)).astype(np.int32)
    low = index.min()
    filled = np.bincount((index - low).ravel()) > 0
    labels = (np.cumsum(filled) - 1).astype(np.int16)[index - low]
    present = np.flatnonzero(filled) + low
    cocs = np.sign(present) * np.expm1(growth * step * np.abs(present)) / growth
    return labels, [float(c) for c in cocs]


def _composite(image: np.ndarray, labels: np.ndarray, kernels: list[PointSpread]) -> tuple[np.ndarray, np.ndarray]:
    """Blur the layers and lay them over one another, nearest first; the left and the right view, linear light.

    A layer gets what the nearer ones left uncovered. After a layer is drawn, its pixels are handed to what
    lies behind, mirrored in from beside it: so the next layers reach under it as far as its soft edge lets
    them be seen.
    """
    image = image.copy()
    current = labels.copy()
    views = [np.zeros_like(image), np.zeros_like(image)]
    covered = [np.zeros(labels.shape, np.float32), np.zeros(labels.shape, np.float32)]
    present = np.unique(labels)  # a part of a picture may lack some
    for layer in present:
        kernel = kernels[layer]
        matte = current == layer
        reach = kernel.center.shape[0] // 2 + 1
        box = _bounding_box(matte, reach)
        matte = matte[box].astype(np.float32)
        seen = (labels[box] == layer).astype(np.float32)
        weighted = (seen + _HIDDEN_WEIGHT * (matte - seen))[..., None] * image[box]
        for view, cover, point_spread in zip(views, covered, (kernel.left, kernel.right)):
            matte_soft, seen_soft = (_convolve(part, point_spread) for part in (matte, seen))
            weight = (1 - _HIDDEN_WEIGHT) * seen_soft + _HIDDEN_WEIGHT * matte_soft
            # Seen parts of different layers lie beside one another, so their covers add up; what one hands on to
            # the next lies under it, so there the larger counts.
            before = cover[box]
            after = np.clip(np.maximum(before + seen_soft, matte_soft), before, 1)
            share = (after - before) / np.maximum(weight, 1e-6)
            view[box] += share[..., None] * _convolve(weighted, point_spread)
            cover[box] = after
        if layer != present[-1]:
            _hand_to_background(image, current, layer)
    # Rounding in the blurs leaves the cover a little short of 1.
    return tuple(view / np.maximum(cover, 1e-6)[..., None] for view, cover in zip(views, covered))


def _hand_to_background(image: np.ndarray, labels: np.ndarray, layer: int) -> None:
    """Give a layer's pixels the label and the colour of what lies behind, mirrored at the layer's edge. In place."""
    box = _bounding_box(labels == layer, 1)
    part, colour = labels[box], image[box]
    hidden = part == layer
    _, tags = cv2.distanceTransformWithLabels(hidden.astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    ys, xs = np.nonzero(~hidden)
    nearest_of_tag = np.zeros((tags.max() + 1, 2), np.int64)
    nearest_of_tag[tags[ys, xs]] = np.stack([ys, xs], axis=1)
    y, x = np.nonzero(hidden)
    edge_y, edge_x = nearest_of_tag[tags[y, x]].T
    behind = part[edge_y, edge_x]
    # The mirror image is as textured as the background; where it isn't the same surface, the edge's own colour is.
    top, start = box[0].start, box[1].start
    mirror_y = np.clip(2 * edge_y - y + top, 0, labels.shape[0] - 1)
    mirror_x = np.clip(2 * edge_x - x + start, 0, labels.shape[1] - 1)
    same = np.abs(labels[mirror_y, mirror_x] - behind) <= 1
    mirror_y = np.where(same, mirror_y, edge_y + top)
    mirror_x = np.where(same, mirror_x, edge_x + start)
    colour[y, x] = image[mirror_y, mirror_x]
    part[y, x] = behind


def _bounding_box(mask: np.ndarray, margin: int) -> tuple[slice, slice]:
    """Slices around the True pixels of ``mask`` (at least one), ``margin`` px wider where the array allows."""
    slices = []
    for axis in (1, 0):
        where = np.flatnonzero(mask.any(axis=axis))
        size = mask.shape[1 - axis]
        slices.append(slice(max(where[0] - margin, 0), min(where[-1] + margin + 1, size)))
    return slices[0], slices[1]


def _convolve(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Convolution with an odd kernel; OpenCV correlates, hence the flip. The frame is mirrored at its borders."""
    if kernel.size == 1:
        return image
    return cv2.filter2D(image, -1, kernel[::-1, ::-1], borderType=cv2.BORDER_REFLECT_101)
