"""Metrics of the library ``pyiqa`` by name, where it is installed: ``pyiqa_musiq`` is its ``musiq``.

The library isn't among this package's requirements: its licence allows no commercial use, and most of its metrics fetch
their weights when they are first used.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ifan_plugin.common.errors import UserError
from ifan_plugin.metrics.full_reference import MetricUnavailableError, Picture, as_array
from ifan_plugin.options.schema import nearest

PREFIX = "pyiqa_"


def is_named(name: Any) -> bool:
    """Whether a metric's type asks for one of ``pyiqa``'s."""
    return isinstance(name, str) and name.startswith(PREFIX)


def _settings(name: str, where: str) -> dict[str, Any]:
    if importlib.util.find_spec("pyiqa") is None:
        raise UserError(f"{where}: '{name}' needs the library pyiqa, which isn't installed: pip install pyiqa")
    known = importlib.import_module("pyiqa.default_model_configs").DEFAULT_CONFIGS
    if name.removeprefix(PREFIX) not in known:
        raise UserError(f"{where}: unknown type '{name}'; {nearest(name, [PREFIX + each for each in known])}")
    found: dict[str, Any] = known[name.removeprefix(PREFIX)]
    return found


def better(name: str, where: str) -> str:
    """``higher`` or ``lower``. Raises :class:`UserError` as :func:`function` does."""
    return "lower" if _settings(name, where).get("lower_better", False) else "higher"


def compares(name: str, where: str) -> bool:
    """Whether it needs the sharp picture. Raises :class:`UserError` as :func:`function` does."""
    return _settings(name, where).get("metric_mode") == "FR"


def function(name: str, where: str) -> Callable[..., float]:
    """A metric as this package's own are: of one picture or two, RGB in [0, 1].

    Args:
        name: ``pyiqa_…``.
        where: names the option in messages.

    Raises:
        UserError: the library isn't installed, or has no such metric.
    """
    return _compared(name) if compares(name, where) else _alone(name)


@functools.cache
def _compared(name: str) -> Callable[..., float]:
    def measure(img: Picture, img2: Picture, crop_border: int = 0, **_: Any) -> float:
        return _value(name, img, img2, crop_border)

    return measure


@functools.cache
def _alone(name: str) -> Callable[..., float]:
    def measure(img: Picture, crop_border: int = 0, **_: Any) -> float:
        return _value(name, img, None, crop_border)

    return measure


def _value(name: str, img: Picture, img2: Picture | None, crop_border: int) -> float:
    device = str(img.device) if isinstance(img, Tensor) else "cpu"
    metric = _network(name.removeprefix(PREFIX), device)
    pictures = [_batch(each, crop_border, device) for each in (img, img2) if each is not None]
    with torch.no_grad():
        return float(metric(*pictures))


def _batch(picture: Picture, crop_border: int, device: str) -> Tensor:
    planes = torch.from_numpy(as_array(picture)).permute(2, 0, 1).float().clamp(0, 1)
    inner = slice(crop_border, -crop_border or None)
    return planes[None, :, inner, inner].to(device)


@functools.cache
def _network(name: str, device: str) -> Callable[..., Any]:
    try:
        network: Callable[..., Any] = importlib.import_module("pyiqa").create_metric(name, device=torch.device(device))
    except (ImportError, OSError, RuntimeError) as error:  # no network, or a part of the library that isn't there
        said = " ".join(str(error).split())[:200]
        raise MetricUnavailableError(f"{PREFIX}{name}: pyiqa can't make it: {said}") from None
    return network


def register(name: str, where: str) -> None:
    """Put a metric into BasicSR's registry, once. Raises :class:`UserError` as :func:`function` does."""
    from basicsr.utils.registry import METRIC_REGISTRY

    if name not in METRIC_REGISTRY:
        METRIC_REGISTRY._do_register(name, function(name, where))
