"""Ctrl+C and SIGTERM on mmengine's Runner: a checkpoint first."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import CheckpointHook, Hook

from ifan_plugin.common import stopping
from ifan_plugin.host.interruptions import agreed


class StopHook(Hook):
    """Ends a training behind the iteration in which Ctrl+C or SIGTERM came, with a checkpoint; a second one at once.

    mmengine's Runner keeps nothing of what it trained since its last checkpoint. ``python -m ifan_plugin.mm`` has this
    hook without being told; with other start scripts one line of the config does it::

        custom_hooks = [dict(type="StopHook")]

    Where ``optim_wrapper`` has ``accumulative_counts``, the end is put off until the gradients are used.
    """

    priority = "LOWEST"

    def before_train(self, runner: Any) -> None:
        """From here on a first signal is only noted, by the workers that load data, too."""
        loader = runner.train_dataloader
        if not isinstance(loader, Mapping):
            loader.worker_init_fn = partial(stopping.shield_worker, loader.worker_init_fn)
        stopping.watch()

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Mapping[str, Any] | None = None
    ) -> None:
        """Save and end, where any rank was asked to.

        Raises:
            stopping.Stopped: it was.
        """
        number = agreed()
        if number is None or not runner.optim_wrapper.should_update():
            return
        path = _saved(runner, runner.iter + 1)
        if torch.distributed.is_initialized():
            torch.distributed.barrier()  # a launcher ends the others when the first one leaves
        if getattr(runner, "visualizer", None) is not None:
            runner.visualizer.close()
        ended = f"stopped by {stopping.name(number)} behind iteration {runner.iter + 1}"
        message = f"{ended}, saved in {path}; the same command with --resume goes on from there"
        raise stopping.Stopped("" if runner.rank else message, number)

    def after_train(self, runner: Any) -> None:
        """Signals mean again what they meant before."""
        stopping.forget()


def _saved(runner: Any, iteration: int) -> Path:
    """The checkpoint of an iteration, written unless the Runner's own hook has just done so."""
    hook = next((each for each in runner.hooks if isinstance(each, CheckpointHook)), None)
    if hook is None:
        name = f"iter_{iteration}.pth"
        runner.save_checkpoint(runner.work_dir, name, meta={"epoch": runner.epoch, "iter": iteration}, by_epoch=False)
        return Path(runner.work_dir) / name
    if hook.last_ckpt is None or Path(hook.last_ckpt).name != hook.filename_tmpl.format(iteration):
        hook._save_checkpoint_with_step(runner, iteration, {"epoch": runner.epoch, "iter": iteration})
    return Path(hook.last_ckpt)
