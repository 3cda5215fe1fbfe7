"""The benchmark of the whole network: both forms give the same result, and a row for each comes out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ifan_plugin.archs.ifan_arch import IFAN

SCRIPT = Path(__file__).parents[2] / "scripts" / "benchmark_restore.py"


def run(tmp_path: Path, *arguments: str) -> dict:
    out = tmp_path / "tables" / "restore"
    command = [sys.executable, str(SCRIPT), "--device", "cpu", "--threads", "1", "--runs", "1", "--out", str(out)]
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[1])}
    done = subprocess.run([*command, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert out.with_suffix(".md").read_text() in done.stdout
    return json.loads(out.with_suffix(".json").read_text())


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    net = IFAN(width=4, num_steps=2, res_units=1)
    torch.save({"params": net.state_dict(), "hyper_parameters": net.hyper_parameters}, tmp_path / "net.pth")
    return tmp_path / "net.pth"


@pytest.mark.slow
def test_restoring(tmp_path: Path) -> None:
    plain, ours = run(tmp_path, "--sizes", "76x60")["rows"]
    assert (plain["contestant"], ours["contestant"]) == ("plain", "ours")
    assert 0 < ours["difference"] < 1e-4 < ours["largest"]
    for row in (plain, ours):
        assert row["median"] > 0
        assert sum(row["stages"].values()) > 0 < row["stages"]["filters and IAC"]


@pytest.mark.slow
def test_runtimes_take_turns_with_ours(tmp_path: Path, weights: Path) -> None:
    for name in ("onnx", "onnxscript", "onnxruntime", "openvino"):
        pytest.importorskip(name, reason=f"{name} isn't installed")
    names = ["ours", "onnxruntime", "openvino"]
    rows = run(
        tmp_path, "--sizes", "76x60", "--weights", str(weights), "--rounds", "2", "--contestants", *names
    )["rows"]  # fmt: skip
    assert [row["contestant"] for row in rows] == names
    for row in rows:
        assert len(row["seconds"]) == 2, "two rounds of one run"
        assert row["difference"] < 1e-4 < row["largest"]
        assert ("stages" in row) == (row["contestant"] == "ours")


@pytest.mark.slow
def test_training(tmp_path: Path) -> None:
    rows = run(tmp_path, "--passes", "train", "--batch", "1")["rows"]
    assert [row["contestant"] for row in rows] == ["plain", "ours"]
    assert rows[0]["loss"] == pytest.approx(rows[1]["loss"], rel=1e-4)
