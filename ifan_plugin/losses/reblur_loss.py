"""The reblurring loss (paper, the section on training): the predicted filters must be able to blur again."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from ifan_plugin.losses.disparity_loss import area_downsample


class ReblurLoss(nn.Module):
    """Mean squared error between the reblurred image and the defocused centre view at 1/8 size.

    Source: Lee et al., CVPR 2021, the section on training.

    Args:
        loss_weight: factor on the loss.
    """

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.loss_weight = loss_weight

    def forward(self, reblurred: Tensor, center: Tensor) -> Tensor:
        """A scalar.

        Args:
            reblurred: `ReblurNet`'s output, [B, 3, H/8, W/8].
            center: the defocused centre view, [B, 3, H, W], in [0, 1]; its 8x8 blocks are averaged here.

        Raises:
            ValueError: shapes that don't fit.
        """
        small = area_downsample(center, 8)
        if reblurred.shape != small.shape:
            raise ValueError(
                f"reblurred must be {list(small.shape)} for a centre view {list(center.shape)}, "
                f"got {list(reblurred.shape)}"
            )
        return self.loss_weight * F.mse_loss(reblurred, small)
