"""What writes a simulated data set, where the machine lets it down."""

from __future__ import annotations

import os
import signal

import pytest

from ifan_plugin.common.errors import UserError
from ifan_plugin.simulation.data_set import Scene, SceneContent, write_set


def killed() -> SceneContent:
    """As the system does where memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def test_a_worker_that_is_killed_is_one_line_and_leaves_nothing(tmp_path):
    scenes = [Scene("train", f"scene_{number}", killed) for number in range(2)]
    with pytest.raises(UserError, match=r"a worker process was killed.*fewer --workers than 2"):
        write_set(scenes, tmp_path / "out", workers=2)
    assert not list(tmp_path.rglob("*.png"))
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def fails() -> SceneContent:
    raise UserError("no scene")


def test_what_a_killed_run_left_goes_when_the_next_begins(tmp_path):
    (tmp_path / ".simulate-dead" / "train_c").mkdir(parents=True)
    (tmp_path / ".simulate.lock").touch()
    with pytest.raises(UserError, match="no scene"):
        write_set([Scene("train", "scene", fails)], tmp_path)
    assert not list(tmp_path.iterdir())
