"""Quality of one model on one test set, and the cut-outs that the page shows side by side."""

from __future__ import annotations

import hashlib
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn
from tqdm import tqdm

from ifan_plugin.benchmark.finished import FinishedPictures
from ifan_plugin.benchmark.options import Pictures
from ifan_plugin.common.errors import UserError
from ifan_plugin.host.metrics import niqe
from ifan_plugin.images.image_io import write_image
from ifan_plugin.inference import run_network
from ifan_plugin.metrics import MetricUnavailableError, sharpness
from ifan_plugin.metrics.protocols import Protocol

Corner = tuple[slice, slice]  # rows and columns of a picture

NO_REFERENCE = {"niqe": niqe, "sharpness": sharpness}
"""What is measured where there are no sharp pictures to compare with."""

_SECONDS = 30  # between the lines that tell how far a test set is, where there is no terminal


def has_truth(dataset: Any) -> bool:
    """Whether a test set has sharp pictures."""
    return "gt" in dataset[0]


def keys_of(dataset: Any) -> list[str]:
    """The scenes' names, in order."""
    scenes = getattr(dataset, "scenes", None)
    return [scene.key for scene in scenes] if scenes is not None else [f"{i + 1:04d}" for i in range(len(dataset))]


def measure_quality(
    net: nn.Module | FinishedPictures | None,
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
        net: None: the blurred input itself; finished pictures: those in place of a network's.
        dataset: gives ``lq`` and, unless only :data:`NO_REFERENCE` can be measured, ``gt``.
        protocol, metrics: how the restored pictures are measured where there is ``gt``.
        corners: scenes to be cut out (:func:`write_references`), and where; PNGs are written to ``folder``.
        label: shown beside the progress bar.

    Returns:
        ``mean`` (metric -> mean), ``images`` (a mapping a scene), ``unavailable`` (metric -> why it is left out),
        ``data`` (SHA-256 of the scenes' names and pictures as they were read: input and sharp one), ``bit_depth`` (they
        were read at; None: the data set doesn't say).

    Raises:
        UserError: the network gives, or the folder has, pictures of another size.
    """
    keys = keys_of(dataset)
    images: list[dict[str, Any]] = []
    unavailable: dict[str, str] = {}
    wanted = list(metrics if has_truth(dataset) else NO_REFERENCE)
    checksum = hashlib.sha256()
    # Looked at inside: what runs the network cuts its result to the picture's size.
    hook = net.register_forward_hook(_require_equal_size) if isinstance(net, nn.Module) else nullcontext()
    with hook:
        for index in _told(len(dataset), label):
            sample = dataset[index]
            _add_sample(checksum, keys[index], sample)
            lq = protocol.prepared(sample["lq"].to(device))
            sharp = protocol.prepared(sample["gt"].to(device)) if "gt" in sample else None
            if isinstance(net, FinishedPictures):
                restored = protocol.prepared(net.read(index, sample.get("gt", sample["lq"][:3]))).to(device)
            else:
                restored = lq if net is None else run_network(net, lq[None])[0].float()
            values, missing = _measure(protocol, restored, sharp, wanted)
            unavailable |= missing
            wanted = [metric for metric in wanted if metric not in missing]
            images.append({"image": keys[index], **values})
            if keys[index] in corners:
                write_cutout(folder / picture_name(index), restored, corners[keys[index]])
    mean = {metric: _mean([image[metric] for image in images], metric) for metric in wanted}
    facts = {"data": checksum.hexdigest(), "bit_depth": getattr(dataset, "bit_depth", None)}
    return {"mean": mean, "images": images, "unavailable": unavailable, **facts}


def of_metrics(cell: Mapping[str, Any], metrics: Sequence[str], why_not: Callable[[str], str | None]) -> dict[str, Any]:
    """A finished cell as if it had been measured by these metrics alone, in their order.

    Args:
        cell: as :func:`measure_quality` makes it.
        metrics: those asked for.
        why_not: why one that the cell hasn't isn't there.
    """
    there = [metric for metric in metrics if metric in cell["mean"]]
    images = [{"image": each["image"], **{m: each[m] for m in there if m in each}} for each in cell["images"]]
    said = cell.get("unavailable", {})
    lacking = {metric: why_not(metric) or said.get(metric) for metric in metrics if metric not in there}
    lacking = {metric: reason or "not measured so far" for metric, reason in lacking.items()}
    return {
        **cell,
        "mean": {metric: cell["mean"][metric] for metric in there},
        "images": images,
        "unavailable": lacking,
    }


def merged(cell: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """A finished cell with the metrics of another, of the same model and test set."""
    by_name = {image["image"]: image for image in more["images"]}
    images = [{**image, **by_name.get(image["image"], {})} for image in cell["images"]]
    mean = {**cell["mean"], **more["mean"]}
    lacking = {**cell.get("unavailable", {}), **more["unavailable"]}
    return {
        **cell, "mean": mean, "images": images,
        "unavailable": {metric: reason for metric, reason in lacking.items() if metric not in mean},
    }  # fmt: skip


def _add_sample(checksum: Any, key: str, sample: Mapping[str, Any]) -> None:
    """A scene's name, and its input and sharp picture."""
    checksum.update(key.encode())
    for role in ("lq", "gt"):
        if role in sample:
            checksum.update(np.ascontiguousarray(sample[role].numpy()).tobytes())


def unavailable(protocol: Protocol, picture: Tensor, metric: str) -> str | None:
    """Why a metric can't be had, tried on a picture [3, H, W]; None where it can."""
    return _measure(protocol, picture, picture, (metric,))[1].get(metric)


def _mean(values: Sequence[float], metric: str) -> float:
    if metric in NO_REFERENCE:  # NIQE isn't defined for every picture
        values = [value for value in values if math.isfinite(value)]
    return math.fsum(values) / len(values) if values else math.nan


def _told(total: int, label: str) -> Iterator[int]:
    """``range(total)`` with a bar on a terminal, and elsewhere a line now and then."""
    bar = tqdm(range(total), desc=label, unit="picture", leave=False, disable=None)
    last = time.monotonic()
    for index in bar:
        yield index
        if bar.disable and time.monotonic() - last > _SECONDS:
            sys.stderr.write(f"{label}: picture {index + 1} of {total}\n")
            last = time.monotonic()


def write_references(dataset: Any, protocol: Protocol, pictures: Pictures, folder: Path) -> dict[str, Corner]:
    """Cut out the blurred and the sharp picture of each scene that is shown.

    Args:
        dataset: with the centre view alone as ``lq``.
        protocol: how pictures are prepared.
        pictures: which scenes, and how much of them.
        folder: gets ``blurred`` and ``sharp``, a PNG a scene in each.

    Returns:
        Scene -> the part that is shown: where blurred and sharp picture differ most; without a sharp one, where there
        is most to see.
    """
    keys = keys_of(dataset)
    corners = {}
    for key in pictures.chosen(keys):
        index = keys.index(key)
        sample = dataset[index]
        shown = {"blurred": protocol.prepared(sample["lq"])}
        if "gt" in sample:
            shown["sharp"] = protocol.prepared(sample["gt"])
        corners[key] = most_blurred(shown["blurred"], shown.get("sharp"), pictures.crop)
        for name, picture in shown.items():
            write_cutout(folder / name / picture_name(index), picture, corners[key])
    return corners


def picture_name(index: int) -> str:
    """A file's name for a scene, whose key may have any characters."""
    return f"{index:05d}.png"


def most_blurred(blurred: Tensor, sharp: Tensor | None, size: int) -> Corner:
    """The square of ``size`` pixels (or what there is) where two pictures [3, H, W] differ most.

    Without a sharp one: where the blurred one differs most from its mean over 9x9 pixels, that is, has most to show.
    """
    if sharp is None:
        sharp = nn.functional.avg_pool2d(blurred[None], 9, 1, 4, count_include_pad=False)[0]
    height, width = min(size, sharp.shape[1]), min(size, sharp.shape[2])
    step = max(min(height, width) // 8, 1)
    means = nn.functional.avg_pool2d((blurred - sharp).abs().mean(0)[None], (height, width), step)[0]
    row, column = divmod(int(means.argmax()), means.shape[1])
    return slice(row * step, row * step + height), slice(column * step, column * step + width)


def write_cutout(path: Path, picture: Tensor, corner: Corner) -> None:
    """Write a part of a picture [3, H, W] in [0, 1] as 8-bit PNG; NaN becomes black."""
    cut = picture[:3, corner[0], corner[1]].detach().float().nan_to_num(0).clamp(0, 1)
    write_image(path, np.ascontiguousarray(cut.permute(1, 2, 0).cpu().numpy()), 8)


def _require_equal_size(net: nn.Module, inputs: tuple[Tensor, ...], restored: Tensor) -> None:
    if restored.shape[1] != 3 or restored.shape[2:] != inputs[0].shape[2:]:
        raise UserError(
            f"the network makes {list(restored.shape)} of {list(inputs[0].shape)}; valid: RGB pictures of equal size"
        )


def _measure(
    protocol: Protocol, restored: Tensor, sharp: Tensor | None, names: Sequence[str]
) -> tuple[dict[str, float], dict[str, str]]:
    """The figures of one picture, and why others can't be had."""
    values: dict[str, float] = {}
    missing: dict[str, str] = {}
    for name in names:
        try:
            if sharp is None:
                values[name] = NO_REFERENCE[name](restored)
            else:
                values |= protocol.metrics(restored, sharp, (name,))
        except MetricUnavailableError as error:
            missing[name] = str(error)
    return values, missing
