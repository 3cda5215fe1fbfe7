"""Training patches that are blurred where the network is: what a worker hands over, and the step that finishes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from ifan_plugin.data.augment import Plan, mirror, to_grey
from ifan_plugin.simulation.device import prepare, simulate_batch
from ifan_plugin.simulation.optics import Optics, field_of
from ifan_plugin.simulation.presets import PRESETS, RANDOM_RANGES
from ifan_plugin.simulation.sensor import LightAndSensor
from ifan_plugin.simulation.simulator import around

CONTEXT = 2  # reaches around the patch in which edges are looked for, beside the one that blurs into it
MARK = "to_simulate"  # the key of a batch that has yet to be blurred


def reach_of(camera: str, max_coc: float) -> int:
    """Pixels that a patch needs around it, whatever is drawn: all samples of a batch must have one shape."""
    corner = (1.0, 1.0)
    if camera != "random":
        return PRESETS[camera].reach(max_coc, corner)
    widest = Optics(**{
        name: max(map(abs, RANDOM_RANGES[name])) for name in ("edge", "stretch", "curvature", "red", "blue")
    })  # fmt: skip
    return widest.reach(max_coc, corner)


def as_float(picture: np.ndarray) -> np.ndarray:
    """A picture of 8 bits as float32 in [0, 1]; others as they are."""
    return picture / np.float32(255) if picture.dtype == np.uint8 else picture


def cut_patch(
    sharp: np.ndarray, depth: np.ndarray | None, plan: Plan, margin: int
) -> tuple[np.ndarray, np.ndarray | None, tuple[float, float]]:
    """The augmentation's patch of a sharp picture and its depth, with ``margin`` px around it.

    Returns:
        float32 [S, S, 3] and [S, S], S the patch's side and two margins (mirrored beyond the picture), scaled, grey and
        mirrored as ``plan`` says, and where in the picture the patch's middle lies (field position).
    """
    height, width = plan.whole
    factor = plan.size[0] / height
    side = plan.patch + 2 * margin
    source = round(side / factor)
    top, left = (round((start + plan.patch / 2) / factor - source / 2) for start in (plan.top, plan.left))
    region = (top, left, source, source)
    # The middle of the region never lies outside the picture, so mirroring finds it.
    picture = as_float(around(sharp, region, 0))
    distance = None if depth is None else around(depth, region, 0)
    if source != side:
        picture = np.minimum(cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA), 1)
        if distance is not None:  # not averaged: between near and far there is nothing
            distance = cv2.resize(distance, (side, side), interpolation=cv2.INTER_NEAREST)
    field = field_of(left + source / 2, top + source / 2, height, width)
    if plan.grey:
        picture = to_grey({"target": picture})["target"]
    if plan.flip:  # the scene, not the camera: the views don't change places
        picture = mirror({"target": picture})["target"]
        distance = None if distance is None else distance[:, ::-1]
    return np.ascontiguousarray(picture, np.float32), distance, field


def hand_over(
    sharp: np.ndarray, coc: np.ndarray, optics: Optics, light: LightAndSensor, roles: str, levels: int, **kwargs: Any
) -> dict[str, Any]:
    """A sample for :func:`finish`: what :func:`ifan_plugin.simulation.device.prepare` gives, and what to make of it.

    Args:
        roles: views stacked into ``lq`` and the others, ``center|left,right``.
        levels: steps that values are rounded to, 255 or 65535.
        **kwargs: as for ``prepare``.
    """
    sample = prepare(sharp, coc, optics, light, **kwargs)
    return sample | {MARK: roles, "reach": torch.tensor(kwargs["reach"]), "levels": torch.tensor(levels)}


def finish(batch: Mapping[str, Any], device: torch.device | str) -> dict[str, Any]:
    """Blur a collated batch of :func:`hand_over` where the network is.

    Returns:
        The batch as other data sets give it: ``lq``, ``gt``, the views asked for beside ``lq``, float32 on ``device``,
        with ``coc`` [B, 1, H, W], the signed circle of confusion in px, and the strings (``key``, paths). A batch that
        needn't be blurred comes back as it is.
    """
    if MARK not in batch:
        return dict(batch)
    views, aux_views = (part.split(",") if part else [] for part in batch[MARK][0].split("|"))
    made = simulate_batch(batch, int(batch["reach"][0]), device)
    levels = float(batch["levels"][0])
    pictures: dict[str, Tensor] = {role: torch.round(made[role] * levels) / levels for role in {*views, *aux_views}}
    rest = {key: value for key, value in batch.items() if key in ("lq_path", "gt_path", "key")}
    stacked = torch.cat([pictures[view] for view in views], 1)
    return {"lq": stacked, "gt": made["target"], "coc": made["coc"]} | {v: pictures[v] for v in aux_views} | rest


def finish_one(sample: Mapping[str, Any]) -> dict[str, Any]:
    """One sample of :func:`hand_over`, blurred on the CPU; others come back as they are."""
    if MARK not in sample:
        return dict(sample)
    batch = {key: value[None] if isinstance(value, Tensor) else [value] for key, value in sample.items()}
    return {key: value[0] for key, value in finish(batch, "cpu").items()}
