"""Quality of one model on one test set, and the cut-outs that the page shows side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn
from tqdm import tqdm

from ifan_plugin.benchmark.options import Pictures
from ifan_plugin.data.image_io import write_image
from ifan_plugin.errors import UserError
from ifan_plugin.inference import run_network
from ifan_plugin.metrics import MetricUnavailableError
from ifan_plugin.metrics.protocols import Protocol

Corner = tuple[slice, slice]  # rows and columns of a picture


def keys_of(dataset: Any) -> list[str]:
    """The scenes' names, in order."""
    scenes = getattr(dataset, "scenes", None)
    return [scene.key for scene in scenes] if scenes is not None else [f"{i + 1:04d}" for i in range(len(dataset))]


def measure_quality(
    net: nn.Module | None,
    dataset: Any,
    protocol: Protocol,
    metrics: Sequence[str],
    corners: Mapping[str, Corner],
    folder: Path,
    device: str,
    label: str = "",
) -> dict[str, Any]:
    """Run ``net`` over ``dataset`` and compare with the sharp pictures.

    Args:
        net: None: the blurred input itself.
        dataset: gives ``lq`` and ``gt``.
        protocol, metrics: how the restored pictures are measured.
        corners: scenes to be cut out (:func:`write_references`), and where; PNGs are written to ``folder``.
        label: shown beside the progress bar.

    Returns:
        ``mean`` (metric -> mean), ``images`` (a mapping a scene), ``unavailable`` (metric -> why it is left out).

    Raises:
        UserError: the network gives pictures of another size.
    """
    keys, images, unavailable = keys_of(dataset), [], {}
    wanted = list(metrics)
    # Looked at inside: what runs the network cuts its result to the picture's size.
    hook = net.register_forward_hook(_require_equal_size) if net is not None else nullcontext()
    with hook:
        for index in tqdm(range(len(dataset)), desc=label, unit="picture", leave=False, disable=None):
            sample = dataset[index]
            lq, sharp = (protocol.prepared(sample[role].to(device)) for role in ("lq", "gt"))
            restored = lq if net is None else run_network(net, lq[None])[0].float()
            values, missing = _measure(protocol, restored, sharp, wanted)
            unavailable |= missing
            wanted = [metric for metric in wanted if metric not in missing]
            images.append({"image": keys[index], **values})
            if keys[index] in corners:
                write_cutout(folder / picture_name(index), restored, corners[keys[index]])
    mean = {metric: math.fsum(image[metric] for image in images) / len(images) for metric in wanted}
    return {"mean": mean, "images": images, "unavailable": unavailable}


def write_references(dataset: Any, protocol: Protocol, pictures: Pictures, folder: Path) -> dict[str, Corner]:
    """Cut out the blurred and the sharp picture of each scene that is shown.

    Args:
        dataset: with the centre view alone as ``lq``.
        protocol: how pictures are prepared.
        pictures: which scenes, and how much of them.
        folder: gets ``blurred`` and ``sharp``, a PNG a scene in each.

    Returns:
        Scene -> the part that is shown: where blurred and sharp picture differ most.
    """
    keys = keys_of(dataset)
    corners = {}
    for key in pictures.chosen(keys):
        index = keys.index(key)
        blurred, sharp = (protocol.prepared(dataset[index][role]) for role in ("lq", "gt"))
        corners[key] = most_blurred(blurred, sharp, pictures.crop)
        write_cutout(folder / "blurred" / picture_name(index), blurred, corners[key])
        write_cutout(folder / "sharp" / picture_name(index), sharp, corners[key])
    return corners


def picture_name(index: int) -> str:
    """A file's name for a scene, whose key may have any characters."""
    return f"{index:05d}.png"


def most_blurred(blurred: Tensor, sharp: Tensor, size: int) -> Corner:
    """The square of ``size`` pixels (or what there is) where two pictures [3, H, W] differ most."""
    height, width = min(size, sharp.shape[1]), min(size, sharp.shape[2])
    step = max(min(height, width) // 8, 1)
    means = nn.functional.avg_pool2d((blurred - sharp).abs().mean(0)[None], (height, width), step)[0]
    row, column = divmod(int(means.argmax()), means.shape[1])
    return slice(row * step, row * step + height), slice(column * step, column * step + width)


def write_cutout(path: Path, picture: Tensor, corner: Corner) -> None:
    """Write a part of a picture [3, H, W] in [0, 1] as 8-bit PNG; NaN becomes black."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cut = picture[:3, corner[0], corner[1]].detach().float().nan_to_num(0).clamp(0, 1)
    write_image(path, np.ascontiguousarray(cut.permute(1, 2, 0).cpu().numpy()), 8)


def _require_equal_size(net: nn.Module, inputs: tuple[Tensor, ...], restored: Tensor) -> None:
    if restored.shape[1] != 3 or restored.shape[2:] != inputs[0].shape[2:]:
        raise UserError(
            f"the network makes {list(restored.shape)} of {list(inputs[0].shape)}; valid: RGB pictures of equal size"
        )


def _measure(
    protocol: Protocol, restored: Tensor, sharp: Tensor, names: Sequence[str]
) -> tuple[dict[str, float], dict[str, str]]:
    """The figures of one picture, and why others can't be had."""
    values: dict[str, float] = {}
    missing: dict[str, str] = {}
    for name in names:
        try:
            values |= protocol.metrics(restored, sharp, (name,))
        except MetricUnavailableError as error:
            missing[name] = str(error)
    return values, missing
