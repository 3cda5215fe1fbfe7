"""Padding, running, cropping."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def pad_to_multiple(image: Tensor, multiple: int) -> Tensor:
    """Repeat the last row and column of ``image`` [B, C, H, W] until H and W are multiples of ``multiple``."""
    bottom, right = -image.shape[2] % multiple, -image.shape[3] % multiple
    return functional.pad(image, (0, right, 0, bottom), mode="replicate") if bottom or right else image


@torch.no_grad()
def run_network(network: nn.Module, lq: Tensor, multiple: int | None = None) -> Tensor:
    """Restore a picture in evaluation mode; the network's mode is put back afterwards.

    Args:
        network: ``forward(lq) -> restored``.
        lq: what the network eats, [B, C, H, W], values in [0, 1].
        multiple: sizes that the network works at; None: its attribute ``multiple_of``, or 1.

    Returns:
        The restored picture [B, 3, H, W], clipped to [0, 1].
    """
    height, width = lq.shape[-2:]
    was_training = network.training
    network.eval()
    try:
        restored = network(pad_to_multiple(lq, multiple or getattr(network, "multiple_of", 1)))
    finally:
        network.train(was_training)
    return restored[..., :height, :width].clamp(0, 1)
