"""What tells that a test set's files were made anew."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ifan_plugin.benchmark.cells import NONE, dataset_stamp, number
from ifan_plugin.data.layouts import Scene
from ifan_plugin.data.simulated_dataset import SharpScene


class Listed(list):
    """A data set of nothing but its length and, perhaps, scenes."""

    def __init__(self, scenes: Iterable[Any] = ()) -> None:
        super().__init__(scenes or [0])
        if scenes:
            self.scenes = scenes


def write(path: Path, content: str = "a") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    os.utime(path, ns=(10**18, 10**18))
    return path


class TestStamp:
    @pytest.mark.parametrize("kind", [Scene, SharpScene, SimpleNamespace])
    def test_every_file_of_a_scene(self, tmp_path, kind):
        names = ("sharp", "depth") if kind is SharpScene else ("center", "left", "right", "target")
        paths = {name: write(tmp_path / name) for name in names}
        dataset = Listed([kind(key="a", **paths)])
        before = dataset_stamp(dataset, {})
        assert before == dataset_stamp(dataset, {})
        for path in paths.values():
            write(path, "longer")
            assert dataset_stamp(dataset, {}) != before
            write(path)
            os.utime(path, ns=(1, 1))
            assert dataset_stamp(dataset, {}) != before
            write(path)
            assert dataset_stamp(dataset, {}) == before

    @pytest.mark.parametrize("key", ["a", "folder/a"])
    def test_database(self, tmp_path, key):
        paths = {role: tmp_path / f"{role}.lmdb" / f"{key}.png" for role in ("left", "target")}
        for role in paths:
            write(tmp_path / f"{role}.lmdb" / "data.mdb")
        dataset = Listed([Scene(key, **paths)])
        before = dataset_stamp(dataset, {})
        write(tmp_path / "left.lmdb" / "data.mdb", "longer")
        assert dataset_stamp(dataset, {}) != before

    def test_without_scenes(self, tmp_path):
        options = {"dataroot_gt": str(tmp_path / "gt"), "dataroot_lq": [str(tmp_path / "lq")], "io_backend": {}}
        write(tmp_path / "gt" / "a.png"), write(tmp_path / "lq" / "deep" / "a.png")
        before = dataset_stamp(Listed(), options)
        write(tmp_path / "elsewhere.png"), write(tmp_path / "lq" / "lock.mdb")
        assert dataset_stamp(Listed(), options) == before
        write(tmp_path / "lq" / "deep" / "a.png", "longer")
        changed = dataset_stamp(Listed(), options)
        assert changed != before
        (tmp_path / "gt" / "a.png").rename(tmp_path / "gt" / "b.png")
        assert dataset_stamp(Listed(), options) not in (before, changed)


@pytest.mark.parametrize(
    ("value", "shown"), [(None, NONE), (float("nan"), NONE), (float("-inf"), NONE), (0.5, "0.50"), (3, "3.00")]
)
def test_number(value, shown):
    assert number(value, ".2f") == shown
