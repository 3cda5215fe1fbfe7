"""Progressive training: patches that grow while batches shrink, as Restormer trains (Zamir et al., CVPR 2022)."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import Any

from torch.utils.data import DataLoader

from ifan_plugin.common.errors import UserError
from ifan_plugin.options.schema import Option, check_mapping, check_value

KEYS = {
    "patch_sizes": Option(list, items=int, help="of each stage, pixels"),
    "batch_sizes": Option(list, items=int, help="of each stage, on each GPU"),
    "iterations": Option(list, items=int, help="of each stage; the last one goes on to the end"),
}
"""What the key ``progressive`` of a training set holds: three lists of one length."""


class Stages:
    """Which patches and batches an iteration has.

    Args:
        patch_sizes, batch_sizes, iterations: as in :data:`KEYS`.
    """

    def __init__(self, patch_sizes: list[int], batch_sizes: list[int], iterations: list[int]) -> None:
        self.patch_sizes, self.batch_sizes = list(patch_sizes), list(batch_sizes)
        self._ends = list(accumulate(iterations))

    def at(self, iteration: int) -> tuple[int, int]:
        """Patch size and batch size of an iteration, from 1."""
        stage = min(bisect_left(self._ends, iteration), len(self._ends) - 1)
        return self.patch_sizes[stage], self.batch_sizes[stage]


def check(progressive: Mapping[str, Any] | None, where: str) -> Stages | None:
    """The stages that an option file asks for; None: none.

    Raises:
        UserError: lists of other lengths, or numbers below 1.
    """
    if progressive is None:
        return None
    lists = check_mapping(progressive, KEYS, where)
    for key, values in lists.items():
        for value in values:
            check_value(value, Option(int, minimum=1), f"{where}: {key}")
    lengths = {key: len(values) for key, values in lists.items()}
    if len(set(lengths.values())) != 1 or not lists["iterations"]:
        told = ", ".join(f"{count} {key}" for key, count in lengths.items())
        raise UserError(f"{where}: a stage needs one of each; there are {told}")
    return Stages(**lists)


def check_batch(progressive: Mapping[str, Any] | None, batch_size: int, where: str, key: str) -> None:
    """Raise :class:`UserError` unless ``batch_size``, of the loader's ``key``, is that of the largest stage."""
    stages = check(progressive, f"{where}: progressive")
    if stages is not None and batch_size != max(stages.batch_sizes):
        raise UserError(
            f"{where}: {key}: must be the largest of progressive: batch_sizes, {max(stages.batch_sizes)}, not "
            f"{batch_size}"
        )


class StagedBatches:
    """Batches as :meth:`ifan_plugin.data.sampler.ResumableSampler.batches` makes them, for a ``DataLoader``.

    Args:
        sampler: a :class:`ifan_plugin.data.sampler.ResumableSampler` with ``stages``.
    """

    def __init__(self, sampler: Any) -> None:
        self.sampler = sampler

    def __len__(self) -> int:
        return len(self.sampler) // self.sampler.batch_size

    def __iter__(self) -> Iterator[list[int]]:
        return self.sampler.batches()


def staged_loader(loader: DataLoader, sampler: Any) -> DataLoader:
    """A loader with another's settings and class whose batches are those of the sampler's stages."""
    settings: dict[str, Any] = {
        "dataset": loader.dataset,
        "batch_sampler": StagedBatches(sampler),
        "num_workers": loader.num_workers,
        "collate_fn": loader.collate_fn,
        "pin_memory": loader.pin_memory,
        "worker_init_fn": loader.worker_init_fn,
        "persistent_workers": loader.persistent_workers,
    }
    if hasattr(loader, "num_prefetch_queue"):  # BasicSR's own
        settings["num_prefetch_queue"] = loader.num_prefetch_queue
    return type(loader)(**settings)
