"""DPDNet: a U-Net that deblurs from the two dual-pixel views, or from the one blurred image."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ifan_plugin.ops.padding import pad_to_multiple


class DPDNet(nn.Module):
    """Dual-pixel defocus deblurring network, single (`in_channels` 3) and dual (6).

    Abuolaim and Brown, Defocus Deblurring Using Dual-Pixel Data, ECCV 2020 (arXiv 2005.00305), the section on the
    network. A U-Net: four encoder blocks (two 3x3 convolutions with ReLU, then 2x2 max pooling), a bottleneck, four
    decoder blocks (upsampling, convolution, the encoder block's features joined, two 3x3 convolutions), then a 3x3
    convolution to 3 channels with ReLU and a 1x1 one with sigmoid. Dropout in the fourth encoder block (before its
    pooling, so in its skip connection too) and in the bottleneck. He-normal initialisation, biases zero.

    What the paper leaves open, and what is taken here: upsampling repeats pixels (nearest) and the convolution after
    it is 2x2 with ReLU (zero-padded below and to the right), as in the U-Net that the paper builds on. Networks with
    another kernel there have another number of parameters: here it is 31,033,423 (single) and 31,035,151 (dual).

    Args:
        in_channels: 3, the centre view, or 6, the views left and right in this order.
        width: channels at full size; 2, 4, 8 times that in the next blocks and 16 times in the bottleneck (paper: 64).
        dropout: probability in training (paper: 0.4).

    Attributes:
        multiple_of: sizes the network works at; `forward` pads others.
        in_channels: channels of `lq`.
        hyper_parameters: the arguments it was built with; they go into its checkpoints.

    Raises:
        ValueError: arguments out of their range.
    """

    multiple_of = 16

    def __init__(self, in_channels: int = 3, width: int = 64, dropout: float = 0.4) -> None:
        super().__init__()
        if in_channels not in (3, 6):
            raise ValueError(f"in_channels must be 3 (one view) or 6 (left and right), got {in_channels!r}")
        if isinstance(width, bool) or not isinstance(width, int) or width < 1:
            raise ValueError(f"width must be a positive integer, got {width!r}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be at least 0 and less than 1, got {dropout!r}")
        self.hyper_parameters = {"in_channels": in_channels, "width": width, "dropout": dropout}
        self.in_channels = in_channels
        channels = [width * 2**level for level in range(5)]
        self.encoder = nn.ModuleList(
            _two_convolutions(before, after) for before, after in zip([in_channels, *channels[:3]], channels[:4])
        )
        self.bottleneck = _two_convolutions(channels[3], channels[4])
        self.up = nn.ModuleList(nn.Conv2d(2 * after, after, 2) for after in channels[3::-1])
        self.decoder = nn.ModuleList(_two_convolutions(2 * after, after) for after in channels[3::-1])
        self.to_image = nn.Sequential(
            nn.Conv2d(width, 3, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(3, 3, 1), nn.Sigmoid()
        )
        self.dropout = nn.Dropout(dropout)
        self.init_weights()

    def init_weights(self) -> None:
        """He-normal weights (fan-in) and zero biases."""
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, lq: Tensor) -> Tensor:
        """The restored image.

        Args:
            lq: [B, in_channels, H, W], RGB in [0, 1], any size: padded inside to multiples of 16 by its last row and
                column. Dual: left, then right.

        Returns:
            [B, 3, H, W], in [0, 1].

        Raises:
            ValueError: another shape.
        """
        if lq.dim() != 4 or lq.shape[1] != self.in_channels or 0 in lq.shape[2:]:
            views = "left, right" if self.in_channels == 6 else "RGB"
            raise ValueError(f"lq must be [B, {self.in_channels}, H, W] ({views}), got {list(lq.shape)}")
        height, width = lq.shape[-2:]
        features = pad_to_multiple(lq, self.multiple_of)
        skips = []
        for level, block in enumerate(self.encoder):
            features = block(features)
            if level == len(self.encoder) - 1:
                features = self.dropout(features)
            skips.append(features)
            features = F.max_pool2d(features, 2)
        features = self.dropout(self.bottleneck(features))
        for up, block in zip(self.up, self.decoder):
            features = F.interpolate(features, scale_factor=2, mode="nearest")
            features = F.relu(up(F.pad(features, (0, 1, 0, 1))))
            features = block(torch.cat([skips.pop(), features], 1))
        return self.to_image(features)[..., :height, :width]


def _two_convolutions(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(after, after, 3, padding=1),
        nn.ReLU(inplace=True),
    )
