"""What of a config's values doesn't fit together, or can't be: the part of the check that knows what they mean."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from mmengine.config import Config
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from ifan_plugin.archs.ifan_arch import IFAN
from ifan_plugin.common.errors import UserError
from ifan_plugin.metrics.protocols import BETTER
from ifan_plugin.mm.metrics import NO_REFERENCE
from ifan_plugin.options.schema import Option, check_mapping, check_value, nearest

_LOOPS = ("train", "val", "test")
_OURS = ("DualPixelDataset", "SimulatedDualPixelDataset")  # data sets that stack ``views``
_RANDOMNESS = {
    "seed": Option(int, minimum=0, optional=True),
    "diff_rank_seed": Option(bool, False),
    "deterministic": Option(bool, False),
}
_CLIPPING: dict[str, tuple[Callable[..., Any], str]] = {
    "norm": (clip_grad_norm_, "max_norm"),
    "value": (clip_grad_value_, "clip_value"),
}


def check(config: Config, where: str) -> None:
    """Check the values of a config whose names and types are right.

    Args:
        config: the config, overrides applied.
        where: names the file in messages.

    Raises:
        UserError: views or patches that the generator can't take, a figure that isn't measured, a sampler, gradient
            clipping or seed that can't be.
    """
    _check_best(config, where)
    _check_views(config, where)
    _check_sampler(config, where)
    _check_clipping(config, where)
    if "randomness" in config:
        check_mapping(config["randomness"], _RANDOMNESS, f"{where}: randomness")


def _check_sampler(config: Config, where: str) -> None:
    sampler = (config.get("train_dataloader") or {}).get("sampler") or {}
    if sampler.get("type") != "EpochSampler":
        return
    place, ratio = f"{where}: train_dataloader: sampler", sampler.get("ratio", 1)
    check_value(ratio, Option(float), f"{place}: ratio")
    if ratio <= 0:
        raise UserError(f"{place}: ratio: must be greater than 0, not {ratio}")
    check_value(sampler.get("seed"), Option(int, minimum=0, optional=True), f"{place}: seed")


def _check_clipping(config: Config, where: str) -> None:
    wrapper = config.get("optim_wrapper")
    clipping = wrapper.get("clip_grad") if isinstance(wrapper, Mapping) else None
    if clipping is None:
        return
    place = f"{where}: optim_wrapper: clip_grad"
    if not isinstance(clipping, Mapping):
        raise UserError(f"{place}: must be a dict such as dict(max_norm=0.5), not {clipping!r}")
    kind = clipping.get("type", "norm")
    if kind not in _CLIPPING:
        raise UserError(f"{place}: type: must be {' or '.join(_CLIPPING)}, not {kind!r}")
    function, greatest = _CLIPPING[kind]
    given: dict[str, Any] = {key: value for key, value in clipping.items() if key != "type"}
    others = set(inspect.signature(function).parameters) - {"parameters", greatest}
    check_mapping(given, {greatest: Option(float, minimum=0)}, place, known=others)


def _check_best(config: Config, where: str) -> None:
    """A misspelt ``save_best`` would end the run only at its first validation."""
    hook, evaluator = (config.get("default_hooks") or {}).get("checkpoint"), config.get("val_evaluator")
    if not isinstance(hook, Mapping) or not isinstance(evaluator, list):
        return
    if any(not isinstance(e, Mapping) or e.get("type") != "RestorationMetrics" or e.get("prefix") for e in evaluator):
        return
    asked = [metric.get("metrics", ("psnr", "ssim", "mae")) for metric in evaluator]
    measured = {name for names in asked for name in ([names] if isinstance(names, str) else names)}
    if not measured <= {*BETTER, *NO_REFERENCE}:  # the metric itself will say so
        return
    best = hook.get("save_best") or []
    for name in [best] if isinstance(best, str) else best:
        if name != "auto" and str(name).removeprefix("blurred_") not in measured:
            place = f"{where}: default_hooks: checkpoint: save_best"
            raise UserError(f"{place}: val_evaluator doesn't measure '{name}'; {nearest(name, measured)}")


def _check_views(config: Config, where: str) -> None:
    """IFAN takes the centre view, its dual-pixel model centre, left, right: the data must be stacked like that."""
    generator = (config.get("model") or {}).get("generator")
    if not isinstance(generator, Mapping) or generator.get("type") not in ("IFAN", IFAN):
        return
    wanted = ["center", "left", "right"] if generator.get("dual_pixel", False) else ["center"]
    for loop in _LOOPS:
        dataset = (config.get(f"{loop}_dataloader") or {}).get("dataset") or {}
        if dataset.get("type") not in _OURS:
            continue
        place, views = f"{where}: {loop}_dataloader: dataset", dataset.get("views", ["center"])
        if not isinstance(views, (list, tuple)) or list(views) != wanted:
            raise UserError(
                f"{place}: views: a generator with dual_pixel: {len(wanted) == 3} needs {wanted}, not {views!r}"
            )
        size = dataset.get("patch_size", IFAN.multiple_of)
        if loop == "train" and isinstance(size, int) and size % IFAN.multiple_of:
            raise UserError(f"{place}: patch_size: must be a multiple of {IFAN.multiple_of}, not {size}")
