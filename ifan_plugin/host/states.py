"""Training states of BasicSR: which one to resume from."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from ifan_plugin.common.errors import UserError
from ifan_plugin.common.files import remove_remains
from ifan_plugin.common.tensor_files import load_file


def choose(candidates: list[Path], opt: dict[str, Any]) -> tuple[Path | None, dict[str, Any] | None]:
    """The first of ``candidates`` that can be used, with a line that says so; remains of killed saves are removed."""
    for folder in (opt["path"]["models"], opt["path"]["training_states"]):
        remove_remains(folder)
    for path in candidates:
        reason, state = read(path, opt)
        if state is not None:
            sys.stderr.write(f"Resuming from {path} (iteration {state['iter']}).\n")
            return path, state
        if not opt["auto_resume"]:
            raise UserError(f"path: resume_state: {reason}")
        sys.stderr.write(f"auto_resume: passed over {path}: {reason}\n")
    if opt["auto_resume"]:
        folder = opt["path"]["training_states"]
        sys.stderr.write(f"auto_resume: no usable state in {folder}: starting from the beginning.\n")
    return None, None


def newest_first(folder: Path) -> list[Path]:
    """The states in ``folder``, by iteration."""
    states = [p for p in folder.glob("*.state") if p.stem.isdigit()] if folder.is_dir() else []
    return sorted(states, key=lambda p: int(p.stem), reverse=True)


def read(path: Path, opt: dict[str, Any]) -> tuple[str, dict[str, Any] | None]:
    """The training state at ``path``, or (why it can't be used, None)."""
    try:
        state = load_file(path)
    except UserError as error:
        return str(error), None
    if not isinstance(state, dict) or not {"epoch", "iter", "optimizers", "schedulers"} <= state.keys():
        return f"{path}: isn't a training state of BasicSR", None
    ignored = opt["path"].get("ignore_resume_networks") or []
    for key in opt:
        if key.startswith("network_") and key not in ignored:
            network = Path(opt["path"]["models"]) / f"net_{key.removeprefix('network_')}_{state['iter']}.pth"
            if not network.is_file():
                return f"its network is missing: {network}", None
    return "", state
