"""The distance of two pictures' spectra, which restoration networks since MIMO-UNet train with beside a pixel loss."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class FrequencyLoss(nn.Module):
    """Mean absolute difference of the two-dimensional Fourier transforms, real and imaginary parts alike.

    Source: Cho et al., ICCV 2021 (MIMO-UNet), equation 7: the transform isn't normalised there, and the loss's weight
    is 0.1. It grows with the patch then; ``norm: ortho`` keeps it of the size of a pixel loss.

    Args:
        loss_weight: factor on the loss.
        norm: of the transform, ``backward`` (none) or ``ortho`` (divided by the square root of H * W).

    Raises:
        ValueError: another norm.
    """

    def __init__(self, loss_weight: float = 0.1, norm: str = "backward") -> None:
        super().__init__()
        if norm not in ("backward", "ortho"):
            raise ValueError(f"norm must be backward or ortho, not {norm!r}")
        self.loss_weight, self.norm = loss_weight, norm

    def forward(self, restored: Tensor, sharp: Tensor) -> Tensor:
        """A scalar from two tensors [B, C, H, W] of one shape; ValueError if shapes differ."""
        if restored.shape != sharp.shape:
            raise ValueError(f"both must have one shape, got {list(restored.shape)} and {list(sharp.shape)}")
        difference = torch.view_as_real(torch.fft.fft2(restored.float() - sharp.float(), norm=self.norm))
        return self.loss_weight * difference.abs().mean()
