"""Optimisers by name: those of ``torch.optim``, and of the library ``pytorch_optimizer`` where it is installed."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import Optimizer

from ifan_plugin.common.errors import UserError
from ifan_plugin.options.schema import nearest

LIBRARY = "pytorch_optimizer"


def is_averaging(kind: type) -> bool:
    """Whether an optimiser trains other weights than it is to be measured with: a schedule-free one."""
    return callable(getattr(kind, "train", None)) and callable(getattr(kind, "eval", None))


@functools.cache
def of_torch() -> dict[str, type[Optimizer]]:
    """``torch.optim``'s by name."""
    members = vars(torch.optim).items()
    return {name: each for name, each in members if inspect.isclass(each) and issubclass(each, Optimizer)}


@functools.cache
def of_library() -> dict[str, type[Optimizer]]:
    """``pytorch_optimizer``'s by name, but those that torch has; empty where it isn't installed."""
    if importlib.util.find_spec(LIBRARY) is None:
        return {}
    members = vars(importlib.import_module(LIBRARY)).items()
    found = {name: each for name, each in members if inspect.isclass(each) and issubclass(each, Optimizer)}
    return {name: each for name, each in found.items() if name not in of_torch()}


def named(name: Any, where: str) -> type[Optimizer]:
    """An optimiser's class.

    Args:
        name: such as ``Adam`` or ``ScheduleFreeAdamW``.
        where: names the option in messages.

    Raises:
        UserError: there is none of this name.
    """
    if not isinstance(name, str):
        raise UserError(f"{where}: must be a name, not {name!r}")
    found = of_torch().get(name) or of_library().get(name)
    if found is not None:
        return found
    more = "" if of_library() else "; more of them with: pip install 'ifan_plugin[optimizers]'"
    raise UserError(f"{where}: unknown type '{name}'; {nearest(name, [*of_torch(), *of_library()])}{more}")


@contextmanager
def averaged(optimizer: Any, parameters: Sequence[Tensor]) -> Iterator[bool]:
    """Within the block parameters have the values to measure and to save; behind it those that are trained, bit by bit.

    (The optimiser's own way there and back rounds, and a run would depend on how often it is validated.)

    Args:
        optimizer: its ``eval`` and ``train`` are called; nothing happens with one that has none.
        parameters: all that it trains.

    Gives whether the values are others.
    """
    if not is_averaging(type(optimizer)):
        yield False
        return
    kept = [parameter.detach().clone() for parameter in parameters]
    cast(Any, optimizer).eval()
    try:
        yield True
    finally:
        cast(Any, optimizer).train()
        with torch.no_grad():
            for parameter, values in zip(parameters, kept):
                parameter.copy_(values)
