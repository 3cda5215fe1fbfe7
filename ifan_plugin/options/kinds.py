"""Which command an option file or config is for, told from its keys: a file given to another one says so."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ifan_plugin.common.errors import UserError

BASICSR, BENCHMARK, MMENGINE = "an option file of BasicSR", "a benchmark's option file", "a config of mmengine"

_MMENGINE_KEYS = ("train_dataloader", "test_dataloader", "val_dataloader", "optim_wrapper", "train_cfg", "test_cfg")


def kind_of(options: Mapping[str, Any]) -> str | None:
    """One of :data:`BASICSR`, :data:`BENCHMARK` and :data:`MMENGINE`; None where the keys don't tell."""
    if "model_type" in options or "network_g" in options:
        return BASICSR
    if any(key in options for key in _MMENGINE_KEYS):
        return MMENGINE
    return BENCHMARK if "models" in options else None


def require_kind(options: Mapping[str, Any], path: str | Path, wanted: str) -> None:
    """Refuse a file of another kind.

    Args:
        options: the file's.
        path: of the file, for the message.
        wanted: :data:`BASICSR`, :data:`BENCHMARK` or :data:`MMENGINE`.

    Raises:
        UserError: it is of another kind; the message gives the command that it is for.
    """
    found = kind_of(options)
    if found in (None, wanted):
        return
    phase = "train" if "train" in options or "train_cfg" in options or "train_dataloader" in options else "test"
    command = {
        BASICSR: f"basicsr {phase} -opt {path}",
        BENCHMARK: f"basicsr benchmark -opt {path}",
        MMENGINE: f"basicsr mm {phase} {path}{'' if phase == 'train' else ' CHECKPOINT'}",
    }[found]
    raise UserError(f"{path}: is {found}, and {wanted} is needed here; it is for: {command}")


def refuse_python(path: str | Path) -> None:
    """A ``.py`` file where options are read as YAML, which never runs code. Raises :class:`UserError`."""
    if Path(path).suffix == ".py":
        raise UserError(
            f"{path}: is a Python file, as mmengine's configs are, and a YAML option file is needed here; a config of "
            f"mmengine is for: basicsr mm train {path}"
        )
