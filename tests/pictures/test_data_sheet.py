"""Contact sheets show what training is given."""

from __future__ import annotations

import copy
import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers import write_lmdb

import ifan_plugin
from ifan_plugin.common.errors import UserError
from ifan_plugin.host import mends, option_check
from ifan_plugin.images.color import to_8bit
from ifan_plugin.pictures import data_sheet as show
from ifan_plugin.pictures.visual import colour_disparity

ifan_plugin.register()
mends.mend_all()


def paired(dpdd: Path) -> dict:
    """Options of the host's own data set, which draws from Python's generators."""
    return {
        "type": "PairedImageDataset", "name": "paired", "dataroot_lq": str(dpdd / "train_c/source"),
        "dataroot_gt": str(dpdd / "train_c/source"), "io_backend": {"type": "disk"}, "gt_size": 32, "use_hflip": True,
        "use_rot": True, "batch_size_per_gpu": 2, "num_worker_per_gpu": 0,
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["ours", "host's"])
def test_a_training_sets_samples_are_those_that_training_begins_with(options, dpdd, monkeypatch, kind):
    if kind == "host's":
        options["datasets"]["train"] = paired(dpdd)
        del options["train"]["disparity_opt"]
    options["datasets"]["train"]["dataset_enlarge_ratio"] = 3
    opened = show.open_dataset(options, "f.yml", count=4)

    from basicsr.train import create_train_val_dataloader

    opt = option_check.check(copy.deepcopy(options), "f.yml", is_train=True)
    opt |= {"dist": False, "rank": 0, "world_size": 1, "num_gpu": 0}
    monkeypatch.setattr(mends.Run, "seed", opt["manual_seed"])
    monkeypatch.setattr(mends.Run, "sampler", None)
    loader, sampler, *_ = create_train_val_dataloader(opt, logging.getLogger("test"))
    sampler.set_epoch(0)
    batches = [batch for batch, _ in zip(loader, range(2))]
    for place, index in enumerate(opened.indices):
        sample, batch = opened.dataset[index], batches[place // 2]
        for name in {"lq", "gt", "left", "right"} & set(sample):
            assert torch.equal(sample[name], batch[name][place % 2])
        assert sample["lq_path"] == batch["lq_path"][place % 2]
    assert opened.scenes == 5
    assert opened.key == "train"


def test_other_sets_are_shown_from_all_over(options):
    opened = show.open_dataset(options, "f.yml", "val", count=2)
    assert opened.indices == [0, 1]
    assert opened.dataset[0]["lq"].shape == (3, 48, 64)
    assert show.open_dataset(options, "f.yml", "val_set", count=9).indices == [0, 1, 2], "by name, and no more than all"
    assert show._evenly(100, 4) == [0, 25, 50, 75]
    assert show._evenly(100, 4, seed=1) == [i + show._evenly(100, 4, seed=1)[0] for i in (0, 25, 50, 75)]


def test_the_seed_changes_the_draws_even_of_a_file_that_sets_its_own(options):
    options["datasets"]["train"]["seed"] = 5
    opened = [show.open_dataset(options, "f.yml", count=3, seed=seed) for seed in (None, 1, 1, 2)]
    firsts = [o.dataset[o.indices[0]]["lq"] for o in opened]
    assert torch.equal(firsts[1], firsts[2])
    assert not torch.equal(firsts[0], firsts[1])
    assert not torch.equal(firsts[1], firsts[3])
    assert options["datasets"]["train"]["seed"] == 5, "the caller's options stay"


def test_a_row_splits_the_input_into_its_views_and_ends_with_the_difference():
    rng = np.random.default_rng(0)
    planes = {view: rng.random((3, 8, 12), dtype=np.float32) for view in ("right", "center", "left")}
    planes["right"] *= 0.5
    sample = {
        "lq": torch.from_numpy(np.concatenate(list(planes.values()))),
        "gt": torch.full((3, 8, 12), 1.5),
        "key": "k",
    }
    row = show.sample_row(sample, ["right", "center", "left"])
    captions = [caption.split("\n") for caption, _ in row]
    assert [name for name, _ in captions] == ["lq: right", "lq: center", "lq: left", "gt", "left - right"]
    for (_, picture), view in zip(row, planes.values()):
        np.testing.assert_array_equal(picture, to_8bit(view.transpose(1, 2, 0)))
    assert captions[0][1] == f"12x8, {planes['right'].min():.3f} to {planes['right'].max():.3f}"
    assert captions[3][1] == "12x8, 1.500 to 1.500", "what it is, not what can be shown"
    difference = (planes["left"] - planes["right"]).mean(axis=0)
    limit = np.percentile(np.abs(difference), 99.5)
    assert captions[4][1] == f"blue {-limit:.3f}, white 0, red +{limit:.3f}"
    np.testing.assert_array_equal(row[4][1], colour_disparity(difference, limit))


def test_rows_of_samples_of_other_kinds():
    grey = show.sample_row({"lq": torch.rand(1, 4, 4), "index": torch.tensor(3), "note": "x"}, [])
    assert [caption.split("\n")[0] for caption, _ in grey] == ["lq"]
    assert grey[0][1].shape == (4, 4, 3)
    assert (grey[0][1][..., 0] == grey[0][1][..., 2]).all()
    six = show.sample_row({"lq": torch.rand(6, 4, 4)}, [])
    assert [caption.split("\n")[0] for caption, _ in six] == ["lq: channels 0 to 2", "lq: channels 3 to 5"]
    video = show.sample_row({"gt": torch.rand(3, 4, 4), "lq": torch.rand(2, 3, 4, 4)}, [])
    assert [caption.split("\n")[0] for caption, _ in video] == ["lq frame 1", "lq frame 2", "gt"]
    broken = torch.rand(3, 4, 4)
    broken[0, 0, 0] = float("nan")
    assert "1 values aren't finite" in show.sample_row({"lq": broken}, [])[0][0]
    sides = show.sample_row({"left": torch.ones(3, 4, 4), "right": torch.ones(3, 4, 4)}, [])
    assert sides[2][0] == "left - right\nwhite: no difference"
    assert (sides[2][1] == 255).all()
    assert show.sample_row({"kernel": torch.rand(5, 5), "name": "x"}, []) == []


def test_a_sheet_holds_the_pixels_of_the_samples(options, tmp_path):
    out = tmp_path / "übersicht.png"
    shown = show.show_dataset(options, "f.yml", out, count=2)
    assert shown.path == out
    assert shown.lines[:2] == [
        "train_set (train, DualPixelDataset): 2 samples of 5 scenes, what the first epoch begins with",
        "a sample: " + ", ".join(f"{role} 32x32 (3 channels)" for role in ("lq", "gt", "left", "right")),
    ]
    sheet = cv2.imdecode(np.fromfile(out, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    opened = show.open_dataset(options, "f.yml", count=2)
    for index in opened.indices:
        for caption, picture in show.sample_row(opened.dataset[index], ["center"]):
            large = picture.repeat(10, axis=0).repeat(10, axis=1)  # 32 px in cells of 320
            windows = np.argwhere((sheet == large[0, 0]).all(-1))
            assert any(
                np.array_equal(sheet[y : y + 320, x : x + 320], large)
                for y, x in windows[np.r_[True, (np.diff(windows[:, 1]) > 1) | (np.diff(windows[:, 0]) > 0)]]
            ), caption


def test_the_rest_of_the_option_file_need_not_be_valid(options, tmp_path):
    options["path"] = {"pretrain_network_g": "/no/where.pth"}
    options["datasets"]["val"]["dataroot"] = "/no/where"
    del options["network_g"], options["train"]
    show.show_dataset(options, "f.yml", tmp_path / "a.png", count=1)
    with pytest.raises(UserError, match=r"f\.yml: datasets: val: dataroot: folder not found: /no/where"):
        show.show_dataset(options, "f.yml", tmp_path / "b.png", "val", count=1)


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        ({}, {"phase": "tarin"}, "--phase tarin: f.yml has no such data set; did you mean 'train'?"),
        ({}, {"count": 0}, "--count 0: must be at least 1"),
        ({}, {"seed": -1}, "--seed -1: must be at least 0"),
        ({}, {"out": Path("sheet.jpg")}, "--out sheet.jpg: sheets are written as PNG"),
        ({}, {"out": Path("/")}, "--out /: sheets are written as PNG"),
        ({"patch_size": "big"}, {}, "f.yml: datasets: train: patch_size: must be an integer, not 'big'"),
        ({"type": "NoSuch"}, {}, "f.yml: datasets: train: type: unknown type 'NoSuch'"),
    ],
)
def test_slips(options, tmp_path, monkeypatch, change, arguments, message):
    monkeypatch.chdir(tmp_path)
    options["datasets"]["train"] |= change
    with pytest.raises(UserError) as caught:
        show.show_dataset(options, "f.yml", **{"out": Path("a.png"), **arguments})
    assert str(caught.value).startswith(message)
    assert not list(tmp_path.iterdir())


def test_samples_without_pictures_and_files_without_data_sets(options, monkeypatch, tmp_path):
    monkeypatch.setattr(show, "sample_row", lambda sample, views: [])
    with pytest.raises(UserError, match="its samples hold no pictures; they hold: lq, lq_path, key"):
        show.show_dataset(options, "f.yml", tmp_path / "a.png")
    for datasets in (None, {}, []):
        with pytest.raises(UserError, match=r"f\.yml: 'datasets' is missing"):
            show.show_dataset({"datasets": datasets}, "f.yml")
    with pytest.raises(UserError, match=r"f\.yml: datasets: train: must be a mapping"):
        show.show_dataset({"datasets": {"train": 3}}, "f.yml")


# --- LMDB ------------------------------------------------------------------------------------------------------------


def pictures(seed: int, dtype: type = np.uint16) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {f"szene {i:02}": rng.integers(0, np.iinfo(dtype).max, (20, 30, 3)).astype(dtype) for i in range(10)}


def test_one_database(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_lmdb(tmp_path / "center.lmdb", pictures(0), "raw")
    rows = []
    real = show.write_sheet
    monkeypatch.setattr(show, "write_sheet", lambda out, *args: (rows.append(args), real(out, *args)))
    assert show.show_lmdb(tmp_path / "center.lmdb", count=5) == Path("center_lmdb.png")
    (cells, titles), stored = rows[0], pictures(0)
    assert len(titles) == 5
    places = [list(stored).index(title) for title in titles]
    assert set(np.diff(places)) == {2}, "evenly picked"
    for row, title in zip(cells, titles):
        ((caption, picture),) = row
        assert caption == f"center\n30x20, 16 bit raw, {stored[title].min()} to {stored[title].max()}"
        np.testing.assert_array_equal(picture, np.round(stored[title] / 257).astype(np.uint8))
    assert cv2.imread("center_lmdb.png").shape[0] > 5 * 160
    with pytest.raises(UserError, match=r"center_lmdb\.png: is there already; give another name, or add --overwrite"):
        show.show_lmdb("center.lmdb")
    assert show.show_lmdb("center.lmdb", count=99, overwrite=True).is_file()
    assert rows[-1][1] == list(stored)


def test_all_roles_of_a_folder_side_by_side(tmp_path, monkeypatch):
    for seed, role in enumerate(("target", "right", "center", "left")):
        write_lmdb(tmp_path / f"train/{role}.lmdb", pictures(seed, np.uint8))
    monkeypatch.setattr(show, "write_sheet", lambda out, cells, titles: cells_of.extend(cells))
    cells_of: list = []
    show.show_lmdb(tmp_path / "train", tmp_path / "a.png", count=2)
    names = [caption.split("\n")[0] for caption, _ in cells_of[0]]
    assert names == ["center", "left", "right", "target", "left - right"]
    assert len(cells_of) == 2
    with pytest.raises(UserError, match=r"has no center\.lmdb, .*; try .*train"):
        show.show_lmdb(tmp_path, tmp_path / "b.png")
    with pytest.raises(UserError, match="folder not found"):
        show.show_lmdb(tmp_path / "none.lmdb", tmp_path / "b.png")
    with pytest.raises(UserError, match="--count 0"):
        show.show_lmdb(tmp_path / "train", tmp_path / "b.png", count=0)
    rest = pictures(9, np.uint8)
    del rest["szene 09"]
    write_lmdb(tmp_path / "val/center.lmdb", pictures(8, np.uint8))
    write_lmdb(tmp_path / "val/left.lmdb", rest)
    with pytest.raises(UserError, match="has no picture 'szene 09'"):
        show.show_lmdb(tmp_path / "val", tmp_path / "b.png", count=10)
