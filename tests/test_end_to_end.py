"""The main job as a newcomer does it: simulate, train with the shipped recipe, test; from elsewhere, from a wheel."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import ROOT, basicsr, python_path

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def simulated(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("simulated")
    done = basicsr("simulate", "--preset", "quickstart", "--save-coc", "--out", folder / "quickstart", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "quickstart"


def test_the_papers_recipe_runs_at_full_size_on_the_cpu(simulated, tmp_path):
    entries = [
        "num_gpu=0", "train:total_iter=3", "logger:print_freq=1", "logger:save_checkpoint_freq=3", "val:val_freq=1000",
        f"datasets:train:dataroot={simulated}", f"datasets:val:dataroot={simulated}", "datasets:train:patch_size=128",
        "datasets:val:max_images=1", "datasets:train:num_worker_per_gpu=1", "datasets:train:pin_memory=false",
    ]  # fmt: skip
    recipe = ROOT / "options/train_IFAN_DPDD.yml"
    done = basicsr("train", "-opt", recipe, "--force_yml", *entries, cwd=tmp_path, timeout=900)
    assert done.returncode == 0, done.stderr
    assert "parameters: 10,476,996" in done.stderr
    assert "iter:       3" in done.stderr
    for loss in ("l_deblur", "l_disparity", "l_reblur"):
        assert f"{loss}: " in done.stderr
    assert "Validation DPDD_val: mean of 1 picture" in done.stderr
    assert list((tmp_path / "tb_logger/IFAN_DPDD").glob("events*")), "the recipe logs to TensorBoard"
    state = torch.load(tmp_path / "experiments/IFAN_DPDD/training_states/3.state", weights_only=True)
    assert state["position"]["iters_done"] == 3


def test_the_quickstarts_files_train_and_test(simulated, tmp_path):
    """A few steps of the quickstart's own options; the gain itself is the quickstart's to show."""
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets/quickstart").symlink_to(simulated)
    entries = ["train:total_iter=4", "val:val_freq=1000", "logger:print_freq=2", "datasets:train:num_worker_per_gpu=0"]
    recipe = ROOT / "options/train_IFAN_quickstart.yml"
    done = basicsr("train", "-opt", recipe, "--force_yml", *entries, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = basicsr("test", "-opt", ROOT / "options/test/test_IFAN_quickstart.yml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    results = tmp_path / "results/IFAN_quickstart/quickstart_test"
    table = json.loads((results / "metrics.json").read_text())
    assert table["protocol"] == "ifan"
    assert len(table["images"]) == 3
    assert (results / "contact_sheet.png").stat().st_size > 10_000


def test_a_network_learns_the_side_of_the_focus(simulated, tmp_path):
    """An eighth of the recipe's iterations, in float32, which any processor is quick at. A flat map correlates with
    nothing."""
    entries = [
        "num_gpu=0", "train:amp=~", "train:total_iter=500", "train:scheduler:periods=[500]",
        "logger:save_checkpoint_freq=500", f"datasets:train:dataroot={simulated}",
    ]  # fmt: skip
    recipe = ROOT / "options/train_IFAN_dual_map.yml"
    done = basicsr("train", "-opt", recipe, "--force_yml", *entries, cwd=tmp_path, timeout=560)
    assert done.returncode == 0, done.stderr
    checkpoint = tmp_path / "experiments/IFAN_dual_map/models/net_g_500.pth"
    command = [sys.executable, ROOT / "scripts/disparity_correlation.py", checkpoint, "--data", simulated]
    env = {**os.environ, "PYTHONPATH": python_path()}
    measured = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert measured.returncode == 0, measured.stderr
    (found,) = re.findall(r"all scenes together: (\S+)", measured.stdout)
    assert float(found) > 0.5
