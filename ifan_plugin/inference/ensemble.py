"""Test-time ensemble: the mean over the flips and turns of a picture that are legal for its views."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Transform(NamedTuple):
    """A flip or turn of a stack of views, and its way back."""

    transposed: bool  # rows become columns, before the flips
    horizontal: bool  # mirrored left to right
    vertical: bool  # mirrored top to bottom
    order: tuple[int, ...]  # where each view of the result is taken from

    def apply(self, lq: Tensor) -> Tensor:
        """[B, 3 * views, H, W] -> the same, or [..., W, H] where `transposed`."""
        if self.order != tuple(sorted(self.order)):
            parts = lq.split(3, 1)
            lq = torch.cat([parts[index] for index in self.order], 1)
        lq = lq.transpose(2, 3) if self.transposed else lq
        return lq.flip(self._axes()) if self._axes() else lq

    def undo(self, restored: Tensor) -> Tensor:
        """The restored picture [B, 3, ...] as it would lie without the transform."""
        restored = restored.flip(self._axes()) if self._axes() else restored
        return restored.transpose(2, 3) if self.transposed else restored

    def _axes(self) -> list[int]:
        return [axis for axis, flipped in ((2, self.vertical), (3, self.horizontal)) if flipped]


def transforms(views: Sequence[str]) -> list[Transform]:
    """The legal ones, the identity first.

    The left and the right view of a dual-pixel sensor differ by a shift along the rows: mirrored left to right they
    change places, upside down they stay, and a turn by 90 degrees would make of them what no such sensor takes. So
    there are four with both, two with one of them, and all eight for a centre view alone.
    """
    views = list(views)
    other = {"left": "right", "right": "left"}
    paired = any(view in other for view in views)
    mirrored = [other.get(view, view) for view in views]
    order = tuple(views.index(view) for view in mirrored if view in views)
    return [
        Transform(transposed, horizontal, vertical, order if horizontal else tuple(range(len(views))))
        for transposed in ((False,) if paired else (False, True))
        for vertical in (False, True)
        for horizontal in ((False, True) if len(order) == len(views) else (False,))
    ]
