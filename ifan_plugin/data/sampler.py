"""The order of training samples: a function of (seed, epoch) alone, and one that can start in mid-epoch."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Sized
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler, get_worker_info

from ifan_plugin.data.progressive import Stages

if TYPE_CHECKING:
    from typing_extensions import Self


class EpochIndex(int):
    """A data set index that also knows its epoch and its place in it.

    It is an ``int``, so any data set takes it; one that draws its augmentation from ``(seed, epoch, position)``
    gives the same samples whatever the number of workers or ranks, and after a resume.

    Attributes:
        epoch: number of the epoch, from 0.
        position: unique within the epoch, also where an enlarged epoch shows a picture more than once.
        patch_size: the side of its patch in pixels, where training is progressive; None: the data set's own.
    """

    epoch: int
    position: int
    patch_size: int | None

    def __new__(cls, index: int, epoch: int = 0, position: int | None = None, patch_size: int | None = None) -> Self:
        self = super().__new__(cls, index)
        self.epoch = epoch
        self.position = int(index) if position is None else position
        self.patch_size = patch_size
        return self

    def __getnewargs__(self) -> tuple[Any, ...]:
        return int(self), self.epoch, self.position, self.patch_size


class ResumableSampler(Sampler):
    """Shuffles as the host's ``EnlargedSampler`` does, but the global order doesn't depend on the number of ranks,
    every epoch is filled up to whole batches, and a resumed epoch starts behind what it had consumed.

    Rank r of R takes every R-th sample, so that R ranks with batches of b see in each step what one process with
    batches of R*b sees.

    Args:
        dataset: only its length is used.
        num_replicas: number of ranks, R.
        rank: this process's rank.
        ratio: the data set counts ``ratio`` times in one epoch (``dataset_enlarge_ratio``).
        seed: of the shuffling.
    """

    def __init__(self, dataset: Sized, num_replicas: int, rank: int, ratio: float = 1, seed: int = 0) -> None:
        if len(dataset) < 1 or ratio <= 0:
            raise ValueError(f"no samples: data set of {len(dataset)}, ratio {ratio}")
        self.dataset_size = len(dataset)
        self.slots = max(1, math.ceil(self.dataset_size * ratio))
        self.num_replicas, self.rank, self.seed = num_replicas, rank, seed
        self.epoch: int | None = None  # the loop hasn't begun; prefetchers iterate once before it does
        self.set_batch_size(1, 1)
        self._resume: tuple[int, int] | None = None
        self._skipped = 0
        self.stages: Stages | None = None
        self.last_iteration = 0

    def set_batch_size(self, batch_size: int, batch_size_per_gpu: int) -> None:
        """Tell the batch this rank's loader makes, and the one the host counts an epoch's iterations with."""
        self.batch_size = batch_size
        # The host's own formula: its loop would end early if an epoch had fewer iterations than it believes.
        self.iters_per_epoch = math.ceil(self.slots / (batch_size_per_gpu * self.num_replicas))

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration over the sampler goes through."""
        self.epoch = epoch
        self._skipped = 0
        if self._resume is not None and self._resume[0] == epoch:
            self._skipped = min(self._resume[1], self.iters_per_epoch)
        self._resume = None
        self._first_iter: int | None = None

    def start_iteration(self, current_iter: int) -> None:
        """Note that the loop begins its iteration ``current_iter``: tells how far the epoch has come."""
        self.last_iteration = current_iter
        if self._first_iter is None:
            self._first_iter = current_iter

    def state_dict(self, current_iter: int) -> dict[str, Any]:
        """Where training stands after ``current_iter``: what :meth:`resume` needs, plain numbers only."""
        started = self._first_iter if self._first_iter is not None else current_iter + 1
        done = self._skipped + current_iter - started + 1
        return {"epoch": self.epoch or 0, "iters_done": done, **self._layout()}

    def _layout(self) -> dict[str, Any]:
        global_batch = self.batch_size * self.num_replicas
        return {"slots": self.slots, "dataset_size": self.dataset_size, "global_batch": global_batch, "seed": self.seed}

    def resume(self, state: dict[str, Any]) -> str | None:
        """Continue where ``state`` (from :meth:`state_dict`) was taken.

        Returns:
            None, or, where the data or the batch have changed so that "where it was" means nothing any more, the
            reason why the epoch is begun anew.
        """
        for key, now in self._layout().items():
            if state.get(key) != now:
                return f"{key} was {state.get(key)} and is {now}"
        self._resume = (state["epoch"], state["iters_done"])
        return None

    def __len__(self) -> int:
        return (self.iters_per_epoch - self._skipped) * self.batch_size

    def __iter__(self) -> Iterator[EpochIndex]:
        if self.epoch is None:
            return
        generator = torch.Generator()
        generator.manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(self.slots, generator=generator).tolist()
        step = self.batch_size * self.num_replicas
        for place in range(self._skipped * step + self.rank, self.iters_per_epoch * step, self.num_replicas):
            wraps, slot = divmod(place, self.slots)  # an epoch that isn't whole batches goes on from its start
            position = order[slot] + wraps * self.slots
            yield EpochIndex(order[slot] % self.dataset_size, self.epoch, position)

    def batches(self) -> Iterator[list[EpochIndex]]:
        """One list an iteration: of each batch as many samples as its stage has, in patches of the stage's size.

        The rest of a batch is passed over unread, so that an iteration's place in the data doesn't depend on stages.
        """
        if self.stages is None:
            raise ValueError("there are no stages")
        first, largest, indices = self._next_iteration(), max(self.stages.batch_sizes), iter(self)
        for iteration in itertools.count(first):
            batch = list(itertools.islice(indices, self.batch_size))
            if not batch:
                return
            patch_size, count = self.stages.at(iteration)
            kept = batch[: count * (self.batch_size // largest)]  # a process with several GPUs feeds all of them
            for index in kept:
                index.patch_size = patch_size
            yield kept

    def _next_iteration(self) -> int:
        return self.last_iteration + 1


def seed_everything(*key: int) -> None:
    """Seed Python's, NumPy's and torch's generators (all devices) from a few non-negative integers."""
    words = np.random.SeedSequence(key).generate_state(4)
    random.seed(int(words[0]))
    np.random.seed(words[1])
    torch.manual_seed(int(words[2]) << 31 | int(words[3]) >> 1)


class SeededDataset(Dataset):
    """Somebody else's data set, whose random numbers follow from (seed, epoch, position) instead of from the worker.

    Attributes of the data set are passed through.

    Args:
        dataset: takes integers.
        seed: of the run.
    """

    def __init__(self, dataset: Any, seed: int) -> None:
        self.dataset, self.seed = dataset, seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getattr__(self, name: str) -> Any:
        if name in ("dataset", "seed") or name.startswith("__"):  # not there yet while it is being unpickled
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __getitem__(self, index: int) -> Any:
        in_main_process = get_worker_info() is None
        if in_main_process:  # the network's own numbers must not depend on who reads the data
            before = random.getstate(), np.random.get_state(), torch.get_rng_state()
        seed_everything(self.seed, getattr(index, "epoch", 0), getattr(index, "position", int(index)))
        try:
            return self.dataset[index]
        finally:
            if in_main_process:
                random.setstate(before[0])
                np.random.set_state(before[1])
                torch.set_rng_state(before[2])
