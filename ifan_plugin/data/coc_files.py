"""The circle of confusion beside simulated pictures, as ``basicsr simulate --save-coc`` writes it, for training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ifan_plugin.common.errors import UserError
from ifan_plugin.data.augment import Cut, Plan
from ifan_plugin.data.layouts import Scene
from ifan_plugin.images.formats.photo import decoded_by_opencv
from ifan_plugin.images.image_io import read_bytes
from ifan_plugin.images.resample import area_resample
from ifan_plugin.simulation.data_set import COC_OFFSET, COC_SCALE


def check_coc_option(options: Mapping[str, Any], where: str) -> None:
    """What ``coc: true`` demands of a data set's other options.

    Raises:
        UserError: it isn't a training set, or its layout has no place for it.
    """
    if not options["coc"]:
        return
    if options["phase"] != "train":
        raise UserError(f"{where}: coc: is for training; leave it out in phase {options['phase']}")
    for number, each in enumerate([options, *(options.get("more") or [])]):
        place = where if number == 0 else f"{where}: more: {number - 1}"
        layout = "folders of one's own" if each.get("folders") else each.get("layout", "dpdd")
        if layout != "dpdd":
            raise UserError(f"{place}: coc: needs layout: dpdd, as basicsr simulate writes it, not {layout}")


def coc_files(scenes: Sequence[Scene]) -> list[Path]:
    """The file of each scene, named like its first view: ``ROOT/{split}_coc/NAME.png``.

    Args:
        scenes: of layout dpdd, ``ROOT/{split}_c/source/NAME.png``; of one root or of several.

    Raises:
        UserError: a scene without one.
    """
    paths = []
    for scene in scenes:
        view = next(path for path in (scene.center, scene.left, scene.right) if path is not None)
        split = view.parents[1].name.rpartition("_")[0]
        folder = view.parents[2] / f"{split}_coc"
        if not folder.is_dir():
            raise UserError(f"{folder}: folder not found (coc: true); basicsr simulate --save-coc writes it")
        paths.append(folder / f"{view.stem}.png")
        if not paths[-1].is_file():
            raise UserError(f"{paths[-1]}: not found (coc: true); each scene needs one (basicsr simulate --save-coc)")
    return paths


def read_coc(path: Path) -> np.ndarray:
    """The signed circle of confusion of a scene, float32 [H, W], pixels.

    Raises:
        UserError: it isn't a 16-bit grey PNG.
    """
    stored = decoded_by_opencv(read_bytes(path), path)
    if stored is None or stored.dtype != np.uint16 or stored.ndim != 2:
        raise UserError(f"{path}: must be a 16-bit grey PNG, as basicsr simulate --save-coc writes it")
    return (stored.astype(np.float32) - COC_OFFSET) / COC_SCALE


def cut_coc(coc: np.ndarray, plan: Plan, cut: Cut) -> np.ndarray:
    """The patch of a scene's map that the augmentation cuts out of its pictures.

    Args:
        coc: float32 [H, W], pixels, of the whole picture or of ``cut.region`` alone.
        plan, cut: what was drawn for the pictures.

    Returns:
        float32 [1, patch, patch], in the pixels of the patch: where pictures shrink, so does their blur.
    """
    top, left, height, width = cut.region
    if coc.shape != (height, width):
        coc = coc[top : top + height, left : left + width]
    planes = np.ascontiguousarray(coc[None])
    if cut.rows is not None and cut.columns is not None:
        planes = area_resample(planes, cut.rows, cut.columns) * np.float32(plan.size[0] / plan.whole[0])
    return np.ascontiguousarray(planes[..., ::-1]) if plan.flip else planes
