"""GKMNet: blur as a mixture of Gaussian kernels at each pixel, undone by steps of a fixed-point iteration."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ifan_plugin.archs.layers import (
    NEGATIVE_SLOPE,
    ResBlock,
    check_hyper_parameters,
    conv,
    require_pictures,
    up,
    xavier_init,
)
from ifan_plugin.ops.padding import pad_to_multiple

SCALES = (4, 2, 1)
"""The picture is restored at 1/4, 1/2 and full size, with the same weights."""


def gaussian_taps(count: int, taps: int) -> Tensor:
    """[count, taps]: one-dimensional Gaussians of sum 1; the first is a single one, the widest has sigma taps / 6."""
    places = torch.arange(taps) - taps // 2
    sigmas = torch.linspace(0, taps / 6, count)[1:, None]
    wide = torch.exp(-0.5 * (places / sigmas) ** 2)
    return torch.cat([(places == 0).float()[None], wide / wide.sum(1, keepdim=True)])


class _ConvLSTM(nn.Module):
    """A long short-term memory whose gates are 3x3 convolutions; `state` is hidden and cell, or None at first."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gates = nn.Conv2d(2 * channels, 4 * channels, 3, padding=1)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
        hidden, cell = (torch.zeros_like(x),) * 2 if state is None else state
        keep, write, show, new = self.gates(torch.cat([x, hidden], 1)).chunk(4, 1)
        cell = keep.sigmoid() * cell + write.sigmoid() * new.tanh()
        return show.sigmoid() * cell.tanh(), cell


class ScaleRecurrentAttention(nn.Module):
    """Mixing coefficients from the blurred picture and the present estimate; its memory passes from scale to scale."""

    def __init__(self, width: int, kernels: int) -> None:
        super().__init__()
        w1, w2, w3 = width, 2 * width, 3 * width
        self.level1 = nn.Sequential(conv(6, w1, 5), ResBlock(w1, 1))
        self.level2 = nn.Sequential(conv(w1, w2, stride=2), ResBlock(w2, 1))
        self.level3 = nn.Sequential(conv(w2, w3, stride=2), ResBlock(w3, 1))
        self.memory = _ConvLSTM(w3)
        self.attention = nn.Sequential(
            nn.Linear(w3, w3 // 4), nn.LeakyReLU(NEGATIVE_SLOPE), nn.Linear(w3 // 4, w3), nn.Sigmoid()
        )
        self.block3 = ResBlock(w3, 1)
        self.up2, self.block2 = up(w3, w2), ResBlock(w2, 1)
        self.up1, self.block1 = up(w2, w1), ResBlock(w1, 1)
        self.to_mixture = nn.Conv2d(w1, kernels, 3, padding=1)

    def forward(self, pictures: Tensor, state: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        features1 = self.level1(pictures)
        features2 = self.level2(features1)
        features3 = self.level3(features2)
        hidden, cell = self.memory(features3, state)
        features = hidden * self.attention(hidden.mean((2, 3)))[..., None, None] + features3
        features = self.up2(self.block3(features)) + features2
        features = self.up1(self.block2(features)) + features1
        return self.to_mixture(self.block1(features)).softmax(1), (hidden, cell)


class GKMNet(nn.Module):
    """Gaussian kernel mixture network, single image.

    Quan, Wu and Ji, Gaussian Kernel Mixture Network for Single Image Defocus Deblurring, NeurIPS 2021 (arXiv
    2111.00454). From the paper: the blurred picture y is a mixture, by coefficients b_k at each pixel, of Gaussian
    blurs g_k of the sharp x; the network unrolls the fixed-point iteration x <- y + x - sum_k b_k (g_k * x), one step a
    scale from coarse to fine, T = 3; a scale-recurrent attention module (encoder, decoder, convolutional LSTM) predicts
    the coefficients, with the same weights at all scales.

    Assumed, for lack of a table of layers: 21 kernels of 21x21, the first an impulse, sigmas in equal steps up to 3.5
    px; coefficients by softmax; 32, 64 and 96 channels at 1, 1/2 and 1/4 of a scale's size with a residual block each,
    in encoder and decoder; skips added; channel attention by the memory's mean. With these it has 1,401,485 parameters;
    the comparison tables of later papers print 1.41 M. So its figures are this network's, not those published.

    Args:
        width: channels at full size; 2 and 3 times that below.
        kernels: Gaussian kernels that are mixed, at least 2.
        taps: their side, odd.

    Attributes:
        multiple_of: sizes the network works at; `forward` pads others.
        in_channels: channels of `lq`.
        sees_whole_picture: the attention is a mean over the picture.
        hyper_parameters: the arguments it was built with; they go into its checkpoints.

    Raises:
        ValueError: arguments out of their range.
    """

    multiple_of = 16  # 1/4 of 1/4 size
    in_channels = 3
    sees_whole_picture = True
    gaussians: Tensor

    def __init__(self, width: int = 32, kernels: int = 21, taps: int = 21) -> None:
        super().__init__()
        check_hyper_parameters(taps, width=width, kernels=kernels)
        if kernels < 2 or width < 2:
            raise ValueError(f"kernels and width must be at least 2, got {kernels} and {width}")
        self.hyper_parameters = {"width": width, "kernels": kernels, "taps": taps}
        self.predictor = ScaleRecurrentAttention(width, kernels)
        self.register_buffer("gaussians", gaussian_taps(kernels, taps), persistent=False)
        self.init_weights()

    def init_weights(self) -> None:
        """Xavier-uniform weights and zero biases."""
        xavier_init(self)

    def forward(self, lq: Tensor) -> Tensor:
        """The restored picture.

        Args:
            lq: [B, 3, H, W], RGB in [0, 1], any size: padded inside to multiples of 16 by its last row and column.

        Returns:
            [B, 3, H, W], unclipped.

        Raises:
            ValueError: another shape.
        """
        return self.all_scales(lq)[-1]

    def all_scales(self, lq: Tensor) -> list[Tensor]:
        """The picture restored at 1/4, 1/2 (of the padded picture) and full size."""
        require_pictures(lq)
        height, width = lq.shape[-2:]
        image = pad_to_multiple(lq, self.multiple_of)
        found: list[Tensor] = []
        state = None
        for scale in SCALES:
            blurred = F.avg_pool2d(image, scale) if scale > 1 else image
            estimate = _doubled(found[-1]) if found else blurred
            state = None if state is None else (_doubled(state[0]), _doubled(state[1]))
            mixture, state = self.predictor(torch.cat([blurred, estimate], 1), state)
            found.append(blurred + estimate - self.blur(estimate, mixture))
        return [*found[:-1], found[-1][..., :height, :width]]

    def blur(self, picture: Tensor, mixture: Tensor) -> Tensor:
        """The picture [B, C, h, w] blurred by a mixture [B, kernels, h, w] of the Gaussians, its borders repeated."""
        channels, radius = picture.shape[1], self.gaussians.shape[1] // 2
        padded = F.pad(picture, (radius, radius, radius, radius), mode="replicate")
        total = torch.zeros_like(picture)
        for index, gaussian in enumerate(self.gaussians):
            rows = gaussian.expand(channels, 1, -1)
            across = F.conv2d(padded, rows[:, :, None], groups=channels)
            total = total + mixture[:, index : index + 1] * F.conv2d(across, rows[..., None], groups=channels)
        return total


def _doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
