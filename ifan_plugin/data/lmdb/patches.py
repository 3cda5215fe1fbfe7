"""How a picture is cut before it is stored: overlapping patches, the least-detailed left out, or its centre."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from ifan_plugin.common.errors import UserError
from ifan_plugin.images.image_io import Region


@dataclass(frozen=True)
class Patches:
    """Overlapping patches on a grid. Restormer's and DPDNet's numbers: 512, 204, 0.3.

    Args:
        size: side, pixels.
        stride: distance of neighbours, pixels; the last row and column move back to the picture's border.
        drop: share of each picture's patches, 0 up to but not 1, that is left out: those with the least Sobel
            energy. Of n patches floor(drop * n) go.

    Raises:
        UserError: a number out of range.
    """

    size: int = 512
    stride: int = 204
    drop: float = 0.3

    def __post_init__(self) -> None:
        if self.size < 1:
            raise UserError(f"patch size is {self.size}; it must be at least 1")
        if self.stride < 1:
            raise UserError(f"stride is {self.stride}; it must be at least 1")
        if not 0 <= self.drop < 1:
            raise UserError(f"drop is {self.drop}; valid: a share from 0 up to, but not, 1")

    def grid(self, height: int, width: int) -> list[Region]:
        """All patches of a picture at least ``size`` each way, row by row."""
        tops, lefts = _starts(height, self.size, self.stride), _starts(width, self.size, self.stride)
        return [Region(top, left, self.size, self.size) for top in tops for left in lefts]

    def count(self, height: int, width: int) -> int:
        """How many patches of a picture are kept."""
        patches = len(_starts(height, self.size, self.stride)) * len(_starts(width, self.size, self.stride))
        return patches - self._dropped(patches)

    def choose(self, pixels: np.ndarray) -> list[Region]:
        """The patches kept, row by row; ``pixels`` is the picture whose detail decides, [H, W, 3]."""
        regions = self.grid(*pixels.shape[:2])
        dropped = self._dropped(len(regions))
        if not dropped:
            return regions
        detail = sobel_energy(pixels)
        sums = [float(detail[top : top + h, left : left + w].sum(dtype=np.float64)) for top, left, h, w in regions]
        kept = np.argsort(sums, kind="stable")[dropped:]
        return [regions[index] for index in sorted(kept)]

    def _dropped(self, patches: int) -> int:
        return math.floor(self.drop * patches + 1e-9)  # 0.29 * 100 is 28.999…


@dataclass(frozen=True)
class CenterCrop:
    """One square from the middle of each picture. Restormer validates on 256.

    Args:
        size: side, pixels.

    Raises:
        UserError: a size below 1.
    """

    size: int = 256

    def __post_init__(self) -> None:
        if self.size < 1:
            raise UserError(f"center crop is {self.size}; it must be at least 1")

    def region(self, height: int, width: int) -> Region:
        return Region((height - self.size) // 2, (width - self.size) // 2, self.size, self.size)


Cut = Patches | CenterCrop | None
"""``None``: pictures stay whole."""


def sobel_energy(pixels: np.ndarray) -> np.ndarray:
    """Magnitude of the Sobel gradient of the grey picture.

    Args:
        pixels: uint8 or uint16 [H, W, 3], RGB.

    Returns:
        float32 [H, W], in units of the full range.
    """
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).astype(np.float32) / np.float32(np.iinfo(pixels.dtype).max)
    return cv2.magnitude(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))


def _starts(length: int, size: int, stride: int) -> list[int]:
    starts = list(range(0, length - size + 1, stride))
    if starts[-1] != length - size:
        starts.append(length - size)
    return starts
