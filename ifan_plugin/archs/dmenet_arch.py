"""DMENet: a network that tells how blurred each place of a picture is."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ifan_plugin.archs.layers import check_counts, conv, require_pictures, xavier_init
from ifan_plugin.ops.padding import pad_to_multiple

_CONVOLUTIONS = (2, 2, 4, 4, 4)  # of VGG19's blocks
_WIDTHS = (1, 2, 4, 8, 8)  # times the first block's channels
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as VGG's weights expect


class DMENet(nn.Module):
    """Defocus map estimation network: the blur estimation network alone, all that is used after training.

    Lee, Lee, Cho and Lee, Deep Defocus Map Estimation using Domain Adaptation, CVPR 2019. From the paper: an encoder
    like VGG19, a decoder of upsampling and convolutions with skip connections, and residual refinement; trained on
    synthetic blur. Its domain adaptation, content preservation and sharpness calibration networks, which serve training
    alone, aren't written here.

    Assumed, for lack of a table of layers: the encoder's five blocks with pooling between them; bilinear upsampling,
    joined with the encoder's features and convolved once (3x3) to as many channels as those have; one residual unit
    at full size; LeakyReLU in the decoder; a softplus, since blur isn't negative. VGG's weights aren't among what this
    package has: training starts from Xavier's. With these it has 27,140,801 parameters; the comparison
    tables of later papers print 26.94 M.

    Args:
        width: channels of the first block (VGG19: 64).

    Attributes:
        multiple_of: sizes the network works at; `forward` pads others.
        in_channels: channels of `lq`.
        hyper_parameters: the arguments it was built with.

    Raises:
        ValueError: arguments out of their range.
    """

    multiple_of = 16
    in_channels = 3
    mean: Tensor
    std: Tensor

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        check_counts(width=width)
        self.hyper_parameters = {"width": width}
        channels = [width * times for times in _WIDTHS]
        self.encoder = nn.ModuleList(
            _vgg_block(before, after, count) for before, after, count in zip([3, *channels], channels, _CONVOLUTIONS)
        )
        self.decoder = nn.ModuleList(conv(below + here, here) for here, below in zip(channels[-2::-1], channels[:0:-1]))
        self.refine = nn.Sequential(conv(width, width), nn.Conv2d(width, width, 3, padding=1))
        self.to_map = nn.Conv2d(width, 1, 3, padding=1)
        self.register_buffer("mean", torch.tensor(_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(_STD)[:, None, None], persistent=False)
        xavier_init(self)

    def forward(self, lq: Tensor) -> Tensor:
        """The defocus map.

        Args:
            lq: [B, 3, H, W], RGB in [0, 1], any size: padded inside to multiples of 16 by its last row and column.

        Returns:
            [B, 1, H, W]: the blur's standard deviation along an axis, px, not negative.

        Raises:
            ValueError: another shape.
        """
        require_pictures(lq)
        height, width = lq.shape[-2:]
        features = (pad_to_multiple(lq, self.multiple_of) - self.mean) / self.std
        skips = []
        for level, block in enumerate(self.encoder):
            features = block(F.max_pool2d(features, 2) if level else features)
            skips.append(features)
        skips.pop()
        for block in self.decoder:
            features = F.interpolate(features, scale_factor=2, mode="bilinear", align_corners=False)
            features = block(torch.cat([features, skips.pop()], 1))
        features = features + self.refine(features)
        return F.softplus(self.to_map(features))[..., :height, :width]


def _vgg_block(before: int, after: int, convolutions: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for index in range(convolutions):
        layers += [nn.Conv2d(before if index == 0 else after, after, 3, padding=1), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)
