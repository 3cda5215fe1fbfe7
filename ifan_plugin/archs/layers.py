"""Layers that IFAN and its reblurring network share. Features are [B, width, H, W]."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules import module as global_hooks

from ifan_plugin.archs.pieces import in_pieces
from ifan_plugin.ops.epilogue import epilogue_, fuses, products_as_convolutions

NEGATIVE_SLOPE = 0.1


class ConvAct(nn.Sequential):
    """A convolution, transposed or not, then LeakyReLU, then perhaps a sum."""

    one_step = True  # for whoever watches a run: what is within may be computed in one go

    def forward(self, x: Tensor, after: Tensor | None = None) -> Tensor:
        """`after` is added to the result; without gradients in place."""
        if len(self) == 2 and can_fuse(self, x):
            return after_convolution(self[0], x, NEGATIVE_SLOPE, after=after)
        out = x
        for layer in self:  # not super().forward: under Python 3.12 torch.compile doesn't follow it
            out = layer(out)
        return out if after is None else sum_of(out, after)


def can_fuse(layers: nn.Sequential, x: Tensor) -> bool:
    """Whether what follows the convolutions of `layers` can be done in one pass: they are as they were made here, and
    nobody watches what is between."""
    if not fuses(x) or global_hooks._global_forward_hooks or global_hooks._global_forward_pre_hooks:
        return False
    return all(_is_plain(layer) for layer in layers)


def _is_plain(layer: nn.Module) -> bool:
    """Whether `layer` is one of those that :func:`conv` and :func:`up` make, unchanged and without hooks."""
    if layer._forward_hooks or layer._forward_pre_hooks or "forward" in layer.__dict__:
        return False
    if type(layer) is nn.LeakyReLU:
        return layer.negative_slope == NEGATIVE_SLOPE
    if type(layer) is not nn.Conv2d and type(layer) is not nn.ConvTranspose2d:
        return False
    usual = layer.groups == 1 and layer.dilation == (1, 1) and layer.padding_mode == "zeros"
    return usual and layer.bias is not None and layer.output_padding == (0, 0)


def after_convolution(
    layer: nn.Module, x: Tensor, negative_slope: float, *, before: Tensor | None = None, after: Tensor | None = None
) -> Tensor:
    """The convolution `layer`, and in one pass its bias and what follows it (:func:`epilogue_`)."""
    weight, stride, padding = cast(Any, layer.weight), cast(Any, layer.stride), cast(Any, layer.padding)
    convolve = F.conv_transpose2d if isinstance(layer, nn.ConvTranspose2d) else F.conv2d
    out = convolve(x, weight, None, stride, padding)
    return epilogue_(out, cast(Tensor, layer.bias), negative_slope, before=before, after=after)


def conv(in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1) -> ConvAct:
    """Convolution with zero padding, then LeakyReLU."""
    return ConvAct(
        nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2),
        nn.LeakyReLU(NEGATIVE_SLOPE, inplace=True),
    )


def up(in_channels: int, out_channels: int) -> ConvAct:
    """Transposed convolution that doubles the size, then LeakyReLU."""
    return ConvAct(
        nn.ConvTranspose2d(in_channels, out_channels, 4, stride=2, padding=1),
        nn.LeakyReLU(NEGATIVE_SLOPE, inplace=True),
    )


class ResBlock(nn.Module):
    """Residual units of two convolutions each; a block of several units has a skip over all of them too."""

    one_step = True

    def __init__(self, channels: int, units: int) -> None:
        super().__init__()
        self.units = nn.ModuleList(
            nn.Sequential(*conv(channels, channels), nn.Conv2d(channels, channels, 3, padding=1)) for _ in range(units)
        )

    def forward(self, x: Tensor) -> Tensor:
        out = x
        units = cast("list[nn.Sequential]", list(self.units))
        watched = any(unit._forward_hooks or unit._forward_pre_hooks for unit in units)
        if not watched and all(can_fuse(unit, x) for unit in units):
            for unit in units:
                inner = after_convolution(unit[0], out, NEGATIVE_SLOPE)
                after = x if unit is units[-1] and len(units) > 1 else None
                out = after_convolution(unit[2], inner, NEGATIVE_SLOPE, before=out, after=after)
            return out
        for unit in units:  # in place: a fresh tensor costs more than the sum (its pages must be mapped)
            out = F.leaky_relu(unit(out).add_(out), NEGATIVE_SLOPE, inplace=True)
        return sum_of(out, x) if len(self.units) > 1 else out


class PointwiseConv(nn.Conv2d):
    """A 1x1 convolution as the matrix product that it is: [B, in_channels, h, w] to [B, out_channels, h, w], its
    result with the channels outermost whatever the input's memory format, or a part of its rows alone.

    A convolution of 128 channels to thousands at 1/8 size runs at a third of the speed, and one in channels-last
    would give filters that the operator has to reorder.
    """

    bias: nn.Parameter

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.rows(x.flatten(2), 0, self.out_channels).unflatten(2, x.shape[2:])

    def rows(self, pixels: Tensor, first: int, count: int, out: Tensor | None = None) -> Tensor:
        """Output channels `first` to `first + count` - 1.

        Args:
            pixels: [B, in_channels, n], best contiguous.
            out: [B, count, n] to write into, without gradients.

        Returns:
            [B, count, n].
        """
        weight, bias = self.weight.flatten(1)[first : first + count], self.bias[first : first + count]
        weight = weight.expand(pixels.shape[0], -1, -1)
        if out is not None:  # autocast leaves products with `out` alone: the types are made its own here
            weight, pixels = weight.to(out.dtype), pixels.to(out.dtype)
        if not fuses(pixels):
            return torch.bmm(weight, pixels, out=out).add_(bias[:, None])
        with products_as_convolutions(pixels):
            product = torch.bmm(weight, pixels, out=out)
        return epilogue_(product, bias, 1.0)


def sum_of(fresh: Tensor, other: Tensor) -> Tensor:
    """`fresh` + `other`; in place where no gradient is asked for, so `fresh` must be the caller's own."""
    return fresh + other if torch.is_grad_enabled() else fresh.add_(other)


def channels_last(x: Tensor) -> Tensor:
    """`x` with its channels innermost, the memory format that convolutions are fastest with.

    On 2 cores of an AMD EPYC those of 32 and 64 channels are one and a half to two and a half times as fast with it
    (`scripts/benchmark_restore.py` has the whole network). In a program that is exported it would only be clutter.
    """
    if torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export() or x.device.type not in ("cpu", "cuda"):
        return x
    return x.contiguous(memory_format=torch.channels_last)


def first_convolution(module: nn.Module) -> nn.Conv2d:
    """The convolution that sees the input of ``module`` first."""
    return next(layer for layer in module.modules() if isinstance(layer, nn.Conv2d))


class Encoder(nn.Module):
    """Four levels of features: `width` channels at full size; 2, 4, 4 times that at 1/2, 1/4, 1/8."""

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.level1 = self._level(in_channels, width, stride=1)
        self.level2 = self._level(width, 2 * width)
        self.level3 = self._level(2 * width, 4 * width)
        self.level4 = self._level(4 * width, 4 * width)

    @staticmethod
    def _level(in_channels: int, out_channels: int, stride: int = 2) -> nn.Sequential:
        return nn.Sequential(
            conv(in_channels, out_channels, stride=stride),
            conv(out_channels, out_channels),
            conv(out_channels, out_channels),
        )

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        height, width = image.shape[2:]
        full, half = (height, width), (-(-height // 2), -(-width // 2))
        features1 = in_pieces(self.level1, image, size=full, channels=self.width, halo=4)
        features2 = in_pieces(self.level2, features1, size=half, channels=2 * self.width, halo=4)
        features3 = self.level3(features2)
        return features1, features2, features3, self.level4(features3)


def xavier_init(module: nn.Module, gain: float = 1.0) -> None:
    """Xavier-uniform weights and zero biases in every (transposed) convolution of `module`."""
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.xavier_uniform_(layer.weight, gain)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def he_init(module: nn.Module) -> None:
    """He et al.'s normal weights (ICCV 2015, eq. 15) and zero biases in every (transposed) convolution of `module`; the
    last layer of each residual unit at 0.3 of that, so that blocks begin near the identity."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            fan_in = layer.weight[0].numel()
        elif isinstance(layer, nn.ConvTranspose2d):
            stride = layer.stride[0] * layer.stride[1]
            fan_in = layer.weight.shape[0] * layer.weight[0, 0].numel() // stride
        else:
            continue
        nn.init.normal_(layer.weight, 0, (2 / ((1 + NEGATIVE_SLOPE**2) * fan_in)) ** 0.5)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    for block in module.modules():
        if isinstance(block, ResBlock):
            for unit in block.units:
                last = [layer for layer in unit.modules() if isinstance(layer, nn.Conv2d)][-1]
                last.weight.detach().mul_(0.3)


@torch.no_grad()
def stress_differences(weight: Tensor, views: int) -> None:
    """Make a first layer ignore flat areas, and see the differences between views (of one view: between colours)
    several times as large as they are.

    Args:
        weight: [out, 3 * views, k, k], changed in place; the views one after the other.
        views: 1, or 2 of a dual-pixel camera.
    """
    weight -= weight.mean((2, 3), keepdim=True)
    split = weight.unflatten(1, (views, 3))
    along, gain = (1, 8) if views > 1 else (2, 12)
    common = split.mean(along, keepdim=True)
    weight.copy_((3 * common + gain * (split - common)).flatten(1, 2))


MOST_CHANNELS, MOST_UNITS = 2**20, 1000
"""Beyond any network; a mistake there would be answered by hours of building layers, or by an allocator."""


def check_hyper_parameters(taps: int, **counts: int) -> None:
    """ValueError unless `taps` is a positive odd int and each of `counts` a positive int that can be meant."""
    for name, value in {"taps": taps, **counts}.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a positive integer, got {value!r}")
        most = MOST_UNITS if name == "res_units" else MOST_CHANNELS
        if value > most:
            raise ValueError(f"{name} must be at most {most:,}, got {value:,}")
    if taps % 2 == 0:
        raise ValueError(f"taps must be odd, got {taps}")


def require_pictures(lq: Tensor, channels: int = 3) -> None:
    """ValueError unless `lq` is [B, channels, H, W] and not empty."""
    if lq.dim() != 4 or lq.shape[1] != channels or 0 in lq.shape:
        views = {3: "RGB", 6: "left, right"}.get(channels, "channels")
        raise ValueError(f"lq must be [B, {channels}, H, W] ({views}), got {list(lq.shape)}")


def check_counts(**counts: int) -> None:
    """ValueError unless each is a positive int."""
    check_hyper_parameters(1, **counts)
