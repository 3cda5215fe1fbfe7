"""LPIPS as a loss: what the metric measures, with gradients."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ifan_plugin.common.errors import UserError
from ifan_plugin.metrics.full_reference import MetricUnavailableError, build_lpips


class LPIPSLoss(nn.Module):
    """Learned perceptual distance (Zhang et al., CVPR 2018) of two batches, version 0.1.

    Its network is no part of the training's: it isn't saved, averaged or trained.

    Args:
        loss_weight: factor on the loss.
        net: backbone, ``vgg`` (VGG-16, as one trains with) or ``alex`` (as one measures with).

    Raises:
        UserError: the ``lpips`` package or the weights can't be had.
        ValueError: another backbone.
    """

    def __init__(self, loss_weight: float = 1.0, net: str = "vgg") -> None:
        super().__init__()
        if net not in ("vgg", "alex"):
            raise ValueError(f"net must be vgg or alex, not {net!r}")
        self.loss_weight, self.net = loss_weight, net
        try:
            network = build_lpips(net).requires_grad_(False)
        except MetricUnavailableError as error:
            raise UserError(f"LPIPSLoss: {error}") from None
        self._network = [network]  # in a list, so that it isn't among the parameters of a model that holds this loss

    def forward(self, restored: Tensor, sharp: Tensor) -> Tensor:
        """A scalar, the mean over the batch; gradients go to ``restored``.

        Args:
            restored: [B, 3, H, W], RGB in [0, 1], not clipped.
            sharp: the same, of the same shape.

        Raises:
            ValueError: shapes differ.
        """
        if restored.shape != sharp.shape:
            raise ValueError(f"both must have one shape, got {list(restored.shape)} and {list(sharp.shape)}")
        network = self._network[0] = self._network[0].to(restored.device)
        with torch.autocast(restored.device.type, enabled=False):
            distances: Tensor = network(restored.float() * 2 - 1, sharp.float() * 2 - 1)
        return self.loss_weight * distances.mean()
