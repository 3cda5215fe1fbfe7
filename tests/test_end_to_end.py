"""The main job as a newcomer does it: simulate, train with the shipped recipe, test; from elsewhere, from a wheel."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from helpers import ROOT, basicsr

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def simulated(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("simulated")
    done = basicsr("simulate", "--preset", "quickstart", "--out", folder / "quickstart", cwd=folder)
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


def test_an_installed_wheel_stands_alone(simulated, tmp_path):
    """Build the wheel, unpack it elsewhere, and run every verb from there without the checkout."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
    ]
    subprocess.run([*command, str(ROOT)], check=True, capture_output=True, timeout=300)
    (wheel,) = tmp_path.glob("ifan_plugin-*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
        names = archive.namelist()
        entry_points = archive.read(next(n for n in names if n.endswith("entry_points.txt"))).decode()
    assert "basicsr = ifan_plugin.cli:main" in entry_points
    assert not [n for n in names if n.startswith(("tests", "options", "scripts"))]
    work = tmp_path / "work"
    work.mkdir()
    environment = {"PYTHONPATH": str(site)}
    doctor = basicsr("doctor", cwd=work, **environment)
    assert doctor.returncode == 0, doctor.stderr
    where = "import ifan_plugin, sys; sys.stdout.write(ifan_plugin.__file__)"
    env = {**os.environ, **environment}
    found = subprocess.run([sys.executable, "-c", where], cwd=work, env=env, capture_output=True, text=True, check=True)
    assert found.stdout.startswith(str(site))
    entries = [f"datasets:{k}:dataroot={simulated}" for k in ("train", "val")]
    entries += ["train:total_iter=2", "val:val_freq=1000", "datasets:train:num_worker_per_gpu=1"]
    recipe = ROOT / "options/train_IFAN_quickstart.yml"
    trained = basicsr("train", "-opt", recipe, "--force_yml", *entries, cwd=work, **environment)
    assert trained.returncode == 0, trained.stderr
    entry = f"datasets:test:dataroot={simulated}"
    recipe = ROOT / "options/test/test_IFAN_quickstart.yml"
    tested = basicsr("test", "-opt", recipe, "--force_yml", entry, "val:save_img=false", cwd=work, **environment)
    assert tested.returncode == 0, tested.stderr
    assert "Validation quickstart_test: mean of 3 pictures" in tested.stderr
