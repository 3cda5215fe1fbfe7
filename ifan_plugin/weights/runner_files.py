"""Checkpoints of mmengine's Runner, without mmengine: what may be in them, and their parameters in our form.

A Runner saves ``{"state_dict": {"generator.…": tensor}, "meta", "message_hub", "optimizer", …}``. With an averaged copy
of the weights ``state_dict`` holds the averaged ones, and ``ema_state_dict`` the last ones (as ``module.generator.…``).
IFAN's hyper-parameters travel in the state dict's ``_metadata``.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ifan_plugin.common import foreign
from ifan_plugin.common.errors import UserError
from ifan_plugin.common.tensor_files import History

GENERATOR, REBLUR = "generator", "reblur"
"""The networks' names in a Runner's model; their parameters' names begin so, with a dot."""


def is_runner_file(content: Mapping[str, Any]) -> bool:
    """Whether a checkpoint's content is of mmengine's form, with a generator."""
    return foreign.is_runner_file(content)


def as_ours(content: Mapping[str, Any], network: str, path: str | Path) -> dict[str, Any]:
    """One network of a Runner's file in our kind of file's form.

    Args:
        content: of the file, see :func:`is_runner_file`.
        network: ``generator`` or ``reblur``.
        path: named in messages.

    Returns:
        ``{"params": …}``, ``"params_ema"`` where the file has averaged weights, and ``"hyper_parameters"`` where it
        says them.

    Raises:
        UserError: it has no such network, or something else than tensors in it.
    """
    require_tensors(content, path)
    state, averaged = content["state_dict"], content.get("ema_state_dict")
    params = _below(state, f"{network}.")
    if not params:
        raise UserError(f"{path}: has no {'reblurring network' if network == REBLUR else network}")
    ours: dict[str, Any] = {"params": params}
    if isinstance(averaged, Mapping):
        last = _below(averaged, f"module.{network}.")
        if last.keys() != params.keys():
            raise UserError(f"{path}: ema_state_dict: has other parameters than state_dict")
        ours = {"params": last, "params_ema": params}
    said = hyper_parameters(content, path).get(network)
    return ours if said is None else ours | {"hyper_parameters": said}


def require_tensors(content: Mapping[str, Any], path: str | Path) -> None:
    """Raise :class:`UserError`, naming ``path``, where a Runner's file holds something else than named tensors."""
    for key in ("state_dict", "ema_state_dict"):
        state = content.get(key)
        for name, value in state.items() if isinstance(state, Mapping) else ():
            if not isinstance(name, str):
                raise UserError(f"{path}: {key}: must have names as keys, not {name!r:.80}")
            if not isinstance(value, Tensor) and not name.endswith("_extra_state"):
                raise UserError(f"{path}: {key}: '{name}': must be a tensor, not {type(value).__name__}")


def history_values(history: History, name: str, path: str | Path) -> tuple[list[Any], list[Any], int]:
    """A history's values, their counts and the most it may hold; :class:`UserError`, naming ``path``, if it is none."""
    values, counts = getattr(history, "_log_history", None), getattr(history, "_count_history", None)
    longest = getattr(history, "max_length", None)
    if not (
        isinstance(values, np.ndarray)
        and isinstance(counts, np.ndarray)
        and isinstance(longest, int)
        and values.ndim == counts.ndim == 1
        and len(values) == len(counts)
    ):
        raise UserError(f"{path}: message_hub: log_scalars: '{name}': not a history of mmengine's")
    return list(values), list(counts), longest


def hyper_parameters(content: Mapping[str, Any], path: str | Path = "checkpoint") -> dict[str, dict[str, Any]]:
    """``generator`` and ``reblur`` -> hyper-parameters, as far as a Runner's file says them.

    Raises:
        UserError: they aren't mappings; ``path`` is named.
    """
    metadata = getattr(content["state_dict"], "_metadata", None)
    root = metadata.get("") if isinstance(metadata, Mapping) else None
    said = root.get("hyper_parameters") if isinstance(root, Mapping) else None
    if said is None:
        return {}
    if not isinstance(said, Mapping) or any(not isinstance(value, Mapping) for value in said.values()):
        raise UserError(f"{path}: state_dict: hyper_parameters: must be a mapping of mappings, not {said!r:.80}")
    return {key: dict(value) for key, value in said.items()}


def from_ours(networks: Mapping[str, Mapping[str, Any]], *, averaged: bool = False) -> dict[str, Any]:
    """The inverse of :func:`as_ours`: what a Runner loads.

    Args:
        networks: ``generator`` and, if there is one, ``reblur`` -> ``{"params": …}`` with or without ``params_ema`` and
            ``hyper_parameters``.
        averaged: take the averaged weights where there are some, and keep the last ones beside, as mmengine does.

    Returns:
        ``{"state_dict": …, "meta": {}}``, and ``ema_state_dict``.
    """
    state: OrderedDict[str, Tensor] = OrderedDict()
    last: OrderedDict[str, Tensor] = OrderedDict()
    for name, network in networks.items():
        with_average = averaged and "params_ema" in network
        chosen = network["params_ema" if with_average else "params"]
        state |= {f"{name}.{key}": value for key, value in chosen.items()}
        if averaged:
            last |= {f"module.{name}.{key}": value for key, value in network["params"].items()}
    said = {name: network["hyper_parameters"] for name, network in networks.items() if "hyper_parameters" in network}
    vars(state)["_metadata"] = OrderedDict({"": {"version": 1, "hyper_parameters": said}})
    content = {"meta": {}, "state_dict": state}
    if averaged and any("params_ema" in network for network in networks.values()):
        content["ema_state_dict"] = last
    return content


def _below(state: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
