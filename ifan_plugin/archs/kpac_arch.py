"""KPAC: deblurring by one convolution kernel that is spread to several sizes, in place of inverse kernels."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ifan_plugin.archs.layers import NEGATIVE_SLOPE, check_hyper_parameters, conv, require_pictures, up, xavier_init
from ifan_plugin.ops.padding import pad_to_multiple

_HIDDEN_SHARE = 4  # the shape attention's hidden layer has a fourth of the channels


class KPACBlock(nn.Module):
    """Kernel-sharing parallel atrous convolutions with scale and shape attention; features [B, channels, h, w].

    One convolution's weights are applied at the dilations 1 to `dilations` (the same inverse kernel for blur of several
    sizes). Per pixel the *scale attention*, convolutions of the block's input, weights the results; the *shape
    attention*, from the input's mean through two linear layers, weights their channels, alike for all dilations. A 1x1
    convolution puts the weighted results together, and the block's input is added.
    """

    def __init__(self, channels: int, taps: int, dilations: int) -> None:
        super().__init__()
        self.taps, self.dilations = taps, dilations
        self.shared = nn.Conv2d(channels, channels, taps)
        half, hidden = max(channels // 2, 1), max(channels // _HIDDEN_SHARE, 1)
        self.scale_attention = nn.Sequential(
            conv(channels, half), conv(half, half), conv(half, half), conv(half, half),
            nn.Conv2d(half, dilations, 3, padding=1),
        )  # fmt: skip
        self.shape_attention = nn.Sequential(
            nn.Linear(channels, hidden), nn.LeakyReLU(NEGATIVE_SLOPE), nn.Linear(hidden, channels)
        )
        self.fusion = nn.Conv2d(dilations * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        scales = self.scale_attention(x).sigmoid()
        shapes = self.shape_attention(x.mean((2, 3))).sigmoid()[..., None, None]
        found = []
        for index in range(self.dilations):
            dilation = index + 1
            padding = dilation * (self.taps // 2)
            spread = F.conv2d(x, self.shared.weight, self.shared.bias, padding=padding, dilation=dilation)
            found.append(F.leaky_relu(spread, NEGATIVE_SLOPE) * shapes * scales[:, index : index + 1])
        return F.leaky_relu(self.fusion(torch.cat(found, 1)), NEGATIVE_SLOPE) + x


class KPAC(nn.Module):
    """Kernel-sharing parallel atrous convolutional network, 2 levels, single image.

    Son, Lee, Cho and Lee, Single Image Defocus Deblurring Using Kernel-Sharing Parallel Atrous Convolutions, ICCV 2021
    (arXiv 2108.09108). From the paper: a light encoder and decoder with skip connections around blocks in which a few
    atrous convolutions of different dilations share their weights, per-pixel scale attention and shape attention (mean
    over the picture, fully connected layers) weight their results, and the picture is restored as a residual. The
    2-level network works at a quarter of the size.

    Assumed, for lack of a table of layers: two blocks of 5x5 kernels at dilations 1 to 5; 48 channels at full size, 96
    at 1/2 and 1/4; three convolutions a level, at full size the first two and the last of 5x5; transposed
    convolutions; LeakyReLU of slope 0.1; Xavier initialisation. With these it has 2,073,709 parameters; the comparison
    tables of later papers print 2.06 M. So its figures are this network's, not those published.

    Args:
        width: channels at full size; twice that below.
        blocks: KPAC blocks.
        taps: side of the shared kernels, odd.
        dilations: how many sizes they are spread to.

    Attributes:
        multiple_of: sizes the network works at; `forward` pads others.
        in_channels: channels of `lq`.
        sees_whole_picture: the shape attention is a mean over the picture.
        hyper_parameters: the arguments it was built with; they go into its checkpoints.

    Raises:
        ValueError: arguments out of their range.
    """

    multiple_of = 4
    in_channels = 3
    sees_whole_picture = True

    def __init__(self, width: int = 48, blocks: int = 2, taps: int = 5, dilations: int = 5) -> None:
        super().__init__()
        check_hyper_parameters(taps, width=width, blocks=blocks, dilations=dilations)
        self.hyper_parameters = {"width": width, "blocks": blocks, "taps": taps, "dilations": dilations}
        wide = 2 * width
        self.level1 = nn.Sequential(conv(3, width, 5), conv(width, width, 5), conv(width, width))
        self.level2 = nn.Sequential(conv(width, wide, stride=2), conv(wide, wide), conv(wide, wide))
        self.level3 = nn.Sequential(conv(wide, wide, stride=2), conv(wide, wide), conv(wide, wide))
        self.blocks = nn.Sequential(*(KPACBlock(wide, taps, dilations) for _ in range(blocks)))
        self.after_blocks = conv(wide, wide)
        self.up2 = up(wide, wide)
        self.decoder2 = nn.Sequential(conv(2 * wide, wide), conv(wide, wide), conv(wide, wide))
        self.up1 = up(wide, width)
        self.decoder1 = nn.Sequential(conv(2 * width, width), conv(width, width), conv(width, width, 5))
        self.to_image = nn.Conv2d(width, 3, 5, padding=2)
        self.init_weights()

    def init_weights(self) -> None:
        """Xavier-uniform weights and zero biases."""
        xavier_init(self)

    def forward(self, lq: Tensor) -> Tensor:
        """The restored picture.

        Args:
            lq: [B, 3, H, W], RGB in [0, 1], any size: padded inside to multiples of 4 by its last row and column.

        Returns:
            [B, 3, H, W], unclipped.

        Raises:
            ValueError: another shape.
        """
        require_pictures(lq)
        height, width = lq.shape[-2:]
        image = pad_to_multiple(lq, self.multiple_of)
        full = self.level1(image)
        half = self.level2(full)
        quarter = self.level3(half)
        quarter = self.after_blocks(self.blocks(quarter)) + quarter
        half = self.decoder2(torch.cat([self.up2(quarter), half], 1))
        full = self.decoder1(torch.cat([self.up1(half), full], 1))
        return (image + self.to_image(full))[..., :height, :width]
