"""Logs whose file can't be written: said once, in one line, and the run goes on."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ifan_plugin.common.files import NO_ROOM, reason
from ifan_plugin.common.printable import printable


@contextmanager
def lasting_logs() -> Iterator[None]:
    """For the length of the block, a log on a full disk doesn't print a traceback for each of its lines.

    ``logging`` does, and goes on. Ours says once why the file can't be written, and goes on; what waits is written when
    there is room again. A thread that a full disk ends, TensorBoard's say, is a line, too.
    """
    before, told = logging.Handler.handleError, set()

    def tell_once(self: logging.Handler, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(self, logging.FileHandler) or not isinstance(error, OSError):
            before(self, record)
        elif self.baseFilename not in told:
            told.add(self.baseFilename)
            sys.stderr.write(printable(f"{self.baseFilename}: the log can't be written: {reason(error)}\n"))

    def tell_of_thread(arguments: threading.ExceptHookArgs) -> None:
        error = arguments.exc_value
        if not isinstance(error, OSError) or error.errno not in NO_ROOM:
            hook(arguments)
        else:
            name = arguments.thread.name if arguments.thread else "a thread"
            sys.stderr.write(printable(f"{error.filename or name}: can't be written: {reason(error)}\n"))

    hook = threading.excepthook
    logging.Handler.handleError = tell_once  # type: ignore[method-assign]
    threading.excepthook = tell_of_thread
    try:
        yield
    finally:
        logging.Handler.handleError = before  # type: ignore[method-assign]
        threading.excepthook = hook
