"""What libraries of C say on their own account, straight to the process's stderr: caught, since it names no file."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from typing import IO

_LIBRARIES = re.compile(
    rb"^(libpng (?:error|warning): |Corrupt JPEG data: |Premature end of JPEG|Invalid SOS |Unsupported marker type |"
    rb"Warning: |Inconsistent progression|\[ ?(?:WARN|ERROR|INFO):\d+@|lib\w+ (?:error|warning)|"
    rb"tempfile\.tif: |_?TIFF\w*: |OJPEG\w*: |JPEGLib: |"  # these and the next are libtiff's
    rb"\w*(?:Decode|Setup|Fax\d|LogLuv|LogL\d\d|PixarLog)\w*: )"
)
_STDERR = 2


class _Caught:
    """Which threads are in a block now, and where stderr leads meanwhile."""

    lock = threading.Lock()
    blocks = 0
    together = 0  # counts the blocks that were ever begun beside another
    before = -1
    file: IO[bytes] | None = None


@contextlib.contextmanager
def remarks() -> Iterator[list[str]]:
    """A list that at the block's end holds what such libraries have said in it; it reaches nobody else.

    Other text, of Python or another thread, is passed on then. Blocks of several threads may overlap: what is said
    meanwhile can't be told apart, and is in nobody's list.
    """
    said: list[str] = []
    with _Caught.lock:
        if _Caught.blocks == 0:
            _begin()
        else:
            _Caught.together += 1
        _Caught.blocks += 1
        together = _Caught.together
    try:
        yield said
    finally:
        with _Caught.lock:
            _Caught.blocks -= 1
            alone = together == _Caught.together and _Caught.blocks == 0
            found = _end() if _Caught.blocks == 0 else []
        said += found if alone else []


def _begin() -> None:
    try:
        _Caught.before = os.dup(_STDERR)
    except OSError:  # a process without stderr
        return
    if hasattr(os, "memfd_create"):  # Linux: in memory, so that no disk can be full
        _Caught.file = open(os.memfd_create("remarks"), "w+b")  # noqa: SIM115 (closed in _end)
    else:
        _Caught.file = tempfile.TemporaryFile()  # noqa: SIM115
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stderr.flush()
    os.dup2(_Caught.file.fileno(), _STDERR)


def _end() -> list[str]:
    file, _Caught.file = _Caught.file, None
    if file is None:
        return []
    os.dup2(_Caught.before, _STDERR)
    os.close(_Caught.before)
    with file:
        file.seek(0)
        lines = file.read().splitlines(keepends=True)
    theirs = [line for line in lines if _LIBRARIES.match(line)]
    others = b"".join(line for line in lines if not _LIBRARIES.match(line))
    if others:
        with contextlib.suppress(OSError):
            os.write(_STDERR, others)
    return [" ".join(line.decode(errors="replace").split()) for line in theirs]


def _after_fork() -> None:
    """In a process that was forked from within a block: what it says must not end in its parent's file."""
    if _Caught.file is not None:
        os.dup2(_Caught.before, _STDERR)
    _Caught.lock, _Caught.blocks, _Caught.file = threading.Lock(), 0, None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@contextlib.contextmanager
def quiet_logger(name: str) -> Iterator[None]:
    """No line of this thread on a logger of another package, for the length of the block."""
    logger, thread = logging.getLogger(name), threading.get_ident()

    def others(record: logging.LogRecord) -> bool:
        return record.thread != thread

    logger.addFilter(others)
    try:
        yield
    finally:
        logger.removeFilter(others)
