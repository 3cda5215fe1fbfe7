"""A loss of ours, not the paper's: simulated data come with their blur, so that the disparity map can be taught."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from ifan_plugin.losses.disparity_loss import area_downsample

MEASURED_SPLIT = 0.4  # amplitude of the ramp over the disk by which real views differ: docs/optics.md


class DefocusLoss(nn.Module):
    """Distance of the disparity map from the one that the blur of the picture makes, for simulated data.

    The paper teaches the map by the disparity loss alone, which has hardly a gradient where the views lie a fraction of
    a pixel apart; a short training leaves the map flat. Simulated pictures come with their circle of confusion c, and
    the disparity follows from it: over a disk of diameter c the views' kernels are ramps 1 ± split · x / (c / 2), whose
    centroids lie split · c / 4 apart, at 1/8 size split · c / 32. This loss isn't in the paper.

    Beside the other losses from the start it leaves the map flat for thousands of iterations, too: what works is a
    first stage in which the map is trained alone, from He's weights (``pixel_opt: ~``, options/train_IFAN_map.yml).

    Args:
        loss_weight: factor on the loss.
        scale: pixels of disparity at 1/8 size to a pixel of the circle of confusion. The default, 0.4 / 32, is that of
            views which overlap as measured.
        signed: whether the map tells the blur in front of the focus from that behind it. Of a single picture that is
            hard to see: without the sign the map is one of how much each place is blurred, which a short training
            learns.
    """

    def __init__(self, loss_weight: float = 1.0, scale: float = MEASURED_SPLIT / 32, *, signed: bool = True) -> None:
        super().__init__()
        if not scale > 0:
            raise ValueError(f"scale must be above 0, got {scale}")
        self.loss_weight, self.scale, self.signed = loss_weight, scale, signed

    def forward(self, disparity: Tensor, coc: Tensor) -> Tensor:
        """A scalar, in pixels of the circle of confusion: the Huber loss with its bend at one pixel.

        Args:
            disparity: the map that the filters are predicted with, [B, 1, H/8, W/8], pixels at 1/8 size.
            coc: the signed circle of confusion, [B, 1, H, W], pixels; its 8x8 blocks are averaged here.

        Raises:
            ValueError: shapes that don't fit.
        """
        small = area_downsample(coc if self.signed else coc.abs(), 8)
        if disparity.shape != small.shape:
            raise ValueError(
                f"disparity must be {list(small.shape)} for a circle of confusion {list(coc.shape)}, "
                f"got {list(disparity.shape)}"
            )
        return self.loss_weight * F.smooth_l1_loss(disparity / self.scale, small)


class DefocusMapLoss(nn.Module):
    """Distance of a defocus map from the one that simulated data come with: teaches DMENet.

    The blur is a disk of diameter |c|, whose standard deviation along an axis is |c| / 4: what the map tells.

    Args:
        loss_weight: factor on the loss.
    """

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.loss_weight = loss_weight

    def forward(self, sigma: Tensor, coc: Tensor) -> Tensor:
        """A scalar, in px squared: the mean squared error, as the paper has it.

        Args:
            sigma: the defocus map [B, 1, H, W], px.
            coc: the signed circle of confusion, [B, 1, H, W], px.

        Raises:
            ValueError: shapes that don't fit.
        """
        if sigma.shape != coc.shape:
            raise ValueError(f"sigma must be {list(coc.shape)}, as the circle of confusion, got {list(sigma.shape)}")
        return self.loss_weight * F.mse_loss(sigma, coc.abs() / 4)
