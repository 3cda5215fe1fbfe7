"""Checkpoints of mmengine's Runner, without mmengine: what may be in them, and their parameters in our form.

A Runner saves ``{"state_dict": {"generator.…": tensor}, "meta", "message_hub", "optimizer", …}``. With an averaged copy
of the weights ``state_dict`` holds the averaged ones, and ``ema_state_dict`` the last ones (as ``module.generator.…``).
IFAN's hyper-parameters travel in the state dict's ``_metadata``.
"""

from __future__ import annotations

import sys
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ifan_plugin.errors import UserError

GENERATOR, REBLUR = "generator", "reblur"
"""The networks' names in a Runner's model; their parameters' names begin so, with a dot."""

_NUMBERS = ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "b1")


class History:
    """Stands for mmengine's ``HistoryBuffer`` while a file is read: its attributes, and none of its methods."""


class _Kind:
    """Stands for ``numpy.dtype``: a type of numbers in this machine's byte order. Others could hold objects."""

    def __init__(self, code: Any, *_: Any) -> None:
        if code not in _NUMBERS:
            raise ValueError(f"not a type of numbers: {code!r}")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        if state[1] not in ("|", "<" if sys.byteorder == "little" else ">"):
            raise ValueError(f"another machine's byte order: {state[1]!r}")


class _Array(np.ndarray):
    """Stands for ``numpy.ndarray``: what is there is as many numbers as its shape says."""

    def __new__(cls, *_: Any) -> _Array:
        return super().__new__(cls, (0,), np.float64)

    def __setstate__(self, state: tuple) -> None:
        _, shape, kind, fortran, raw = state
        # NumPy's own takes flags and pointers from the file's word; this takes numbers.
        values = np.frombuffer(bytes(raw), kind.dtype).reshape(shape, order="F" if fortran else "C")
        super().__setstate__(values.__reduce__()[2])


class _Type:
    """What a file names to say "an array of that class"; it is always :class:`_Array`."""


def _array(*_: Any) -> _Array:
    return _Array()


def _scalar(kind: _Kind, raw: bytes) -> np.generic:
    return np.frombuffer(bytes(raw), kind.dtype, count=1)[0]


def _no_bytes() -> bytes:
    """``bytes()``, as which the content of an empty array is written."""
    return b""


def _no_method(*_: Any) -> None:
    """``getattr``, by which a history names its own statistics, which are mmengine's to know."""


def safe_globals() -> list[tuple[Callable, str]]:
    """What a Runner's file may name beside tensors, as ``torch.serialization.safe_globals`` takes it.

    They are stand-ins, and none of them runs code of the file's choosing: NumPy's own would rebuild any array, one of
    pointers to objects as well.
    """
    found: list[tuple[Callable, str]] = [
        (Counter, "collections.Counter"),
        (History, "mmengine.logging.history_buffer.HistoryBuffer"),
        (_no_method, "builtins.getattr"),
        (_no_bytes, "builtins.bytes"),
        (_Type, "numpy.ndarray"),
        (_Kind, "numpy.dtype"),
        (_Array, f"{__name__}._Array"),
    ]
    for module in ("numpy._core.multiarray", "numpy.core.multiarray"):  # NumPy 2 and 1
        found += [(_array, f"{module}._reconstruct"), (_scalar, f"{module}.scalar")]
    return found


def is_runner_file(content: Mapping[str, Any]) -> bool:
    """Whether a checkpoint's content is of mmengine's form, with a generator."""
    state = content.get("state_dict")
    return isinstance(state, Mapping) and any(str(key).startswith(f"{GENERATOR}.") for key in state)


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


def history_values(history: History, name: str, path: str | Path) -> tuple[list, list, int]:
    """A history's values, their counts and the most it may hold; :class:`UserError`, naming ``path``, if it is none."""
    values, counts = getattr(history, "_log_history", None), getattr(history, "_count_history", None)
    longest = getattr(history, "max_length", None)
    are_numbers = all(isinstance(each, np.ndarray) and each.ndim == 1 for each in (values, counts))
    if not are_numbers or len(values) != len(counts) or type(longest) is not int:
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


def from_ours(networks: Mapping[str, Mapping[str, Any]], averaged: bool = False) -> dict[str, Any]:
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
    state._metadata = OrderedDict({"": {"version": 1, "hyper_parameters": said}})
    content = {"meta": {}, "state_dict": state}
    if averaged and any("params_ema" in network for network in networks.values()):
        content["ema_state_dict"] = last
    return content


def _below(state: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
