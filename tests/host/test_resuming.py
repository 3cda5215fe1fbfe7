"""What a resumed run makes of changed options, and what keeps two runs of one name apart."""

from __future__ import annotations

import copy
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from helpers import ROOT, basicsr, hold, small_options, write_options

import ifan_plugin
from ifan_plugin.common.errors import UserError
from ifan_plugin.common.locks import only_run
from ifan_plugin.host import resuming

ifan_plugin.register()

BEFORE = {
    "model_type": "IFANModel",
    "network_g": {"type": "IFAN", "width": 4},
    "network_r": {"type": "ReblurNet", "filter_channels": 8},
    "train": {
        "total_iter": 100,
        "warmup_iter": -1,
        "ema_decay": 0.999,
        "optim_g": {"type": "Adam", "lr": 1e-4, "betas": [0.9, 0.99], "weight_decay": 0, "amsgrad": False},
        "scheduler": {"type": "MultiStepLR", "milestones": [50, 80], "gamma": 0.5},
        "pixel_opt": {"type": "MSELoss", "loss_weight": 1.0},
        "reblur_opt": {"type": "ReblurLoss"},
        "grad_clip": 0.5,
    },
}


def changed(*path_and_value):
    *path, value = path_and_value
    options = copy.deepcopy(BEFORE)
    place = options
    for key in path[:-1]:
        place = place[key]
    if value is None:
        place.pop(path[-1])
    else:
        place[path[-1]] = value
    return options


ALLOWED = [
    (("train", "total_iter", 200), []),
    (("train", "grad_clip", 1.0), []),
    (("train", "ema_decay", 0.99), []),
    (("logger", {"print_freq": 1}), []),
    (("datasets", {"train": {"dataroot": "moved"}}), []),
    (("network_g", {"type": "IFAN", "width": 4, "taps": 3}), []),  # its default
    (("network_g", {"type": "IFAN", "width": 4, "num_steps": 17}), []),
    (("train", "pixel_opt", {"type": "MSELoss"}), []),
    (("train", "warmup_iter", 10), ["train: warmup_iter -1 -> 10"]),
    (("train", "optim_g", "lr", 5e-5), ["train: optim_g: lr 0.0001 -> 5e-05"]),
    (("train", "optim_g", "betas", [0.5, 0.9]), ["train: optim_g: betas [0.9, 0.99] -> [0.5, 0.9]"]),
    (("train", "optim_g", "weight_decay", 0.1), ["train: optim_g: weight_decay 0 -> 0.1"]),
    (("train", "scheduler", "milestones", [60]), ["train: scheduler: milestones [50, 80] -> [60]"]),
    (("train", "scheduler", {"type": "CosineAnnealingRestartLR", "periods": [9]}),
     ["train: scheduler: type MultiStepLR -> CosineAnnealingRestartLR"]),
]  # fmt: skip
REFUSED = [
    (("model_type", "SRModel"), "model_type: it is SRModel now, and was IFANModel"),
    (("network_g", "width", 8), "network_g: width: it is 8 now, and was 4"),
    (("network_g", {"type": "DPDNet"}), "network_g: type: it is DPDNet now, and was IFAN"),
    (("network_r", None), "network_r: it is not there now, and was ReblurNet"),
    (("network_d", {"type": "IFAN"}), "network_d: it is IFAN now, and was not there"),
    (("train", "optim_g", "type", "SGD"), "train: optim_g: type: it is SGD now, and was Adam"),
    (("train", "optim_g", "type", "RAdam"), "train: optim_g: type: it is RAdam now, and was Adam"),
    (("train", "optim_g", "amsgrad", True), "train: optim_g: amsgrad: it is true now, and was false"),
    (("train", "optim_g", "momentum", 0.9), "train: optim_g: momentum: it is 0.9 now, and was not there"),
    (("train", "pixel_opt", {"type": "L1Loss"}), "train: pixel_opt: type: it is L1Loss now, and was MSELoss"),
    (("train", "pixel_opt", "loss_weight", 2.0), "train: pixel_opt: loss_weight: it is 2.0 now, and was 1.0"),
    (("train", "reblur_opt", None), "train: reblur_opt: it is not there now, and was ReblurLoss"),
    (("train", "perceptual_opt", {"type": "L1Loss"}), "train: perceptual_opt: it is L1Loss now, and was not there"),
]


@pytest.mark.parametrize(("change", "told"), ALLOWED)
def test_what_may_change(change, told):
    stored, now = resuming.snapshot(BEFORE), resuming.snapshot(changed(*change))
    assert [str(each) for each in resuming.compare(stored, now, "6.state")] == told
    assert resuming.compare(None, now, "6.state") == []  # a state of before, or of the host's


@pytest.mark.parametrize(("change", "told"), REFUSED)
def test_what_makes_another_training(change, told):
    stored, now = resuming.snapshot(BEFORE), resuming.snapshot(changed(*change))
    with pytest.raises(UserError) as caught:
        resuming.compare(stored, now, "6.state")
    message = str(caught.value)
    assert message.startswith(f"6.state: can't go on with {told}; set it back, or begin a new run")
    assert "\n" not in message


@pytest.fixture(scope="module")
def first_run(tmp_path_factory, dpdd):
    options = small_options(dpdd)
    options["train"] |= {"total_iter": 6}
    options["logger"]["save_checkpoint_freq"] = 6
    folder = tmp_path_factory.mktemp("first")
    done = basicsr("train", "-opt", write_options(folder, options), cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder, options


def state_after(folder, name, iteration):
    return torch.load(folder / "experiments" / name / "training_states" / f"{iteration}.state", weights_only=True)


def test_rate_and_schedule_are_applied_and_said(first_run):
    folder, options = first_run
    later = copy.deepcopy(options)
    later["train"]["total_iter"] = 8
    later["train"]["optim_g"]["lr"] = 4e-3
    later["train"]["scheduler"] = {"type": "MultiStepLR", "milestones": [3, 6], "gamma": 0.5}
    later["logger"]["save_checkpoint_freq"] = 8
    path = write_options(folder, later, "later.yml")
    done = basicsr("train", "-opt", path, "--auto_resume", cwd=folder)
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    assert "applied from iteration 7 on: train: optim_g: lr" in said
    state = state_after(folder, options["name"], 8)
    (group,) = state["optimizers"][0]["param_groups"]
    assert group["initial_lr"] == 4e-3
    assert group["lr"] == pytest.approx(1e-3)  # halved at 3 and at 6, as from the beginning
    assert state["options"]["train"]["optim_g"]["lr"] == 4e-3
    # A run with these options from the beginning has the same rate.
    schedule = torch.optim.lr_scheduler.MultiStepLR(torch.optim.SGD([torch.zeros(1)], lr=4e-3), [3, 6], 0.5)
    for _ in range(7):
        schedule.optimizer.step()
        schedule.step()
    assert group["lr"] == pytest.approx(schedule.get_last_lr()[0])

    later["train"]["optim_g"] = {"type": "SGD", "lr": 1e-3}
    done = basicsr("train", "-opt", write_options(folder, later, "sgd.yml"), "--auto_resume", cwd=folder)
    assert done.returncode == 2
    assert "8.state: can't go on with train: optim_g: type: it is SGD now" in done.stderr.splitlines()[-1]


def test_a_state_without_options_tells_another_optimiser(first_run):
    folder, options = first_run
    state = state_after(folder, options["name"], 6)
    weight = torch.nn.Parameter(torch.zeros(1))

    class Model:
        optimizers = [torch.optim.SGD([weight], lr=1.0)]  # noqa: RUF012
        schedulers = [torch.optim.lr_scheduler.StepLR(optimizers[0], 5)]  # noqa: RUF012

    state["optimizers"][0]["param_groups"][0]["params"] = [0]
    with pytest.raises(UserError, match="resume_state: is of another optimiser than SGD"):
        resuming.resume_optimizers(Model, state, [], print)
    with pytest.raises(UserError, match="holds 2 optimizers, and the options make 1"):
        resuming.resume_optimizers(Model, {**state, "optimizers": [{}, {}]}, [], print)


@pytest.mark.skipif(sys.platform == "win32", reason="no such locks there")
def test_a_lock_goes_with_its_process(tmp_path):
    lock = tmp_path / "new" / ".run.lock"
    process = hold(lock)
    with pytest.raises(UserError, match=rf"^folder is in use by another run \(process {process.pid} on .+, since "):
        only_run(lock, "folder").__enter__()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert lock.exists()  # stale, and not in the way
    with only_run(lock, "folder"):
        assert lock.exists()
    assert not lock.exists()


def test_a_second_training_of_one_name_is_refused(first_run, tmp_path):
    folder, options = first_run
    before = sorted(path.name for path in (folder / "experiments").iterdir())
    process = hold(folder / "experiments" / f".{options['name']}.lock")
    try:
        done = basicsr("train", "-opt", write_options(folder, options), cwd=folder)
    finally:
        process.kill()
        process.wait()
    assert done.returncode == 2
    assert f"name '{options['name']}' is in use by another run (process {process.pid}" in done.stderr.splitlines()[-1]
    after = sorted(path.name for path in (folder / "experiments").iterdir() if path.suffix != ".lock")
    assert after == before  # nothing was moved away


@pytest.mark.slow
def test_the_lock_is_held_while_training(first_run, tmp_path):
    _, options = first_run
    path = write_options(tmp_path, {**options, "train": {**options["train"], "total_iter": 100000}})
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    first = subprocess.Popen(
        [sys.executable, "-m", "ifan_plugin", "train", "-opt", path], cwd=tmp_path, env=env, stdout=subprocess.DEVNULL
    )
    state = tmp_path / "experiments" / options["name"] / "training_states" / "6.state"
    try:
        for _ in range(600):
            if state.exists():
                break
            time.sleep(0.2)
        assert state.exists()
        second = basicsr("train", "-opt", path, cwd=tmp_path)
        assert second.returncode == 2
        assert "is in use by another run" in second.stderr.splitlines()[-1]
    finally:
        first.kill()
        first.wait()
    assert state.exists()
