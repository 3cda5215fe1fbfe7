"""A resumed run's config against the checkpoint's, and one run a work dir."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from helpers import hold

pytest.importorskip("mmengine", reason="needs mmengine")

from mmengine.config import Config
from runner_cases import small_config

from ifan_plugin.common.errors import UserError
from ifan_plugin.mm import cli, resuming


def checkpoint(folder: Path, config: dict) -> Path:
    path = folder / "iter_2.pth"
    torch.save({"meta": {"iter": 2, "cfg": Config(config).pretty_text}, "state_dict": {}}, path)
    return path


CASES = {
    "nothing": ({}, None),
    "more iterations": ({"train_cfg.max_iters": 100}, None),
    "data": ({"train_dataloader.batch_size": 1, "train_dataloader.dataset.patch_size": 48}, None),
    "hooks": ({"default_hooks.checkpoint.interval": 1, "log_level": "INFO"}, None),
    "clipping": ({"optim_wrapper.clip_grad.max_norm": 1.0}, None),
    "precision": ({"optim_wrapper.type": "BF16OptimWrapper"}, None),
    "where it began": ({"model.pretrained": "x.pth", "model.strict_load": False}, None),
    "a default": ({"model.generator.taps": 3, "model.pixel_loss": {"type": "PixelLoss"}}, "model: pixel_loss"),
    "rate": ({"optim_wrapper.optimizer.lr": 5e-4}, "optim_wrapper: optimizer: lr: it is 0.0005 now, and was 0.001"),
    "optimiser": ({"optim_wrapper.optimizer": {"type": "SGD", "lr": 1e-3}},
                  "optim_wrapper: optimizer: type: it is SGD now, and was RAdam"),
    "milestones": ({"param_scheduler.0.milestones": [2]}, "param_scheduler: 0: milestones: it is [2] now, and was [3]"),
    "schedule": ({"param_scheduler": {"type": "LinearLR", "by_epoch": False}},
                 "param_scheduler: 0: type: it is LinearLR now, and was MultiStepLR"),
    "network": ({"model.generator.width": 8}, "model: generator: width: it is 8 now, and was 4"),
    "loss": ({"model.disparity_loss": None}, "model: disparity_loss: it is not there now, and was DisparityLoss"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_may_change_and_what_makes_another_training(case, dpdd, tmp_path):
    change, told = CASES[case]
    config = small_config(dpdd, tmp_path / "work")
    path = checkpoint(tmp_path, config)
    now = Config(config)
    for key, value in change.items():
        place, _, last = key.rpartition(".")
        target = now
        for part in place.split(".") if place else ():
            target = target[int(part)] if part.isdigit() else target[part]
        target[last] = value
    if told is None:
        resuming.require_same_training(path, now)
        return
    with pytest.raises(UserError) as caught:
        resuming.require_same_training(path, now)
    assert f"{path}: can't go on with {told}" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["model = print('run')", "model = dict(", "", "import os", "x = dict(**y)"])
def test_a_config_of_another_form_is_not_run(text, tmp_path, capsys):
    path = tmp_path / "x.pth"
    torch.save({"meta": {"cfg": text}, "state_dict": {}}, path)
    assert not resuming.parsed(text)
    assert capsys.readouterr().out == ""


@pytest.mark.skipif(sys.platform == "win32", reason="no such locks there")
def test_a_second_training_in_a_work_dir_is_refused(dpdd, tmp_path, capsys):
    path = tmp_path / "c.json"
    Config(small_config(dpdd, tmp_path / "work")).dump(path)
    holder = hold(tmp_path / "work/.train.lock")
    try:
        assert cli.main(["train", str(path)]) == 2
    finally:
        holder.kill()
        holder.wait()
    assert f"work dir {tmp_path / 'work'}: is in use by another run (process {holder.pid}" in capsys.readouterr().err
