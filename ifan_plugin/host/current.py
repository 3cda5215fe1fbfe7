"""What the mends of one training run of BasicSR have to tell one another."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from ifan_plugin.data.sampler import ResumableSampler
from ifan_plugin.host.resuming import Change


class Run:
    """The run that this process is in; one at a time."""

    in_loop: bool = False  # whether BasicSR's own loop drives the model; else somebody's own program does
    seed: int = 0
    rank: int = 0
    model_type: str = ""
    option_text: str = ""
    options: dict[str, Any] | None = None
    kept: dict[str, Any] = {}  # noqa: RUF012 (what of the options a training state keeps)
    changes: list[Change] = []  # noqa: RUF012
    locks = ExitStack()
    sampler: ResumableSampler | None = None
    resume_state: dict[str, Any] | None = None
    iteration: int = 0  # the one that is being trained, or was last
    images: int = 0  # of this process in the last iteration, where the model says so
    saved: int = 0  # iteration of the newest training state
    val_loaders: list[Any] = []  # noqa: RUF012
    tb_logger: Any = None
