"""Metrics that BasicSR computes: NIQE, and PSNR, SSIM and MAE of rounded pictures (protocol ``basicsr``)."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
from torch import Tensor

from ifan_plugin.host.importing import prepare
from ifan_plugin.images.color import to_8bit
from ifan_plugin.metrics.full_reference import MetricUnavailableError, Picture, mae
from ifan_plugin.metrics.no_reference import cropped
from ifan_plugin.metrics.protocols import FIGURES

NIQE_BLOCK = 96  # px; the host's, and its authors'


def niqe(img: Picture, crop_border: int = 0, **_: Any) -> float:
    """Natural image quality (Mittal et al., IEEE SPL 2013), computed by BasicSR's ``calculate_niqe``; lower is better.

    The picture is rounded to 8 bits, as that function expects; blocks of 96x96 pixels of its luma (BT.601) are
    compared with those of natural photographs. Figures of pictures of different sizes don't compare well.

    Args:
        img: restored picture as in :func:`ifan_plugin.metrics.psnr`; RGB.
        crop_border: pixels left out at each side.

    Returns:
        0 or more; NaN where it isn't defined, as for a picture without any texture.

    Raises:
        MetricUnavailableError: the picture has fewer than two blocks, or the host lacks its parameter file.
        ValueError: a shape or type that doesn't fit.
    """
    prepare()
    from basicsr.metrics.niqe import calculate_niqe

    picture = cropped(img, crop_border)
    height, width = picture.shape[:2]
    if (height // NIQE_BLOCK) * (width // NIQE_BLOCK) < 2:
        raise MetricUnavailableError(
            f"niqe: a picture of {width}x{height} is too small; it needs two blocks of {NIQE_BLOCK}x{NIQE_BLOCK}"
        )
    bgr = np.ascontiguousarray(np.round(picture * 255).astype(np.uint8)[..., ::-1])
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore", RuntimeWarning)  # blocks without texture: nan, which it leaves out
            return calculate_niqe(bgr, crop_border=0)
    except np.linalg.LinAlgError:  # too few blocks with texture
        return math.nan
    except FileNotFoundError as error:
        raise MetricUnavailableError(f"niqe: BasicSR's parameter file is missing: {error.filename}") from None


def rounded_figure(name: str, restored: Tensor, sharp: Tensor, crop_border: int) -> float:
    """``psnr`` and ``ssim`` by the host; ``mae``, which it hasn't, of the same rounded pictures."""
    prepare()
    from basicsr.metrics import calculate_psnr, calculate_ssim

    pictures = [np.ascontiguousarray(_eight_bit(picture)[..., ::-1]) for picture in (restored, sharp)]
    if pictures[0].shape != pictures[1].shape:
        raise ValueError(f"pictures of unequal shapes: {pictures[0].shape} and {pictures[1].shape}")
    if name == "mae":
        return mae(pictures[0], pictures[1], crop_border=crop_border)
    function = calculate_psnr if name == "psnr" else calculate_ssim
    return float(function(*pictures, crop_border=crop_border))


def _eight_bit(picture: Tensor) -> np.ndarray:
    """uint8 [H, W, 3], rounded in float32, as the host's ``tensor2img`` does."""
    planes = picture.detach().float()
    return to_8bit((planes[0] if planes.dim() == 4 else planes).permute(1, 2, 0).cpu().numpy())


FIGURES["basicsr"] = rounded_figure
