"""Simulated patches that are made once, kept in memory and cut from again: for CPUs, where blur costs as much as
training on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

_VARIANT_STREAM = 7  # beside the data set's own streams
_WORST_COC = 1000.0  # px; float16 holds it to half a pixel, and those of training to a hundredth


class Variants:
    """Some variants of each picture, each with a depth, a lens and a sensor of its own; made when first asked for.

    What is drawn for a variant depends on (seed, picture, variant) alone, and what is cut from it on the key of the
    sample, so that a run that is resumed sees what it would have seen.

    Args:
        make: (index of the picture, key of the variant) -> a finished sample of ``size`` px a side: tensors [C, H, W]
            in [0, 1], their ``coc`` in pixels, and strings.
        count: variants of each picture.
        size: their side, px.
        levels: steps that values are rounded to, 255 or 65535; it is what they are kept as.
    """

    def __init__(self, make: Callable[[int, list[int]], dict[str, Any]], *, count: int, size: int, levels: int) -> None:
        self.make, self.count, self.size, self.levels = make, count, size, levels
        self._kept: dict[tuple[int, int], dict[str, Any]] = {}

    def patch(self, index: int, seed: int, key: list[int], side: int) -> dict[str, Any]:
        """A patch of ``side`` px of a variant of picture ``index``, which of them and where drawn by ``key``.

        Half of the patches are upside down: no lens tells up from down.

        Returns:
            As ``make``'s samples.
        """
        u = np.random.default_rng([*key, _VARIANT_STREAM]).random(4)
        variant = int(u[0] * self.count)
        if (index, variant) not in self._kept:
            self._kept[index, variant] = self._packed(self.make(index, [seed, _VARIANT_STREAM, index, variant]))
        top, left = (int(value * (self.size - side + 1)) for value in u[1:3])

        def cut(name: str, kept: Any) -> Any:
            if not isinstance(kept, np.ndarray):
                return kept
            part = kept[:, top : top + side, left : left + side]
            part = np.ascontiguousarray(part[:, ::-1] if u[3] < 0.5 else part, np.float32)
            return torch.from_numpy(part if name == "coc" else part / np.float32(self.levels))

        return {name: cut(name, kept) for name, kept in self._kept[index, variant].items()}

    def _packed(self, sample: dict[str, Any]) -> dict[str, Any]:
        kind = np.uint8 if self.levels == 255 else np.uint16

        def pack(name: str, value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            if name == "coc":
                return value.numpy().clip(-_WORST_COC, _WORST_COC).astype(np.float16)
            return np.rint(value.numpy() * self.levels).astype(kind)

        return {name: pack(name, value) for name, value in sample.items()}
