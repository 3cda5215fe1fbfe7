"""Hooks of mmengine's Runner: whole checkpoints, averaged weights, what stops a run, and a bar."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook, EMAHook, Hook
from tqdm import tqdm

from ifan_plugin.common.errors import UserError
from ifan_plugin.common.files import make_folder, remove_remains, written_aside
from ifan_plugin.mm.checkpoints import is_best_in
from ifan_plugin.options.schema import nearest

ASIDE = "ifan_aside"
"""Name of the storage backend that writes aside and renames."""


class AsideBackend(LocalBackend):
    """mmengine's local files, written aside, flushed to the disk and renamed.

    Attributes:
        removals: where it is a list, :meth:`remove` and :meth:`rmtree` note their path in it and remove nothing.
    """

    removals: list[Path] | None = None

    def remove(self, filepath: str | Path) -> None:
        """Remove a file, or note that it is to be removed. Raises ``OSError``."""
        if self.removals is None:
            super().remove(filepath)
        else:
            self.removals.append(Path(filepath))

    def rmtree(self, dir_path: str | Path) -> None:
        """Remove a folder, or note that it is to be removed. Raises ``OSError``."""
        if self.removals is None:
            super().rmtree(dir_path)
        else:
            self.removals.append(Path(dir_path))

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes.

        Raises:
            UserError: the disk is full, or the folder can't be written to. The old file is untouched.
        """
        path = Path(filepath)
        make_folder(path.parent)
        with written_aside(path) as file:
            file.write(obj)


def register_aside_backend() -> None:
    """Make the backend known to mmengine. Safe to call again."""
    register_backend(ASIDE, AsideBackend, force=True)


class AsideCheckpointHook(CheckpointHook):
    """mmengine's ``CheckpointHook``: checkpoints counted in iterations, written aside and renamed.

    A killed run leaves the old file or the new one, and a save that fails ends the run with a line that says why:
    files that are no longer kept go when the new one is there. (mmengine's own hook removes them first.) Of what a
    resumed checkpoint says, only a ``best_*.pth`` in this run's folder is taken for the best so far's file, which a
    better one replaces. The best checkpoint of psnr and ssim is the greatest, of mae, lpips and niqe the least.

    Args: those of ``CheckpointHook``, with ``by_epoch=False`` by default.
    """

    _default_greater_keys = [*CheckpointHook._default_greater_keys, "psnr", "ssim", "sharpness"]  # noqa: RUF012
    _default_less_keys = [*CheckpointHook._default_less_keys, "mae", "lpips", "niqe"]  # noqa: RUF012

    def __init__(self, interval: int = -1, *, by_epoch: bool = False, **kwargs: Any) -> None:
        register_aside_backend()
        if kwargs.get("backend_args") is None:
            kwargs["backend_args"] = {"backend": ASIDE}
        super().__init__(interval=interval, by_epoch=by_epoch, **kwargs)

    def before_train(self, runner: Any) -> None:
        """Find the folder; remove there what killed runs left half-written."""
        super().before_train(runner)
        # The resumed checkpoint may be a stranger's, or of a run in another folder, and mmengine removes what it names.
        if not is_best_in(self.out_dir, getattr(self, "best_ckpt_path", None)):
            self.best_ckpt_path = None
        for name, path in getattr(self, "best_ckpt_path_dict", {}).items():
            if not is_best_in(self.out_dir, path):
                self.best_ckpt_path_dict[name] = None
        if is_main_process() and Path(self.out_dir).is_dir():
            remove_remains(self.out_dir)

    @contextmanager
    def _removing_last(self) -> Iterator[None]:
        """What is removed within the block goes when it has ended well."""
        backend = self.file_backend
        if not isinstance(backend, AsideBackend) or backend.removals is not None:  # another's, or in a block already
            yield
            return
        backend.removals = []
        try:
            yield
        finally:
            removals, backend.removals = backend.removals, None
        bests = [getattr(self, "best_ckpt_path", None), *getattr(self, "best_ckpt_path_dict", {}).values()]
        for path in removals:
            if str(path) in (self.last_ckpt, *bests):  # written anew under its old name
                continue
            if backend.isdir(path):
                backend.rmtree(path)
            elif backend.isfile(path):
                backend.remove(path)

    def _save_checkpoint_with_step(self, runner: Any, step: int, meta: dict[str, Any]) -> None:
        with self._removing_last():
            super()._save_checkpoint_with_step(runner, step, meta)

    def _save_best_checkpoint(self, runner: Any, metrics: dict[str, float]) -> None:
        with self._removing_last():
            super()._save_best_checkpoint(runner, metrics)

    def after_val_epoch(self, runner: Any, metrics: dict[str, float]) -> None:
        """Keep the best so far.

        Raises:
            UserError: ``save_best`` names a figure that wasn't measured.
        """
        for name in self.save_best or []:
            if metrics and name != "auto" and name not in metrics:
                raise UserError(
                    f"default_hooks: checkpoint: save_best: no figure '{name}' was measured; {nearest(name, metrics)}"
                )
        super().after_val_epoch(runner, metrics)


class BasicSREMAHook(EMAHook):
    """mmengine's ``EMAHook``, averaging as BasicSR does: from the weights that training starts with.

    mmengine's own starts with those behind the first iteration, so that its figures differ for the first some
    hundred iterations.

    Args:
        decay: the average is ``decay * average + (1 - decay) * weights`` after each iteration (``ema_decay``).
        strict_load: refuse averaged weights of other names, when resuming. Where the model's own ``strict_load`` is
            false, this is, too.

    Raises:
        UserError: a decay that isn't between 0 and 1.
    """

    def __init__(self, decay: float = 0.999, *, strict_load: bool = True) -> None:
        if not 0 < decay < 1:
            raise UserError(f"BasicSREMAHook: decay: must be between 0 and 1, not {decay}")
        super().__init__("ExponentialMovingAverage", strict_load, momentum=1 - decay)

    strict_load: bool

    def before_run(self, runner: Any) -> None:
        """Make the averaged copy of the model."""
        super().before_run(runner)
        self.strict_load = self.strict_load and getattr(self.src_model, "strict_load", True)

    def before_train(self, runner: Any) -> None:
        """Take the starting weights, which the Runner initialises and loads behind ``before_run``.

        They are also those of a resumed run that has had no average so far.
        """
        super().before_train(runner)
        if self.ema_model.steps == 0:
            self.ema_model.module.load_state_dict(self.src_model.state_dict())
            self.ema_model.steps.fill_(1)  # at 0 the first update would copy instead of averaging


class FiniteGradientHook(Hook):
    """Stops training when the gradient's norm isn't finite, before what it has done to the weights is saved.

    The norm is the one that ``optim_wrapper: clip_grad`` measures; without it there is none to look at. (A loss that
    isn't finite stops the run earlier: :meth:`ifan_plugin.mm.model.IFANRestorer.parse_losses`.)
    """

    priority = "VERY_HIGH"

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Mapping[str, Any] | None = None
    ) -> None:
        """Look at the norm of this iteration, the same on all ranks.

        Raises:
            UserError: it isn't finite.
        """
        norms = runner.message_hub.log_scalars.get("train/grad_norm")
        if norms is None or hasattr(runner.optim_wrapper, "loss_scaler"):  # a scaler skips such steps itself
            return
        norm = float(norms.current())
        if not math.isfinite(norm):
            values = "".join(
                f", {name} {float(torch.as_tensor(value).detach()):.3g}" for name, value in (outputs or {}).items()
            )
            raise UserError(
                f"training stopped at iteration {runner.iter + 1}: not finite (gradient norm {norm}{values}); the "
                f"checkpoints in {runner.work_dir} are untouched. Lower optim_wrapper: optimizer: lr, or begin with a "
                "warm-up, then go on with --resume."
            )


class ThroughputHook(Hook):
    """Puts the images a second that all ranks train on into the log, beside mmengine's time left and GPU memory."""

    priority = "NORMAL"

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Mapping[str, Any] | None = None
    ) -> None:
        """Note the images of this iteration over its seconds, which mmengine's own timer has just noted."""
        times = runner.message_hub.log_scalars.get("train/time")
        samples = data_batch.get("inputs") if isinstance(data_batch, Mapping) else None
        if times is None or samples is None:
            return
        seconds = float(times.current())
        if seconds > 0:
            runner.message_hub.update_scalar("train/images_per_s", len(samples) * runner.world_size / seconds)


class ProgressBarHook(Hook):
    """A bar for validation and test, whose pictures may take long; training has lines with the time left."""

    def _before_epoch(self, runner: Any, mode: str = "train") -> None:
        if mode != "train":
            loader = (runner.val_loop if mode == "val" else runner.test_loop).dataloader
            self._bar = tqdm(total=len(loader), unit="batch", desc=mode, disable=not is_main_process(), leave=False)

    def _after_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None, mode: str = "train"
    ) -> None:
        if mode != "train":
            self._bar.update()

    def _after_epoch(self, runner: Any, mode: str = "train") -> None:
        if mode != "train":
            self._bar.close()
