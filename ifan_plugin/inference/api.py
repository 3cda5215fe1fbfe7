"""``ifan_plugin.restore``: a picture in, a sharp one out, as numpy arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ifan_plugin.common.errors import UserError
from ifan_plugin.export.runtimes import running_on
from ifan_plugin.images.transparency import filled, with_hidden
from ifan_plugin.inference.run import run_network
from ifan_plugin.weights.networks import Network, load_network

_VALID = "valid: uint8, uint16 or float32 in [0, 1], [H, W, 3] (RGB), [H, W] (grey) or [H, W, 4] (RGB with alpha)"


def restore(
    image: np.ndarray,
    weights: str | Path | Network | None,
    left: np.ndarray | None = None,
    right: np.ndarray | None = None,
    arch: str | None = None,
    device: str | torch.device = "auto",
    precision: str = "fp32",
    tile: int | str | None = "auto",
    *,
    ensemble: bool = False,
    param_key: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
    runtime: str | None = None,
) -> np.ndarray:
    """Restore one picture.

    Nothing is kept between calls: in a loop, load once and pass the network on::

        network = ifan_plugin.weights.networks.load_network("IFAN.pth")
        sharp = [ifan_plugin.restore(image, weights=network) for image in images]

    Args:
        image: the blurred (centre) view, RGB [H, W, 3], grey [H, W], or RGB with alpha [H, W, 4]; uint8, uint16, or
            float32 in [0, 1] (clipped to it). Alpha is passed through, and so are the colours under full
            transparency, which don't show in the others; grey is restored as three equal channels and
            their mean taken.
        weights: a checkpoint, or a network that :func:`ifan_plugin.weights.networks.load_network` gave (`arch`,
            `arguments`, `device` and `param_key` then say nothing). None: an architecture without weights, by `arch`.
        left, right: the dual-pixel views, shape and type of `image`, for networks that take them (others don't look
            at them); their alpha isn't looked at. A network of left and right views takes only size, type and alpha
            from `image`.
        arch: architecture; None: told by the checkpoint.
        device, param_key, arguments: as in :func:`ifan_plugin.weights.networks.load_network`.
        precision, tile, ensemble, progress: as in :func:`ifan_plugin.inference.run_network`.
        runtime: as in :func:`ifan_plugin.export.runtimes.running_on`, which prepares a network for many pictures; None:
            torch, or what such a network was prepared for.

    Returns:
        The restored picture, shape and type of `image`; 8 and 16 bits rounded to the nearest level.

    Raises:
        UserError: an array of another shape or type or with values that aren't finite, views that are missing or
            don't fit, a checkpoint that can't be used, a device that isn't there, a runtime that can't be had, too
            little memory for any tile, or a result that isn't finite.
    """
    _check(image, "image")
    network = weights if isinstance(weights, Network) else load_network(weights, arch, arguments, param_key, device)
    if runtime is not None:
        network = running_on(network, runtime, precision)
    given = {"center": image, "left": left, "right": right}
    pictures = []
    for view in network.views:
        picture = given[view]
        if picture is None:
            raise UserError(f"{view}: {network.name} takes the views {', '.join(network.views)}; give {view}, too")
        if view != "center":
            _check(picture, view)
            if picture.shape != image.shape or picture.dtype != image.dtype:
                raise UserError(
                    f"{view}: must be {image.dtype} {list(image.shape)} as image is, not {picture.dtype} "
                    f"{list(picture.shape)}"
                )
        pictures.append(picture)
    alpha = image[..., 3] if image.ndim == 3 and image.shape[2] == 4 else None
    lq = stacked([filled(picture, alpha) for picture in pictures])
    restored = run_network(
        network.net, lq, tile=tile, ensemble=ensemble, views=network.views, precision=precision, progress=progress,
        program=network.program, fixed=True,
    )  # fmt: skip
    if not torch.isfinite(restored).all():  # rounded to levels it would be black, and look like a picture
        raise UserError(
            f"{network.path or network.name}: its result isn't finite (NaN); "
            + ("the weights may be damaged" if precision == "fp32" else f"{precision} may be too narrow, try fp32")
        )
    return with_hidden(_like(image, restored[0]), image, alpha)


def _check(image: np.ndarray, name: str) -> None:
    if not isinstance(image, np.ndarray):
        raise UserError(f"{name}: must be a numpy array, not {type(image).__name__}; {_VALID}")
    shaped = image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (3, 4))
    if image.dtype not in (np.uint8, np.uint16, np.float32) or not shaped or 0 in image.shape:
        raise UserError(f"{name}: is {image.dtype} {list(image.shape)}; {_VALID}")
    if image.dtype == np.float32 and not np.isfinite(image).all():
        raise UserError(f"{name}: holds NaN or infinite values; {_VALID}")


def stacked(images: list[np.ndarray]) -> Tensor:
    """[1, 3 * number of views, H, W], float32 in [0, 1]; grey as three equal channels, without alpha."""
    planes = np.empty((3 * len(images), *images[0].shape[:2]), np.float32)
    for number, image in enumerate(images):
        for channel in range(3):
            planes[3 * number + channel] = image if image.ndim == 2 else image[..., channel]
    if images[0].dtype == np.float32:
        np.clip(planes, 0, 1, out=planes)
    else:
        planes /= np.float32(np.iinfo(images[0].dtype).max)
    return torch.from_numpy(planes)[None]


def _like(image: np.ndarray, restored: Tensor) -> np.ndarray:
    """[3, H, W] in the shape and type of `image`, with its alpha."""
    planes = restored.cpu().numpy()
    result = image.copy()
    for channel in range(1 if image.ndim == 2 else 3):
        plane = planes.mean(0) if image.ndim == 2 else planes[channel]
        if image.dtype != np.float32:  # in place: a large picture's planes are large, and nobody else has them
            plane *= np.float32(np.iinfo(image.dtype).max)
            np.rint(plane, out=plane)
        result[... if image.ndim == 2 else (..., channel)] = plane
    return result
