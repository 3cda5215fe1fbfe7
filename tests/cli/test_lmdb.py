"""``basicsr lmdb``: the commands from outside, and a training of the host's own on what they make."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT, basicsr, write_options

from ifan_plugin import cli
from ifan_plugin.data.lmdb import create as lmdb_create
from ifan_plugin.data.lmdb.patches import CenterCrop, Patches
from ifan_plugin.data.lmdb.read import LmdbPictures


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    status = cli.main(["lmdb", *map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def create(capsys, root: Path, out: Path, *more: object) -> tuple[int, str, str]:
    return run(capsys, "create", "--layout", "dpdd", "--root", root, "--out", out, "--workers", 1, *more)


def test_make_and_verify(dpdd, tmp_path, capsys):
    status, out, err = create(capsys, dpdd, tmp_path / "out", "--split", "train", "val", "--bit-depth", "8")
    assert status == 0
    assert out.startswith("8 databases: 32 pictures, ")
    assert "source pictures a second" in out
    assert out.count("\n") == 1
    assert "train" in err, "the progress bar"
    assert "picture/s" in err
    status, out, err = run(capsys, "verify", tmp_path / "out", "--workers", 1)
    assert status == 0
    assert len(out.splitlines()) == 8
    assert f"{tmp_path / 'out/train/center.lmdb'}: 5 pictures, png, 8 bits, 64x48: all well" in out
    status, out, _ = create(capsys, dpdd, tmp_path / "out", "--split", "val", "--bit-depth", "8")
    assert status == 0
    assert out.startswith("Up to date: ")


def test_verify_fails_with_the_faults_named(dpdd, tmp_path, capsys):
    create(capsys, dpdd, tmp_path, "--split", "val", "--views", "center")
    (tmp_path / "val/center.lmdb/meta_info.txt").unlink()
    status, out, err = run(capsys, "verify", tmp_path, "--workers", 1)
    assert status == 2
    assert "target.lmdb: 3 pictures" in out
    assert "center.lmdb: not a whole LMDB, meta_info.txt is missing" in err


@pytest.mark.parametrize(
    ("flags", "cut"),
    [
        ([], None),
        (["--patch-size", "512"], Patches(512, 204, 0.3)),
        (["--patch-size", "100", "--stride", "50", "--drop", "0"], Patches(100, 50, 0)),
        (["--center-crop", "256"], CenterCrop(256)),
    ],
)
def test_flags_become_arguments(flags, cut, tmp_path, monkeypatch, capsys):
    given = {}
    monkeypatch.setattr(lmdb_create, "create", lambda out, **arguments: given.update(arguments, out=out))
    assert create(capsys, tmp_path, tmp_path / "out", *flags)[0] == 0
    assert given == {
        "out": tmp_path / "out", "layout": "dpdd", "root": tmp_path, "folders": None, "splits": None, "views": None,
        "encoding": "png", "bit_depth": None, "cut": cut, "compression": 1, "workers": 1, "overwrite": False,
        "progress": True, "pairing": "auto",
    }  # fmt: skip
    more = ["--split", "val", "--views", "left", "right", "--encoding", "raw", "--bit-depth", "16", "--overwrite"]
    create(capsys, tmp_path, tmp_path / "out", *more, "--compression", "3")
    assert given == given | {
        "splits": ["val"], "views": ["left", "right"], "encoding": "raw", "bit_depth": 16, "overwrite": True,
        "compression": 3,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["creat"], "basicsr lmdb: unknown command 'creat'; did you mean 'create'?"),
        ([], "basicsr lmdb: the following arguments are required"),
        (["create", "--layout", "dpd", "--out", "x"], "basicsr lmdb create: argument --layout: invalid choice: 'dpd'"),
        (["create", "--layout", "dpdd", "--out", "x"], "--root: missing"),
        (
            ["create", "--layout", "dpdd", "--root", "r", "--out", "x", "--left", "l"],
            "--left: is only used with --layout folders",
        ),
        (["create", "--layout", "folders", "--root", "r", "--out", "x"], "--root: layout folders has none"),
        (
            ["create", "--layout", "folders", "--center", "c", "--views", "center", "--out", "x"],
            "--views: with layout folders",
        ),
        (
            ["create", "--layout", "folders", "--center", "c", "--split", "a", "b", "--out", "x"],
            "--split: layout folders makes one",
        ),
        (
            ["create", "--layout", "dpdd", "--root", "r", "--out", "x", "--stride", "9"],
            "--stride: is only used with --patch-size",
        ),
        (
            ["create", "--layout", "dpdd", "--root", "r", "--out", "x", "--drop", "0"],
            "--drop: is only used with --patch-size",
        ),
        (
            ["create", "--layout", "dpdd", "--root", "r", "--out", "x", "--patch-size", "9", "--center-crop", "9"],
            "--center-crop: can't",
        ),
        (["create", "--layout", "dpdd", "--root", "no-such", "--out", "x"], "no-such: folder not found"),
        (["create", "--layout", "folders", "--center", "c", "--split", "all", "--out", "x"], "unknown split 'all'"),
        (
            ["create", "--layout", "dpdd", "--root", "r", "--out", "x", "--worker", "2"],
            "unknown flag --worker; did you mean '--workers'?",
        ),
        (["verify", "nowhere"], "nowhere: folder not found"),
        (["verify", "x", "--workers", "0"], "workers is 0"),
        (["show"], "basicsr lmdb show: the following arguments are required: X.lmdb"),
    ],
)
def test_slips(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    status, out, err = run(capsys, *arguments)
    assert status == 2
    assert words in err
    assert err.count("\n") == 1
    assert out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["create", "verify", "show"])
def test_help_with_examples(command, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["lmdb", command, "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert f"usage: basicsr lmdb {command}" in text
    assert "examples:" in text
    assert "exit status:" in text


def test_show_writes_a_sheet(dpdd, tmp_path, capsys):
    lmdb_create.create(tmp_path / "out", layout="dpdd", root=dpdd, splits=["val"], workers=1)
    sheet = tmp_path / "sheet.png"
    assert run(capsys, "show", tmp_path / "out/val", "--out", sheet, "--count", "2", "--seed", "1") == (
        0, f"written to {sheet}\n", "",
    )  # fmt: skip
    assert sheet.stat().st_size > 1000
    assert run(capsys, "show", tmp_path / "out/val", "--out", sheet)[0] == 2
    assert run(capsys, "show", tmp_path / "out/val/left.lmdb", "--out", sheet, "--overwrite")[0] == 0


def test_the_script_for_people_who_look_there(dpdd, tmp_path):
    flags = [
        "--layout",
        "dpdd",
        "--root",
        dpdd,
        "--out",
        tmp_path,
        "--split",
        "test",
        "--views",
        "center",
        "--workers",
        "2",
    ]
    done = subprocess.run(
        [sys.executable, ROOT / "scripts/prepare_lmdb.py", *map(str, flags)],
        env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(LmdbPictures(tmp_path / "test/center.lmdb")) == 3


@pytest.mark.slow
def test_the_host_trains_on_it(dpdd, tmp_path):
    """BasicSR's model and its PairedImageDataset, on two of our databases, through ``basicsr train``."""
    made = basicsr(
        "lmdb", "create", "--layout", "dpdd", "--root", dpdd, "--out", "data", "--split", "train", "--views", "center",
        "--bit-depth", "8", cwd=tmp_path,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    options = {
        "name": "host", "model_type": "SRModel", "scale": 1, "num_gpu": 0, "manual_seed": 0,
        "datasets": {
            "train": {
                "name": "lmdb", "type": "PairedImageDataset", "io_backend": {"type": "lmdb"}, "gt_size": 32,
                "dataroot_lq": "data/train/center.lmdb", "dataroot_gt": "data/train/target.lmdb", "use_hflip": True,
                "use_rot": False, "num_worker_per_gpu": 1, "batch_size_per_gpu": 2, "dataset_enlarge_ratio": 1,
            },
        },
        "network_g": {"type": "EDSR", "num_in_ch": 3, "num_out_ch": 3, "num_feat": 8, "num_block": 1, "upscale": 1},
        "path": {},
        "train": {
            "total_iter": 4, "optim_g": {"type": "Adam", "lr": 1e-4}, "pixel_opt": {"type": "L1Loss"},
            "scheduler": {"type": "MultiStepLR", "milestones": [3], "gamma": 0.5},
        },
        "logger": {"print_freq": 1, "save_checkpoint_freq": 4, "use_tb_logger": False},
    }  # fmt: skip
    done = basicsr("train", "-opt", write_options(tmp_path, options), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "iter:       4" in done.stderr
    assert (tmp_path / "experiments/host/models/net_g_4.pth").exists()
