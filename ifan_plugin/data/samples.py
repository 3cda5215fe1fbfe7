"""What the data sets of this package share: checks of their common options, and a sample's form."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ifan_plugin.common.errors import UserError
from ifan_plugin.common.words import counted
from ifan_plugin.data import progressive
from ifan_plugin.data.augment import AugmentConfig
from ifan_plugin.data.layouts import VIEWS
from ifan_plugin.images.pairing import HOW
from ifan_plugin.options.schema import Option, check_mapping

COMMON_OPTIONS = {
    "views": Option(list, ["center"], choices=VIEWS, items=str, help="stacked into the network's input, in this order"),
    "aux_views": Option(list, [], choices=("left", "right"), items=str, help="that the losses need beside them"),
    "bit_depth": Option(int, 8, choices=(8, 16), help="of the samples"),
    "patch_size": Option(int, 256, minimum=1, help="side of a training patch, pixels"),
    "gt_size": Option(int, None, minimum=1, help="BasicSR's name for patch_size"),
    "progressive": Option(dict, None, help="patch_sizes, batch_sizes, iterations: lists with a number for each stage"),
    "augment": Option((dict, bool), True, help="of training samples; false: none"),
    "seed": Option(int, 0, minimum=0, help="of all that is drawn for a sample; manual_seed"),
    "crop_multiple": Option(int, 8, minimum=1, help="whole pictures are cropped to a multiple of it"),
    "pairing": Option(str, "auto", choices=HOW, help="of the folders' pictures: by their names, or by order"),
    "max_images": Option(int, None, minimum=1, help="the first scenes only"),
    "check": Option(str, "headers", choices=("headers", "none"), help="read every picture's header at the start"),
}
"""What the option file of every data set here has."""


def check_common(opt: Mapping[str, Any], schema: Mapping[str, Option], where: str) -> dict[str, Any]:
    """Check a data set's mapping against ``schema`` and what every one has: phase, views, patch size, augmentation.

    Args:
        opt: the option file's mapping; keys that aren't in ``schema`` are passed over.
        schema: the data set's own keys, ``views``, ``aux_views``, ``patch_size``, ``gt_size``, ``augment`` among them.
        where: names the place in messages.

    Returns:
        ``opt`` with the defaults filled in, ``phase`` one of train, val, test, ``patch_size`` and ``gt_size`` equal,
        ``augment`` an :class:`ifan_plugin.data.augment.AugmentConfig`.

    Raises:
        UserError: a value that doesn't fit.
    """
    options = check_mapping(opt, schema, where, known=[key for key in opt if key not in schema])
    phase = str(opt.get("phase", "test")).split("_")[0]  # the host also names phases val_1, val_2, …
    if phase not in ("train", "val", "test"):
        raise UserError(f"{where}: phase must be train, val or test, not '{phase}'")
    options["phase"] = phase
    for key in ("views", "aux_views"):
        if len(set(options[key])) != len(options[key]):
            raise UserError(f"{where}: {key}: each view at most once, not {', '.join(options[key])}")
    if not options["views"]:
        raise UserError(f"{where}: views: give at least one of {', '.join(VIEWS)}")
    stages = progressive.check(options["progressive"], f"{where}: progressive")
    if stages is not None:
        largest = options["patch_size"] = max(stages.patch_sizes)
        for key in ("patch_size", "gt_size"):
            if opt.get(key, largest) != largest:
                raise UserError(
                    f"{where}: {key}: must be {largest}, the largest of progressive: patch_sizes, or absent"
                )
        if phase != "train":
            raise UserError(f"{where}: progressive: is for training; leave it out in phase {phase}")
    patch_size = options["patch_size"]
    if options["gt_size"] is not None:
        if "patch_size" in opt and options["gt_size"] != patch_size:
            raise UserError(f"{where}: gt_size ({options['gt_size']}) and patch_size ({patch_size}) differ; give one")
        patch_size = options["gt_size"]
    options["patch_size"] = options["gt_size"] = patch_size
    options["augment"] = AugmentConfig.from_options(options["augment"], patch_size, f"{where}: augment")
    sides = {"left", "right"} & {*options["views"], *options["aux_views"]}
    if options["augment"].hflip_probability > 0 and len(sides) == 1:
        raise UserError(
            f"{where}: augment: hflip_probability: mirroring swaps left and right; "
            "valid with both of them or none among views and aux_views"
        )
    return options


def augment_of(index: int, augment: AugmentConfig) -> AugmentConfig:
    """A sample's augmentation: the data set's, in patches of the size that the index asks for."""
    patch_size = getattr(index, "patch_size", None)
    return augment if patch_size is None else replace(augment, patch_size=patch_size)


def say_pairing(dataset: Any, note: str | None = None) -> None:
    """One line in BasicSR's log: how many scenes, and by which rule their pictures were paired; and a note, if any."""
    if note is not None:
        logging.getLogger("basicsr").warning(note)
    if dataset.pairing:
        name = dataset.opt.get("name", "unnamed")
        logging.getLogger("basicsr").info(f"{name}: {counted(len(dataset), 'scene')}, paired {dataset.pairing}.")


def stack_views(tensors: Mapping[str, Tensor], views: Sequence[str]) -> Tensor:
    """``lq``: the views' [3, H, W] stacked in their order, [3 * len(views), H, W]."""
    return torch.cat([tensors[view] for view in views]) if len(views) > 1 else tensors[views[0]]
