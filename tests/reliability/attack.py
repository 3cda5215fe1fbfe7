"""Many invalid inputs, one after another, in this process: each must end in a result or in one plain line.

A case is a function without arguments. What it may do: return what was said (text, checked for control characters), or
raise :class:`UserError`. What else it raises, or that it takes too long, is a fault. The cases follow from a seed, so a
fault can be had again: its number is in the message.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ifan_plugin import cli
from ifan_plugin.common.errors import UserError

RAW = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""What a terminal may take for a command, or what turns the order of letters."""

NASTY_NAMES = [
    "\x1b[2J\x1b[31mred",
    "a\x07b",
    "\u202egnp.x",
    "x\x00y",
    "a\rb",
    "\x9b31m",
    "\udcff",
    "😀",
    "-",
    "--",
    "a\nb",
]


class TooSlow(BaseException):
    """A case that doesn't end in time."""


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise :class:`TooSlow` in the main thread after so long on the processor, or thirty times that long in all, on a busy machine."""

    def ring(*_: object) -> None:
        raise TooSlow

    timers = {signal.SIGPROF: (signal.ITIMER_PROF, seconds), signal.SIGALRM: (signal.ITIMER_REAL, 30 * seconds)}
    before = {number: signal.signal(number, ring) for number in timers}
    for timer, after in timers.values():
        signal.setitimer(timer, after)
    try:
        yield
    finally:
        for number, (timer, _) in timers.items():
            signal.setitimer(timer, 0)
            signal.signal(number, before[number])


def fault_of(case: Callable[[], Any], limit: float) -> str | None:
    """What is wrong with how a case ends, in a few lines; None where nothing is."""
    try:
        with time_limit(limit):
            said = case()
    except UserError as error:
        said = str(error)
        if "\n" in said:
            return f"more than one line: {said!r}"
    except TooSlow as error:
        return f"took more than {limit:g} s, in {_where(error)}"
    except Exception as error:  # noqa: BLE001 (whatever it is, it is what is looked for)
        return f"{type(error).__name__}: {str(error)[:200]!r} in {_where(error)}"
    raw = RAW.search(said or "")
    return f"a raw {raw[0]!r} in {said[:200]!r}" if raw else None


def _where(error: BaseException) -> str:
    """The last lines of ours on the way to an error."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f"{Path(f.filename).name}:{f.lineno}" for f in frames if "ifan_plugin" in f.filename]
    return " < ".join(ours[::-1][:4]) or str(frames[-1])


def attack(
    make: Callable[[random.Random], Callable[[], Any]], cases: int, seconds: float, limit: float = 10
) -> list[str]:
    """Run cases until there were so many or time is up; returns the faults, the number of each case first.

    Args:
        make: draws a case.
        cases: how many; at least a tenth of them must be done in time.
        seconds: the whole attack's time, on the processor: other jobs of the machine don't count.
        limit: each case's.
    """
    first, _, more = os.environ.get("IFAN_TEST_CASES", f"0:{cases}").partition(":")  # to have one fault again, say
    cases = int(more or 1)
    faults, started, done = [], time.process_time(), 0
    for number in range(int(first), int(first) + cases):
        if time.process_time() - started > seconds:
            break
        fault = fault_of(make(random.Random(number)), limit)
        done += 1
        if fault is not None:
            faults.append(f"case {number}: {fault}")
    sys.stderr.write(f"{done} cases in {time.process_time() - started:.0f} s, {len(faults)} faults\n")
    if 10 * done < cases:
        faults.append(f"{done} of {cases} cases in {seconds:g} s: too slow to say anything")
    return faults


def command(*arguments: str) -> Callable[[], str]:
    """A case: `basicsr` with arguments, in this process. Its streams are read back; a bad status is an error."""

    def run() -> str:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                status = cli.main(list(arguments))
            except SystemExit as ended:  # --help
                status = ended.code
        said = out.getvalue() + err.getvalue()
        assert status in (0, 1, 2), f"status {status}: {said}"
        assert status != 2 or err.getvalue().strip(), "status 2 without a word"
        assert "Traceback" not in said, said
        return said.replace("\r", "", said.count("\r") if sys.stderr.isatty() else 0)

    return run
