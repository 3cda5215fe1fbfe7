"""mmengine's tests; its loggers are the process's, and write to what pytest had caught the output with."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _loggers_of_its_own() -> Iterator[None]:
    """Each test makes its loggers anew: those of an earlier one hold streams that are closed by now."""
    yield
    logging = sys.modules.get("mmengine.logging")
    if logging is None:
        return
    for logger in logging.MMLogger._instance_dict.values():
        for handler in list(logger.handlers):
            handler.close()
            logger.removeHandler(handler)
    logging.MMLogger._instance_dict.clear()
