"""A resumed run's config against the one it began with, which mmengine keeps as text in every checkpoint.

mmengine gives optimiser and schedules their old state and numbers back, whatever the config says now. Here such changes
are refused, and so are other networks and losses; data, logging, validation, hooks and more iterations may change.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.registry import MODELS

from ifan_plugin.common.errors import UserError
from ifan_plugin.common.tensor_files import load_file

_FREE = ("pretrained", "strict_load", "init_cfg", "train_cfg", "test_cfg", "data_preprocessor")  # of a model


def require_same_training(path: Path, config: Mapping[str, Any]) -> None:
    """Raise :class:`UserError`, naming the first, where model, optimiser or schedule aren't what they were.

    Args:
        path: the checkpoint that is resumed. One without a config, or with one that can't be read, is taken as it is.
        config: as the run would have it now.
    """
    text = (load_file(path).get("meta") or {}).get("cfg")
    before = parsed(text) if isinstance(text, str) else None
    if not before:
        return
    now = _plain({key: config[key] for key in ("model", "optim_wrapper", "param_scheduler") if key in config})
    for place, was, is_now in _changes(before, now):
        raise UserError(
            f"{path}: can't go on with {place}: it is {_shown(is_now)} now, and was {_shown(was)}; set it back, or "
            "begin a new run (another --work-dir) from these weights with --cfg-options load_from=FILE, without "
            "--resume"
        )


def parsed(text: str) -> dict[str, Any] | None:
    """A config's own text (literals and ``dict(…)`` under names) as data, without running it; None: it isn't that."""
    try:
        tree = ast.parse(text)
        return {
            target.id: _value(node.value)
            for node in tree.body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
    except (SyntaxError, ValueError, RecursionError):
        return None


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict" and not node.args:
        return {str(each.arg): _value(each.value) for each in node.keywords}
    if isinstance(node, ast.Dict):
        return {str(_value(key)): _value(value) for key, value in zip(node.keys, node.values) if key is not None}
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_value(each) for each in node.elts]
    return ast.literal_eval(node)


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    models = [
        _effective({k: v for k, v in (each.get("model") or {}).items() if k not in _FREE}) for each in (before, now)
    ]
    yield from _differing(models[0], models[1], "model")
    optimizers = [(each.get("optim_wrapper") or {}).get("optimizer") for each in (before, now)]
    yield from _differing(optimizers[0], optimizers[1], "optim_wrapper: optimizer")
    schedules = [each.get("param_scheduler") for each in (before, now)]
    schedules = [[each] if isinstance(each, dict) and "type" in each else each for each in schedules]
    yield from _differing(schedules[0], schedules[1], "param_scheduler")


def _differing(before: Any, now: Any, place: str) -> Iterator[tuple[str, Any, Any]]:
    """Where two values differ, key by key; the kind (``type``) first."""
    if isinstance(before, dict) and isinstance(now, dict):
        if before.get("type") != now.get("type"):
            yield f"{place}: type", before.get("type"), now.get("type")
            return
        for key in sorted({*before, *now}):
            yield from _differing(before.get(key), now.get(key), f"{place}: {key}")
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for number, pair in enumerate(zip(before, now)):
            deeper = any(isinstance(each, (dict, list)) for each in pair)
            if not deeper and pair[0] != pair[1]:
                yield place, before, now
                return
            yield from _differing(pair[0], pair[1], f"{place}: {number}" if deeper else place)
    elif before != now:
        yield place, before, now


def _effective(options: Any) -> Any:
    """With the defaults of the classes they name filled in."""
    if not isinstance(options, dict):
        return options
    found = MODELS.get(options["type"]) if isinstance(options.get("type"), str) else None
    parameters = inspect.signature(found).parameters.values() if found is not None else ()
    filled = {each.name: each.default for each in parameters if each.default is not each.empty} | options
    return {key: _effective(_plain(value)) for key, value in filled.items() if key not in _FREE}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(member) for key, member in value.items()}
    return [_plain(member) for member in value] if isinstance(value, (list, tuple)) else value


def _shown(value: Any) -> str:
    if value is None:
        return "not there"
    return str(value.get("type", value)) if isinstance(value, dict) else str(value)
