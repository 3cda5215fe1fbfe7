"""Padding, running, cropping; by tiles and as an ensemble where asked for."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ifan_plugin.common.errors import UserError
from ifan_plugin.inference import half_copies, memory, tiles
from ifan_plugin.inference.ensemble import transforms
from ifan_plugin.ops.padding import pad_to_multiple

logger = logging.getLogger("ifan_plugin")

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
_PROBE = 256  # px: side of the crop that memory is measured with; pictures up to four of it are tried as a whole
_COSTLY = 1.5  # times as long as the picture as a whole: from there on the user is told
Progress = Callable[[int, int], Any]


@torch.no_grad()
def run_network(
    network: nn.Module,
    lq: Tensor,
    multiple: int | None = None,
    *,
    tile: int | str | None = None,
    ensemble: bool = False,
    views: Sequence[str] = ("center",),
    precision: str = "fp32",
    progress: Progress | None = None,
    halo: int | str = "auto",
    program: nn.Module | None = None,
    fixed: bool = False,
) -> Tensor:
    """Restore a picture in evaluation mode; the network's mode is put back afterwards.

    Args:
        network: ``forward(lq) -> restored``.
        lq: the network's input, [B, C, H, W], values in [0, 1]. It may lie on the CPU with the network on another
            device: tiles are carried there one at a time, and no more than `lq`, the result and one tile is held.
        multiple: sizes that the network works at; None: its attribute ``multiple_of``, or 1.
        tile: None or ``off``: the whole picture at once. A number: tiles of so many pixels a side (their own part,
            without the halo), rounded up to the network's grid; longer ones, of the same memory, where the picture is
            narrower than that. ``auto``: the whole picture where the free memory
            suffices, else the largest tile that does, by what a small run took. Out of memory, the tile is halved.
        ensemble: the mean over all flips and turns that are legal for the views
            (:mod:`ifan_plugin.inference.ensemble`): 8 runs for a centre view alone, 4 with left and right.
        views: the views that are stacked into `lq`; only an ensemble looks at them.
        precision: ``fp32``, or ``bf16`` or ``fp16`` by autocast, or see `fixed` (not ``fp16`` on a CPU). bf16 on a CPU
            without such instructions is many times slower than fp32.
        progress: called as ``progress(done, total)`` after each tile; `total` counts the ensemble's members, and grows
            where tiles are halved. Where a halo proves too narrow, the count starts again.
        halo: of the tiles: ``auto`` (measured, seams checked), ``exact`` (as far as the network can see) or pixels;
            see :mod:`ifan_plugin.inference.tiles`.
        program: what computes in the network's place (:mod:`ifan_plugin.export.runtimes`), in ``fp32``; the network is
            still asked how far it sees.
        fixed: the weights seldom change, so on a GPU a copy of the network in a half type is made and kept for later
            calls, where it says that this serves (its attribute ``half_precision``): see
            :mod:`ifan_plugin.inference.half_copies`.

    Returns:
        The restored picture [B, 3, H, W], clipped to [0, 1], on the device of `lq`.

    Raises:
        UserError: an argument out of its range, a precision that the device doesn't have, or not enough memory.
    """
    tile = checked_tile(tile)
    _check_halo(halo)
    run = _Runner(network, lq, multiple or int(getattr(network, "multiple_of", 1)), precision, program, fixed)
    members = transforms(views) if ensemble else transforms(views)[:1]
    if 3 * len(views) != lq.shape[1] and ensemble:
        raise UserError(f"views: {', '.join(views)} are {3 * len(views)} channels, and lq has {lq.shape[1]}")
    was_training = network.training
    network.eval()
    mean: Tensor | None = None
    try:
        for number, member in enumerate(members):
            report = _part_of(progress, number, len(members))
            restored = member.undo(run.restored(member.apply(lq), tile, halo, report))
            mean = restored if mean is None else mean.add_(restored)
    finally:
        network.train(was_training)
    assert mean is not None  # there is one member at least
    return mean.div_(len(members)) if len(members) > 1 else mean


class _Runner:
    """A network on its device at a precision, and what was measured of it."""

    def __init__(
        self,
        network: nn.Module,
        lq: Tensor,
        multiple: int,
        precision: str,
        program: nn.Module | None = None,
        fixed: bool = False,
    ) -> None:
        self.network, self.multiple, self.precision = network, multiple, precision
        self.compute = program or network
        self.device = next((parameter.device for parameter in network.parameters()), lq.device)
        require_precision(precision, self.device)
        if program is not None and precision != "fp32":
            raise UserError(f"precision: {program.name} computes in fp32 alone, not in {precision}")
        self.step = tiles.grid_of(multiple)
        rounded = self.device.type == "cuda" and torch.backends.cudnn.allow_tf32
        kind = ("tf32" if rounded else "fp32") if precision == "fp32" else precision
        self.tolerance = tiles.ROUNDED_TOLERANCE.get(kind, tiles.TOLERANCE)
        self.halo: int | None = None  # what was enough for the last member of an ensemble
        # With the network itself, since they hold as long as it does: what its layers reach and take.
        self.facts: dict[Any, Any] = network.__dict__.setdefault("_measured_by_ifan_plugin", {})
        self.program = program
        self.half: torch.dtype | None = None
        if fixed and program is None and half_copies.serve(network, self.device):
            self.half = PRECISIONS[precision]
        if self.half is not None:
            self.compute = half_copies.of(network, self.half)

    def __call__(self, lq: Tensor) -> Tensor:
        height, width = lq.shape[-2:]
        dtype = PRECISIONS[self.precision]
        with torch.autocast(self.device.type, dtype) if dtype and self.half is None else nullcontext():
            restored = self.compute(pad_to_multiple(lq.to(self.device, self.half), self.multiple))
        restored = restored[..., :height, :width].clamp(0, 1)
        return (restored.float() if dtype else restored).to(lq.device)

    def restored(self, lq: Tensor, tile: int | str | None, halo: int | str, report: Progress) -> Tensor:
        """One picture, whole or by tiles."""
        height, width = lq.shape[-2:]
        if tile is None or (tile >= max(height, width) if isinstance(tile, int) else self._fits(lq)):
            whole = tiles.run_or_none(self, lq)
            if whole is not None:
                report(1, 1)
                return whole
            size = f"{width}x{height} pixels as a whole"
            if tile is None:
                raise UserError(f"out of memory at a picture of {size}; set tile: auto, or a tile's side in pixels")
            tile = -(-max(height, width) // 2)
            logger.warning("Out of memory at a picture of %s; going on with tiles of %d.", size, tile)
        return self._tiled(lq, tile, halo, report)

    def _tiled(self, lq: Tensor, tile: int | str, halo: int | str, report: Progress) -> Tensor:
        width, radius = self._halo(lq, halo)
        while True:
            side = tile if isinstance(tile, int) else self._automatic_side(lq, width)
            # As wide as the radius there is nothing to check, and just beyond a tile's edge it is no longer that wide.
            checked = halo == "auto" and radius is not None and width < radius
            limit = self.tolerance / 2 if checked else None
            compared = checked or (radius is None and isinstance(halo, str))
            if isinstance(tile, int):
                side = self._lengthened(lq, side, width)
                self._tell_cost(lq, side, width)
            tiling = tiles.Tiling(self, lq, self.step, side, width, compared=compared, limit=limit, report=report)
            try:
                restored = tiling.restored()
            except tiles.HaloTooNarrowError as error:
                width = 2 * width if radius is None else min(2 * width, radius)
                logger.info("The tiles' seams differ by %.1g: again with a halo of %d pixels.", error.difference, width)
            else:
                break
        self.halo = width
        if tiling.seam > self.tolerance:
            logger.warning(
                "%s looks at the whole picture at once, and tiles show it less: their seams differ by up to %.2g.",
                type(self.network).__name__, tiling.seam,
            )  # fmt: skip
        return restored

    def _lengthened(self, lq: Tensor, side: int, halo: int) -> int:
        """Of a picture narrower than a tile, tiles as large with their overlaps as those of a wide one would be."""
        short = -(-min(lq.shape[-2:]) // self.multiple) * self.multiple
        return max(side, (side + 2 * halo) ** 2 // short - 2 * halo) if short < side else side

    def _tell_cost(self, lq: Tensor, side: int, halo: int) -> None:
        """What tiles of a size that was asked for cost, where it shows: their overlaps are computed twice."""
        size = (lq.shape[-2], lq.shape[-1])
        factor = tiles.cost(size, side, self.step, halo)
        key = ("cost", size, side, halo)
        if factor < _COSTLY or key in self.facts or size[0] * size[1] < (_PROBE // 2) ** 2:
            return
        self.facts[key] = factor
        logger.info(
            "Tiles of %d pixels with an overlap of %d on every side take about %.1f times as long as the picture as a "
            "whole; larger ones, or tile: auto, take less.", side, halo, factor,
        )  # fmt: skip

    def _halo(self, lq: Tensor, halo: int | str) -> tuple[int, int | None]:
        """The halo's width, and how far the network can see; None: as far as the picture goes."""
        if isinstance(halo, int):
            return -(-halo // self.step) * self.step, None
        key = ("radius", self.multiple)
        if key not in self.facts:
            self.facts[key] = tiles.receptive_radius(self.network, self.multiple)
        radius = self.facts[key]
        if radius is None:
            return -(-tiles.UNBOUNDED_HALO // self.step) * self.step, None
        if halo == "exact":
            return radius, radius
        return self.halo or tiles.measured_halo(self, lq, self.step, radius, self.tolerance), radius

    def _bytes_a_pixel(self, lq: Tensor) -> float | None:
        """What the network takes, measured on a crop from the middle; infinite where not even that goes."""
        by = "a copy" if self.half is not None else "" if self.program is None else str(self.program.name)
        key = ("bytes", str(self.device), self.precision, by)
        side = _PROBE
        while key not in self.facts:
            top, left = (max(length - side, 0) // 2 for length in lq.shape[-2:])
            example = lq[..., top : top + side, left : left + side].to(self.device)
            found = tiles.run_or_none(lambda crop: [memory.bytes_per_pixel(self, crop, self.device)], example)
            side //= 2
            if found is not None or side < 64:
                self.facts[key] = float("inf") if found is None else found[0]
        return self.facts[key]

    def _budget(self, lq: Tensor) -> int | None:
        """What may be taken beside the result, and an ensemble's sum and turned input, all where `lq` is."""
        budget = memory.budget(self.device)
        held = lq.numel() + 6 * lq.numel() // lq.shape[1]
        return budget - held * lq.element_size() if budget is not None and self.device == lq.device else budget

    def _fits(self, lq: Tensor) -> bool:
        """Whether the picture fits as a whole. Small ones aren't worth the measurement: they are tried."""
        if lq.shape[-2] * lq.shape[-1] <= 4 * _PROBE**2:
            return True
        height, width = lq.shape[-2:]
        return tiles.automatic_side(self._bytes_a_pixel(lq), self._budget(lq), 0, (height, width)) is None

    def _automatic_side(self, lq: Tensor, halo: int) -> int:
        height, width = lq.shape[-2:]
        side = tiles.automatic_side(self._bytes_a_pixel(lq), self._budget(lq), halo, (height, width))
        return max(height, width) if side is None else side


def require_precision(precision: str, device: torch.device, where: str = "precision") -> None:
    """UserError, which names `where`, unless `precision` is one of :data:`PRECISIONS` that the device computes in."""
    if precision not in PRECISIONS:
        raise UserError(f"{where}: must be {', '.join(PRECISIONS)}, not {precision!r}")
    if precision == "fp16" and device.type == "cpu":
        raise UserError(f"{where}: fp16 needs a GPU; valid on the CPU: fp32, bf16")


def checked_tile(tile: int | str | bool | None, where: str = "tile") -> int | str | None:
    """What `tile` of :func:`run_network` may be, as None, ``auto`` or a number; YAML reads a bare ``off`` as false.

    Raises:
        UserError: anything else; it names `where`.
    """
    if tile is None or tile is False or tile == "off":
        return None
    if tile == "auto" or (isinstance(tile, int) and tile is not True and tile > 0):
        return tile
    raise UserError(f"{where}: must be auto, off or a positive number of pixels, not {tile!r}")


def _check_halo(halo: int | str) -> None:
    if halo not in ("auto", "exact") and (isinstance(halo, (bool, str)) or not isinstance(halo, int) or halo < 0):
        raise UserError(f"halo: must be auto, exact or a number of pixels, not {halo!r}")


def _part_of(progress: Progress | None, number: int, count: int) -> Progress:
    """`progress` of one member of an ensemble as part of the whole."""
    if progress is None:
        return lambda done, total: None
    return lambda done, total: progress(number * total + done, count * total)
