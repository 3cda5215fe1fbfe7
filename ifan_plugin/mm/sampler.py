"""The order of training samples on mmengine's Runner: the same as in BasicSR, and endless."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from typing import TYPE_CHECKING, Any

from mmengine.dist import get_dist_info, sync_random_seed

from ifan_plugin.data.sampler import EpochIndex, ResumableSampler

if TYPE_CHECKING:
    from typing_extensions import Self


class SeededIndex(EpochIndex):
    """An :class:`ifan_plugin.data.sampler.EpochIndex` that knows its sampler's seed, too.

    Data sets whose own seed isn't given draw with it, in whichever process they are.

    Attributes:
        seed: 0 or more.
    """

    seed: int

    def __new__(
        cls,
        index: int,
        epoch: int = 0,
        position: int | None = None,
        patch_size: int | None = None,
        seed: int = 0,
    ) -> Self:
        index_of_epoch = super().__new__(cls, index, epoch, position, patch_size)
        index_of_epoch.seed = seed
        return index_of_epoch

    def __getnewargs__(self) -> tuple[Any, ...]:
        return *super().__getnewargs__(), self.seed


class EpochSampler(ResumableSampler):
    """:class:`ifan_plugin.data.sampler.ResumableSampler` without an end: epoch follows epoch.

    Samples know their epoch, their place in it and the seed, so that a data set draws another augmentation each time it
    shows a picture (with mmengine's own samplers it would draw the same one again and again). With the same seed, batch
    and ratio the order is that of ``basicsr train``.

    Args:
        dataset: only its length is used; given by the Runner.
        batch_size: samples a batch of one rank has, as in the data loader's ``batch_size``.
        ratio: the data set counts ``ratio`` times in an epoch (``dataset_enlarge_ratio`` in BasicSR).
        seed: of the shuffling, 0 or more; None: the Runner's.

    Raises:
        ValueError: no samples, or a ratio or batch size that isn't positive.
    """

    def __init__(self, dataset: Sized, batch_size: int, ratio: float = 1, seed: int | None = None) -> None:
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size must be a positive integer, not {batch_size!r}")
        rank, world_size = get_dist_info()
        super().__init__(dataset, world_size, rank, ratio, sync_random_seed() if seed is None else seed)
        self.set_batch_size(batch_size, batch_size)
        self._done = 0

    def start_at(self, iteration: int) -> None:
        """Let the next iteration over this sampler begin behind ``iteration`` batches, without reading them."""
        self._done = iteration

    def set_epoch(self, epoch: int) -> None:
        """Nothing: the Runner's epoch, always 0 in iteration-based loops, isn't this sampler's."""

    def _next_iteration(self) -> int:
        return self._done + 1

    def __len__(self) -> int:
        """Samples of this rank in one epoch."""
        return self.iters_per_epoch * self.batch_size

    def __iter__(self) -> Iterator[SeededIndex]:
        epoch, done = divmod(self._done, self.iters_per_epoch)
        while True:
            self.resume({"epoch": epoch, "iters_done": done, **self._layout()})
            super().set_epoch(epoch)
            for index in super().__iter__():
                yield SeededIndex(index, index.epoch, index.position, seed=self.seed)
            epoch, done = epoch + 1, 0
