"""Dual-pixel pictures with defocus blur, simulated from a sharp picture and its depth.

The optics are a thin lens's and a dual-pixel sensor's as measured (:mod:`ifan_plugin.simulation.optics`). Blur is
added up in linear light; the depth layers are composited with blurred mattes, front to back, so that the blur of
something near spreads over what lies behind it, and what a near object hides is filled in from beside it
(:mod:`ifan_plugin.simulation.layers`).

Nothing here needs BasicSR, and PyTorch only where a mosaic, JPEG or motion is asked for: arrays in, arrays out. The
same in PyTorch, for the training loop, is :mod:`ifan_plugin.simulation.device`.

Conventions: pictures are H x W x 3, RGB, sRGB-coded, in [0, 1]; depth is H x W in metres from the lens; a
circle of confusion (``coc``) is the blur's diameter in pixels, negative in front of the focus plane and positive behind
it.
"""

from __future__ import annotations

from copy import copy
from typing import NamedTuple

import cv2
import numpy as np

from ifan_plugin.common.errors import UserError
from ifan_plugin.simulation.abuolaim import AbuolaimOptics
from ifan_plugin.simulation.camera import Camera
from ifan_plugin.simulation.depth_values import fill_depth_holes
from ifan_plugin.simulation.layers import Hidden, boundaries, reveal
from ifan_plugin.simulation.optics import Optics, field_of
from ifan_plugin.simulation.sensor import IDEAL, LightAndSensor

MAX_COC = 100.0  # px; more than that is nearly always depth in the wrong unit
REGION_MARGIN = 5  # blur radii around a region: one is seen, two lie hidden behind an edge, two more are mirrored there
FIELD_CELLS = 8  # across a picture: places for which kernels are made where the optics depend on the place
THIN_LENS = Optics()
_TINY = 1e-6

Lens = Optics | AbuolaimOptics


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
    optics: Lens = THIN_LENS,
    layer_step: float = 0.5,
    region: tuple[int, int, int, int] | None = None,
    field: tuple[float, float] | None = None,
    light: LightAndSensor = IDEAL,
    rng: np.random.Generator | None = None,
) -> DualPixelViews:
    """What a dual-pixel camera sees of a scene: both views, and the picture they add up to.

    The depth is cut into layers of nearly equal circle of confusion, each blurred with its own kernels
    (:func:`ifan_plugin.simulation.optics.view_kernels`) and composited with its blurred matte.
    ``(left + right) / 2 == center`` holds exactly (to float32 rounding) in linear light, that is after
    :func:`linear_from_srgb`, with the ideal sensor; where one view is brighter than white there, it is clipped first.
    In files of 16 bits each view is rounded by up to half a step after encoding, so there it holds to within 2.3 /
    65535, the slope of the sRGB curve at white times one step.

    Args:
        sharp: H x W x 3, float, RGB, sRGB-coded, in [0, 1].
        depth: H x W, metres, positive; NaN and inf are filled (:func:`fill_depth_holes`).
        camera: the lens and where it is focused.
        optics: the form of the blur: :class:`Optics`, or :class:`AbuolaimOptics` for that work's convention. Where it
            depends on the place, kernels are made for a grid of places, and what they give is blended linearly.
        layer_step: width of a layer near the focus plane, px of the blur's radius; layers widen by 15
            % of the step for each px away from it. Smaller is finer and slower.
        region: (top, left, height, width) of the only part wanted, which is cheaper than the whole. It is cut
            into the whole picture's layers and simulated with ``REGION_MARGIN`` blur radii around it, enough for all
            that is seen through the blur and for what is invented behind near objects.
        field: a place (fx, fy) whose kernels are used everywhere, instead of each place's own.
        light: highlights, noise, tone curve and so on; ``IDEAL`` leaves all out.
        rng: of the noise; needed where ``light`` has any.

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
    largest = float(np.abs(coc).max())
    if not largest <= MAX_COC:
        raise UserError(
            f"circle of confusion reaches {largest:g} px; at most {MAX_COC:g} is simulated (is depth in metres?)"
        )
    height, width = coc.shape
    top, left_edge, rows, columns = region or (0, 0, height, width)
    if not (rows > 0 and columns > 0 and 0 <= top <= height - rows and 0 <= left_edge <= width - columns):
        raise ValueError(f"region {region} isn't inside a picture of {width}x{height}")
    if field is None and not optics.varies:
        field = (0.0, 0.0)
    reach = optics.reach(largest, field or (1.0, 1.0))
    # What lies just outside the frame also blurs into it: mirroring keeps the borders as bright as the inside.
    pad = REGION_MARGIN * reach + 2
    sharp, padded_coc = around(sharp, region, pad), around(coc, region, pad)
    linear = light.radiance(np, sharp.astype(np.float32))
    hidden = reveal(linear, padded_coc * optics.radius_per_coc, 2 * reach)
    keep = pad - reach
    inner = np.s_[keep : keep + rows + 2 * reach, keep : keep + columns + 2 * reach]
    layers = _Layers(linear[inner], padded_coc[inner], hidden, inner, optics.radius_per_coc, layer_step, largest)
    if field is not None:
        left, right = _composite(layers, optics, reach, field)
    else:
        left, right = _composite_places(layers, optics, reach, (top, left_edge, rows, columns), (height, width))
    left, right, center = _expose(left, right, light, rng)
    return DualPixelViews(left, right, center, coc[top : top + rows, left_edge : left_edge + columns])


def around(array: np.ndarray, region: tuple[int, int, int, int] | None, pad: int) -> np.ndarray:
    """A copy of a region (top, left, height, width) and ``pad`` px around it, mirrored beyond the frame."""
    height, width = array.shape[:2]
    top, left, rows, columns = region or (0, 0, height, width)
    ys, xs = (
        mirrored(np.arange(start - pad, start + length + pad), side)
        for start, length, side in ((top, rows, height), (left, columns, width))
    )
    return np.ascontiguousarray(array[ys[:, None], xs[None]])


def mirrored(index: np.ndarray, side: int) -> np.ndarray:
    """Indices outside [0, side) mirrored at the border pixels, as often as it takes."""
    if side == 1:
        return np.zeros_like(index)
    period = 2 * (side - 1)
    index = np.abs(index) % period
    return np.where(index < side, index, period - index)


def _expose(
    left: np.ndarray, right: np.ndarray, light: LightAndSensor, rng: np.random.Generator | None
) -> list[np.ndarray]:
    """Coded left, right and centre view of the views' linear light."""

    def normal(shape: tuple[int, ...]) -> np.ndarray:
        assert rng is not None  # else nobody asks
        return rng.standard_normal(shape, np.float32)

    views = [left, right]
    if light.shift_x or light.shift_y:
        views = [_in_torch("moved", view, light.shift_x, light.shift_y) for view in views]
    views = [light.read_out(np, view, normal if rng is not None else None) for view in views]
    if light.mosaic:
        views = [_in_torch("mosaicked", view) for view in views]
    left, right = (np.clip(view, 0, 1) for view in views)
    coded = [light.develop(np, view).astype(np.float32) for view in (left, right, (left + right) / 2)]
    return [_in_torch("jpeg", view, light.jpeg) for view in coded] if light.jpeg else coded


def _in_torch(name: str, picture: np.ndarray, *arguments: float) -> np.ndarray:
    """A function of :mod:`ifan_plugin.simulation.sensor_torch`, which only some cameras need, for H x W x 3."""
    import torch

    from ifan_plugin.simulation import sensor_torch

    planes = torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))[None]
    made: torch.Tensor = getattr(sensor_torch, name)(planes, *arguments)[0]
    return made.permute(1, 2, 0).contiguous().numpy()


# ---------------------------------------------------------------------------------------------------- rendering


class _Layers:
    """A part of a picture cut into layers, with what is hidden behind their edges."""

    def __init__(
        self,
        linear: np.ndarray,
        coc: np.ndarray,
        hidden: Hidden,
        inner: tuple[slice, slice],
        radius_per_coc: float,
        step: float,
        largest: float,
    ) -> None:
        edges, middles = boundaries(step, largest * radius_per_coc)
        self.picture = linear
        self.labels = np.searchsorted(edges, coc * np.float32(radius_per_coc)).astype(np.int16)
        self.cocs = middles / radius_per_coc
        behind = hidden.radius[inner]
        known = np.isfinite(behind)
        self.behind = np.where(known, np.searchsorted(edges, np.where(known, behind, 0)), -1).astype(np.int16)
        self.behind_picture = hidden.colour[inner]

    def part(self, rows: slice, columns: slice) -> _Layers:
        """A view of a rectangle."""
        part = copy(self)
        for name in ("picture", "labels", "behind", "behind_picture"):
            setattr(part, name, getattr(self, name)[rows, columns])
        return part

    def present(self) -> list[int]:
        """The layers that there are, nearest first."""
        return np.union1d(self.labels, self.behind[self.behind >= 0]).tolist()


def _composite_places(
    layers: _Layers, optics: Lens, reach: int, region: tuple[int, int, int, int], whole: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Both views of a region, each place with kernels of its own; ``layers`` has ``reach`` px more on each side."""
    top, left, rows, columns = region
    height, width = whole
    views = [np.zeros((rows, columns, 3), np.float32) for _ in range(2)]
    xs, ys = (
        _places(start, length, side, max(whole))
        for start, length, side in ((left, columns, width), (top, rows, height))
    )
    for y, row_weight in ys:
        for x, column_weight in xs:
            inside_y, inside_x = (np.flatnonzero(weight) for weight in (row_weight, column_weight))
            if not len(inside_y) or not len(inside_x):
                continue
            r, c = (slice(found[0], found[-1] + 1) for found in (inside_y, inside_x))
            part = layers.part(slice(r.start, r.stop + 2 * reach), slice(c.start, c.stop + 2 * reach))
            field = field_of(x, y, height, width)
            weight = (row_weight[r, None] * column_weight[None, c])[..., None]
            for view, seen in zip(views, _composite(part, optics, reach, field)):
                view[r, c] += weight * seen
    return views[0], views[1]


def _places(start: int, length: int, side: int, longer: int) -> list[tuple[float, np.ndarray]]:
    """Places along an axis for which kernels are made, and each one's weight at the pixels of a region."""
    count = max(round(side / longer * FIELD_CELLS), 1) + 1
    places = np.linspace(0, side, count)
    position = np.arange(start, start + length) + 0.5
    spacing = side / (count - 1)
    return [(place, np.clip(1 - np.abs(position - place) / spacing, 0, 1).astype(np.float32)) for place in places]


def _composite(layers: _Layers, optics: Lens, reach: int, field: tuple[float, float]) -> list[np.ndarray]:
    """Blur the layers and lay them over one another, nearest first: each gets what the nearer ones left uncovered.

    Parts of different layers lie beside one another, or under a nearer one's soft edge: their covers add up, to 1.
    The ``reach`` px at the borders are cut off.
    """
    height, width = layers.labels.shape
    views = [np.zeros((height, width, 3), np.float32) for _ in range(2)]
    covers = [np.zeros((height, width, 3 if optics.chromatic else 1), np.float32) for _ in range(2)]
    for layer in layers.present():
        seen, behind = layers.labels == layer, layers.behind == layer
        kernels = optics.kernels(layers.cocs[layer], field)
        box = _bounding_box(seen | behind, kernels[0].shape[-1] // 2)
        seen, behind = seen[box], behind[box]
        matte = (seen | behind).astype(np.float32)
        picture = np.where(seen[..., None], layers.picture[box], layers.behind_picture[box]) * matte[..., None]
        for view, cover, kernel in zip(views, covers, kernels):
            alpha = np.stack([_convolve(matte, one) for one in kernel], -1)
            before = cover[box]
            after = np.minimum(before + alpha, 1)
            share = (after - before) / np.maximum(alpha, _TINY)
            view[box] += share * _blur_colours(picture, kernel)
            cover[box] = after
    inside = np.s_[reach : height - reach, reach : width - reach]
    # Where layers meet, blurs of different size leave the cover a little short of 1.
    return [
        view[inside] / np.maximum(cover[inside], _TINY) * np.float32(gain)
        for view, cover, gain in zip(views, covers, optics.gains(field))
    ]


def _blur_colours(picture: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    if len(kernel) == 1:
        return _convolve(picture, kernel[0])
    return np.stack([_convolve(picture[..., c], kernel[c]) for c in range(3)], -1)


def _bounding_box(mask: np.ndarray, margin: int) -> tuple[slice, slice]:
    """Slices around the True pixels of ``mask`` (at least one), ``margin`` px wider where the array allows."""
    slices = []
    for axis in (1, 0):
        where = np.flatnonzero(mask.any(axis=axis))
        size = mask.shape[1 - axis]
        slices.append(slice(max(where[0] - margin, 0), min(where[-1] + margin + 1, size)))
    return slices[0], slices[1]


def _convolve(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Convolution with an odd kernel; OpenCV correlates, hence the flip. Nothing lies outside of the array."""
    if kernel.size == 1:
        return image * kernel
    return cv2.filter2D(image, -1, np.ascontiguousarray(kernel[::-1, ::-1]), borderType=cv2.BORDER_CONSTANT)
