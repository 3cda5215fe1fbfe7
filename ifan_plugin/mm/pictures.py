"""The hook of mmengine's Runner that writes restored pictures, disparity maps and contact sheets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_gather_object, get_dist_info
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.structures import BaseDataElement
from mmengine.visualization import LocalVisBackend
from torch import Tensor

from ifan_plugin.common.errors import UserError
from ifan_plugin.common.files import written_aside
from ifan_plugin.images.color import to_8bit
from ifan_plugin.images.image_io import write_image
from ifan_plugin.metrics import psnr
from ifan_plugin.options.schema import nearest
from ifan_plugin.pictures.visual import colour_disparity, contact_sheet

LOOPS = ("val", "test")


class RestorationVisualizationHook(Hook):
    """Pictures for people, below ``<work_dir>/visualization/<name of the data set>/``.

    - ``contact_sheet_<iteration>.png`` (``contact_sheet.png`` when testing): blurred, restored and sharp picture and
      the disparity map of the first scenes, with their PSNR; also given to TensorBoard, or whatever else the
      visualizer writes to;
    - ``<scene>.png`` (when validating ``<scene>/<scene>_<iteration>.png``): the restored picture, in the data's bit
      depth and turned as its file was; beside it ``…_disparity.png`` (blue below zero, red above) and
      ``…_disparity.npy`` (float32 [H/8, W/8], pixels at 1/8 size).

    It reads what :meth:`ifan_plugin.mm.model.IFANRestorer.predict` gives; averaged weights (EMAHook) are used where
    there are some, since the loop has them in place.

    Args:
        contact_sheet: scenes on the sheet; 0: no sheet.
        save: the loops whose restored pictures are all written: ``val``, ``test``.
        disparity: whether disparity maps are drawn and written.

    Raises:
        UserError: another loop, or a negative number.
    """

    priority = "NORMAL"

    def __init__(self, contact_sheet: int = 3, save: Sequence[str] = ("test",), *, disparity: bool = True) -> None:
        if contact_sheet < 0:
            raise UserError(f"RestorationVisualizationHook: contact_sheet: must be at least 0, not {contact_sheet}")
        save = [save] if isinstance(save, str) else list(save)
        for loop in save:
            if loop not in LOOPS:
                raise UserError(f"RestorationVisualizationHook: save: unknown loop '{loop}'; {nearest(loop, LOOPS)}")
        self.contact_sheet, self.save, self.disparity = contact_sheet, save, disparity
        self._rows: dict[int, list[tuple[str, np.ndarray]]] = {}

    def after_val_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Draw and write a batch of the validation."""
        self._take(runner, batch_idx, outputs, "val")

    def after_test_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Draw and write a batch of the test."""
        self._take(runner, batch_idx, outputs, "test")

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Write the sheet of the validation."""
        self._write_sheet(runner, "val")

    def after_test_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Write the sheet of the test."""
        self._write_sheet(runner, "test")

    def _take(self, runner: Any, batch_idx: int, outputs: Sequence[BaseDataElement], loop: str) -> None:
        dataset = _loader(runner, loop).dataset
        rank, world_size = get_dist_info()
        for place, sample in enumerate(outputs):
            # mmengine's sampler deals the scenes out to the ranks in turn, and some twice to fill up the last turn.
            number = (batch_idx * (_loader(runner, loop).batch_size or len(outputs)) + place) * world_size + rank
            if number >= len(dataset):
                continue
            on_sheet = number < self.contact_sheet
            if not on_sheet and loop not in self.save:
                continue
            disparity = _disparity(runner, sample) if self.disparity else None
            if loop in self.save:
                self._write_pictures(_folder(runner, loop), sample, disparity, _step(runner, loop))
            if on_sheet:
                self._rows[number] = _row(sample, disparity)

    def _write_pictures(
        self, folder: Path, sample: BaseDataElement, disparity: np.ndarray | None, step: int | None
    ) -> None:
        key = str(sample.get("key", Path(sample.get("img_path") or "picture").stem))
        path = folder / f"{key}.png" if step is None else folder / key / f"{key}_{step}.png"
        write_image(path, _as_array(sample.output.pred_img, sample), sample.get("bit_depth", 8))
        if disparity is not None:
            write_image(path.with_name(f"{path.stem}_disparity.png"), colour_disparity(disparity) / 255.0, 8)
            with written_aside(path.with_name(f"{path.stem}_disparity.npy"), durable=False) as file:
                np.save(file, disparity)

    def _write_sheet(self, runner: Any, loop: str) -> None:
        rows: dict[int, list[tuple[str, np.ndarray]]] = {}
        for part in all_gather_object(self._rows):
            rows |= part
        self._rows = {}
        if not rows or runner.rank != 0:
            return
        step = _step(runner, loop)
        path = _folder(runner, loop) / f"contact_sheet{'' if step is None else f'_{step}'}.png"
        sheet = contact_sheet([rows[number] for number in sorted(rows)])
        write_image(path, sheet / 255.0, 8)
        runner.logger.info(f"Contact sheet: {path}")
        for backend in runner.visualizer._vis_backends.values():  # the local one would only write the file again
            if not isinstance(backend, LocalVisBackend):
                backend.add_image(f"pictures/{path.parent.name}", sheet, step=step or 0)


def _loader(runner: Any, loop: str) -> Any:
    return (runner.val_loop if loop == "val" else runner.test_loop).dataloader


def _folder(runner: Any, loop: str) -> Path:
    """Where a data set's pictures go."""
    metainfo = getattr(_loader(runner, loop).dataset, "metainfo", None) or {}
    return Path(runner.work_dir) / "visualization" / str(metainfo.get("name", loop))


def _step(runner: Any, loop: str) -> int | None:
    """The iteration that is validated; None when testing."""
    return runner.iter if loop == "val" and not isinstance(runner._train_loop, dict | None) else None


def _row(sample: BaseDataElement, disparity: np.ndarray | None) -> list[tuple[str, np.ndarray]]:
    sharp, views = sample.get("gt_img"), list(sample.get("views", ["center"]))
    pictures = [("restored", sample.output.pred_img)]
    if "center" in views and "img" in sample:
        start = 3 * views.index("center")
        pictures.insert(0, ("blurred", sample.img[start : start + 3]))
    row = []
    for caption, picture in pictures:
        if sharp is not None:
            caption = f"{caption} {psnr(picture, sharp):.2f} dB"
        row.append((caption, to_8bit(_as_array(picture, sample))))
    if sharp is not None:
        row.append(("ground truth", to_8bit(_as_array(sharp, sample))))
    if disparity is not None:
        row.append(("disparity: blue -, red +", colour_disparity(disparity)))
    return row


def _as_array(picture: Tensor, sample: BaseDataElement) -> np.ndarray:
    """[3, H, W] -> float [H, W, 3] in [0, 1], turned back as the file was."""
    array = picture.detach().float().clamp(0, 1).permute(1, 2, 0).cpu().numpy()
    return np.rot90(array, sample.get("rotate_back", 0))


def _disparity(runner: Any, sample: BaseDataElement) -> np.ndarray | None:
    """The map [H/8, W/8] in pixels at 1/8 size, turned back; None where the model has none."""
    found = sample.output.get("disparity")
    if found is None and "img" in sample:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        generator = getattr(model, "generator", None)
        if generator is None or not getattr(generator, "use_disparity", False):
            return None
        with torch.no_grad():
            found = generator.disparity(sample.img[None])[0]
    return None if found is None else np.rot90(found[0].float().cpu().numpy(), sample.get("rotate_back", 0))
