"""Pictures padded to sizes that a network works at."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def pad_to_multiple(image: Tensor, multiple: int) -> Tensor:
    """Repeat the last row and column of ``image`` [B, C, H, W] until H and W are multiples of ``multiple``."""
    bottom, right = -image.shape[2] % multiple, -image.shape[3] % multiple
    return functional.pad(image, (0, right, 0, bottom), mode="replicate") if bottom or right else image
