"""Precision and learning rate: bf16 on any device, and BasicSR's warm-up before its cosine schedule."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.optim.scheduler.lr_scheduler import CosineRestartLR
from torch import nn

from ifan_plugin.host.optimizers import averaged, is_averaging


class BF16OptimWrapper(OptimWrapper):
    """Forward pass in bfloat16 where that is safe (``torch.autocast``), on the device the model is on.

    mmengine's ``AmpOptimWrapper`` refuses to work without an accelerator and scales the loss, which bfloat16's
    range doesn't need. Parameters, gradients and the optimiser's state stay float32.

    Args: those of ``OptimWrapper``: ``optimizer, accumulative_counts, clip_grad``.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """What ``train_step`` runs the model's forward pass in."""
        device = next(model.parameters()).device.type
        with super().optim_context(model), torch.autocast(device, torch.bfloat16):
            yield


class WarmupCosineRestartLR(CosineRestartLR):
    """``CosineRestartLR`` behind a linear warm-up, both as BasicSR computes them (``CosineAnnealingRestartLR`` with
    ``warmup_iter``).

    Iteration i, from 1, trains with ``lr * i / warmup_iter`` while i < warmup_iter, then with the cosine at i - 1,
    which has been falling since the beginning. mmengine's own computes each value from the last one, and so can't
    come after a warm-up.

    Args:
        optimizer: optimiser or its wrapper; the Runner gives it.
        warmup_iter: as in BasicSR's option files; 1 or less: none.
        **kwargs: ``periods, restart_weights, eta_min, by_epoch, …`` of ``CosineRestartLR``.
    """

    def __init__(self, optimizer: Any, warmup_iter: int = -1, **kwargs: Any) -> None:
        self.warmup_iter = warmup_iter
        super().__init__(optimizer, **kwargs)

    def _get_value(self) -> list[float]:
        iteration = self.last_step + 1
        if iteration < self.warmup_iter:
            return [base / self.warmup_iter * iteration for base in self.base_values]
        period = next((i for i, end in enumerate(self.cumulative_periods) if self.last_step <= end), None)
        if period is None:  # behind the last one: left as it is
            return [group[self.param_name] for group in self.optimizer.param_groups]
        passed = self.last_step - (self.cumulative_periods[period - 1] if period else 0)
        share = self.restart_weights[period] * (1 + math.cos(math.pi * passed / self.periods[period])) / 2
        lowest = [self.eta_min if self.eta_min is not None else base * self.eta_min_ratio for base in self.base_values]
        return [low + share * (base - low) for base, low in zip(self.base_values, lowest)]


class ScheduleFreeHook(Hook):
    """Measures and saves what a schedule-free optimiser averages, and resumes from what it trains.

    Such optimisers (``ScheduleFreeAdamW`` of ``pytorch_optimizer``, say) train other weights than they are to be
    measured with. ``python -m ifan_plugin.mm`` has this hook without being told. With other optimisers it does nothing.
    """

    priority = "VERY_HIGH"

    def __init__(self) -> None:
        self._validating = ExitStack()

    def before_val_epoch(self, runner: Any) -> None:
        """The averaged weights from here on."""
        if runner._train_loop is not None and not isinstance(runner._train_loop, dict):
            self._validating.enter_context(_averaged(runner))

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """The trained weights again."""
        self._validating.close()

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """``state_dict`` becomes the averaged weights; the trained ones lie beside it."""
        if not _averages(runner):
            return
        trained = checkpoint["state_dict"]
        names = [name for name, _ in _model(runner).named_parameters()]
        checkpoint["trained"] = {name: trained[name].clone() for name in names}
        with _averaged(runner):
            for name, parameter in _model(runner).named_parameters():
                trained[name] = parameter.detach().cpu().clone()

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """A resumed run goes on with the trained ones."""
        if runner._resume and isinstance(checkpoint.get("trained"), Mapping):
            checkpoint["state_dict"].update(checkpoint["trained"])


def _model(runner: Any) -> nn.Module:
    return runner.model.module if hasattr(runner.model, "module") else runner.model


def _averages(runner: Any) -> bool:
    optimizer = getattr(getattr(runner, "optim_wrapper", None), "optimizer", None)
    return optimizer is not None and is_averaging(type(optimizer))


def _averaged(runner: Any) -> AbstractContextManager[Any]:
    if not _averages(runner):
        return nullcontext()
    optimizer = runner.optim_wrapper.optimizer
    return averaged(optimizer, [parameter for group in optimizer.param_groups for parameter in group["params"]])
