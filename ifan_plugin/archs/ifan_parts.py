"""What stands between IFAN's encoders and its result: disparity, filters, the image."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ifan_plugin.archs.layers import PointwiseConv, ResBlock, channels_last, conv, up
from ifan_plugin.archs.pieces import in_pieces


def disparity_estimator(channels: int, res_units: int) -> nn.Sequential:
    """Features [B, channels, h, w] to a signed disparity map [B, 1, h, w]."""
    return nn.Sequential(
        conv(channels, channels),
        ResBlock(channels, res_units),
        ResBlock(channels, res_units),
        nn.Conv2d(channels, 1, 3, padding=1),
    )


class FilterPredictor(nn.Module):
    """Features [B, channels, h, w] and disparity [B, 1, h, w] to IAC's filters [B, out_channels, h, w]."""

    def __init__(self, channels: int, out_channels: int, res_units: int, *, use_disparity: bool) -> None:
        super().__init__()
        if use_disparity:
            self.disparity_features = conv(1, channels)
        self.fuse = nn.Sequential(
            conv(2 * channels if use_disparity else channels, channels),
            ResBlock(channels, res_units),
            ResBlock(channels, res_units),
            conv(channels, channels),
        )
        self.trunk = nn.Sequential(
            conv(channels, channels), ResBlock(channels, res_units), ResBlock(channels, res_units)
        )
        # Apart from the trunk and 1x1: its rows can be taken in slices, the filters of one step at a time.
        self.to_filters = PointwiseConv(channels, out_channels)

    def embed(self, features: Tensor, disparity: Tensor | None) -> Tensor:
        """What `to_filters` makes the filters of: [B, channels, h, w]."""
        if disparity is not None:
            features = torch.cat([features, self.disparity_features(disparity)], 1)
        return self.trunk(self.fuse(features))

    def forward(self, features: Tensor, disparity: Tensor | None) -> Tensor:
        return self.to_filters(self.embed(features, disparity))

    def step_filters(
        self,
        embedding: Tensor,
        step: int,
        channels: int,
        num_steps: int,
        held: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The filters of one step of IAC, out of :meth:`embed`'s result; together they are :meth:`forward`'s.

        Args:
            held: what this returned for another step, to be overwritten; without gradients.

        Returns:
            filters [B, 2*channels*taps, h, w] (vertical, then horizontal) and bias [B, channels, h, w].
        """
        rows = self.to_filters.out_channels // num_steps - channels
        first = num_steps * rows + step * channels
        filters, bias = held or (None, None)
        return self._rows(embedding, step * rows, rows, filters), self._rows(embedding, first, channels, bias)

    def channel_filters(self, embedding: Tensor, first: int, count: int, channels: int) -> Tensor:
        """FAC's filters and biases of `count` of the `channels`, out of :meth:`embed`'s result.

        Returns:
            [B, count * (k*k + 1), h, w], the filters, then the biases.
        """
        area = self.to_filters.out_channels // channels - 1
        filters = self._rows(embedding, first * area, count * area)
        return torch.cat([filters, self._rows(embedding, channels * area + first, count)], 1)

    def _rows(self, embedding: Tensor, first: int, count: int, held: Tensor | None = None) -> Tensor:
        """Some rows of `to_filters`, [B, count, h, w]."""
        out = None if held is None else held.flatten(2)
        return self.to_filters.rows(embedding.flatten(2), first, count, out).unflatten(2, embedding.shape[2:])


class Reconstructor(nn.Module):
    """Features at 1/8 size, joined by those at 1/4, 1/2 and full size, to the residual image [B, 3, H, W]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        deep = 4 * width
        self.bottleneck = nn.Sequential(conv(deep, deep), ResBlock(deep, 3), conv(deep, deep))
        self.up3, self.refine3 = up(deep, deep), self._refine(deep)
        self.up2, self.refine2 = up(deep, 2 * width), self._refine(2 * width)
        self.up1, self.refine1 = up(2 * width, width), self._refine(width)
        self.to_image = conv(width, 3)  # with its LeakyReLU, as the authors trained it

    @staticmethod
    def _refine(channels: int) -> nn.Sequential:
        return nn.Sequential(ResBlock(channels, 1), ResBlock(channels, 1))

    def forward(self, features: Tensor, skips: list[Tensor]) -> Tensor:
        """`skips`: the features at full size, 1/2 and 1/4. They are taken out of the list, so that their memory can be
        used as soon as they have been."""
        out = self.bottleneck(channels_last(features))
        out = self.refine3(self.up3(out, skips.pop()))
        for last_levels in (self._half_size, self._full_size):
            skip = skips.pop()
            _, channels, height, width = skip.shape
            out = in_pieces(last_levels, out, skip, size=(height, width), channels=channels, halo=8)
        return out

    def _half_size(self, features: Tensor, skip2: Tensor) -> Tensor:
        return self.refine2(self.up2(features, skip2))

    def _full_size(self, features: Tensor, skip1: Tensor) -> Tensor:
        return self.to_image(self.refine1(self.up1(features, skip1)))
