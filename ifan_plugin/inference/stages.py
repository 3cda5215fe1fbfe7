"""How far a network is within one run: its layers report when they are done, or the clock tells."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

_EVERY = 0.1  # seconds between reports


@contextmanager
def reported(network: nn.Module, report: Callable[[float], None]) -> Iterator[None]:
    """Report each run's progress while the block lasts.

    A layer's share is what it took of the last run; in the first run all count the same. Runs over smaller pictures
    than one before, as measurements are, keep silent.

    What is a single layer, as an exported program is (:mod:`ifan_plugin.export.runtimes`), reports from another thread
    how much time has passed of what the run before lets expect for so many pixels.

    Args:
        network: any; one without layers reports nothing.
        report: called with a share in (0, 1], at most ten times a second.
    """
    if isinstance(network, torch.jit.ScriptModule):  # it takes no such hooks
        yield
        return
    layers = list(_steps(network))
    run = _Run(len(layers), report)
    hooks = [layer.register_forward_hook(run.layer_done) for layer in layers]
    hooks += [network.register_forward_pre_hook(run.begins), network.register_forward_hook(run.ends)]
    try:
        yield
    finally:
        run.stops()
        for hook in hooks:
            hook.remove()


def _steps(module: nn.Module) -> Iterator[nn.Module]:
    """Its layers; of what may be computed in one go (an attribute ``one_step``), the whole. A hook on what is within
    would keep it from that."""
    if getattr(module, "one_step", False) or not any(module.children()):
        yield module
    else:
        for child in module.children():
            yield from _steps(child)


class _Run:
    """One run after the other."""

    def __init__(self, layers: int, report: Callable[[float], None]) -> None:
        self.layers, self.report = max(layers, 1), report
        self.shares: list[float] = []  # of the last run's time, when each layer was done
        self.marks: list[float] = []
        self.start = self.last = 0.0
        self.largest = self.size = 0
        self.rate = 0.0  # seconds a value of the input took in the last run
        self.clock: tuple[threading.Thread, threading.Event] | None = None  # and what ends it

    def begins(self, network: nn.Module, inputs: tuple) -> None:
        self.start, self.marks = time.perf_counter(), []
        self.size = inputs[0].numel() if inputs else 0
        self.largest = max(self.largest, self.size)
        self.stops()
        if self.layers == 1 and self.rate and self.size == self.largest:
            over = threading.Event()
            self.clock = threading.Thread(target=self._ticks, args=(over, self.rate * self.size), daemon=True), over
            self.clock[0].start()

    def _ticks(self, over: threading.Event, expected: float) -> None:
        while not over.wait(_EVERY):
            self.report(min((time.perf_counter() - self.start) / expected, 0.99))

    def stops(self) -> None:
        """End the clock, if one ticks; it reports nothing from then on."""
        if self.clock is not None:
            thread, over = self.clock
            over.set()
            thread.join()
            self.clock = None

    def layer_done(self, layer: nn.Module, inputs: tuple, output: object) -> None:
        if self.layers == 1:
            self.stops()
        now = time.perf_counter()
        self.marks.append(now - self.start)
        done = len(self.marks)
        if self.size < self.largest or now - self.last < _EVERY:
            return
        self.last = now
        share = self.shares[done - 1] if done <= len(self.shares) else done / self.layers
        self.report(min(share, 1.0))

    def ends(self, network: nn.Module, inputs: tuple, output: object) -> None:
        self.stops()
        total = time.perf_counter() - self.start
        self.rate = total / max(self.size, 1)
        if self.marks and total > 0:
            self.shares = [mark / total for mark in self.marks]
