"""Warm-up before any schedule."""

from __future__ import annotations

from typing import Any


def mend_warm_up() -> None:
    """Behind the host's warm-up a schedule that computes each rate from the last one never reaches its own.

    (``MultiStepRestartLR`` stays at what the warm-up's last iteration had, and forgets the milestones within.) Ours
    lets schedules go on as if there were no warm-up, which only stands in front of them: of any length.
    """
    from basicsr.models.base_model import BaseModel

    update_learning_rate = BaseModel.update_learning_rate

    def update(self: Any, current_iter: int, warmup_iter: int = -1) -> None:
        for optimizer, scheduler in zip(self.optimizers, self.schedulers):
            for group, rate in zip(optimizer.param_groups, scheduler.get_last_lr()):
                group["lr"] = rate
        update_learning_rate(self, current_iter, warmup_iter=warmup_iter)

    BaseModel.update_learning_rate = update
