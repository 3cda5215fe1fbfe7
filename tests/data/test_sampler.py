"""The order of training samples: the same for any number of ranks, whole batches, and continued in mid-epoch."""

from __future__ import annotations

import pickle
import random
from collections import Counter

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from ifan_plugin.data.sampler import EpochIndex, ResumableSampler, SeededDataset, seed_everything


def drawn(size=10, ranks=1, rank=0, ratio=1, batch=2, epoch=0, seed=0, resume=None):
    sampler = ResumableSampler(range(size), ranks, rank, ratio, seed)
    sampler.set_batch_size(batch, batch)
    if resume is not None:
        assert sampler.resume(resume) is None
    sampler.set_epoch(epoch)
    return [(int(i), i.epoch, i.position) for i in sampler], sampler


def test_an_epoch_shows_every_sample_once():
    order, _ = drawn(size=10, batch=2)
    assert sorted(index for index, _, _ in order) == list(range(10))
    assert [index for index, _, _ in order] != list(range(10))


def test_epochs_and_seeds_differ_and_repeat():
    assert drawn(epoch=1)[0] == drawn(epoch=1)[0]
    assert [i for i, _, _ in drawn(epoch=1)[0]] != [i for i, _, _ in drawn(epoch=2)[0]]
    assert [i for i, _, _ in drawn(seed=1)[0]] != [i for i, _, _ in drawn(seed=2)[0]]


@pytest.mark.parametrize("size", [8, 10, 13])
def test_two_ranks_see_what_one_process_with_twice_the_batch_sees(size):
    one, _ = drawn(size=size, batch=4)
    ranks = [drawn(size=size, ranks=2, rank=r, batch=2)[0] for r in (0, 1)]
    assert len(ranks[0]) == len(ranks[1])
    for step in range(len(one) // 4):
        together = [sample for order in ranks for sample in order[2 * step : 2 * step + 2]]
        assert sorted(together) == sorted(one[4 * step : 4 * step + 4])


@pytest.mark.parametrize(
    ("size", "ratio", "batch", "iterations"), [(5, 1, 2, 3), (3, 1, 8, 1), (5, 2, 4, 3), (4, 1, 4, 1)]
)
def test_an_epoch_is_whole_batches_and_as_long_as_the_host_counts(size, ratio, batch, iterations):
    order, _ = drawn(size=size, ratio=ratio, batch=batch)
    assert len(order) == iterations * batch
    seen = Counter(index for index, _, _ in order)
    assert set(seen) == set(range(size))
    assert len({position for _, _, position in order}) == len(order), "a repeated picture must be drawn anew"


def test_resuming_continues_behind_what_was_consumed():
    whole, sampler = drawn(size=10, batch=2, epoch=3)
    sampler.start_iteration(16)
    state = sampler.state_dict(current_iter=17)
    assert state["iters_done"] == 2
    rest, resumed = drawn(size=10, batch=2, epoch=3, resume=state)
    assert rest == whole[4:]
    resumed.start_iteration(18)
    assert resumed.state_dict(current_iter=18)["iters_done"] == 3, "a second interruption counts from the epoch's start"
    resumed.set_epoch(4)
    assert [(int(i), i.epoch, i.position) for i in resumed] == drawn(size=10, batch=2, epoch=4)[0]


def test_a_state_from_other_data_is_refused_with_the_reason():
    _, sampler = drawn(size=10, batch=2)
    state = sampler.state_dict(0)
    other = ResumableSampler(range(12), 1, 0)
    other.set_batch_size(2, 2)
    assert "was 10 and is 12" in other.resume(state)


def test_nothing_is_drawn_before_the_loop_begins():
    assert list(ResumableSampler(range(10), 1, 0)) == []


def test_an_epoch_index_is_an_int_that_survives_pickling():
    index = pickle.loads(pickle.dumps(EpochIndex(3, 5, 8)))  # noqa: S301 (our own bytes)
    assert (index, index.epoch, index.position) == (3, 5, 8)
    assert "abcdef"[index] == "d"


def test_empty_data_is_an_error():
    with pytest.raises(ValueError, match="no samples"):
        ResumableSampler([], 1, 0)


class RandomDataset(torch.utils.data.Dataset):
    """Draws as the host's data sets do, from the global generators."""

    opt = {"name": "random"}  # noqa: RUF012 (the host's data sets have a dict there)

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return torch.tensor([index, random.random(), np.random.rand(), float(torch.rand(()))], dtype=torch.float64)


def samples(workers: int) -> torch.Tensor:
    sampler = ResumableSampler(range(6), 1, 0, seed=2)
    sampler.set_epoch(1)
    loader = DataLoader(SeededDataset(RandomDataset(), 2), batch_size=1, sampler=sampler, num_workers=workers)
    return torch.cat(list(loader))


def test_other_peoples_data_sets_draw_the_same_with_any_number_of_workers():
    expected = samples(0)
    assert len(expected.unique(dim=0)) == 6
    assert torch.equal(samples(2), expected)


def test_reading_in_the_main_process_leaves_its_generators_alone():
    seed_everything(1)
    expected = random.random(), np.random.rand(), float(torch.rand(()))
    seed_everything(1)
    SeededDataset(RandomDataset(), 0)[EpochIndex(3)]
    assert (random.random(), np.random.rand(), float(torch.rand(()))) == expected


def test_a_wrapped_data_set_keeps_its_attributes_and_pickles():
    wrapped = pickle.loads(pickle.dumps(SeededDataset(RandomDataset(), 0)))  # noqa: S301 (our own bytes)
    assert wrapped.opt["name"] == "random"
    with pytest.raises(AttributeError):
        wrapped.nothing  # noqa: B018
