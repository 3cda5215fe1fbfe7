"""A training that is ended from outside: it saves where it stands, and a resumed one misses no validation."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch

from ifan_plugin.common import stopping
from ifan_plugin.host.current import Run

logger = logging.getLogger("basicsr")


def agreed() -> int | None:
    """The signal by which any rank was asked to stop, the same on all ranks; None: none was.

    Ranks hear of it at different moments, and must leave behind the same iteration.
    """
    number = stopping.asked() or 0
    if torch.distributed.is_initialized():
        on_gpu = torch.distributed.get_backend() == "nccl"
        shared = torch.tensor([number], device="cuda" if on_gpu else "cpu")
        torch.distributed.all_reduce(shared, op=torch.distributed.ReduceOp.MAX)
        number = int(shared)
    return number or None


def stop(model: Any, iteration: int, number: int) -> None:
    """Save what has been trained, if it isn't saved yet, and end.

    Args:
        model: of BasicSR's form.
        iteration: the last one that is complete.
        number: the signal's.

    Raises:
        stopping.Stopped: always.
    """
    ended = f"stopped by {stopping.name(number)} behind iteration {iteration}"
    if Run.saved != iteration:
        epoch = 0 if Run.sampler is None or Run.sampler.epoch is None else Run.sampler.epoch
        logger.info("Saving models and training states.")
        model.save(epoch, iteration)
    if torch.distributed.is_initialized():
        torch.distributed.barrier()  # a launcher ends the others when the first one leaves
    if Run.tb_logger is not None:
        Run.tb_logger.close()
    state = Path(model.opt["path"]["training_states"]) / f"{iteration}.state"
    where = f"saved in {state}; the same command with --auto_resume goes on from there"
    raise stopping.Stopped("" if model.opt["rank"] else f"{ended}, {where}", number)


def mend_stopping() -> None:
    """The host is ended by Ctrl+C in the middle of an iteration, by SIGTERM without a word, and keeps nothing.

    Ours ends behind the iteration, with a checkpoint. It looks before the next one begins.
    """
    from basicsr.models.base_model import BaseModel

    update_learning_rate = BaseModel.update_learning_rate

    def look_and_update(self: Any, current_iter: int, warmup_iter: int = -1) -> None:
        if Run.in_loop:  # a program of somebody's own keeps its signals
            stopping.watch()
            number = agreed()
            if number is not None and current_iter > 1:
                stop(self, current_iter - 1, number)
        update_learning_rate(self, current_iter, warmup_iter=warmup_iter)

    BaseModel.update_learning_rate = look_and_update


def mend_missed_validation() -> None:
    """The host saves before it validates: a run killed in between resumes behind the validation, which is lost.

    Ours validates where it resumes, if that is where a validation is due.
    """
    from basicsr import train
    from basicsr.models.base_model import BaseModel

    make_loaders, make_writers = train.create_train_val_dataloader, train.init_tb_loggers
    update_learning_rate = BaseModel.update_learning_rate

    def create_and_note(opt: dict[str, Any], log: Any) -> Any:
        made = make_loaders(opt, log)
        Run.val_loaders = made[2]
        return made

    def init_and_note(opt: dict[str, Any]) -> Any:
        Run.tb_logger = make_writers(opt)
        return Run.tb_logger

    def validate_and_update(self: Any, current_iter: int, warmup_iter: int = -1) -> None:
        val, done = self.opt.get("val"), current_iter - 1
        if Run.resume_state is not None and Run.resume_state["iter"] == done and val and done % val["val_freq"] == 0:
            for loader in Run.val_loaders:
                self.validation(loader, done, Run.tb_logger, val["save_img"])
        update_learning_rate(self, current_iter, warmup_iter=warmup_iter)

    train.create_train_val_dataloader = create_and_note
    train.init_tb_loggers = init_and_note
    BaseModel.update_learning_rate = validate_and_update


MENDS = (mend_missed_validation, mend_stopping)
