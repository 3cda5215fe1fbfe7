"""ConvIR: a convolutional U-net whose blocks end in filters of several sizes and shapes, made from the picture."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ifan_plugin.archs.layers import check_counts, require_pictures
from ifan_plugin.ops.padding import pad_to_multiple

GROUPS = 8
_POOLS = {8: 7, 4: 9, 2: 11}
"""Size of the mean that a branch of the multi-scale module works at -> dilation of its filters."""


class _Normed(nn.BatchNorm2d):
    """Batch normalisation of one value a channel: of a single picture it takes the running statistics, having no
    variance of its own."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.shape[0] * x.shape[2] * x.shape[3] == 1:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        return super().forward(x)


class ShapedFilter(nn.Module):
    """A filter of one shape, made from the means of its input [B, channels, h, w] and shared by a group's channels.

    What it finds is taken for the low frequencies, their own mean (over the filter's extent) scaled apart; the
    input is added back, scaled too. All scales are learnt, one a channel, and begin at zero: the input comes back.

    Args:
        channels: a multiple of 8.
        shape: rows and columns of the filter: (3, 3), (1, 3) or (3, 1).
        dilation: pixels between its taps.
        normed: batch normalisation of the predicted taps.
    """

    def __init__(self, channels: int, shape: tuple[int, int], dilation: int, *, normed: bool) -> None:
        super().__init__()
        self.shape, self.dilation = shape, dilation
        taps = GROUPS * shape[0] * shape[1]
        self.predict = nn.Sequential(
            nn.Conv2d(channels, taps, 1, bias=False), _Normed(taps) if normed else nn.Identity(), nn.Tanh()
        )
        self.low = nn.Parameter(torch.zeros(channels, 1, 1))
        self.high = nn.Parameter(torch.zeros(channels, 1, 1))
        self.mean_share = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        rows, columns = self.shape
        taps = self.predict(x.mean((2, 3), keepdim=True)).reshape(batch, GROUPS, 1, rows * columns, 1, 1)
        down, across = self.dilation * (rows // 2), self.dilation * (columns // 2)
        # Reflected at the borders, as far as a small picture can be.
        mode = "reflect" if down < height and across < width else "replicate"
        padded = F.pad(x, (across, across, down, down), mode=mode).reshape(batch, GROUPS, channels // GROUPS, -1,
                                                                           width + 2 * across)  # fmt: skip
        low = torch.zeros_like(x).reshape(batch, GROUPS, channels // GROUPS, height, width)
        for index in range(rows * columns):
            top, left = (index // columns) * self.dilation, (index % columns) * self.dilation
            low = low + taps[:, :, :, index] * padded[..., top : top + height, left : left + width]
        low = low.reshape(x.shape)
        over = [axis for axis, extent in ((2, rows), (3, columns)) if extent > 1]
        low = low * (1 + self.mean_share) - self.mean_share * x.mean(over, keepdim=True)
        return low * self.low + x * (1 + self.high)


class MultiShapeAttention(nn.Module):
    """A square filter beside a row and a column one after another; their sum."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.square = ShapedFilter(channels, (3, 3), dilation, normed=True)
        self.strips = nn.Sequential(
            ShapedFilter(channels, (1, 3), dilation, normed=False),
            ShapedFilter(channels, (3, 1), dilation, normed=False),
        )
        self.strip_share = nn.Parameter(torch.zeros(channels, 1, 1))
        self.input_share = nn.Parameter(torch.ones(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.square(x) + self.strip_share * self.strips(x) + self.input_share * x


class MultiScaleModule(nn.Module):
    """The attention at 1/8, 1/4 and 1/2 of the features' size, from coarse to fine; each result is added to it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in _POOLS)
        self.attention = nn.ModuleList(MultiShapeAttention(channels, dilation) for dilation in _POOLS.values())
        self.fusion = nn.Conv2d(channels, channels, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        total, coarser = x, None
        for pool, convolution, attention in zip(_POOLS, self.convs, self.attention):
            small = F.avg_pool2d(x, pool)
            if coarser is not None:
                small = small + _resized(coarser, small)
            coarser = attention(convolution(small))
            total = total + _resized(coarser, x)
        return self.fusion(F.gelu(total))


def _resized(small: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(small, like.shape[2:], mode="bilinear", align_corners=True)


class _ResBlock(nn.Module):
    """Two convolutions with a skip; the last of a stage has the multi-scale module after the first."""

    def __init__(self, channels: int, *, multi_scale: bool) -> None:
        super().__init__()
        self.conv1 = _conv(channels, channels)
        self.multi_scale = MultiScaleModule(channels) if multi_scale else nn.Identity()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.multi_scale(self.conv1(x))) + x


def _conv(before: int, after: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, kernel, stride, kernel // 2), nn.GELU())


def _up(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(nn.ConvTranspose2d(before, after, 4, 2, 1), nn.GELU())


def _stage(channels: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(*(_ResBlock(channels, multi_scale=index == blocks - 1) for index in range(blocks)))


class _ShallowFeatures(nn.Sequential):
    """Of a smaller picture, to be joined with the encoder's."""

    def __init__(self, channels: int) -> None:
        super().__init__(
            _conv(3, channels // 4), _conv(channels // 4, channels // 2, 1), _conv(channels // 2, channels // 2),
            nn.Conv2d(channels // 2, channels, 1), nn.InstanceNorm2d(channels, affine=True),
        )  # fmt: skip


class ConvIR(nn.Module):
    """ConvIR-S (4 blocks), -B (8) and -L (16), single image.

    Cui, Ren, Cao and Knoll, Revitalizing Convolutional Network for Image Restoration, TPAMI 2024. From the paper: a
    U-net of three scales with several inputs and outputs (as in MIMO-UNet, Cho et al., ICCV 2021), 32 channels at full
    size, residual blocks of two 3x3 convolutions with GELU, and in each stage's last one the multi-scale module with
    multi-shape attention: filters of square and strip shape made from means, at three pooled sizes.

    Assumed where the paper leaves it open: pools of 8, 4 and 2 with dilations 7, 9 and 11, 8 groups, batch
    normalisation for the square filters alone, the scales of a filter as written in `ShapedFilter`. The counts decide:
    5,530,505 parameters with 4 blocks, 8,630,665 with 8, 14,830,985 with 16; published: 5.53, 8.63 and 14.83 M.

    Args:
        blocks: residual blocks a stage, of which there are six.
        width: channels at full size, a multiple of 8; 2 and 4 times that at 1/2 and 1/4.

    Attributes:
        multiple_of: sizes the network works at; `forward` pads others.
        in_channels: channels of `lq`.
        sees_whole_picture: the filters are made from means over the picture.
        hyper_parameters: the arguments it was built with; they go into its checkpoints.

    Raises:
        ValueError: arguments out of their range.
    """

    multiple_of = 32  # 1/4 size and a mean over 8x8
    in_channels = 3
    sees_whole_picture = True

    def __init__(self, blocks: int = 4, width: int = 32) -> None:
        super().__init__()
        check_counts(blocks=blocks, width=width)
        if width % GROUPS:
            raise ValueError(f"width must be a multiple of {GROUPS}, got {width}")
        self.hyper_parameters = {"blocks": blocks, "width": width}
        w1, w2, w4 = width, 2 * width, 4 * width
        self.into = nn.ModuleList([_conv(3, w1), _conv(w1, w2, stride=2), _conv(w2, w4, stride=2)])
        self.encoder = nn.ModuleList(_stage(channels, blocks) for channels in (w1, w2, w4))
        self.shallow = nn.ModuleList([_ShallowFeatures(w2), _ShallowFeatures(w4)])
        self.join = nn.ModuleList(nn.Conv2d(2 * channels, channels, 3, padding=1) for channels in (w2, w4))
        self.decoder = nn.ModuleList(_stage(channels, blocks) for channels in (w4, w2, w1))
        self.up = nn.ModuleList([_up(w4, w2), _up(w2, w1)])
        self.merge = nn.ModuleList([_conv(2 * w2, w2, 1), _conv(2 * w1, w1, 1)])
        self.to_image = nn.ModuleList(nn.Conv2d(channels, 3, 3, padding=1) for channels in (w4, w2, w1))

    def forward(self, lq: Tensor) -> Tensor:
        """The restored picture.

        Args:
            lq: [B, 3, H, W], RGB in [0, 1], any size: padded inside to multiples of 32 by its last row and column.

        Returns:
            [B, 3, H, W], unclipped.

        Raises:
            ValueError: another shape.
        """
        return self.all_scales(lq)[-1]

    def all_scales(self, lq: Tensor) -> list[Tensor]:
        """What the paper trains: the picture restored at 1/4, 1/2 (of the padded picture) and full size."""
        require_pictures(lq)
        height, width = lq.shape[-2:]
        image = pad_to_multiple(lq, self.multiple_of)
        half = F.interpolate(image, scale_factor=0.5)
        quarter = F.interpolate(half, scale_factor=0.5)
        features, skips = image, []
        for level, (into, stage) in enumerate(zip(self.into, self.encoder)):
            features = into(features)
            if level:
                extra = self.shallow[level - 1]((half, quarter)[level - 1])
                features = self.join[level - 1](torch.cat([features, extra], 1))
            features = stage(features)
            skips.append(features)
        skips.pop()
        found = []
        for level, (stage, to_image, picture) in enumerate(zip(self.decoder, self.to_image, (quarter, half, image))):
            if level:
                features = self.up[level - 1](features)
                features = self.merge[level - 1](torch.cat([features, skips.pop()], 1))
            features = stage(features)
            found.append(to_image(features) + picture)
        return [*found[:2], found[2][..., :height, :width]]
