"""The GPU check, rehearsed on a CPU: its stages run, one that fails or takes too long is reported and the rest runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from iac_cases import compiled

ROOT = Path(__file__).parents[2]


def check(tmp_path: Path, *arguments: str, timeout: float = 1800, **environment: str) -> subprocess.CompletedProcess:
    env = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1", **environment}
    command = [str(ROOT / "scripts/gpu_check.sh"), "--out", str(tmp_path / "tables/check"), *arguments]
    return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=timeout)


def report(tmp_path: Path) -> dict[str, dict]:
    """Stages by name."""
    found = json.loads((tmp_path / "tables/check.json").read_text())
    assert found["machine"]["torch"] == torch.__version__
    return {row["stage"]: row for row in found["stages"]}


@compiled
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_stage_on_a_cpu(tmp_path: Path) -> None:
    done = check(tmp_path, "--device", "cpu", "--quick")
    assert done.returncode == 0, done.stderr + done.stdout
    stages = report(tmp_path)
    outcomes = {name: row["outcome"] for name, row in stages.items()}
    needs_a_gpu = {"sanitizer", "variants", "graphs"}
    assert {name for name in needs_a_gpu if outcomes.pop(name) == "skipped"} == needs_a_gpu
    assert set(outcomes.values()) == {"passed"}, outcomes
    assert list(outcomes) == ["build", "tests", "warm", "iac", "network", "training", "compile", "simulator", "loader"]
    assert all(table["rows"] for name in outcomes for table in stages[name]["tables"] if "why" not in table["title"])
    text = (tmp_path / "tables/check.md").read_text()
    assert text == done.stdout.rstrip("\n") + "\n"
    assert f"torch {torch.__version__}" in text
    assert "| 96x64 | ours, bf16 |" in text
    assert "tests/gpu/test_iac_cuda.py" in (tmp_path / "tables/check.log").read_text(), "what pytest said"


@compiled
@pytest.mark.slow
def test_a_stage_that_fails_is_reported_and_the_rest_runs(tmp_path: Path) -> None:
    """The loader's pictures come from scikit-image, of which this one can't be imported."""
    broken = tmp_path / "site"
    (broken / "skimage").mkdir(parents=True)
    (broken / "skimage/__init__.py").write_text("raise RuntimeError('a planted fault')\n")
    done = check(tmp_path, "--device", "cpu", "--quick", "--only", "loader", "graphs", PYTHONPATH=str(broken))
    assert done.returncode != 0
    assert done.stderr.splitlines()[-1] == "failed: loader"
    stages = report(tmp_path)
    assert stages["loader"]["outcome"] == "failed"
    assert stages["loader"]["last_lines"][-1] == "RuntimeError: a planted fault"
    assert stages["graphs"]["outcome"] == "skipped"
    assert "a planted fault" in (tmp_path / "tables/check.md").read_text()


@compiled
@pytest.mark.slow
def test_a_stage_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    done = check(tmp_path, "--device", "cpu", "--quick", "--limit", "2", "--only", "network", "simulator")
    assert done.returncode != 0
    stages = report(tmp_path)
    assert stages["network"]["outcome"] == "failed"
    assert stages["network"]["failed"] == "not done after its 2 s"
    assert stages["network"]["seconds"] < 10
    assert stages["simulator"]["skipped"] == "the whole check's limit of 2 s was reached"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--only", "tset"), "invalid choice: 'tset'"),
        (("--device", "tpu"), "invalid choice: 'tpu'"),
        pytest.param(
            (), "torch finds no CUDA device; --device cpu --quick rehearses without one",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
    ],
)  # fmt: skip
def test_what_it_refuses(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    done = check(tmp_path, *arguments)
    assert done.returncode == 2
    assert words in done.stderr.splitlines()[-1]
    assert not (tmp_path / "tables").exists()
