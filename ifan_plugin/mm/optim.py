"""Precision and learning rate: bf16 on any device, and BasicSR's warm-up before its cosine schedule."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.optim import OptimWrapper
from mmengine.optim.scheduler.lr_scheduler import CosineRestartLR
from torch import nn


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
