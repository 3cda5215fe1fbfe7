"""Signals of a training: noted first, obeyed at the second, and left alone by workers."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys

import pytest
from helpers import python_path

from ifan_plugin.common import stopping


@pytest.fixture
def watched():
    plain = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in plain.items()}  # whoever runs the tests
    stopping.watch()
    yield
    stopping.forget()
    found = {number: signal.getsignal(number) for number in stopping.SIGNALS}
    for number, handler in before.items():
        signal.signal(number, handler)
    assert found == plain


@pytest.mark.parametrize(
    ("number", "name", "status"), [(signal.SIGINT, "Ctrl+C", 130), (signal.SIGTERM, "SIGTERM", 143)]
)
def test_the_first_is_noted_and_the_second_stops(watched, number, name, status, capfd, monkeypatch):
    stopping.raise_if_asked()
    signal.raise_signal(number)
    assert stopping.asked() == number
    assert capfd.readouterr().err == (
        f"\n{name}: stopping after this iteration, with a checkpoint; once more stops at once.\n"
    )
    signal.raise_signal(number)  # the same keystroke by way of a launcher
    with pytest.raises(stopping.AskedToStop, match=re.escape(name)):
        stopping.raise_if_asked()
    monkeypatch.setattr(stopping, "_TOGETHER", 0.0)
    with pytest.raises(
        stopping.Stopped, match=re.escape(f"stopped at once by {name}, without a checkpoint")
    ) as stopped:
        signal.raise_signal(number)
    assert stopped.value.status == status
    assert not isinstance(stopped.value, Exception)  # nothing takes it for a fault on its way


def test_a_handler_that_somebody_put_back_is_replaced_again(watched):
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    stopping.watch()
    signal.raise_signal(signal.SIGTERM)
    assert stopping.asked() == signal.SIGTERM


def test_sigterm_ends_a_block_as_ctrl_c_does():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), stopping.ended_by_sigterm():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_what_is_ignored_stays_so():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        stopping.watch()
        signal.raise_signal(signal.SIGINT)
        assert stopping.asked() is None
    finally:
        stopping.forget()
        assert signal.signal(signal.SIGINT, before) is signal.SIG_IGN


WORKER = """
import os, signal, sys
from ifan_plugin.common import stopping
stopping.shield_worker(lambda worker: print("worker", worker, flush=True), 7)
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
    os.kill(os.getpid(), number)
print("still here", flush=True)
os.kill(os.getpid(), signal.SIGTERM)
print("not any more", flush=True)
"""


def test_a_worker_outlives_the_first_signal_and_not_the_second():
    env = {**os.environ, "PYTHONPATH": python_path()}
    done = subprocess.run([sys.executable, "-c", WORKER], env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (-signal.SIGTERM, "worker 7\nstill here\n")
