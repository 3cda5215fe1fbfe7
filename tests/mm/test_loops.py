"""ResumableTrainLoop: a resumed run is the uninterrupted one, and reads nothing twice."""

from __future__ import annotations

import pytest

pytest.importorskip("mmengine", reason="mmengine isn't installed (pip install ifan-plugin[mm])")

import torch
from mmengine.hooks import Hook
from runner_cases import build_runner, small_config

from ifan_plugin.common.errors import UserError
from ifan_plugin.mm.checkpoints import scoped_loader
from ifan_plugin.mm.data import DualPixelDataset


class Note(Hook):
    """Losses and learning rates of each iteration, and a random number that a network with dropout would draw."""

    def __init__(self) -> None:
        self.noted: dict[int, tuple] = {}

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.drawn, self.lr = float(torch.rand(1)), runner.optim_wrapper.get_lr()["lr"][0]
        self.keys = [sample.key for sample in data_batch["data_samples"]]

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        losses = {name: float(value.detach()) for name, value in outputs.items()}
        self.noted[runner.iter + 1] = (losses, self.lr, self.drawn, self.keys)


def train(config: dict, resume_from=None) -> dict[int, tuple]:
    config = config | {"resume": resume_from is not None, "load_from": resume_from and str(resume_from)}
    note = Note()
    with scoped_loader():
        runner = build_runner(config)
        runner.register_hook(note)
        runner.train()
    return note.noted


@pytest.fixture
def config(dpdd, tmp_path) -> dict:
    """Seven iterations with validation in between, over more than one epoch (5 scenes, batches of 2)."""
    config = small_config(dpdd, tmp_path / "work")
    config["train_cfg"] = {"type": "ResumableTrainLoop", "max_iters": 7, "val_interval": 4}
    config["default_hooks"]["checkpoint"] |= {"interval": 1}
    config["val_evaluator"] = {"type": "RestorationMetrics", "prefix": None}
    return config


def test_a_resumed_run_is_the_uninterrupted_one(config, tmp_path, monkeypatch):
    whole = train(config)
    assert list(whole) == [1, 2, 3, 4, 5, 6, 7]
    assert len({losses["loss"] for losses, *_ in whole.values()}) == 7
    read = []
    get = DualPixelDataset.__getitem__
    monkeypatch.setattr(DualPixelDataset, "__getitem__", lambda self, index: read.append(index) or get(self, index))
    for start in (3, 5):  # within an epoch, and behind the second one's beginning
        read.clear()
        config["work_dir"] = str(tmp_path / f"from {start}")
        resumed = train(config, tmp_path / "work" / f"iter_{start}.pth")
        assert resumed == {number: whole[number] for number in range(start + 1, 8)}  # to the last bit
        batches, validations = 7 - start, 1 + (start < 4)
        assert len(read) == 2 * batches + 3 * validations


@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_without_a_seed_or_of_another_one_is_resumed_with_its_own(config, tmp_path, workers):
    """Order and augmentation follow the resumed run's seed, in workers that are running already, too."""
    config["randomness"] = {"seed": None}
    config["train_dataloader"] |= {"num_workers": workers, "persistent_workers": workers > 0}
    config["train_dataloader"]["dataset"]["augment"] = {"noise_probability": 1.0}
    config["train_cfg"] |= {"max_iters": 5, "val_interval": 9}
    whole = train(config)
    for seed in (None, 11):
        config |= {"work_dir": str(tmp_path / f"seed {seed}"), "randomness": {"seed": seed}}
        assert train(config, tmp_path / "work" / "iter_2.pth") == {number: whole[number] for number in (3, 4, 5)}


def test_the_runners_seed_reaches_the_data_set_where_the_options_have_none(config):
    drawn = []
    for options in ({}, {"seed": 3}, {"seed": 4}):
        config["train_dataloader"]["dataset"] |= options
        loop = build_runner(config).train_loop
        batch = next(iter(loop.dataloader))
        drawn.append(torch.stack(batch["inputs"]))
    assert torch.equal(drawn[0], drawn[1])  # randomness: seed
    assert not torch.equal(drawn[0], drawn[2])
    config["train_dataloader"]["sampler"]["seed"] = 7  # its own: order and draws are another's
    del config["train_dataloader"]["dataset"]["seed"]
    sampler = build_runner(config).train_loop.dataloader.sampler
    assert sampler.seed == 7


def test_workers_that_persist_are_started_anew_at_the_right_place(config, tmp_path):
    whole = train(config)
    config["train_dataloader"] |= {"num_workers": 1, "persistent_workers": True}
    config["work_dir"] = str(tmp_path / "resumed")
    resumed = train(config, tmp_path / "work" / "iter_5.pth")
    assert resumed == {number: whole[number] for number in (6, 7)}


@pytest.mark.slow
def test_the_sampler_is_told_the_loaders_batch(config):
    """--cfg-options train_dataloader.batch_size=1 must not leave the sampler counting batches of two."""
    config["train_dataloader"]["batch_size"] = 1
    sampler = build_runner(config).train_loop.dataloader.sampler
    assert (sampler.batch_size, sampler.iters_per_epoch) == (1, 5)


def test_another_sampler_is_refused(config):
    config["train_dataloader"]["sampler"] = {"type": "InfiniteSampler"}
    with pytest.raises(UserError, match=r"sampler: must be of type EpochSampler .* not InfiniteSampler"):
        build_runner(config).train()


def test_a_longer_training_keeps_its_schedule_going(config, tmp_path):
    """mmengine would keep the end of the shorter run, and the rate would stand still behind it."""
    config["param_scheduler"] = [
        {"type": "ExponentialLR", "gamma": 0.5, "by_epoch": False},
        {"type": "LinearLR", "start_factor": 0.5, "end": 2, "by_epoch": False},  # ends by itself: left alone
    ]
    config["train_cfg"]["max_iters"] = 3
    assert [rate for _, rate, *_ in train(config).values()] == pytest.approx([5e-4, 5e-4, 2.5e-4])
    config["train_cfg"]["max_iters"] = 6
    resumed = train(config, tmp_path / "work" / "iter_3.pth")
    rates = [rate for _, rate, *_ in resumed.values()]
    assert rates == pytest.approx([1e-3 * 0.5**3, 1e-3 * 0.5**4, 1e-3 * 0.5**5])


def test_resuming_from_a_strangers_checkpoint_runs_no_code(config, tmp_path):
    """mmengine runs ``meta: config`` as a Python config."""
    train(config)
    path, mark = tmp_path / "work" / "iter_3.pth", tmp_path / "ran"
    content = torch.load(path, weights_only=False)
    content["meta"]["config"] = f"__import__('os').system('touch \"{mark}\"')"
    torch.save(content, path)
    resumed = train(config, path)
    assert list(resumed) == [4, 5, 6, 7]
    assert not mark.exists()
