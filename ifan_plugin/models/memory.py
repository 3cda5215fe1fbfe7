"""When a training step runs out of memory: what would fit, tried out."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import torch

from ifan_plugin.common.machine import is_out_of_memory


def what_fits(step: Callable[[int], Any], optimizer: Any, samples: int, device: torch.device) -> int:
    """How many samples a forward and backward pass has memory for; 0: not even one.

    Args:
        step: makes both passes for so many samples of the batch.
        optimizer: its gradients are thrown away.
        samples: that didn't fit. Halves are tried, the largest first.
        device: where they are.
    """
    while samples > 1:
        samples //= 2
        optimizer.zero_grad(set_to_none=True)
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
        try:
            step(samples)
            return samples
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
    return 0


def told(
    when: str,
    batch: int,
    size: tuple[int, ...],
    parts: int,
    fits: int,
    keys: tuple[str, str, str, str],
    *,
    with_precision: bool,
) -> str:
    """One line: what didn't fit, and what would.

    Args:
        when: ``iteration 7``, say.
        batch: samples of a step on one device.
        size: height and width of its patches.
        parts: what it was worked through in.
        fits: from :func:`what_fits`.
        keys: what the framework calls the batch size, accumulation, mixed precision, and going on.
        with_precision: whether mixed precision is still to be had.
    """
    batch_key, parts_key, precision, resume = keys
    at_once = f", {parts} parts" if parts > 1 else ""
    what = f"out of memory in {when}: a batch of {batch} patches of {size[1]}x{size[0]}{at_once}"
    ways = []
    if fits:
        what += f" doesn't fit, {fits} at once {'do' if fits > 1 else 'does'} (tried)"
        ways.append(f"set {parts_key} to {-(-batch // fits)}, which trains the same, or {batch_key} to {fits}")
    else:
        what += " doesn't fit, nor does a single one"
    ways.append("make patches smaller")
    if with_precision:
        ways.append(f"set {precision}")
    return f"{what}; {', or '.join(ways)}; then go on with {resume}"
