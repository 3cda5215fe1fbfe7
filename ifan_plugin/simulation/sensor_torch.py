"""The parts of the sensor that look at neighbouring pixels, in PyTorch: mosaic, JPEG, motion. Tensors [N, 3, H, W]."""

from __future__ import annotations

import torch
import torch.nn.functional as functional
from torch import Tensor

# ITU-T T.81, annex K: the quantisation tables that nearly all encoders scale.
_LUMA = (
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29,
    51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92, 49, 64, 78, 87, 103, 121,
    120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
)  # fmt: skip
_CHROMA = (
    17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99, 47, 66, 99, 99, 99,
    99, 99, 99, *(99,) * 32,
)  # fmt: skip
_TO_YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
_TO_RGB = ((1.0, 0.0, 1.402), (1.0, -0.344136, -0.714136), (1.0, 1.772, 0.0))


def moved(images: Tensor, dx: float, dy: float) -> Tensor:
    """Linear interpolation at a distance of (-dx, -dy): what the picture shows moves by (dx, dy) px, at most 1."""
    for distance, dim in ((dx, 3), (dy, 2)):
        if distance:
            pad = [1, 1, 0, 0] if dim == 3 else [0, 0, 1, 1]
            size, wide = images.shape[dim], functional.pad(images, pad, mode="replicate")
            neighbour = wide.narrow(dim, 0 if distance > 0 else 2, size)
            images = (1 - abs(distance)) * images + abs(distance) * neighbour
    return images


def mosaicked(images: Tensor) -> Tensor:
    """What a Bayer sensor (RGGB) keeps of each pixel, the two other colours interpolated linearly."""
    height, width = images.shape[-2:]
    masks = images.new_zeros(3, height, width)
    masks[0, 0::2, 0::2] = 1
    masks[1, 0::2, 1::2] = 1
    masks[1, 1::2, 0::2] = 1
    masks[2, 1::2, 1::2] = 1
    tent = images.new_tensor([[0.25, 0.5, 0.25], [0.5, 1.0, 0.5], [0.25, 0.5, 0.25]]).expand(3, 1, 3, 3)
    seen = functional.conv2d(images * masks, tent, padding=1, groups=3)
    filled = seen / functional.conv2d(masks[None], tent, padding=1, groups=3)
    return torch.where(masks > 0, images, filled)


def jpeg(images: Tensor, quality: int) -> Tensor:
    """Coded pictures in [0, 1] as JPEG of this quality leaves them: 4:2:0, standard tables, rounded to 8 bits."""
    height, width = images.shape[-2:]
    wide = functional.pad(images, [0, -width % 16, 0, -height % 16], mode="replicate")
    ycc = torch.einsum("ck,nkhw->nchw", wide.new_tensor(_TO_YCC), torch.round(wide * 255))
    luma = _quantised(ycc[:, :1] - 128, _scaled(_LUMA, quality)) + 128
    chroma = _quantised(functional.avg_pool2d(ycc[:, 1:], 2), _scaled(_CHROMA, quality))
    chroma = functional.interpolate(chroma, scale_factor=2, mode="bilinear", align_corners=False)
    rgb = torch.einsum("ck,nkhw->nchw", wide.new_tensor(_TO_RGB), torch.cat([luma, chroma], 1))
    return torch.round(rgb).clamp(0, 255)[..., :height, :width] / 255


def _scaled(table: tuple[int, ...], quality: int) -> list[float]:
    """The usual scaling (Independent JPEG Group): 50 leaves a table as it is, 100 makes it all ones."""
    scale = 5000 / quality if quality < 50 else 200 - 2 * quality
    return [float(min(max((entry * scale + 50) // 100, 1), 255)) for entry in table]


def _quantised(planes: Tensor, table: list[float]) -> Tensor:
    """Discrete cosine transform of 8x8 blocks, rounded to multiples of ``table``, and back."""
    number, channels, height, width = planes.shape
    steps = torch.arange(8, dtype=torch.float64)
    basis = torch.cos((2 * steps[None] + 1) * steps[:, None] * torch.pi / 16) / 2
    basis[0] /= 2**0.5
    basis = basis.to(planes)
    blocks = planes.reshape(number, channels, height // 8, 8, width // 8, 8).transpose(3, 4)
    steps = planes.new_tensor(table).reshape(8, 8)
    blocks = basis.T @ (torch.round(basis @ blocks @ basis.T / steps) * steps) @ basis
    return blocks.transpose(3, 4).reshape(number, channels, height, width)
