"""Which networks the page offers, loaded when they are chosen: those that were named, those that ship with the package,
those in ``weights/``, the quickstart's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ifan_plugin import zoo
from ifan_plugin.common.errors import UserError
from ifan_plugin.demo.work import Worker, iterations
from ifan_plugin.weights.networks import Network

FOLDER = Path("weights")
"""Where checkpoints are looked for, below the working directory."""

QUICKSTART = Path("experiments/IFAN_quickstart/models/net_g_latest.pth")
ENDINGS = (".pth", ".pt", ".pytorch", ".safetensors", ".ckpt")
_KEPT = 2  # networks in memory at once


@dataclass(frozen=True)
class Choice:
    """A network to choose: what the page calls it, and its checkpoint (None: a method without one)."""

    name: str
    path: Path | None


def find_choices(given: Sequence[Path], arch: str | None = None) -> list[Choice]:
    """The networks there are, those that were named first, each once.

    Args:
        given: checkpoints that were named; they needn't exist, so that loading them says what is wrong.
        arch: the architecture that was named; without a checkpoint it is a choice by itself.
    """
    paths = list(given)
    ships = {found.path: found.name for found in zoo.networks().values()} if arch is None else {}
    paths += sorted(ships, key=lambda path: ships[path] != zoo.DEFAULT)
    if arch is None:  # a named architecture says nothing of what lies around
        paths += sorted(path for path in FOLDER.glob("*") if path.suffix.lower() in ENDINGS and path.is_file())
        paths += [QUICKSTART] if QUICKSTART.is_file() else []
    elif not paths:
        return [Choice(arch, None)]
    unique = {path.resolve(): path for path in reversed(paths)}
    paths = [path for path in dict.fromkeys(paths) if unique[path.resolve()] == path]
    names = ["the quickstart's network" if path == QUICKSTART else ships.get(path, path.stem) for path in paths]
    return [
        Choice(name if names.count(name) == 1 else f"{name} ({path.suffix}, {path.parent.name or 'here'})", path)
        for name, path in zip(names, paths)
    ]


class Pool:
    """Loads the networks that visitors choose, and keeps the last ones.

    Args:
        choices: one at least.
        load: makes a choice's network. Raises UserError.
        work: makes the worker for a network. Raises UserError.
    """

    def __init__(
        self, choices: Sequence[Choice], load: Callable[[Choice], Network], work: Callable[[Network], Worker]
    ) -> None:
        self.choices, self._load, self._work = list(choices), load, work
        self._workers: dict[int, Worker] = {}

    @property
    def is_busy(self) -> bool:
        """Whether any of them is restoring a picture."""
        return any(worker.is_busy for worker in self._workers.values())

    def stop(self) -> None:
        """End what they are doing at the next tile."""
        for worker in self._workers.values():
            worker.stopping.set()

    def worker(self, index: int) -> Worker:
        """The worker of a choice. Raises UserError: a number that isn't one, or what can't be loaded."""
        if index not in range(len(self.choices)):
            raise UserError(f"there is no network {index}; valid: 0 to {len(self.choices) - 1}")
        if index not in self._workers:
            while len(self._workers) >= _KEPT:
                del self._workers[next(iter(self._workers))]
            self._workers[index] = self._work(self._load(self.choices[index]))
        self._workers[index] = self._workers.pop(index)  # the one that was used last goes last
        return self._workers[index]


def loaded_lines(network: Network, *, folder: bool = True) -> list[str]:
    """Which network and which weights these are.

    Args:
        network: what was loaded.
        folder: tell where the file lies; a page that others look at doesn't.
    """
    lines = [f"Network: {network.description} (on {network.place})"]
    if network.path is None:
        return [*lines, "Weights: none; this method has nothing that is learnt."]
    trained = iterations(network.path)
    known = f"trained for {trained:,} iterations" if trained else "how long they were trained isn't known"
    return [*lines, f"Weights: {network.path if folder else network.path.name} [{network.param_key}], {known}."]
