"""Text of others (names, keys, arguments) that is shown: a terminal must not take it for commands."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

# Control characters of both sets, what turns the order of letters or ends a line, and halves of characters, as which
# Python holds bytes of a name that aren't UTF-8.
_HARMFUL = "\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
_RAW = re.compile(f"[{_HARMFUL}]")
_ONE_LINE = re.compile(rf"\s*\n\s*|[\t{_HARMFUL}]")
_BAR = re.compile(r"(\r?)(.*?)(\r?)", re.DOTALL)
_MOVES = re.compile(r"(\n|\r|\x1b\[A)*")
"""What tqdm writes to go from one bar to another."""
_LEVEL = re.compile(r"((?:\x1b\[\d+m)+(?:DEBUG|INFO|WARNING|ERROR|CRITICAL)\x1b\[0m)")
"""A log's level in colours, as mmengine writes it to a terminal."""


def printable(text: str) -> str:
    r"""``text`` with control characters as they are written in Python, ``\x1b`` say; line breaks and tabs stay."""
    return _RAW.sub(_escaped, text)


def one_line(text: str) -> str:
    """As :func:`printable`, on one line: line breaks become blanks."""
    return _ONE_LINE.sub(_escaped, text.strip("\n"))


def _escaped(found: re.Match[str]) -> str:
    sign = found[0]
    if sign.isspace() and (sign == "\t" or "\n" in sign):
        return " "
    code = ord(sign)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a name that isn't UTF-8
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


class PrintableStream:
    """A text stream that escapes what is written to it, but for the moves of progress bars. Else it is the stream."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write ``text``; returns its length, as streams do."""
        if not _MOVES.fullmatch(text):
            bar = _BAR.fullmatch(text)
            assert bar is not None  # it takes any text
            parts = (part if _LEVEL.fullmatch(part) else printable(part) for part in _LEVEL.split(bar[2]))
            text = f"{bar[1]}{''.join(parts)}{bar[3]}"
        with self._named():
            return self._stream.write(text)

    def flush(self) -> None:
        """As streams do."""
        with self._named():
            self._stream.flush()

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Errors of the stream, of a full disk say, tell which one it was."""
        try:
            yield
        except OSError as error:
            error.filename = error.filename or getattr(self._stream, "name", None)
            raise

    def writelines(self, lines: Any) -> None:
        """Write each of ``lines``."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Record(logging.LogRecord):
    """A line of a log, to a file or a terminal."""

    def getMessage(self) -> str:  # noqa: N802 (logging's name)
        return printable(super().getMessage())


@contextmanager
def printable_output() -> Iterator[None]:
    """For the length of the block, all that is written to stdout, stderr and logs is :func:`printable`."""
    before = sys.stdout, sys.stderr, logging.getLogRecordFactory()
    sys.stdout, sys.stderr = (PrintableStream(stream) for stream in before[:2])
    logging.setLogRecordFactory(_Record)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before[:2]
        logging.setLogRecordFactory(before[2])
