"""Training on a card: a resumed run ends with the bits of an uninterrupted one; two cards train as one.

Both through the command, in processes of their own, with BasicSR's loop.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from gpu.device import ON_CUDA, needs_cuda
from helpers import basicsr, python_path, write_options

from ifan_plugin.models.ifan_options import can_compile

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("basicsr") is None, reason="BasicSR isn't installed"),
]


def on_the_device(options: dict, **train: object) -> dict:
    options["num_gpu"] = 1 if ON_CUDA else 0
    options["train"] |= {"ema_decay": 0.9, **train}
    return options


def weights(folder: Path, name: str) -> dict:
    found = torch.load(folder / "experiments/small/models" / name, map_location="cpu", weights_only=True)
    return found["params"]


# The same algorithms in every run: cuDNN, which the host lets try several and take the quickest, is left out.
SAME_BITS = """
import sys, torch
torch.backends.cudnn.enabled = False
torch.use_deterministic_algorithms(True, warn_only=True)
from ifan_plugin.cli import main
sys.exit(main(sys.argv[1:]))
"""


def train(folder: Path, options: Path, *arguments: str) -> None:
    env = os.environ | {"PYTHONPATH": python_path(), "CUBLAS_WORKSPACE_CONFIG": ":4096:8", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SAME_BITS, "train", "-opt", str(options), *arguments]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("amp", [None, "bf16", "fp16"])
def test_a_resumed_run_ends_with_the_same_bits(options: dict, tmp_path: Path, amp: str | None) -> None:
    if amp == "fp16" and not ON_CUDA:
        pytest.skip("fp16 needs a GPU")
    if amp:
        options["train"]["amp"] = amp
    on_the_device(options, total_iter=6)
    options["logger"]["save_checkpoint_freq"] = 3
    for name in ("whole", "resumed"):
        (tmp_path / name).mkdir()
    train(tmp_path / "whole", write_options(tmp_path / "whole", options))
    path = write_options(tmp_path / "resumed", options)
    shutil.copytree(tmp_path / "whole/experiments", tmp_path / "resumed/experiments")
    run = tmp_path / "resumed/experiments/small"
    late = [run / "training_states/6.state", *(run / "models").glob("*_6.pth"), *(run / "models").glob("*_latest.pth")]
    assert len(late) >= 3
    for each in late:
        each.unlink()
    train(tmp_path / "resumed", path, "--auto_resume")
    for name in ("net_g_latest.pth", "net_r_latest.pth"):
        one, other = weights(tmp_path / "whole", name), weights(tmp_path / "resumed", name)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_networks_in_graphs_train_the_same(options: dict, tmp_path: Path) -> None:
    """`compile: reduce-overhead`, which makes CUDA graphs of both passes, against no compiling; a validation between.

    By plain gradient descent, so that a wrong gradient is a wrong weight in proportion.
    """
    if not can_compile():
        pytest.skip("no C++ compiler")
    on_the_device(options, total_iter=6, optim_g={"type": "SGD", "lr": 0.5})
    options["logger"]["save_checkpoint_freq"] = 1
    for name, choice in (("eager", False), ("graphs", "reduce-overhead")):
        (tmp_path / name).mkdir()
        options["train"]["compile"] = choice
        train(tmp_path / name, write_options(tmp_path / name, options))
    for name in ("net_g", "net_r"):
        first = weights(tmp_path / "eager", f"{name}_1.pth")
        eager, graphs = (weights(tmp_path / each, f"{name}_latest.pth") for each in ("eager", "graphs"))
        moved = max(float((eager[key] - first[key]).abs().max()) for key in first)
        apart = max(float((eager[key] - graphs[key]).abs().max()) for key in first)
        assert apart < 0.01 * moved, (apart, moved)


@needs_cuda
def test_two_cards_train_as_one_with_twice_the_batch(options: dict, tmp_path: Path) -> None:
    """NCCL; tests/host has the same with gloo on CPUs."""
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    on_the_device(options, total_iter=4)
    options["num_gpu"] = 2
    options["dist_params"] = {"backend": "nccl", "port": 29500}
    for name in ("two", "one"):
        (tmp_path / name).mkdir()
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", "-m", "ifan_plugin",
        "train", "-opt", str(write_options(tmp_path / "two", options)), "--launcher", "pytorch",
    ]  # fmt: skip
    done = subprocess.run(
        command,
        cwd=tmp_path / "two",
        env=os.environ | {"PYTHONPATH": python_path()},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    options["num_gpu"] = 1
    options["datasets"]["train"]["batch_size_per_gpu"] *= 2
    single = basicsr("train", "-opt", write_options(tmp_path / "one", options), cwd=tmp_path / "one")
    assert single.returncode == 0, single.stderr
    for name in ("net_g_latest.pth", "net_r_latest.pth"):
        two, one = weights(tmp_path / "two", name), weights(tmp_path / "one", name)
        for key in one:
            torch.testing.assert_close(two[key], one[key], rtol=0, atol=1e-4)
