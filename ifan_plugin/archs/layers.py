"""Layers that IFAN and its reblurring network share. Features are [B, width, H, W]."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

NEGATIVE_SLOPE = 0.1


def conv(in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution with zero padding, then LeakyReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2),
        nn.LeakyReLU(NEGATIVE_SLOPE, inplace=True),
    )


def up(in_channels: int, out_channels: int) -> nn.Sequential:
    """Transposed convolution that doubles the size, then LeakyReLU."""
    return nn.Sequential(
        nn.ConvTranspose2d(in_channels, out_channels, 4, stride=2, padding=1),
        nn.LeakyReLU(NEGATIVE_SLOPE, inplace=True),
    )


class ResBlock(nn.Module):
    """Residual units of two convolutions each; a block of several units has a skip over all of them too."""

    def __init__(self, channels: int, units: int) -> None:
        super().__init__()
        self.units = nn.ModuleList(
            nn.Sequential(*conv(channels, channels), nn.Conv2d(channels, channels, 3, padding=1)) for _ in range(units)
        )

    def forward(self, x: Tensor) -> Tensor:
        out = x
        for unit in self.units:
            out = F.leaky_relu(out + unit(out), NEGATIVE_SLOPE)
        return out + x if len(self.units) > 1 else out


class Encoder(nn.Module):
    """Four levels of features: `width` channels at full size; 2, 4, 4 times that at 1/2, 1/4, 1/8."""

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
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
        features1 = self.level1(image)
        features2 = self.level2(features1)
        features3 = self.level3(features2)
        return features1, features2, features3, self.level4(features3)


def xavier_init(module: nn.Module, gain: float = 1.0) -> None:
    """Xavier-uniform weights and zero biases in every (transposed) convolution of `module`."""
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.xavier_uniform_(layer.weight, gain)
            nn.init.zeros_(layer.bias)


def check_hyper_parameters(taps: int, **counts: int) -> None:
    """ValueError unless `taps` is a positive odd int and each of `counts` a positive int."""
    for name, value in {"taps": taps, **counts}.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a positive integer, got {value!r}")
    if taps % 2 == 0:
        raise ValueError(f"taps must be odd, got {taps}")
