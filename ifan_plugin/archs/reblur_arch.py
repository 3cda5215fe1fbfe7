"""The reblurring network (RBN), needed in training only. Lee et al., CVPR 2021, the section on training."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from ifan_plugin.archs.layers import PointwiseConv, ResBlock, check_hyper_parameters, conv, xavier_init
from ifan_plugin.ops import IAC
from ifan_plugin.ops import filter_channels as iac_channels


class ReblurNet(nn.Module):
    """Turns IFAN's deblurring filters into blurring ones and blurs the sharp image with them, at 1/8 size.

    Args:
        filter_channels: channels of the filters it gets, `IFAN.filter_channels`.
        width: IFAN's width.
        num_steps: steps of its own IAC (M; the paper's 17, 8, 9, 17, 17 for IFAN's N = 17, 8, 26, 35, 44).
        taps: length of each 1-D filter, odd.
        res_units: residual units a block.
        isotropic: apply the vertical filters in both directions, as the released checkpoints were trained.

    Raises:
        ValueError: hyper-parameters out of their range.
    """

    multiple_of = 8

    def __init__(
        self,
        filter_channels: int,
        width: int = 32,
        num_steps: int = 17,
        taps: int = 3,
        res_units: int = 2,
        *,
        isotropic: bool = False,
    ) -> None:
        super().__init__()
        check_hyper_parameters(
            taps, filter_channels=filter_channels, width=width, num_steps=num_steps, res_units=res_units
        )
        deep = 4 * width
        self.filter_channels = filter_channels
        self.trunk = nn.Sequential(conv(filter_channels, deep), ResBlock(deep, res_units), ResBlock(deep, res_units))
        self.to_filters = nn.Conv2d(deep, iac_channels(3, num_steps, taps), 3, padding=1)
        self.iac = IAC(num_steps, taps, act_last=False, isotropic=isotropic)
        xavier_init(self)

    def forward(
        self,
        sharp: Tensor,
        filters: Tensor,
        embedding: Tensor | None = None,
        to_filters: PointwiseConv | None = None,
    ) -> Tensor:
        """The sharp image, blurred again, at 1/8 size.

        Args:
            sharp: RGB in [0, 1], [B, 3, H, W], taken at 1/8 size by its pixels [8y, 8x] (nearest); or already
                that small, [B, 3, H/8, W/8].
            filters: `IFAN.training_outputs(...).filters`, [B, filter_channels, H/8, W/8].
            embedding, to_filters: the layer that made the filters and what it made them of,
                `IFAN.training_outputs(...).embedding`, [B, 4*width, H/8, W/8]. With them the first convolution here
                and that layer are multiplied out, which is the same but for rounding and a small part of the work.

        Returns:
            [B, 3, H/8, W/8], not clipped.

        Raises:
            ValueError: shapes that don't fit.
        """
        if filters.dim() != 4 or filters.shape[1] != self.filter_channels:
            raise ValueError(f"filters must be [B, {self.filter_channels}, H/8, W/8], got {list(filters.shape)}")
        batch, _, height, width = filters.shape
        small = [batch, 3, height, width]
        full = [batch, 3, self.multiple_of * height, self.multiple_of * width]
        if list(sharp.shape) == full:
            sharp = sharp[..., :: self.multiple_of, :: self.multiple_of]
        elif list(sharp.shape) != small:
            raise ValueError(
                f"for filters {list(filters.shape)} sharp must be {full} or {small}, got {list(sharp.shape)}"
            )
        if embedding is None or to_filters is None:
            features = self.trunk(filters)
        else:
            activation = cast(nn.Sequential, self.trunk[0])[1]
            features = self.trunk[1:](activation(self._first_of(embedding, to_filters)))
        return sharp + self.iac(sharp, self.to_filters(features).contiguous())

    def _first_of(self, embedding: Tensor, to_filters: PointwiseConv) -> Tensor:
        """The first convolution of the filters, without its activation, made of their embedding.

        Between the two layers stand thousands of channels and no activation: their matrices can be multiplied first,
        [out, filters] x [filters, embedding] for each of the 3x3 taps, whatever the picture's size.
        """
        first = cast(nn.Conv2d, cast(nn.Sequential, self.trunk[0])[0])
        by_tap = first.weight.permute(0, 2, 3, 1)  # [out, 3, 3, filters]
        weight = torch.matmul(by_tap, to_filters.weight.flatten(1)).permute(0, 3, 1, 2)
        # The filters' own bias counts for those taps that lie within the picture: around it the filters are zero.
        bias = torch.matmul(by_tap, to_filters.bias)[:, None]
        inside = functional.conv2d(embedding.new_ones(1, 1, *embedding.shape[2:]), bias, padding=1)
        return functional.conv2d(embedding, weight, first.bias, padding=1) + inside
