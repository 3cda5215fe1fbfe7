"""The map that a network filters by, as a picture: by tiles like any other, and saved so that numbers come back.

It is a disparity, or, of a network that was taught so (``Network.blur_unit``), the size of the blur. In the 16-bit PNG
a pixel of value v means a disparity of v * :data:`SCALE` + :data:`OFFSET` pixels of that picture: the shift from the
left to the right view (of a lens's two halves) that the network reckons with, at full size. 0 is in focus; the two
signs lie before and behind. A size of the blur is its diameter in pixels, coded alike. What it is stands in the file's
text chunks.
"""

from __future__ import annotations

from typing import IO

import numpy as np
from torch import Tensor, nn
from torch.nn import functional

from ifan_plugin.common.errors import UserError
from ifan_plugin.images.formats import png
from ifan_plugin.inference.run import Progress, run_network
from ifan_plugin.weights.networks import Network

SCALE = 1 / 256
"""Pixels that a step of the 16-bit values means: a 256th."""

OFFSET = -128.0
"""Pixels that the value 0 means."""

_SHRINKING = 8  # the maps are at 1/8 size, in pixels of that size
_RANGE = SCALE * 65535


class DisparityPicture(nn.Module):
    """A network whose result is its disparity, so that tiles and halos work as they do for restored pictures.

    ``forward(lq) -> [B, 1, H, W]`` at full size, as the share of the range of the 16-bit values.

    Args:
        net: has ``disparity(lq) -> [B, 1, H/8, W/8]``, in pixels at 1/8 size.
        unit: pixels at full size that a step of its map means.
    """

    def __init__(self, net: nn.Module, unit: float = _SHRINKING) -> None:
        super().__init__()
        self.net = net
        self.unit = unit
        self.multiple_of = max(getattr(net, "multiple_of", 1), _SHRINKING)
        self.in_channels = getattr(net, "in_channels", 3)

    def forward(self, lq: Tensor) -> Tensor:
        disparity: Tensor = self.net.disparity(lq)  # type: ignore[operator]  # the constructor says what it has
        small = disparity.float() * self.unit
        full = functional.interpolate(small, scale_factor=_SHRINKING, mode="bilinear", align_corners=False)
        return (full - OFFSET) / _RANGE


def require_disparity(network: Network) -> DisparityPicture:
    """The network's disparity as a network.

    Raises:
        UserError: it has none.
    """
    if not (hasattr(network.net, "disparity") and getattr(network.net, "use_disparity", True)):
        raise UserError(f"--save-disparity: {network.name} estimates no disparity; valid: an IFAN with use_disparity")
    return DisparityPicture(network.net, network.blur_unit or _SHRINKING)


def disparity_map(
    picture: DisparityPicture, lq: Tensor, tile: int | str | None = "auto", progress: Progress | None = None
) -> np.ndarray:
    """The disparity map of a photograph.

    Args:
        picture: of the network.
        lq: the network's input, [1, C, H, W], values in [0, 1].
        tile, progress: as in :func:`ifan_plugin.inference.run_network`.

    Returns:
        float32 [H, W], in pixels at full size; clipped to the range of the file.

    Raises:
        UserError: too little memory.
    """
    share = run_network(picture, lq, tile=tile, progress=progress)[0, 0]
    return share.mul_(_RANGE).add_(OFFSET).cpu().numpy()


def write_disparity(file: IO[bytes], disparity: np.ndarray, *, blur_size: bool = False) -> None:
    """Write a map, in pixels, as 16-bit grey PNG; `blur_size`: it is the blur's diameter. Raises ``OSError``."""
    values = np.rint(np.clip((disparity - OFFSET) / SCALE, 0, 65535)).astype(np.uint16)
    what, remark = (
        ("diameter of the blur", "no sign") if blur_size else ("disparity", "the right view against the left one")
    )
    meaning = f"{what} in pixels of this picture = value * {SCALE} + {OFFSET}; {remark}"
    words = {"Description": meaning, "disparity:scale": str(SCALE), "disparity:offset": str(OFFSET)}
    png.write_samples(file, values, [png.text(keyword, text) for keyword, text in words.items()])
