"""A resumed run's options against those it began with: what changed is applied or refused, and never passed over.

A training state keeps the options that training depends on. Data, logging, validation and the number of iterations may
change; the learning rate, its schedule and an optimiser's numbers are applied, the schedule as if it had been so from
the beginning; networks, losses and the kind of optimiser make another training.
"""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from ifan_plugin.common.errors import UserError

_BUILT_FROM = ("path", "param_key")  # of a network that reads its own checkpoint, which a resumed one doesn't
_COUNTED = ("step", "weight_sum", "lr_max", "train_mode")  # what schedule-free optimisers keep among their numbers
_STRUCTURE = ("momentum",)  # of optimisers: from or to 0 their state is another one's


class Change(NamedTuple):
    """One option that has another value now; ``None`` where it isn't there."""

    place: str
    before: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.place} {_shown(self.before)} -> {_shown(self.now)}"


def snapshot(options: Mapping[str, Any]) -> dict[str, Any]:
    """What of checked options a training state keeps: numbers, text, lists and mappings alone."""
    kept = {key: value for key, value in options.items() if key in ("model_type", "train") or _is_network(key)}
    return _plain(kept)


def compare(stored: Mapping[str, Any] | None, now: Mapping[str, Any], where: str) -> list[Change]:
    """The options that are to be applied anew.

    Args:
        stored: from :func:`snapshot`, of the run that is resumed; None, of a state without: nothing is compared.
        now: from :func:`snapshot`, of the option file.
        where: the state's file, for messages.

    Raises:
        UserError: a change that makes it another training.
    """
    if not isinstance(stored, Mapping):
        return []
    for change in _refused(stored, now):
        raise UserError(
            f"{where}: can't go on with {change.place}: it is {_shown(change.now)} now, and was "
            f"{_shown(change.before)}; set it back, or begin a new run (another name) from these weights with path: "
            "pretrain_network_g"
        )
    before, after = (dict(each.get("train") or {}) for each in (stored, now))
    changes: list[Change] = []
    for key in sorted({*before, *after}):
        if key == "scheduler" or key.startswith("optim_"):
            changes += _differing(before.get(key), after.get(key), f"train: {key}")
        elif key == "warmup_iter" and before.get(key) != after.get(key):
            changes.append(Change(f"train: {key}", before.get(key), after.get(key)))
    return changes


def resume_optimizers(model: Any, state: Mapping[str, Any], changes: list[Change], update: Callable[..., None]) -> None:
    """Give a model's optimisers and schedulers their state back, and what has changed since.

    Args:
        model: of BasicSR's form, built of the options as they are now.
        state: the training state.
        changes: from :func:`compare`.
        update: BasicSR's own ``update_learning_rate(model, iteration, warmup_iter)``.

    Raises:
        UserError: the state is that of other optimisers.
    """
    groups = [
        [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
        for optimizer in model.optimizers
    ]
    for name, own in (("optimizers", model.optimizers), ("schedulers", model.schedulers)):
        if len(state[name]) != len(own):
            raise UserError(
                f"resume_state: holds {len(state[name])} {name}, and the options make {len(own)}: {_ANOTHER}"
            )
    for optimizer, saved, built in zip(model.optimizers, state["optimizers"], groups):
        _require_alike(optimizer, saved, built)
        optimizer.load_state_dict(saved)
    if not changes:
        for scheduler, saved in zip(model.schedulers, state["schedulers"]):
            scheduler.load_state_dict(saved)
        return
    for optimizer, built in zip(model.optimizers, groups):
        for group, fresh in zip(optimizer.param_groups, built):
            group.update({key: value for key, value in fresh.items() if key not in _COUNTED})
    _replay(model, state["iter"], update)
    rates = ", ".join(f"{group['lr']:.3g}" for optimizer in model.optimizers for group in optimizer.param_groups)
    logging.getLogger("basicsr").warning(
        f"Changed since the run began, and applied from iteration {state['iter'] + 1} on: "
        f"{'; '.join(map(str, changes))} (learning rate {rates})."
    )


_ANOTHER = (
    "that is another training; set them back, or begin a new run (another name) from its weights with "
    "path: pretrain_network_g"
)


def _replay(model: Any, iterations: int, update: Callable[..., None]) -> None:
    """Bring fresh schedulers to where they would be, had the options been so from the beginning."""
    warmup = model.opt["train"].get("warmup_iter", -1)
    for scheduler in model.schedulers:
        scheduler.optimizer._opt_called = True  # torch warns where a schedule steps before its optimiser
    for iteration in range(1, iterations + 1):
        update(model, iteration, warmup_iter=warmup)


def _refused(stored: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Change]:
    from basicsr.utils.registry import ARCH_REGISTRY, LOSS_REGISTRY

    if stored.get("model_type") != now.get("model_type"):
        yield Change("model_type", stored.get("model_type"), now.get("model_type"))
    for key in sorted(key for key in {*stored, *now} if _is_network(key)):
        before, after = stored.get(key), now.get(key)
        if before is None or after is None:
            yield Change(key, before and before.get("type"), after and after.get("type"))
        else:
            yield from _differing(_effective(before, ARCH_REGISTRY), _effective(after, ARCH_REGISTRY), key)
    before, after = (dict(each.get("train") or {}) for each in (stored, now))
    for key in sorted({*before, *after}):
        if key.endswith("_opt"):
            was, is_now = (_effective(each.get(key), LOSS_REGISTRY) for each in (before, after))
            yield from _differing(was, is_now, f"train: {key}")
        elif key.startswith("optim_"):
            for change in _differing(before.get(key), after.get(key), f"train: {key}"):
                if not _may_be_applied(change):
                    yield change


def _may_be_applied(change: Change) -> bool:
    """An optimiser's numbers may change; its kind, its variants, and whether it has a momentum may not."""
    key = change.place.rsplit(": ", 1)[-1]
    if key == "type" or isinstance(change.before, (bool, dict)) or isinstance(change.now, (bool, dict)):
        return False
    return key not in _STRUCTURE or bool(change.before) == bool(change.now)


def _differing(before: Any, now: Any, place: str) -> Iterator[Change]:
    """Where two values differ, key by key; the kind (``type``) first."""
    if not isinstance(before, dict) or not isinstance(now, dict):
        if before != now:
            yield Change(place, before, now)
        return
    if before.get("type") != now.get("type"):
        yield Change(f"{place}: type", before.get("type"), now.get("type"))
        return
    for key in sorted({*before, *now}):
        if before.get(key) != now.get(key):
            yield Change(f"{place}: {key}", before.get(key), now.get(key))


def _effective(options: Any, registry: Any) -> Any:
    """A network's or a loss's options with its class's defaults filled in: what isn't said is what it is built with."""
    if not isinstance(options, dict):
        return options
    kind, filled = options.get("type"), dict(options)
    if kind in registry:
        parameters = inspect.signature(registry._obj_map[kind]).parameters
        filled = {
            name: parameter.default
            for name, parameter in parameters.items()
            if parameter.default is not parameter.empty
        } | filled
    return {key: value for key, value in _plain(filled).items() if key not in _BUILT_FROM}


def _require_alike(optimizer: Any, saved: Mapping[str, Any], built: list[dict[str, Any]]) -> None:
    """A state without options still tells another optimiser by its settings and the parameters it counts."""
    kind = type(optimizer).__name__
    for mine, theirs, given in zip(optimizer.param_groups, saved["param_groups"], built):
        if len(mine["params"]) != len(theirs["params"]):
            raise UserError(
                f"resume_state: its optimiser has {len(theirs['params'])} parameters, {kind} of the options "
                f"{len(mine['params'])}: {_ANOTHER}"
            )
        other, lacking = sorted({*theirs} - {*given, "params"}), {*given} - {*theirs}
        if other and lacking:  # one of both may be another version of torch
            raise UserError(f"resume_state: is of another optimiser than {kind} (it has {other[0]}): {_ANOTHER}")
    if len(optimizer.param_groups) != len(saved["param_groups"]):
        raise UserError(f"resume_state: its optimiser has other groups of parameters than {kind}: {_ANOTHER}")


def _is_network(key: Any) -> bool:
    return str(key).startswith("network_")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(member) for key, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(member) for member in value]
    if value is None or isinstance(value, (bool, int, str)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return str(value)


def _shown(value: Any) -> str:
    if value is None:
        return "not there"
    if isinstance(value, dict):
        return str(value.get("type", "there"))
    return str(value).lower() if isinstance(value, bool) else str(value)
