"""The Pixel 4's dual-pixel pictures with ground truth (Xin et al., ICCV 2021), as their authors give them.

Each view is one green channel, 14-bit linear in 16-bit PNG, with black level 1024. What the network sees is made here:
black taken off, the right view evened out by the white sheets, cut to where the ground truth lies, the ground truth
fitted to the views' brightness, scaled to a common white and coded by a power of 1/2.2; three equal channels.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from ifan_plugin.common.errors import UserError
from ifan_plugin.data.layouts import VIEWS, Scene
from ifan_plugin.data.sources import PictureSource
from ifan_plugin.images.image_io import Region, read_bytes

PIXEL4 = "pixel4"
BLACK = 1024
CROP = (slice(252, 1260), slice(336, 1680))
"""Rows and columns of a view where the ground truth lies."""

_SHEET_WINDOW = 101  # px: the white sheets are smoothed over it
_ROUGH_SIGMA, _ROUGH_BORDER, _ROUGH_STEP = 12.0, 48, 4  # px: brightness is fitted on pictures blurred like this
_WHITE_PERCENTILE = 99.9
_GAMMA = 1 / 2.2


class Pixel4Source(PictureSource):
    """Files ``NNN_{left,right}.png``, ``gt_all_in_focus/NNN_gt.png``, ``calibration/white_sheet_{left,right}.png``.

    Args:
        root: their folder.
        views: those wanted; ``center`` is the mean of both.
        target: ``none`` leaves the ground truth aside.
        bit_depth: 8 or 16, what is asked of the pictures: they are of 16.
        max_images: keep the first scenes only.

    Raises:
        UserError: files that are missing.
    """

    quarter_turns = 0
    white_level = None

    def __init__(
        self,
        root: str | os.PathLike,
        views: Sequence[str],
        target: str = "auto",
        bit_depth: int = 8,
        max_images: int | None = None,
    ) -> None:
        folder = Path(root).expanduser()
        lefts = sorted(folder.glob("*_left.png"))[:max_images]
        if not lefts:
            raise UserError(f"{folder}: has no pictures NNN_left.png (layout '{PIXEL4}')")
        self._sheets = [folder / f"calibration/white_sheet_{side}.png" for side in ("left", "right")]
        self.roles = (*dict.fromkeys(views), *([] if target == "none" else ["target"]))
        self.bit_depth = bit_depth
        self.pairing = "by the scenes' numbers"
        self.scenes = []
        for left in lefts:
            number = left.name.removesuffix("_left.png")
            right, truth = folder / f"{number}_right.png", folder / f"gt_all_in_focus/{number}_gt.png"
            for path in (*self._sheets, right, truth):
                if not path.is_file():
                    raise UserError(f"{path}: not found (layout '{PIXEL4}')")
            files = {"center": left, "left": left, "right": right, "target": truth}
            self.scenes.append(Scene(number, **{role: files[role] for role in self.roles}))
        self._folder = folder

    def name(self, index: int, role: str) -> str:
        return str(getattr(self.scenes[index], role))

    def stored_size(self, index: int, role: str) -> tuple[int, int]:
        rows, columns = CROP
        return rows.stop - rows.start, columns.stop - columns.start

    def check(self) -> None:
        """Nothing is told by headers alone: pictures of another size are told when they are read."""

    def note(self) -> str | None:
        return None

    def _read_stored(self, index: int, role: str, region: Region | None) -> np.ndarray:
        coded = _scene(str(self._folder), self.scenes[index].key)[(*VIEWS, "target").index(role)]
        pixels = np.repeat(coded[..., None], 3, axis=2)
        if self.bit_depth == 8:
            pixels = (pixels >> 8).astype(np.uint8)
        if region is None:
            return pixels
        return pixels[region.top : region.top + region.height, region.left : region.left + region.width]


@functools.lru_cache(maxsize=2)  # a scene's roles are read one after another
def _scene(folder: str, number: str) -> tuple[np.ndarray, ...]:
    """Centre, left, right and sharp picture, uint16 [1008, 1344]."""
    root = Path(folder)
    left = _linear(root / f"{number}_left.png")[CROP]
    right = _linear(root / f"{number}_right.png")[CROP] * _evenness(folder)[CROP]
    left, right = left.clip(min=0), right.clip(min=0)
    center = (left + right) / 2
    truth = _raw(root / f"gt_all_in_focus/{number}_gt.png")
    if truth.shape != center.shape:
        size = f"{truth.shape[1]}x{truth.shape[0]}"
        raise UserError(f"{root / 'gt_all_in_focus'}/{number}_gt.png: is {size}; valid: 1344x1008 (layout '{PIXEL4}')")
    basis = np.stack([_rough(truth), np.ones_like(_rough(truth))], 1)
    gain, offset = np.linalg.lstsq(basis, _rough(center), rcond=None)[0]
    truth = truth * gain + offset
    white = np.percentile(np.maximum(center, truth), _WHITE_PERCENTILE)
    return tuple(
        ((picture / white).clip(0, 1) ** _GAMMA * 65535 + 0.5).astype(np.uint16)
        for picture in (center, left, right, truth)
    )


@functools.lru_cache(maxsize=2)
def _evenness(folder: str) -> np.ndarray:
    """Left over right white sheet: what makes the right view as bright as the left one."""
    sheets = [_linear(Path(folder) / f"calibration/white_sheet_{side}.png") for side in ("left", "right")]
    left, right = (cv2.blur(sheet, (_SHEET_WINDOW, _SHEET_WINDOW)) for sheet in sheets)
    return left / right


def _rough(picture: np.ndarray) -> np.ndarray:
    blurred = cv2.GaussianBlur(picture, (0, 0), _ROUGH_SIGMA)
    inside = slice(_ROUGH_BORDER, -_ROUGH_BORDER, _ROUGH_STEP)
    return blurred[inside, inside].ravel()


def _linear(path: Path) -> np.ndarray:
    return _raw(path) - BLACK


def _raw(path: Path) -> np.ndarray:
    pixels = cv2.imdecode(np.frombuffer(read_bytes(path), np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.ndim != 2 or pixels.dtype != np.uint16:
        raise UserError(f"{path}: must be a 16-bit picture of one channel (layout '{PIXEL4}')")
    return pixels.astype(np.float32)
