"""The same weights, data order and seed in both hosts: the same training, and the same figures."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers import ROOT, small_options, write_options
from runner_cases import build_runner, small_config, test_config, write_weights

pytest.importorskip("mmengine", reason="mmengine isn't installed (pip install ifan_plugin[mm])")

import ifan_plugin
from ifan_plugin.host import option_check
from ifan_plugin.host.mends import mend_all

ITERATIONS = 10

# Both hosts' own loops, each in a process of its own; only what is noted of each iteration is added.
BASICSR = """
import json, sys
from ifan_plugin import cli
from ifan_plugin.host.mends import mend_all
mend_all()
from ifan_plugin.models.ifan_model import IFANModel
noted, step = [], IFANModel.optimize_parameters
def optimize_parameters(self, current_iter):
    step(self, current_iter)
    noted.append(dict(self.log_dict) | {"lr": self.get_current_learning_rate()[0]})
IFANModel.optimize_parameters = optimize_parameters
options, out = sys.argv[1:]  # the host's pipeline takes sys.argv over
status = cli.main(["train", "-opt", options])
json.dump(noted, open(out, "w"))
assert "mmengine" not in sys.modules
sys.exit(status)
"""

RUNNER = """
import json, sys
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
class Note(Hook):
    def __init__(self):
        self.noted = []
    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.lr = runner.optim_wrapper.get_lr()["lr"][0]
    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        norm = runner.message_hub.get_scalar("train/grad_norm").current()
        self.noted.append({k: float(v) for k, v in outputs.items()} | {"grad_norm": float(norm), "lr": self.lr})
noted = {}
for loop in ("IterBasedTrainLoop", "ResumableTrainLoop"):  # mmengine's own, and the one our configs use
    config = Config.fromfile(sys.argv[1])
    config.train_cfg.type = config.experiment_name = loop
    note = Note()
    runner = Runner.from_cfg(config)
    runner.register_hook(note)
    runner.train()
    noted[loop] = note.noted
json.dump(noted, open(sys.argv[2], "w"))
assert "basicsr" not in sys.modules
"""


def run(program: str, folder: Path, options: Path) -> Any:
    """What a host noted of each iteration."""
    noted = folder / "noted.json"
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", program, options, noted]
    found = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert found.returncode == 0, found.stderr[-3000:]
    return json.loads(noted.read_text())


def test_ten_iterations_have_the_same_losses_in_both_hosts(dpdd, tmp_path):
    """Ten iterations of three epochs and a bit, with augmentation, clipping, weight decay and a halved rate."""
    net_g, net_r = write_weights(tmp_path)
    optimizer = {"type": "RAdam", "lr": 2e-3, "weight_decay": 0.01, "decoupled_weight_decay": True}
    augment = {"noise_probability": 0.5, "grey_probability": 0.3, "scale_probability": 0.5, "scale_range": [0.7, 1.0]}

    options = small_options(dpdd)
    options["datasets"]["train"]["augment"] = augment
    options["train"] |= {"total_iter": ITERATIONS, "optim_g": optimizer}
    options["train"]["scheduler"]["milestones"] = [6]
    options["path"] = {"pretrain_network_g": str(net_g), "pretrain_network_r": str(net_r)}
    options["val"]["val_freq"] = options["logger"]["save_checkpoint_freq"] = 100
    expected = run(BASICSR, tmp_path, write_options(tmp_path, options))

    config = small_config(dpdd, tmp_path / "work")
    config["train_dataloader"]["dataset"]["augment"] = augment
    config["train_cfg"] |= {"max_iters": ITERATIONS, "val_interval": 100}
    config["optim_wrapper"]["optimizer"] = optimizer
    config["param_scheduler"][0]["milestones"] = [6]
    config["model"]["pretrained"] = {"generator": str(net_g), "reblur": str(net_r)}
    (tmp_path / "config.yml").write_text(yaml.safe_dump(config))
    found = run(RUNNER, tmp_path, tmp_path / "config.yml")

    assert len(expected) == ITERATIONS
    assert set(found) == {"IterBasedTrainLoop", "ResumableTrainLoop"}
    for loop, iterations in found.items():
        assert len(iterations) == ITERATIONS
        for theirs, ours in zip(expected, iterations):
            ours["l_total"] = ours.pop("loss")
            assert ours.keys() == {"l_deblur", "l_disparity", "l_reblur", "l_total", "grad_norm", "lr"}
            assert ours == pytest.approx(theirs, rel=1e-6, abs=1e-9), loop
            assert max(abs(ours[key] - theirs[key]) for key in ours if key != "grad_norm") <= 1e-6, loop
    # The comparison would be empty if training changed nothing: batches and weights both matter.
    assert len({round(each["l_deblur"], 6) for each in expected}) == ITERATIONS
    assert [each["lr"] for each in expected] == [2e-3] * 6 + [1e-3] * 4


def basicsr_figures(options: dict, weights: Path, param_key: str, folder: Path) -> dict:
    """``metrics.json`` of BasicSR's model, validated by the host's own loop body."""
    ifan_plugin.register()
    mend_all()
    from basicsr.data import build_dataset
    from basicsr.models import build_model

    options = copy.deepcopy(options)
    options["datasets"] = {"test": {**options["datasets"]["val"], "name": "scenes"}}
    options["path"] = {"pretrain_network_g": str(weights), "param_key_g": param_key}
    options["val"] = {"metrics": {name: {"type": name} for name in ("psnr", "ssim", "mae")}, "pbar": False}
    opt = option_check.check(options, "f.yml", is_train=False)
    opt |= {"dist": False, "rank": 0, "world_size": 1, "is_train": False}
    opt["path"] |= {"results_root": str(folder), "visualization": str(folder / "pictures")}
    dataset = build_dataset(opt["datasets"]["test"])
    loader = type("Loader", (), {"dataset": dataset})
    build_model(opt).validation(loader, "parity", None, False)
    return json.loads((folder / "scenes" / "metrics.json").read_text())


@pytest.mark.parametrize("trained_in", ["basicsr", "averaged in basicsr", "mmengine"])
def test_the_same_weights_have_the_same_figures_in_both_hosts(dpdd, tmp_path, options, trained_in):
    """Whichever host the file is of, each host reads it directly and restores and measures alike."""
    from ifan_plugin.mm.checkpoints import scoped_loader

    param_key = "params"
    path, net_r = write_weights(tmp_path)
    if trained_in == "averaged in basicsr":  # of which the Runner takes the average, and BasicSR what it is told to
        saved = torch.load(path, weights_only=True)
        averaged = {name: value * 1.01 for name, value in saved["params"].items()}
        path, param_key = tmp_path / "averaged.pth", "params_ema"
        torch.save(saved | {"params_ema": averaged}, path)
    if trained_in == "mmengine":
        config = small_config(dpdd, tmp_path / "training")
        config["model"]["pretrained"] = {"generator": str(path), "reblur": str(net_r)}
        config["custom_hooks"] = [{"type": "EMAHook", "momentum": 0.3}]
        build_runner(config).train()
        path, param_key = tmp_path / "training" / "iter_4.pth", "params_ema"  # what mmengine tests
    expected = basicsr_figures(options, path, param_key, tmp_path / "results")

    with scoped_loader():
        runner = build_runner(test_config(dpdd, tmp_path / "test") | {"load_from": str(path)})
        means = runner.test()

    assert means == pytest.approx(expected["mean"]["restored"], rel=0, abs=1e-6)
    records = runner.test_loop.evaluator.metrics[0].records
    assert len(records) == len(expected["images"]) == 3
    for ours, theirs in zip(records, expected["images"]):
        assert ours["image"] == theirs["image"]
        assert ours["restored"] == pytest.approx(theirs["restored"], rel=0, abs=1e-6)
