"""What the data sets of this package share: checks of their common options, and a sample's form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ifan_plugin.data.augment import AugmentConfig
from ifan_plugin.data.layouts import VIEWS
from ifan_plugin.errors import UserError
from ifan_plugin.options import Option, check_mapping


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


def stack_views(tensors: Mapping[str, Tensor], views: Sequence[str]) -> Tensor:
    """``lq``: the views' [3, H, W] stacked in their order, [3 * len(views), H, W]."""
    return torch.cat([tensors[view] for view in views]) if len(views) > 1 else tensors[views[0]]
