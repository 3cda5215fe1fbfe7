"""A full disk, a small one in memory: each command that writes ends in one line, keeps what there was, and goes on."""

from __future__ import annotations

import contextlib
import copy
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from helpers import python_path, small_options, write_options

from ifan_plugin import cli
from ifan_plugin.archs.ifan_arch import IFAN
from ifan_plugin.images.image_io import write_image


class Disk(NamedTuple):
    """A file system of its own, in memory."""

    path: Path
    ballast: Path

    def leave(self, free: int) -> None:
        """Fill the disk up to so many bytes."""
        with self.ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, shutil.disk_usage(self.path).free - free))

    def make_room(self) -> None:
        self.ballast.unlink()

    def files(self) -> dict[str, bytes]:
        """What lies there, by name."""
        found = (path for path in self.path.rglob("*") if path.is_file() and path != self.ballast)
        return {str(path.relative_to(self.path)): path.read_bytes() for path in sorted(found) if path.suffix != ".log"}

    def used(self) -> int:
        return shutil.disk_usage(self.path).used


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    path = tmp_path / "disk"
    path.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", path], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"needs to mount a file system of its own, as root may: {done.stderr.strip()}")
    yield Disk(path, path / "ballast")
    subprocess.run(["umount", "--lazy", path], check=True)


class Materials(NamedTuple):
    """What commands read; it lies on another disk."""

    folder: Path
    dpdd: Path

    @property
    def weights(self) -> Path:
        path = self.folder / "net.pth"
        if not path.exists():
            net = IFAN(width=2, num_steps=2, res_units=1)
            torch.save({"params": net.state_dict(), "hyper_parameters": dict(net.hyper_parameters)}, path)
        return path

    @property
    def photos(self) -> Path:
        folder = self.folder / "photos"
        if not folder.exists():
            for number in range(3):
                write_image(folder / f"{number}.png", np.random.default_rng(number).random((64, 96, 3)))
        return folder

    def options(self, disk: Disk, **changes: dict) -> Path:
        options = copy.deepcopy(small_options(self.dpdd))
        options["path"]["root"] = str(disk.path)
        options["logger"]["use_tb_logger"] = True
        options["val"]["save_img"] = True
        for key, value in changes.items():
            options[key] |= value
        return write_options(self.folder, options)

    def test_options(self, disk: Disk) -> Path:
        train = small_options(self.dpdd)
        options = {
            "name": "small", "model_type": "IFANModel", "num_gpu": 0, "manual_seed": 0,
            "datasets": {"test": train["datasets"]["val"] | {"phase": "test"}},
            "network_g": {"type": "IFAN", "width": 2, "num_steps": 2, "res_units": 1},
            "path": {"pretrain_network_g": str(self.weights), "root": str(disk.path)},
            "val": {"save_img": True, "save_disparity": True, "metrics": {"psnr": {"type": "psnr"}}},
        }  # fmt: skip
        return write_options(self.folder, options, "test.yml")

    def benchmark(self) -> Path:
        options = {
            "name": "small", "device": "cpu", "models": [{"name": "blurred", "type": "blurred input"}],
            "datasets": [{"name": "one", "type": "DualPixelDataset", "dataroot": str(self.dpdd)}],
        }  # fmt: skip
        return write_options(self.folder, options, "benchmark.yml")


Command = Callable[[Materials, Disk], list[object]]
COMMANDS: dict[str, Command] = {
    "test": lambda m, d: ["test", "-opt", m.test_options(d)],
    "deblur": lambda m, d: ["deblur", m.photos, "--out", d.path / "out", "--weights", m.weights, "--compare",
                            "--save-disparity", "--overwrite"],
    "export onnx": lambda m, d: ["export", "--weights", m.weights, "--out", d.path / "net.onnx", "--overwrite"],
    "export pt2": lambda m, d: ["export", "--weights", m.weights, "--out", d.path / "net.pt2", "--overwrite"],
    "convert": lambda m, d: ["convert", m.weights, d.path / "net.pth", "--overwrite"],
    "convert safetensors": lambda m, d: ["convert", m.weights, d.path / "net.safetensors", "--overwrite"],
    "simulate": lambda m, d: ["simulate", "--sharp", m.photos, "--depth-kind", "invented", "--out", d.path / "set",
                              "--save-coc", "--overwrite"],
    "lmdb create": lambda m, d: ["lmdb", "create", "--layout", "dpdd", "--root", m.dpdd, "--out", d.path / "lmdb",
                                 "--split", "val", "--views", "center", "--overwrite", "--workers", "1"],
    "benchmark": lambda m, d: ["benchmark", "-opt", m.benchmark(), "--out", d.path / "report", "--overwrite"],
    "dataset show": lambda m, d: ["dataset", "show", "-opt", m.options(d), "--out", d.path / "sheet.png", "--overwrite"],
    "recipes copy": lambda m, d: ["recipes", "copy", "train_IFAN_DPDD.yml", "--out", d.path / "mine.yml", "--overwrite"],
    "recipes schema": lambda m, d: ["recipes", "schema", "--out", d.path, "--page", d.path / "page.md"],
}  # fmt: skip
SLOW = {"test", "export onnx", "export pt2", "benchmark", "simulate"}
UNEQUAL = {".pt2", ".safetensors", ".json", ".html", ".csv", ".md", ".tex"}
"""Files that two runs make differently: they name or measure the time, or have their keys in any order."""


def forget_logs() -> None:
    """Close the framework's logs, as the end of a process does; they write to what was captured when they began."""
    logger = logging.getLogger("basicsr")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        with contextlib.suppress(OSError):  # what waits has no room
            handler.close()


def run(arguments: list[str]) -> int:
    """The command in this process."""
    forget_logs()
    try:
        return cli.main(arguments)
    finally:
        forget_logs()


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in COMMANDS]
)  # fmt: skip
def test_a_full_disk_ends_in_one_line_and_the_command_goes_on_when_there_is_room(
    name, disk, dpdd, tmp_path, monkeypatch, capfd
):
    materials = Materials(tmp_path / "work", dpdd)
    materials.folder.mkdir()
    monkeypatch.chdir(materials.folder)
    arguments = [str(each) for each in COMMANDS[name](materials, disk)]
    monkeypatch.setattr("sys.argv", ["basicsr", *arguments])
    assert run(arguments) == 0, capfd.readouterr().err
    old, used = disk.files(), disk.used()
    assert old
    for free in (used // 3,) if name in SLOW else (0, used // 3):
        disk.leave(free)
        capfd.readouterr()
        status = run(arguments)
        said = capfd.readouterr().err
        if free and status == 0:  # there was just enough, the old files' room included
            disk.make_room()
            continue
        assert status == (1 if name == "deblur" else 2), said
        told = [line for line in said.splitlines() if "o space left on" in line]
        assert told, said
        assert all(str(disk.path) in line for line in told), said
        assert "Traceback" not in said
        assert "Exception ignored" not in said
        new = disk.files()
        lost = [path for path, content in old.items() if content not in new.values()]
        assert not lost, f"no longer whole: {lost}"
        begun = [
            path
            for path in new
            if not any(part.startswith(".") and part.endswith(".partial") for part in Path(path).parts)
        ]
        assert not [path for path in begun if ".aside." in path or ".simulate-" in path]
        disk.make_room()
    assert run(arguments) == 0, capfd.readouterr().err
    new = disk.files()
    assert not [path for path in old if Path(path).suffix not in UNEQUAL and new[path] != old[path]]
    assert not [path for path in new if ".aside." in path or ".partial" in path or ".simulate-" in path]


@pytest.mark.parametrize("name", ["convert", "recipes copy", "lmdb create", "deblur"])
def test_a_read_only_disk_ends_in_one_line(name, disk, dpdd, tmp_path, monkeypatch, capfd):
    materials = Materials(tmp_path / "work", dpdd)
    materials.folder.mkdir()
    monkeypatch.chdir(materials.folder)
    arguments = [str(each) for each in COMMANDS[name](materials, disk)]
    subprocess.run(["mount", "-o", "remount,ro", disk.path], check=True)
    assert run(arguments) == 2
    said = capfd.readouterr().err.strip().splitlines()
    assert "Read-only file system" in said[-1]
    assert str(disk.path) in said[-1]
    assert not [line for line in said if "Traceback" in line]


@pytest.mark.slow
def test_a_training_keeps_its_checkpoints_and_goes_on(disk, dpdd, tmp_path, monkeypatch, capfd):
    """Its log and its curves are told once and don't end it; a checkpoint that doesn't fit does."""
    materials = Materials(tmp_path / "work", dpdd)
    materials.folder.mkdir()
    monkeypatch.chdir(materials.folder)
    arguments = ["train", "-opt", str(materials.options(disk, train={"total_iter": 2})), "--auto_resume"]
    monkeypatch.setattr("sys.argv", ["basicsr", *arguments])
    assert run(arguments) == 0
    old = {path: content for path, content in disk.files().items() if path.endswith((".pth", ".state"))}
    assert "experiments/small/training_states/2.state" in old
    materials.options(disk, train={"total_iter": 4})
    for free in (8192, 600_000):
        disk.leave(free)
        capfd.readouterr()
        assert run(arguments) == 2
        said = capfd.readouterr().err
        assert f"{disk.path}/experiments/small/models/net_" in said.strip().splitlines()[-1], said
        assert "can't be written: No space left on device" in said.strip().splitlines()[-1]
        assert "Traceback" not in said
        assert said.count("the log can't be written") <= 1
        assert said.count("curves can't be written") <= 2  # on the terminal, and where logs go
        new = disk.files()
        assert not [path for path in old if new[path] != old[path]]
        disk.make_room()
    assert run(arguments) == 0
    for path in disk.path.glob("experiments/small/*/*"):
        if path.suffix in (".pth", ".state"):
            torch.load(path, weights_only=True)
    assert (disk.path / "experiments/small/training_states/4.state").is_file()
    assert not list(disk.path.rglob(".*.aside.*"))


def test_the_demo_says_that_its_results_have_no_room(disk, tmp_path):
    """A visitor reads it on the page, without the folder's name, and restores again when there is room."""
    pytest.importorskip("gradio", reason="needs gradio (pip install 'gradio>=5')")
    from ifan_plugin.demo import answers
    from ifan_plugin.demo.choice import Choice, Pool
    from ifan_plugin.demo.pictures import Limits
    from ifan_plugin.demo.samples import find_samples
    from ifan_plugin.demo.work import Worker
    from ifan_plugin.weights.networks import Network

    limits = Limits(megabytes=1, megapixels=1)
    write_image(tmp_path / "samples/a.png", np.random.default_rng(0).random((64, 96, 3)))
    net = IFAN(width=2, num_steps=2, res_units=1).eval().requires_grad_(False)
    pool = Pool([Choice("0", None)], lambda _: Network(net, ("center",), "IFAN", None, "small"), Worker)
    page = answers.Answers(answers.Setting(pool, limits, find_samples(tmp_path / "samples", limits), disk.path))
    work = page.load_sample(0)["work"]
    disk.leave(4096)
    said = page.restore(work, -1, lambda *_: None)["status"]
    assert "a_deblurred.png: can&#x27;t be written: No space left on device" in said
    assert str(disk.path) not in said
    disk.make_room()
    given = page.restore(work, -1, lambda *_: None)["download"]["value"]
    assert Path(given).stat().st_size > 4096


@pytest.mark.slow
def test_a_training_of_mmengines_keeps_its_checkpoints_and_goes_on(disk, dpdd, tmp_path):
    pytest.importorskip("mmengine", reason="mmengine isn't installed (pip install ifan-plugin[mm])")
    from runner_cases import small_config

    config = small_config(dpdd, tmp_path)
    del config["work_dir"]
    config["train_cfg"] = {"type": "ResumableTrainLoop", "max_iters": 2, "val_interval": 2}
    config["default_hooks"] = {"checkpoint": {"type": "AsideCheckpointHook", "interval": 2}}
    config["val_evaluator"] = [config["val_evaluator"]]
    recipe = tmp_path / "small.py"
    recipe.write_text("".join(f"{key} = {value!r}\n" for key, value in config.items()))

    def train(*changes: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "ifan_plugin.mm", "train", str(recipe), "--work-dir", str(disk.path / "work")]
        env = {**os.environ, "PYTHONPATH": python_path(), "OMP_NUM_THREADS": "1"}
        return subprocess.run([*command, *changes], env=env, capture_output=True, text=True, timeout=240)

    first = train()
    assert first.returncode == 0, first.stderr
    old = {path: content for path, content in disk.files().items() if path.endswith(".pth")}
    assert list(old) == ["work/iter_2.pth"]
    go_on = ("--resume", "--cfg-options", "train_cfg.max_iters=4")
    for free, name in ((8192, "work"), (900_000, "work/iter_4.pth")):
        disk.leave(free)
        done = train(*go_on)
        assert done.returncode == 2, done.stderr
        assert f"{disk.path}/{name}: can't be written: No space left on device" in done.stderr.strip().splitlines()[-1]
        assert "Traceback" not in done.stderr
        assert {path: content for path, content in disk.files().items() if path.endswith(".pth")} == old
        disk.make_room()
    done = train(*go_on)
    assert done.returncode == 0, done.stderr
    assert (disk.path / "work/iter_4.pth").is_file()
