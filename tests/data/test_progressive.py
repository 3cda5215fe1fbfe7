"""Stages of patches and batches: which an iteration has, in which order, and from where a resumed run goes on."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from ifan_plugin.common.errors import UserError
from ifan_plugin.data import progressive
from ifan_plugin.data.dual_pixel_dataset import DualPixelDataset
from ifan_plugin.data.sampler import ResumableSampler

STAGES = {"patch_sizes": [16, 32], "batch_sizes": [4, 1], "iterations": [3, 2]}


def sampler_of(rank=0, ranks=1, done=0, epoch=0):
    sampler = ResumableSampler(range(20), ranks, rank, seed=3)
    sampler.set_batch_size(4, 4)
    sampler.stages = progressive.check(STAGES, "here")
    sampler.last_iteration = done
    if done:
        sampler.resume({"epoch": epoch, "iters_done": done, **sampler._layout()})
    sampler.set_epoch(epoch)
    return sampler


def test_the_stage_of_an_iteration():
    stages = progressive.check(STAGES, "here")
    assert [stages.at(iteration) for iteration in (1, 3, 4, 5, 6, 99)] == [(16, 4)] * 2 + [(32, 1)] * 4
    assert progressive.check(None, "here") is None


def test_batches_are_the_beginnings_of_those_without_stages():
    batches = list(sampler_of().batches())
    plain = list(sampler_of())
    assert [len(batch) for batch in batches] == [4, 4, 4, 1, 1]
    assert [list(map(int, batch)) for batch in batches] == [
        list(map(int, plain[4 * n : 4 * n + len(batch)])) for n, batch in enumerate(batches)
    ]
    assert [{index.patch_size for index in batch} for batch in batches] == [{16}] * 3 + [{32}] * 2
    copied = pickle.loads(pickle.dumps(batches[3][0]))  # noqa: S301 (into a worker)
    assert (copied.patch_size, copied.epoch, copied.position) == (32, 0, batches[3][0].position)


def test_a_resumed_epoch_goes_on_in_its_stage():
    whole = [[(int(i), i.patch_size) for i in batch] for batch in sampler_of().batches()]
    assert [[(int(i), i.patch_size) for i in batch] for batch in sampler_of(done=2).batches()] == whole[2:]


def test_ranks_share_an_iteration():
    both = [list(sampler_of(rank, 2).batches()) for rank in (0, 1)]
    for number, (one, other) in enumerate(zip(*both)):
        assert len(one) == len(other) == (4 if number < 3 else 1)
        assert not {int(i) for i in one} & {int(i) for i in other}


def test_a_loader_of_stages_keeps_the_settings():
    loader = DataLoader(TensorDataset(torch.arange(20)), batch_size=4, num_workers=1, persistent_workers=True)
    staged = progressive.staged_loader(loader, sampler_of())
    assert (staged.num_workers, staged.persistent_workers, staged.dataset) == (1, True, loader.dataset)
    assert [len(batch[0]) for batch in staged] == [4, 4, 4, 1, 1]
    assert len(staged) == 5


def test_a_data_set_cuts_patches_of_the_stages_size(dpdd):
    options = {"phase": "train", "dataroot": str(dpdd), "bit_depth": 16, "progressive": STAGES}
    dataset = DualPixelDataset(options)
    for batch, side in zip(sampler_of().batches(), (16, 16, 16, 32, 32)):
        index = batch[0]
        index = type(index)(int(index) % 5, index.epoch, index.position, index.patch_size)
        assert dataset[index]["lq"].shape == (3, side, side)
    assert dataset[0]["lq"].shape == (3, 32, 32)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"iterations": [3]}, "here: a stage needs one of each; there are 2 patch_sizes, 2 batch_sizes, 1 iterations"),
        ({"batch_sizes": [4, 0]}, "here: batch_sizes: must be at least 1, not 0"),
        ({"patch_sizes": []}, "here: a stage needs one of each"),
        ({"steps": [1]}, "here: unknown key 'steps'"),
    ],
)
def test_slips(changes, said):
    with pytest.raises(UserError, match=said):
        progressive.check(STAGES | changes, "here")
