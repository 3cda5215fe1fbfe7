"""A picture in overlapping tiles: bounded memory, and within 1e-4 what the network makes of the whole.

Each tile is cut out with a halo, restored, and its own part kept. It starts on the network's grid, and at the picture's
edges its halo ends where the picture does, so that the network pads there as it does the whole picture.

How wide the halo must be is measured, never assumed. Two answers differ widely:

- :func:`receptive_radius`: how far a pixel *can* reach, through every layer: 520 pixels for IFAN with 17 steps. With
  such a halo tiles are exactly the whole picture but for the order of sums (``halo="exact"``). A tile of 1024 pixels is
  then computed as 2064 x 2064, four times its area.
- :func:`measured_halo`: how far it *does*, to :data:`TOLERANCE`, with these weights in this picture: 64 pixels for the
  quickstart's network (of 320), 184 for random weights and 17 steps (of 520). It is found on a strip of the picture.
  Then every seam is checked while the picture is restored: what a tile makes of the pixels just beyond its edge, where
  its halo is a little narrower, must be what its neighbour made of them. Where it isn't, the halo is doubled, up to the
  exact one, and the picture begun again (``halo="auto"``, the default).

Networks that look at the whole picture at once (a mean over it, as in channel attention) have no such radius: their
tiles are restored each for itself, and a line in the log says how much they differ at their seams.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ifan_plugin.common.errors import UserError
from ifan_plugin.inference import memory

logger = logging.getLogger("ifan_plugin")

TOLERANCE = 1e-4
"""Largest difference of tiled and whole in float32, values in [0, 1]."""

ROUNDED_TOLERANCE = {"tf32": 1e-3, "fp16": 4e-3, "bf16": 3e-2}
"""The same where products are rounded: of the size of what rounding alone makes of two runs over pictures that differ
by as little as the order of sums."""

UNBOUNDED_HALO = 128
"""Pixels, for networks that look at the whole picture: enough for their convolutions, not for the rest."""

_STRIP, _LONGEST_STRIP = 1024, 4096  # px: what reaches to the ends of the longest is taken for unbounded
_BAND = 8  # px: width of the band that seams are checked in
_SMALLEST = 32  # px: no tile is halved below it
_WITHOUT_FIGURES = 1024  # px: side of an automatic tile where the system doesn't tell its memory

T = TypeVar("T")
Run = Callable[[Tensor], Tensor]
"""[B, C, h, w] on any device -> [B, 3, h, w] in [0, 1]: padding, precision and device included."""


def grid_of(multiple: int) -> int:
    """Pixels between places where a tile may start, so that a network's strides fall on the same pixels as in the
    whole picture. Networks that pad by themselves say less than they stride; 64 is a multiple of all that are usual."""
    return multiple if multiple >= 8 else math.lcm(multiple, 64)


@torch.no_grad()
def receptive_radius(network: nn.Module, multiple: int | None = None) -> int | None:
    """How far beyond a place in the picture lies what can change the network's result there.

    Measured: one cell of a long strip is NaN, which passes through every layer whatever its weights, and the farthest
    NaN in the result tells. (Gradients would do in theory; IFAN's at 500 pixels are below the smallest float.)

    Args:
        network: ``forward(lq) -> restored``, used on the device that it is on. Its attribute ``sees_whole_picture``,
            where true, is the answer.
        multiple: the network's grid; None: by its attribute ``multiple_of``.

    Returns:
        Pixels, a multiple of the grid; None: unbounded (or beyond 2048 pixels).
    """
    if getattr(network, "sees_whole_picture", False):
        return None
    step = grid_of(multiple or int(getattr(network, "multiple_of", 1)))
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    was_training = network.training
    network.eval()
    # Fast algorithms (Winograd's, Fourier's) spread a NaN farther than the convolution that they compute does.
    try:
        with torch.backends.cudnn.flags(enabled=False):
            down, across = (_reach(network, axis, step, device) for axis in (2, 3))
    finally:
        network.train(was_training)
    return None if down is None or across is None else max(down, across)


def _reach(network: nn.Module, axis: int, step: int, device: torch.device) -> int | None:
    """Pixels along one axis from a cell of the grid to the farthest place that it changes."""
    length = math.ceil(_STRIP / step) * step
    while True:
        size = [1, getattr(network, "in_channels", 3), max(2 * step, 16), max(2 * step, 16)]
        size[axis] = length
        cell = slice(length // 2, length // 2 + step)
        strip = torch.full(size, 0.5, device=device)
        strip.narrow(axis, cell.start, step).fill_(torch.nan)
        changed = network(strip).isnan().amax((0, 1, 5 - axis)).nonzero().flatten().tolist()
        if not changed:
            raise RuntimeError(f"{type(network).__name__}: its receptive radius can't be measured: it stops NaNs")
        first, last = changed[0], changed[-1]
        if first > 0 and last < length - 1:
            return math.ceil(max(cell.start - first, last + 1 - cell.stop, 0) / step) * step
        if length >= _LONGEST_STRIP:
            return None
        length *= 2


def measured_halo(run: Run, lq: Tensor, step: int, radius: int, tolerance: float = TOLERANCE) -> int:
    """The narrowest halo that a strip through the middle of the picture needs, and a quarter more.

    Args:
        run: the network.
        lq: [B, C, H, W], the picture.
        step: the grid, pixels.
        radius: :func:`receptive_radius`.
        tolerance: the difference that is allowed.

    Returns:
        Pixels, a multiple of `step`; `radius` at most.
    """
    height, width = lq.shape[-2:]
    middle = width // 2 // step * step
    top = max(height // 2 - 4 * step, 0) // step * step
    reach = min(middle, math.ceil(min(radius, 512) / step) * step)
    # What lies to the right is the same in all of them, so that little of it is enough.
    strip = lq[..., top : top + max(8 * step, 64), middle - reach : middle + max(8 * step, 64)]
    expected = run(strip)[..., reach : reach + _BAND]
    halo = 2 * step
    while halo < reach:
        found = run(strip[..., reach - halo :])[..., halo : halo + _BAND]
        # A tenth: the strip isn't the picture, and a decay is steep.
        if (found - expected).abs().max() < tolerance / 10:
            return min(math.ceil(1.25 * halo / step) * step, radius)
        halo = math.ceil(1.5 * halo / step) * step
    return radius


@dataclass
class Region:
    """A tile's own part: rows `top` to `bottom`, columns `left` to `right`."""

    top: int
    bottom: int
    left: int
    right: int

    def __str__(self) -> str:
        return f"rows {self.top} to {self.bottom}, columns {self.left} to {self.right}"

    def split(self, side: int) -> list[Region]:
        """Parts of at most side x side pixels, in reading order."""
        rows, columns = range(self.top, self.bottom, side), range(self.left, self.right, side)
        return [
            Region(top, min(top + side, self.bottom), left, min(left + side, self.right))
            for top in rows
            for left in columns
        ]


def cost(size: tuple[int, int], side: int, step: int, halo: int) -> float:
    """How many times the picture's pixels are computed where it is restored by tiles: 1 and more.

    Args:
        size: (H, W) of the picture.
        side: of a tile's own part, before it is rounded up to the grid.
        step: the grid.
        halo: pixels on every side.
    """
    side = math.ceil(side / step) * step
    total = 1.0
    for length in size:
        starts = range(0, length, side)
        covered = sum(min(start + side + halo, length) - max(start - halo, 0) for start in starts)
        total *= covered / length
    return total


class HaloTooNarrowError(Exception):
    """Two tiles disagree at their seam."""

    def __init__(self, difference: float) -> None:
        super().__init__(f"seams differ by {difference:.2g}")
        self.difference = difference


class Tiling:
    """One picture being restored tile by tile; it starts again with a wider halo where seams show.

    Args:
        run: the network.
        lq: [B, C, H, W], the picture.
        step: the grid.
        side: of a tile's own part, pixels, rounded up to the grid.
        halo: pixels, a multiple of the grid.
        compared: whether seams are compared; the largest difference is in `seam` afterwards.
        limit: largest difference at a seam; None: any.
        report: called with the tiles done and their number.

    Raises:
        HaloTooNarrowError: by :meth:`restored`.
        UserError: by :meth:`restored`: no memory for the smallest tile.
    """

    def __init__(
        self,
        run: Run,
        lq: Tensor,
        step: int,
        side: int,
        halo: int,
        *,
        compared: bool,
        limit: float | None,
        report: Callable[[int, int], None],
    ) -> None:
        self.run, self.lq, self.step, self.halo, self.report = run, lq, step, halo, report
        self.compared, self.limit = compared, limit
        self.side = math.ceil(side / step) * step
        self.height, self.width = lq.shape[-2:]
        self.out: Tensor | None = None
        self.seam = 0.0
        self._done = np.zeros((math.ceil(self.height / step), math.ceil(self.width / step)), bool)

    def restored(self) -> Tensor:
        """The whole picture [B, 3, H, W], where `lq` is."""
        todo = Region(0, self.height, 0, self.width).split(self.side)[::-1]
        count = 0
        while todo:
            region = todo.pop()
            if max(region.bottom - region.top, region.right - region.left) > self.side:
                todo += region.split(self.side)[::-1]
                continue
            crop, part = self._crop(region)
            if part is None:
                self._halve(region, crop)
                todo.append(region)
                continue
            if self.compared:
                self._check_seams(part, region, crop)
            self._keep(part, region, crop)
            count += 1
            waiting = sum(len(each.split(self.side)) for each in todo)
            self.report(count, count + waiting)
        assert self.out is not None
        return self.out

    def _crop(self, region: Region) -> tuple[Region, Tensor | None]:
        """The tile with its halo, restored; None: out of memory."""
        crop = Region(
            max(region.top - self.halo, 0), min(region.bottom + self.halo, self.height),
            max(region.left - self.halo, 0), min(region.right + self.halo, self.width),
        )  # fmt: skip
        return crop, run_or_none(self.run, self.lq[..., crop.top : crop.bottom, crop.left : crop.right])

    def _halve(self, region: Region, crop: Region) -> None:
        """A smaller side for all tiles that are still to come."""
        size = f"{crop.bottom - crop.top}x{crop.right - crop.left}"
        before = max(region.bottom - region.top, region.right - region.left)
        side = math.ceil(before / 2 / self.step) * self.step
        if side >= before or before <= _SMALLEST:
            raise UserError(
                f"out of memory at a tile of {before} pixels ({size} with its halo), the smallest there is; free "
                "memory, take another device or a smaller picture"
            )
        logger.warning("Out of memory at a tile of %s pixels; going on with tiles of %d.", size, side)
        self.side = side

    def _keep(self, part: Tensor, region: Region, crop: Region) -> None:
        rows = slice(region.top - crop.top, region.bottom - crop.top)
        columns = slice(region.left - crop.left, region.right - crop.left)
        if self.out is None:
            self.out = torch.empty(*part.shape[:2], self.height, self.width, dtype=part.dtype, device=self.lq.device)
        self.out[..., region.top : region.bottom, region.left : region.right] = part[..., rows, columns]
        self._done[self._cells(region)] = True

    def _check_seams(self, part: Tensor, region: Region, crop: Region) -> None:
        """Compare with what is there already, in a band just beyond the tile's edges."""
        for band in self._bands(region, crop):
            if self.out is None or not self._done[self._cells(band)].all():
                continue
            rows = slice(band.top - crop.top, band.bottom - crop.top)
            columns = slice(band.left - crop.left, band.right - crop.left)
            there = self.out[..., band.top : band.bottom, band.left : band.right]
            self.seam = max(self.seam, float((part[..., rows, columns] - there).abs().max()))
        if self.limit is not None and self.seam > self.limit:
            raise HaloTooNarrowError(self.seam)

    def _bands(self, region: Region, crop: Region) -> Iterator[Region]:
        width = min(_BAND, self.halo)
        for top, bottom in ((max(region.top - width, crop.top), region.top), (region.bottom, region.bottom + width)):
            if crop.top <= top < bottom <= crop.bottom:
                yield Region(top, bottom, region.left, region.right)
        for left, right in ((max(region.left - width, crop.left), region.left), (region.right, region.right + width)):
            if crop.left <= left < right <= crop.right:
                yield Region(region.top, region.bottom, left, right)

    def _cells(self, region: Region) -> tuple[slice, slice]:
        step = self.step
        return (
            slice(region.top // step, math.ceil(region.bottom / step)),
            slice(region.left // step, math.ceil(region.right / step)),
        )


def run_or_none(run: Callable[[Tensor], T], lq: Tensor) -> T | None:
    """`run(lq)`, or None where memory doesn't suffice; what the attempt held is free again then."""
    try:
        return run(lq)
    except Exception as error:
        if not memory.is_out_of_memory(error):
            raise
    # Outside the handler: the traceback, which keeps the tensors, is gone.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None


def automatic_side(bytes_a_pixel: float | None, budget: int | None, halo: int, size: tuple[int, int]) -> int | None:
    """Side of the largest tile that the memory allows; None: the picture as a whole.

    Args:
        bytes_a_pixel: what the network takes, :func:`ifan_plugin.inference.memory.bytes_per_pixel`.
        budget: bytes it may take.
        halo: pixels.
        size: (H, W) of the picture.
    """
    if bytes_a_pixel is None or budget is None:
        return None if size[0] * size[1] <= _WITHOUT_FIGURES**2 else _WITHOUT_FIGURES
    pixels = budget / bytes_a_pixel
    if size[0] * size[1] <= pixels:
        return None
    side = max(int(math.sqrt(pixels)) - 2 * halo, _SMALLEST)
    # As many tiles, of one size: the last ones aren't slivers that are nearly all halo.
    return max(math.ceil(length / math.ceil(length / side)) for length in size)
