"""Ctrl+C and SIGTERM while a network trains: the first asks for a checkpoint, another one stops at once."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_TOGETHER = 0.5  # seconds; a launcher and the terminal may both pass the same keystroke on


class Stopped(KeyboardInterrupt):
    """A training was ended from outside. No ``Exception``, so that nothing takes it for a fault on its way.

    Attributes:
        status: the exit status, 128 and the signal's number.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.status = 128 + number


class AskedToStop(Exception):  # noqa: N818
    """Ends a validation within a training, so that the training can be saved and stopped.

    Attributes:
        number: the signal's.
    """

    def __init__(self, number: int) -> None:
        super().__init__(name(number))
        self.number = number


class _Asked:
    """The signal that came first, and what stood in its place before."""

    number: int | None = None
    at: float = 0.0
    process: int = 0
    before: dict[int, Any] = {}  # noqa: RUF012


def watch() -> None:
    """From now on a first signal is only noted. Nothing where this isn't the main thread, or where it is done.

    A signal that was ignored, as in a shell's background jobs, stays so.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    if not _Asked.before:
        _Asked.number, _Asked.process = None, os.getpid()
    for number in SIGNALS:  # somebody may have put back a handler of his own meanwhile
        if signal.getsignal(number) not in (_note, signal.SIG_IGN):
            _Asked.before[number] = signal.signal(number, _note)


def forget() -> None:
    """Signals mean again what they meant before :func:`watch`."""
    for number, handler in _Asked.before.items():
        signal.signal(number, handler)
    _Asked.before, _Asked.number = {}, None


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl+C does, by KeyboardInterrupt, so that nothing half-written is left."""
    if threading.current_thread() is not threading.main_thread():  # Python lets no other take signals
        yield
        return

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)


def asked() -> int | None:
    """The signal by which somebody has asked to stop, or None."""
    return _Asked.number


def raise_if_asked() -> None:
    """Raise :class:`AskedToStop` where somebody has asked."""
    if _Asked.number is not None:
        raise AskedToStop(_Asked.number)


def name(number: int) -> str:
    """What a person calls a signal."""
    return "Ctrl+C" if number == signal.SIGINT else signal.Signals(number).name


def _note(number: int, frame: FrameType | None) -> None:
    if os.getpid() != _Asked.process:  # a forked worker that loads data: the main process ends it
        return
    now = time.monotonic()
    if _Asked.number is None:
        _Asked.number, _Asked.at = number, now
        _say(f"\n{name(number)}: stopping after this iteration, with a checkpoint; once more stops at once.\n")
    elif now - _Asked.at > _TOGETHER:
        raise Stopped(f"stopped at once by {name(number)}, without a checkpoint", number)


def _say(text: str) -> None:
    os.write(2, text.encode())  # sys.stderr may be in the middle of a line of its own


def shield_worker(before: Callable[[int], None] | None, worker: int) -> None:
    """A data loader's ``worker_init_fn``: workers outlive a first signal, which launchers send to them as well.

    Batches are read until the checkpoint is written; then the main process ends its workers.

    Args:
        before: the loader's own ``worker_init_fn``, or None.
        worker: the worker's number.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _once)
    if before is not None:
        before(worker)


def _once(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)
