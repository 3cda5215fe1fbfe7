"""PSNR, SSIM, MAE and LPIPS on floats, as IFAN's paper evaluates (the `ifan` protocol).

The result is clipped to [0, 1] and not quantised; all RGB values count; a data set's figure is the mean of its
pictures' figures. The host's own ``calculate_psnr`` and ``calculate_ssim`` round to 8 bits first, and its SSIM has an
11x11 Gaussian window: those figures aren't comparable with the papers'.
"""

from __future__ import annotations

import functools
import io
import math
from contextlib import redirect_stdout
from typing import Any

import numpy as np
import torch
from skimage.metrics import structural_similarity
from torch import Tensor

Picture = np.ndarray | Tensor


class MetricUnavailableError(RuntimeError):
    """A metric that can't be computed here, such as LPIPS without its weights; the message says what is missing."""


def psnr(img: Picture, img2: Picture, crop_border: int = 0, **_: Any) -> float:
    """Peak signal-to-noise ratio, ``10 log10(1 / MSE)`` over all RGB values, in dB; infinite for equal pictures.

    Args:
        img: restored picture, RGB in [0, 1] (clipped here): tensor [3, H, W] or [1, 3, H, W], or array [H, W, 3];
            integer arrays count as 8 or 16 bit. All metrics here take the same.
        img2: the sharp picture, of the same shape.
        crop_border: pixels left out at each side.

    Raises:
        ValueError: shapes or types that don't fit.
    """
    restored, sharp = _pair(img, img2, crop_border)
    error = float(np.mean((restored - sharp) ** 2))
    return math.inf if error == 0 else -10 * math.log10(error)


def ssim(img: Picture, img2: Picture, crop_border: int = 0, **_: Any) -> float:
    """Structural similarity as scikit-image computes it by default: 7x7 uniform window, sample covariance, mean over
    the channels, data range 1. Arguments as in :func:`psnr`; pictures must be 7x7 at least."""
    restored, sharp = _pair(img, img2, crop_border)
    if min(sharp.shape[:2]) < 7:
        raise ValueError(f"ssim needs pictures of at least 7x7 pixels, not {sharp.shape[1]}x{sharp.shape[0]}")
    return float(structural_similarity(restored, sharp, channel_axis=2, data_range=1.0))


def mae(img: Picture, img2: Picture, crop_border: int = 0, **_: Any) -> float:
    """Mean absolute error over all RGB values, in [0, 1]. Arguments as in :func:`psnr`."""
    restored, sharp = _pair(img, img2, crop_border)
    return float(np.mean(np.abs(restored - sharp)))


def lpips(img: Picture, img2: Picture, crop_border: int = 0, net: str = "alex", **_: Any) -> float:
    """Learned perceptual distance (Zhang et al., CVPR 2018), version 0.1, input scaled to [-1, 1].

    Arguments as in :func:`psnr`; ``net`` is the backbone, ``alex`` in the papers. Integer arrays are refused: their
    channel order (OpenCV's is BGR) would change the figure.

    Raises:
        MetricUnavailableError: the ``lpips`` package or its backbone's weights can't be had.
        ValueError: shapes or types that don't fit.
    """
    for picture in (img, img2):
        if isinstance(picture, np.ndarray) and picture.dtype.kind != "f":
            raise ValueError("lpips takes RGB floats in [0, 1], not integers")
    device = img.device if isinstance(img, Tensor) else torch.device("cpu")
    network = _lpips_network(net, str(device))
    restored, sharp = (
        torch.from_numpy(p.transpose(2, 0, 1)).float()[None].to(device) * 2 - 1 for p in _pair(img, img2, crop_border)
    )
    with torch.no_grad():
        return float(network(restored, sharp))


@functools.cache
def _lpips_network(net: str, device: str) -> torch.nn.Module:
    try:
        import lpips as package
    except ImportError:
        raise MetricUnavailableError("lpips: the package isn't installed (pip install lpips)") from None
    try:
        with redirect_stdout(io.StringIO()):  # it prints how it was set up
            return package.LPIPS(net=net, version="0.1", verbose=False).eval().to(device)
    except OSError as error:  # URLError is one: torchvision fetches the backbone on first use
        raise MetricUnavailableError(f"lpips: the weights of its backbone '{net}' can't be had: {error}") from None


def _pair(img: Picture, img2: Picture, crop_border: int) -> tuple[np.ndarray, np.ndarray]:
    """Both pictures as float64 [H, W, 3] in [0, 1]."""
    restored, sharp = _as_array(img), _as_array(img2)
    if restored.shape != sharp.shape:
        raise ValueError(f"pictures of unequal shapes: {restored.shape} and {sharp.shape} (height, width, channels)")
    if crop_border:
        inner = slice(crop_border, -crop_border)
        restored, sharp = restored[inner, inner], sharp[inner, inner]
    if restored.size == 0:
        raise ValueError("pictures without pixels")
    return restored.clip(0, 1), sharp.clip(0, 1)


def _as_array(picture: Picture) -> np.ndarray:
    if isinstance(picture, Tensor):
        tensor = picture.detach()
        if tensor.dim() == 4 and tensor.shape[0] == 1:
            tensor = tensor[0]
        if tensor.dim() != 3 or not tensor.is_floating_point():
            raise ValueError(f"a tensor must be float [3, H, W] or [1, 3, H, W], not {list(picture.shape)}")
        return tensor.permute(1, 2, 0).cpu().double().numpy()
    if picture.ndim != 3:
        raise ValueError(f"an array must be [H, W, 3], not {list(picture.shape)}")
    if picture.dtype.kind == "u":
        return picture.astype(np.float64) / np.iinfo(picture.dtype).max
    if picture.dtype.kind != "f":
        raise ValueError(f"an array must be float in [0, 1] or 8 or 16 bit unsigned, not {picture.dtype}")
    return picture.astype(np.float64)
