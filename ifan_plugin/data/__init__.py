"""Data sets of dual-pixel pictures. Their modules are imported when a class is asked for: LMDB does without torch."""

import importlib
from typing import Any

_MODULES = {"DualPixelDataset": "dual_pixel_dataset", "SimulatedDualPixelDataset": "simulated_dataset"}

__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
