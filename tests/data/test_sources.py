"""The same samples from folders, from PNG in LMDB and from raw LMDB; and data sets in LMDB that must be refused."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers import write_lmdb
from torch.utils.data import DataLoader

from ifan_plugin.common.errors import UserError
from ifan_plugin.data.dual_pixel_dataset import DualPixelDataset
from ifan_plugin.data.layouts import find_scenes
from ifan_plugin.data.sampler import EpochIndex
from ifan_plugin.data.sources import LmdbSource, open_source, turned_back
from ifan_plugin.images.image_io import Region

ROLES = ("center", "left", "right", "target")
ALL = ["center", "left", "right"]
OFTEN = {"noise_probability": 0.5, "grey_probability": 0.3, "scale_probability": 0.5}


def picture(*seed, height=44, width=60, bits=16):
    dtype = np.uint16 if bits == 16 else np.uint8
    return np.random.default_rng(seed).integers(0, 2**bits, (height, width, 3)).astype(dtype)


def truth(number, role, **kwargs):
    return picture(number, ROLES.index(role), **kwargs)


def write_folders(root, bits, scenes=4):
    for split in ("train", "val"):
        for role, folder in zip(ROLES, ("c/source", "l/source", "r/source", "c/target")):
            for number in range(scenes):
                path = root / f"{split}_{folder}" / f"scene {number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                done, data = cv2.imencode(".png", truth(number, role, bits=bits)[..., ::-1])
                assert done
                path.write_bytes(data.tobytes())
    return root


def write_lmdbs(root, bits=16, encoding="raw", splits=("train", "val"), roles=ROLES, scenes=4, **facts):
    for split in splits:
        for role in roles:
            stored = {f"scene {number}": truth(number, role, bits=bits) for number in range(scenes)}
            write_lmdb(root / split / f"{role}.lmdb", stored, encoding, role=role, split=split, **facts)
    return root


def options(root, phase="train", layout="lmdb", **kwargs):
    host = {"name": "set", "type": "DualPixelDataset", "phase": phase, "dataroot": str(root), "layout": layout}
    return host | {"patch_size": 16, "views": ALL, "bit_depth": 16} | kwargs


def refusal(opt):
    """The one line in which construction ends."""
    with pytest.raises(UserError) as caught:
        DualPixelDataset(opt)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def same(a, b):
    paths = {"lq_path", "gt_path"}
    return a.keys() == b.keys() and all(
        torch.equal(a[key], b[key]) if isinstance(a[key], torch.Tensor) else a[key] == b[key]
        for key in a.keys() - paths
    )


@pytest.fixture(scope="module")
def three_of_a_kind(tmp_path_factory):
    """bits -> the same data set in folders, PNG LMDB and raw LMDB. Read only."""
    root = tmp_path_factory.mktemp("Größe 1")
    return {
        bits: (
            ("dpdd", write_folders(root / f"f{bits}", bits)),
            ("lmdb", write_lmdbs(root / f"png {bits}", bits, "png")),
            ("lmdb", write_lmdbs(root / f"raw {bits}", bits, "raw")),
        )
        for bits in (8, 16)
    }


@pytest.mark.parametrize(("stored", "used"), [(16, 16), (16, 8), (8, 8)])
@pytest.mark.parametrize("phase", ["train", "val"])
def test_the_same_samples_bit_for_bit(three_of_a_kind, stored, used, phase):
    more = {"augment": OFTEN, "aux_views": ["left"], "bit_depth": used}
    files, *databases = (
        DualPixelDataset(options(root, phase, layout, **more)) for layout, root in three_of_a_kind[stored]
    )
    order = [EpochIndex(place % 4, 1, place) for place in range(12)] if phase == "train" else range(4)
    for database in databases:
        assert len(database) == len(files) == 4
        assert [scene.key for scene in database.scenes] == [scene.key for scene in files.scenes]
        for index in order:
            assert same(database[index], files[index])


@pytest.mark.parametrize(("workers", "start"), [(2, "fork"), (2, "spawn")])
def test_from_any_worker(three_of_a_kind, workers, start):
    loaders = []
    order = [EpochIndex(place % 4, 1, place) for place in (5, 2, 7, 0, 3, 6, 1, 4)]
    for layout, root in (three_of_a_kind[16][0], three_of_a_kind[16][2]):
        dataset = DualPixelDataset(options(root, layout=layout, augment=OFTEN))
        dataset[0]  # opens the databases here, which a fork must survive
        loaders.append(
            DataLoader(
                dataset, batch_size=2, sampler=order, num_workers=workers if layout == "lmdb" else 0,
                multiprocessing_context=start if layout == "lmdb" else None, timeout=50 if layout == "lmdb" else 0,
            )
        )  # fmt: skip
    expected, got = map(list, loaders)
    assert len(got) == 4
    assert all(same(a, b) for a, b in zip(got, expected))


def test_paths_name_results_as_those_of_files_do(tmp_path):
    root = write_lmdbs(tmp_path / "data.v1", splits=["val"])
    dataset = DualPixelDataset(options(root, "val", views=["left", "right"]))
    sample = dataset[2]
    assert sample["lq_path"] == str(root / "val/left.lmdb/scene 2.png")
    assert sample["gt_path"] == str(root / "val/target.lmdb/scene 2.png")
    assert Path(sample["lq_path"]).stem == sample["key"] == dataset.scenes[2].key == "scene 2"
    assert set(sample) == {"lq", "gt", "lq_path", "gt_path", "key"}


def test_split_follows_the_phase_or_is_the_only_one(tmp_path):
    root = write_lmdbs(tmp_path / "a", splits=["test"])
    assert "test" in DualPixelDataset(options(root, "val"))[0]["lq_path"]
    write_lmdbs(root, splits=["train"])
    assert DualPixelDataset(options(root, "test", split="train")).opt["split"] == "train"
    assert "there are: train, test" in refusal(options(root, "val"))


def test_ground_truth_as_asked_for(tmp_path):
    root = write_lmdbs(tmp_path / "a", roles=ALL)
    assert "gt" not in DualPixelDataset(options(root, "val"))[0]
    assert "gt" not in DualPixelDataset(options(root, gt="none"))[0]
    for opt in (options(root), options(root, "val", gt="required")):
        assert "target.lmdb: folder not found" in refusal(opt)
    write_lmdbs(root, roles=["target"])
    assert "gt" in DualPixelDataset(options(root, "val"))[0]
    assert "gt" not in DualPixelDataset(options(root, "val", gt="none"))[0]


def test_max_images_and_order(tmp_path):
    root = write_lmdbs(tmp_path / "a")
    assert [scene.key for scene in DualPixelDataset(options(root, max_images=2)).scenes] == ["scene 0", "scene 1"]
    lines = (root / "train/left.lmdb/meta_info.txt").read_text().splitlines(keepends=True)
    (root / "train/left.lmdb/meta_info.txt").write_text("".join(lines[::-1]))  # pairs are found by key, not by place
    sample = DualPixelDataset(options(root, augment=False, patch_size=44, aux_views=[]))[1]
    whole = torch.from_numpy((truth(1, "left") / np.float32(65535)).astype(np.float32).transpose(2, 0, 1).copy())
    assert any(torch.equal(sample["lq"][3:6], whole[:, :, x : x + 44]) for x in range(17))


def test_survives_pickling(three_of_a_kind):
    dataset = DualPixelDataset(options(three_of_a_kind[16][2][1]))
    expected = dataset[1]
    assert same(expected, pickle.loads(pickle.dumps(dataset))[1])  # noqa: S301 - our own bytes


@pytest.mark.parametrize("turns", [1, 2, 3])
@pytest.mark.parametrize("encoding", ["png", "raw"])
def test_turned_pictures(tmp_path, turns, encoding):
    root = write_lmdbs(tmp_path / "a", encoding=encoding, quarter_turns=turns)
    source = open_source(root, "lmdb", "train", ALL, bit_depth=16)
    whole = np.rot90(truth(1, "left"), turns)
    assert source.size(1, "left") == whole.shape[:2]
    np.testing.assert_array_equal(source.read(1, "left"), whole)
    dice = np.random.default_rng(0)
    for _ in range(20):
        height, width = (int(dice.integers(1, side + 1)) for side in whole.shape[:2])
        top, left = (int(dice.integers(0, side - part + 1)) for side, part in zip(whole.shape, (height, width)))
        part = whole[top : top + height, left : left + width]
        np.testing.assert_array_equal(source.read(1, "left", Region(top, left, height, width)), part)
    dataset = DualPixelDataset(options(root, "val", crop_multiple=1))
    assert dataset.rotate_back == 4 - turns
    back = dataset.unrotate(dataset[0]["gt"]).numpy().transpose(1, 2, 0)
    np.testing.assert_array_equal(np.rint(back * 65535), truth(0, "target"))


def test_training_on_turned_pictures_from_files_and_lmdb(tmp_path):
    shutil.copytree(write_folders(tmp_path / "f", 16), tmp_path / "p", dirs_exist_ok=True)
    for side in "clr":
        (tmp_path / f"p/train_{side}").rename(tmp_path / f"p/test_{side}")
    more = {"gt": "none", "split": "test", "augment": OFTEN | {"hflip_probability": 0.5}}
    files = DualPixelDataset(options(tmp_path / "p", layout="pixeldp", **more))
    database = DualPixelDataset(
        options(write_lmdbs(tmp_path / "d", splits=["test"], roles=ALL, quarter_turns=1), **more)
    )
    for place in range(12):
        index = EpochIndex(place % 4, 0, place)
        assert same(files[index], database[index])


def test_turned_back_by_hand():
    # The top right pixel of 2x3 goes to the top left.
    assert turned_back(Region(0, 0, 1, 1), 1, (2, 3)) == Region(0, 2, 1, 1)
    assert turned_back(Region(0, 0, 1, 2), 1, (2, 3)) == Region(0, 2, 2, 1)
    assert turned_back(Region(1, 2, 3, 4), 0, (9, 9)) == Region(1, 2, 3, 4)


def test_replaced_files_are_noticed(tmp_path):
    root = write_folders(tmp_path / "f", 16)
    dataset = DualPixelDataset(options(root, layout="dpdd"))
    path = root / "train_l/source/scene 0.png"
    path.write_bytes(cv2.imencode(".png", picture(0, height=40, width=80))[1].tobytes())
    with pytest.raises(UserError, match=r"scene 0\.png: size 80x40 differs from its header's 60x44"):
        dataset[0]


# Bad input: one line at construction.


def test_key_missing_in_one_role(tmp_path):
    root = write_lmdbs(tmp_path / "a", roles=["center", "left", "right"])
    write_lmdbs(root, roles=["target"], scenes=3)
    message = refusal(options(root))
    assert str(root / "train/target.lmdb") in message
    assert "no picture 'scene 3'" in message
    assert "center.lmdb" in message
    shutil.rmtree(root / "train/target.lmdb")
    write_lmdbs(root, roles=["target"], scenes=5, splits=["train"])
    message = refusal(options(root))
    assert str(root / "train/center.lmdb") in message
    assert "no picture 'scene 4', but target.lmdb has" in message


def test_key_missing_in_the_database(tmp_path):
    root = write_lmdbs(tmp_path / "a")
    for role in ROLES:
        folder = root / f"train/{role}.lmdb"
        meta = (folder / "meta_info.txt").read_text() + "scene 9.png (44,60,3) raw\n"
        (folder / "meta_info.txt").write_text(meta)
        (folder / "info.json").write_text((folder / "info.json").read_text().replace('"count": 4', '"count": 5'))
    message = refusal(options(root))
    assert str(root / "train/center.lmdb") in message
    assert "'scene 9'" in message


def test_truncated_database(tmp_path):
    root = write_lmdbs(tmp_path / "a")
    path = root / "train/right.lmdb/data.mdb"
    os.truncate(path, path.stat().st_size // 2 // 4096 * 4096)
    assert str(path) in refusal(options(root))
    with pytest.raises(UserError, match="is truncated"):
        DualPixelDataset(options(root, check="none"))[0]


def test_unequal_sizes(tmp_path):
    root = write_lmdbs(tmp_path / "a", roles=["center", "right", "target"])
    stored = {f"scene {number}": picture(number, height=44 - (number == 2)) for number in range(4)}
    write_lmdb(root / "train/left.lmdb", stored, "raw")
    message = refusal(options(root))
    assert f"{root / 'train/left.lmdb'}: scene 2: size 60x43 differs from 60x44" in message
    assert "too small; valid: at least 48" in refusal(options(root, patch_size=48, views=["right"]))


def test_8_bits_where_16_are_asked_for(tmp_path):
    root = write_lmdbs(tmp_path / "a", bits=8)
    message = refusal(options(root))
    assert str(root / "train/center.lmdb") in message
    assert "bit_depth: 8" in message
    # What info.json can't know: one picture of 8 bits among 16.
    root = write_lmdbs(tmp_path / "b", encoding="png", bits=8, bit_depth=16)
    with pytest.raises(UserError, match="scene 1: holds 8 bits"):
        DualPixelDataset(options(root))[1]


def test_half_written_database(tmp_path):
    root = write_lmdbs(tmp_path / "a")
    (root / "train/left.lmdb/meta_info.txt").unlink()
    message = refusal(options(root))
    assert f"{root / 'train/left.lmdb'}: not a whole LMDB, meta_info.txt is missing" in message


def test_missing_view_or_folder(tmp_path):
    root = write_lmdbs(tmp_path / "a", roles=["center", "target"])
    message = refusal(options(root))
    assert f"{root / 'train/left.lmdb'}: folder not found" in message
    assert "the left view" in message
    assert "there are: center, target" in message
    assert "ROLE.lmdb" in refusal(options(root / "train"))
    with pytest.raises(UserError, match="looks like layout 'lmdb'"):
        find_scenes(root, "dpdd", "train", ["center"])


def test_unequal_turns(tmp_path):
    root = write_lmdbs(tmp_path / "a", roles=["center", "left", "right"])
    write_lmdbs(root, roles=["target"], quarter_turns=1)
    assert "target.lmdb: its pictures are turned 1 times" in refusal(options(root))


def test_memory_of_raw_reading_is_flat(three_of_a_kind):
    """Private memory: the map's own pages belong to the page cache, and any process may drop them."""
    dataset = DualPixelDataset(options(three_of_a_kind[16][2][1], augment=OFTEN, patch_size=32))

    def private():
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024  # MiB

    if not Path("/proc/self/status").exists():
        pytest.skip("memory is read from /proc")
    for place in range(200):
        dataset[EpochIndex(place % 4, 0, place)]
    before = private()
    for place in range(2000):
        dataset[EpochIndex(place % 4, 1, place)]
    assert private() - before < 2  # 2,000 samples are 100 MiB


def test_a_source_holds_nothing_open_after_its_check(three_of_a_kind):
    source = open_source(three_of_a_kind[16][2][1], "lmdb", "train", ALL, bit_depth=16)
    assert isinstance(source, LmdbSource)
    source.check()
    root = os.path.realpath(three_of_a_kind[16][2][1])
    open_files = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _is_link(fd)]
    assert not [path for path in open_files if path.startswith(root)]


def _is_link(fd):
    return os.path.islink(f"/proc/self/fd/{fd}")
