"""TensorBoard's curves, of which a full disk takes some and not the training."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ifan_plugin.common.files import reason

logger = logging.getLogger("basicsr")


class Curves:
    """A ``SummaryWriter`` that is dropped, with one line in the log, where its file can't be written any more.

    The training goes on: its checkpoints are what matters, and a full disk ends it when one of them doesn't fit.

    Args:
        make: makes the writer.
        folder: where it writes, for the message.
    """

    def __init__(self, make: Callable[[], Any], folder: Path) -> None:
        self._writer: Any = None
        self._folder = folder
        self._try(lambda: setattr(self, "_writer", make()))

    def _try(self, action: Callable[[], Any]) -> None:
        try:
            action()
        except OSError as error:
            self._writer = None
            logger.warning(f"{self._folder}: curves can't be written any more: {reason(error)}; training goes on")

    def add_scalar(self, *arguments: Any, **more: Any) -> None:
        """As ``SummaryWriter``'s."""
        if self._writer is not None:
            self._try(lambda: self._writer.add_scalar(*arguments, **more))

    def add_image(self, *arguments: Any, **more: Any) -> None:
        """As ``SummaryWriter``'s."""
        if self._writer is not None:
            self._try(lambda: self._writer.add_image(*arguments, **more))

    def close(self) -> None:
        """As ``SummaryWriter``'s."""
        if self._writer is not None:
            self._try(self._writer.close)
