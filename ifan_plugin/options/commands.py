"""What the commands have in common: names, help, version, and how faults end them."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Collection, Iterable

from ifan_plugin import __version__
from ifan_plugin.common import machine, stopping
from ifan_plugin.common.errors import UserError
from ifan_plugin.common.logs import lasting_logs
from ifan_plugin.common.printable import printable, printable_output
from ifan_plugin.options.schema import nearest


def run(
    argv: list[str],
    program: str,
    names: Collection[str],
    usage: str,
    start: Callable[[str, list[str]], int],
    handlers: Callable[[], Iterable[logging.Handler]],
) -> int:
    """Run one command.

    Args:
        argv: the arguments, the command's name first.
        program: what all of them are called as; begins its messages.
        names: the commands that there are.
        usage: the help of the program as a whole.
        start: runs a command with its arguments and gives the exit status.
        handlers: gives those of a run's log, whose files should say why it ended.

    Returns:
        The exit status: 0 done, 1 nobody reads the output any more, 2 invalid input or a fault of the machine (one line
        on stderr), 130 interrupted, 143 ended by SIGTERM. Faults of the program are raised.
    """
    status = 2
    try:
        with printable_output(), lasting_logs():
            done = _started(argv, program, names, usage, start)
            sys.stdout.flush()
            return done
    except stopping.Stopped as stop:
        message, status = str(stop), stop.status
    except UserError as error:
        message = str(error)
    except (ImportError, MemoryError, OSError, RuntimeError) as error:
        if isinstance(error, BrokenPipeError):  # somebody closed our output (… | head)
            _drop_output()
            return 1
        what_to_do = machine.explain(error)
        if what_to_do is None:
            raise
        message = what_to_do
    except KeyboardInterrupt:
        sys.stderr.write(f"{program}: interrupted\n")
        return 130
    with lasting_logs():
        _say(printable(" ".join(message.split())), program, status, handlers())
    try:
        sys.stdout.flush()
    except OSError:  # onto a full disk: Python would trip over it again as it ends
        _drop_output()
    return status


def _drop_output() -> None:
    """What waits to be written, and what is still to come, goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _started(
    argv: list[str], program: str, names: Collection[str], usage: str, start: Callable[[str, list[str]], int]
) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        (sys.stdout if argv else sys.stderr).write(usage)
        return 0 if argv else 2
    if argv[0] in ("-V", "--version"):
        sys.stdout.write(f"ifan_plugin {__version__}\n")
        return 0
    if argv[0] not in names:
        raise UserError(f"unknown command '{argv[0]}'; {nearest(argv[0], names)}")
    return start(argv[0], argv[1:])


def _say(message: str, program: str, status: int, handlers: Iterable[logging.Handler]) -> None:
    """The line that ends a command, on stderr and in the log's files; none where another rank says the same."""
    if not message:
        return
    sys.stderr.write(f"{'' if message.startswith(program) else f'{program}: '}{message}\n")
    level = logging.ERROR if status == 2 else logging.WARNING
    for handler in handlers:
        if isinstance(handler, logging.FileHandler):
            name = logging.getLevelName(level)
            handler.emit(logging.makeLogRecord({"levelname": name, "levelno": level, "msg": message}))
