"""The disparity loss (paper, the section on training): the right view, warped, should be the left one."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def area_downsample(image: Tensor, factor: int = 8) -> Tensor:
    """Mean of each `factor` x `factor` block: [B, C, H, W] -> [B, C, H/factor, W/factor], same value range.

    Raises:
        ValueError: H or W isn't a multiple of `factor`, or the image isn't 4-dimensional.
    """
    if image.dim() != 4 or image.shape[2] % factor or image.shape[3] % factor or 0 in image.shape[2:]:
        raise ValueError(
            f"area_downsample takes [B, C, H, W] with H and W multiples of {factor}, got {list(image.shape)}"
        )
    return F.avg_pool2d(image, factor)


def warp_by_disparity(image: Tensor, disparity: Tensor) -> Tensor:
    """Sample each row of `image` at x + disparity(y, x), linearly; beyond the image it is zero.

    Equivalent to `F.grid_sample(..., align_corners=True, padding_mode="zeros")` with the x grid shifted by
    the disparity and the y grid unchanged, but also right for an image one column wide, and with a
    deterministic gradient for the disparity. Samples less than a pixel outside blend into the zeros.

    Args:
        image: [B, C, H, W], float.
        disparity: [B, 1, H, W], in pixels of this image.

    Returns:
        [B, C, H, W], the image's value range and dtype (half types are computed in float32).

    Raises:
        ValueError: shapes that don't fit.
    """
    if image.dim() != 4 or list(disparity.shape) != [image.shape[0], 1, *image.shape[2:]]:
        raise ValueError(
            "warp_by_disparity takes an image [B, C, H, W] and a disparity [B, 1, H, W], "
            f"got {list(image.shape)} and {list(disparity.shape)}"
        )
    last = image.shape[3] - 1
    # Positions in float32 at least: a half type can't hold a fraction of a pixel at column 500.
    compute = torch.promote_types(torch.promote_types(image.dtype, disparity.dtype), torch.float32)
    source = image.to(compute)
    column = torch.arange(last + 1, dtype=compute, device=image.device)
    position = column + disparity.to(compute)
    left = position.detach().floor()
    fraction = position - left

    def column_at(index: Tensor) -> Tensor:
        inside = (index >= 0) & (index <= last)
        nearest = index.clamp(0, last).nan_to_num(0).long().expand_as(source)
        return source.gather(3, nearest) * inside

    warped = (1 - fraction) * column_at(left) + fraction * column_at(left + 1)
    return warped.to(image.dtype)


class DisparityLoss(nn.Module):
    """Mean squared error between the warped right view and the left one, both at 1/8 size.

    Both come from `IFAN.training_outputs`. Source: Lee et al., CVPR 2021, the section on training.

    Args:
        loss_weight: factor on the loss.
    """

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.loss_weight = loss_weight

    def forward(self, warped_right: Tensor, left_small: Tensor) -> Tensor:
        """A scalar from two tensors [B, 3, H/8, W/8], values in [0, 1]; ValueError if shapes differ."""
        if warped_right.shape != left_small.shape:
            raise ValueError(
                "warped_right and left_small must have one shape, "
                f"got {list(warped_right.shape)} and {list(left_small.shape)}"
            )
        return self.loss_weight * F.mse_loss(warped_right, left_small)
