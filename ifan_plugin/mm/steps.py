"""A training step on mmengine's Runner: the batch in parts, and what is said where there isn't memory for it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from ifan_plugin.common.errors import UserError
from ifan_plugin.common.machine import is_out_of_memory
from ifan_plugin.models import memory
from ifan_plugin.models.training_step import accumulation_key, check_compile_mode, parts_of


def train_step(model: Any, core: Any, data: Any, optim_wrapper: Any) -> dict[str, Tensor]:
    """As ``BaseModel.train_step``, with the gradients of ``core.accumulate`` parts of the batch added up.

    Args:
        model: what is called: ``core``, or the wrapper around it.
        core: has ``accumulate``, ``compiles``, ``data_preprocessor`` and ``parse_losses``.
        data: a batch as the loader gives it.
        optim_wrapper: mmengine's.

    Returns:
        The losses for the log, as means over the batch.

    Raises:
        UserError: out of memory; the message says what would fit. Or accumulation and CUDA graphs at once.
    """
    counts = getattr(optim_wrapper, "_accumulative_counts", 1)
    check_compile_mode(core.compiles, counts, "model: train_cfg", "optim_wrapper: accumulative_counts")
    with optim_wrapper.optim_context(model):
        data = core.data_preprocessor(data, True)
    try:
        return _step(model, core, data, optim_wrapper, core.accumulate)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    # Outside of the handler, which holds the failed pass's memory.
    raise _out_of_memory(core, data, optim_wrapper)


def _step(model: Any, core: Any, data: Mapping[str, Any], optim_wrapper: Any, count: int) -> dict[str, Tensor]:
    size = len(data["inputs"])
    parts = parts_of(size, count)
    sums: dict[str, Tensor] = {}
    for number, part in enumerate(parts):
        is_last = number + 1 == len(parts)
        waits = not is_last and hasattr(model, "no_sync")
        with model.no_sync() if waits else nullcontext():
            with optim_wrapper.optim_context(model):
                losses = model._run_forward(_cut(data, part), mode="loss")
            total, log = core.parse_losses(losses)
            share = (part.stop - part.start) / size
            for name, value in log.items():
                value = value.detach() * share if len(parts) > 1 else value
                sums[name] = sums[name] + value if name in sums else value
            if is_last:
                optim_wrapper.update_params(total * share if len(parts) > 1 else total)
            else:
                optim_wrapper.backward(optim_wrapper.scale_loss(total * share))
                optim_wrapper._inner_count -= 1  # it counts iterations, and this is a part of one
    return sums


def _cut(data: Mapping[str, Any], part: slice) -> dict[str, Any]:
    return {key: value[part] if isinstance(value, (Tensor, list, tuple)) else value for key, value in data.items()}


def _out_of_memory(core: Any, data: Mapping[str, Any], optim_wrapper: Any) -> UserError:
    size, device = len(data["inputs"]), data["inputs"].device

    def passes(samples: int) -> None:
        with optim_wrapper.optim_context(core):
            losses = core._run_forward(_cut(data, slice(samples)), mode="loss")
        torch.stack(list(losses.values())).sum().backward()

    at_once = -(-size // core.accumulate)
    fits = memory.what_fits(passes, optim_wrapper.optimizer, at_once, device)
    with_precision = type(optim_wrapper).__name__ == "OptimWrapper"
    accumulation = f"model: train_cfg: {accumulation_key(core.compiles)}"
    keys = ("train_dataloader: batch_size", accumulation, "--amp", "--resume")
    return UserError(
        memory.told(
            "training", size, tuple(data["inputs"].shape[2:]), core.accumulate, fits, keys,
            with_precision=with_precision,
        )
    )  # fmt: skip
