"""Databases made from folders: content, BasicSR's format, patches, kills, full disks, and bad input in one line."""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path

import cv2
import lmdb
import numpy as np
import pytest
from helpers import write_dpdd

from ifan_plugin.common.errors import UserError
from ifan_plugin.data.layouts import Scene, find_scenes
from ifan_plugin.data.lmdb import work as lmdb_work
from ifan_plugin.data.lmdb.create import create
from ifan_plugin.data.lmdb.patches import CenterCrop, Patches, sobel_energy
from ifan_plugin.data.lmdb.plan import keys_of
from ifan_plugin.data.lmdb.read import LmdbPictures
from ifan_plugin.data.lmdb.verify import verify
from ifan_plugin.host.importing import prepare
from ifan_plugin.images.image_io import decode_pixels, write_image

ROLES = ("center", "left", "right", "target")


def pixels_of(path: Path) -> np.ndarray:
    return decode_pixels(path.read_bytes(), path)


def stored(path: Path) -> dict[str, bytes]:
    """All of a database, read with nothing of ours."""
    with lmdb.open(str(path), readonly=True, lock=False) as environment, environment.begin() as transaction:
        return {bytes(key).decode(): bytes(value) for key, value in transaction.cursor()}


def make(root: Path, out: Path, layout: str = "dpdd", **arguments):
    return create(out, layout=layout, root=root, **{"workers": 1, **arguments})


def refusal(*arguments, **more) -> str:
    with pytest.raises(UserError) as caught:
        make(*arguments, **more)
    message = str(caught.value)
    assert "\n" not in message
    return message


def fill(folder: Path, names: list[str], shape=(24, 32), bit_depth: int = 8, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    for name in names:
        write_image(folder / name, rng.random((*shape, 3)), bit_depth)
    return folder


class TestContent:
    @pytest.mark.parametrize("encoding", ["png", "raw"])
    @pytest.mark.parametrize("bit_depth", [None, 8, 16])
    def test_pictures_come_out_as_they_went_in(self, dpdd, tmp_path, encoding, bit_depth):
        report = make(dpdd, tmp_path, splits=["val"], encoding=encoding, bit_depth=bit_depth)
        assert report.pictures == 12
        scenes = find_scenes(dpdd, "dpdd", "val", ["center", "left", "right"])
        for role in ROLES:
            pictures = LmdbPictures(tmp_path / "val" / f"{role}.lmdb")
            assert [entry.key for entry in pictures.entries] == [scene.key for scene in scenes]
            info = pictures.info
            assert (info.encoding, info.bit_depth, info.count) == (encoding, bit_depth or 16, 3)
            assert (info.layout, info.split, info.role, info.patch) == ("dpdd", "val", role, None)
            for scene in scenes:
                expected = pixels_of(getattr(scene, role))
                assert expected.dtype == np.uint16
                if bit_depth == 8:
                    expected = (expected >> 8).astype(np.uint8)
                found = pictures.read(scene.key)
                assert found.dtype == expected.dtype
                np.testing.assert_array_equal(found, expected)

    def test_processes_make_the_same_bytes(self, dpdd, tmp_path):
        for cut in (None, Patches(20, 9, 0.3)):
            one, two = tmp_path / f"one{cut is None}", tmp_path / f"two{cut is None}"
            make(dpdd, one, splits=["train"], cut=cut)
            make(dpdd, two, splits=["train"], cut=cut, workers=2)
            for role in ROLES:
                a, b = one / "train" / f"{role}.lmdb", two / "train" / f"{role}.lmdb"
                assert stored(a) == stored(b)
                for name in ("meta_info.txt", "checksums.txt", "info.json", "plan.json"):
                    assert (a / name).read_bytes() == (b / name).read_bytes()

    def test_checksums_are_those_of_the_values(self, dpdd, tmp_path):
        make(dpdd, tmp_path, splits=["val"], views=["center"])
        database = tmp_path / "val/center.lmdb"
        lines = dict(reversed(line.split(" ")) for line in (database / "checksums.txt").read_text().splitlines())
        assert lines == {key: f"{zlib.crc32(value):08x}" for key, value in stored(database).items()}

    def test_all_splits_and_views_that_are_there(self, tmp_path):
        root = write_dpdd(tmp_path / "in", {"train": 2, "test": 1})
        for path in (root / "test_r/source").iterdir():
            path.unlink()
        (root / "test_r/source").rmdir()
        make(root, tmp_path / "out")
        found = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").glob("*/*"))
        expected = [f"train/{role}.lmdb" for role in ROLES] + [
            f"test/{role}.lmdb" for role in ("center", "left", "target")
        ]
        assert found == sorted(expected)

    def test_turned_sets_say_so(self, tmp_path):
        for view in "clr":
            fill(tmp_path / f"in/test_{view}/source", ["a.png"])
        make(tmp_path / "in", tmp_path / "out", "pixeldp")
        pictures = LmdbPictures(tmp_path / "out/test/left.lmdb")
        assert pictures.info.quarter_turns == 1
        np.testing.assert_array_equal(pictures.read("a"), pixels_of(tmp_path / "in/test_l/source/a.png"))

    def test_a_flat_folder_of_jpegs(self, tmp_path):
        for name in ("b", "a"):
            (tmp_path / "in").mkdir(exist_ok=True)
            pixels = np.random.default_rng(ord(name)).integers(0, 256, (24, 32, 3), np.uint8)
            assert cv2.imwrite(str(tmp_path / f"in/{name}.JPG"), pixels)
        make(tmp_path / "in", tmp_path / "out", "cuhk")
        pictures = LmdbPictures(tmp_path / "out/test/center.lmdb")
        assert [entry.key for entry in pictures.entries] == ["a", "b"]
        assert (pictures.info.layout, pictures.info.bit_depth) == ("cuhk", 8)
        np.testing.assert_array_equal(pictures.read("a"), pixels_of(tmp_path / "in/a.JPG"))

    def test_folders_by_role_with_odd_names(self, tmp_path):
        names = ["été 1.png", "日本 2.v2.png"]
        folders = {
            role: fill(tmp_path / f"ein Ordner/{role} ü", names, seed=n) for n, role in enumerate(("target", "center"))
        }
        report = make(None, tmp_path / "aus gabe", "folders", folders=folders, splits=["val"])
        assert "ASCII" in str(report)
        pictures = LmdbPictures(tmp_path / "aus gabe/val/target.lmdb")
        assert [entry.key for entry in pictures.entries] == ["été 1", "日本 2_v2"]
        np.testing.assert_array_equal(pictures.read("été 1"), pixels_of(folders["target"] / names[0]))
        assert not verify([tmp_path / "aus gabe"], workers=1)[0].faults


class TestTheHostsFormat:
    @pytest.fixture
    def eight_bits(self, tmp_path):
        prepare()
        for role in ("center", "target"):
            fill(tmp_path / role, [f"{n:03}.png" for n in (3, 1, 2)], shape=(40, 56), seed=len(role))
        return {role: tmp_path / role for role in ("center", "target")}

    @pytest.mark.parametrize("compression", [1, 6])
    def test_byte_for_byte_what_the_host_makes(self, eight_bits, tmp_path, compression):
        from basicsr.utils.lmdb_util import make_lmdb_from_imgs

        make(None, tmp_path / "ours", "folders", folders=eight_bits, compression=compression)
        for role, folder in eight_bits.items():
            names = sorted(os.listdir(folder))
            theirs = tmp_path / f"theirs_{role}.lmdb"
            make_lmdb_from_imgs(str(folder), str(theirs), names, [n[:-4] for n in names], compress_level=compression)
            ours = tmp_path / "ours/train" / f"{role}.lmdb"
            assert stored(ours) == stored(theirs)
            assert (ours / "meta_info.txt").read_bytes() == (theirs / "meta_info.txt").read_bytes()
            assert {"data.mdb", "meta_info.txt"} <= set(os.listdir(ours))
            assert [fault for verdict in verify([theirs], workers=1) for fault in verdict.faults] == []

    def test_the_hosts_data_set_reads_it(self, eight_bits, tmp_path):
        from basicsr.data.paired_image_dataset import PairedImageDataset

        make(None, tmp_path, "folders", folders=eight_bits)
        dataset = PairedImageDataset({
            "phase": "val", "scale": 1, "io_backend": {"type": "lmdb"},
            "dataroot_lq": str(tmp_path / "train/center.lmdb"), "dataroot_gt": str(tmp_path / "train/target.lmdb"),
        })  # fmt: skip
        assert len(dataset) == 3
        for sample, name in zip((dataset[n] for n in range(3)), ("001", "002", "003")):
            assert sample["lq_path"] == name
            for key, role in (("lq", "center"), ("gt", "target")):
                expected = pixels_of(eight_bits[role] / f"{name}.png").transpose(2, 0, 1)
                np.testing.assert_array_equal((sample[key] * 255).round().numpy().astype(np.uint8), expected)


class TestPatches:
    def test_restormers_numbers(self):
        patches = Patches(512, 204, 0.3)
        grid = patches.grid(1120, 1680)
        assert len(grid) == 28
        assert sorted({region.top for region in grid}) == [0, 204, 408, 608]
        assert sorted({region.left for region in grid}) == [0, 204, 408, 612, 816, 1020, 1168]
        assert patches.count(1120, 1680) == 20
        assert Patches(512, 204, 0).count(512, 512) == 1

    def test_the_least_detailed_go(self):
        rng = np.random.default_rng(0)
        picture = np.full((40, 80, 3), 128, np.uint8)
        picture[:, :40] = rng.integers(0, 256, (40, 40, 3))
        picture[20:, :20] //= 64  # of the noisy ones the weakest
        patches = Patches(20, 20, 0.625)
        assert [(region.top, region.left) for region in patches.choose(picture)] == [(0, 0), (0, 20), (20, 20)]
        assert sobel_energy(picture)[:, 45:].max() == 0

    def test_the_sharp_picture_decides_for_every_role(self, dpdd, tmp_path):
        patches = Patches(16, 16, 0.5)
        make(dpdd, tmp_path, splits=["train"], cut=patches, encoding="raw")
        scenes = find_scenes(dpdd, "dpdd", "train", ["center", "left", "right"])
        databases = {role: LmdbPictures(tmp_path / "train" / f"{role}.lmdb") for role in ROLES}
        assert databases["left"].info.patch == {"size": 16, "stride": 16, "drop": 0.5}
        differs = False
        for scene in scenes:
            regions = patches.choose(pixels_of(scene.target))
            assert len(regions) == 6
            differs |= regions != patches.choose(pixels_of(scene.center))
            for role, pictures in databases.items():
                whole = pixels_of(getattr(scene, role))
                for number, (top, left, height, width) in enumerate(regions, 1):
                    expected = whole[top : top + height, left : left + width]
                    np.testing.assert_array_equal(pictures.read(f"{scene.key}_{number:04d}"), expected)
        assert differs, "the data can't tell the sharp picture from the centre"
        assert len(databases["center"]) == 30

    def test_the_centre(self, dpdd, tmp_path):
        make(dpdd, tmp_path, splits=["val"], views=["center"], cut=CenterCrop(32))
        pictures = LmdbPictures(tmp_path / "val/target.lmdb")
        scene = find_scenes(dpdd, "dpdd", "val", ["center"])[1]
        np.testing.assert_array_equal(pictures.read(scene.key), pixels_of(scene.target)[8:40, 16:48])
        assert pictures.info.patch == {"size": 32, "crop": "center"}

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ((0,), "patch size is 0"),
            ((8, 0), "stride is 0"),
            ((8, 4, 1.0), "drop is 1.0"),
            ((8, 4, -0.1), "drop is -0.1"),
        ],
    )
    def test_numbers_out_of_range(self, arguments, words):
        with pytest.raises(UserError, match=words):
            Patches(*arguments)

    def test_a_picture_smaller_than_a_patch(self, dpdd, tmp_path):
        message = refusal(dpdd, tmp_path / "out", splits=["val"], cut=Patches(49, 10, 0.3))
        assert "1P0A0001.png: size 64x48 is smaller than a patch of 49" in message
        assert not (tmp_path / "out").exists()


class TestDoneOnce:
    def test_what_is_up_to_date_is_left_alone(self, dpdd, tmp_path, monkeypatch):
        make(dpdd, tmp_path, splits=["val"], views=["center"])
        before = (tmp_path / "val/center.lmdb/data.mdb").stat().st_mtime_ns
        monkeypatch.setattr(lmdb_work, "prepare", None)  # would fail
        report = make(dpdd, tmp_path, splits=["val"], views=["center"])
        assert [path.name for path in report.up_to_date] == ["center.lmdb", "target.lmdb"]
        assert report.made == []
        assert "Up to date" in str(report)
        assert (tmp_path / "val/center.lmdb/data.mdb").stat().st_mtime_ns == before

    def test_views_may_be_added(self, dpdd, tmp_path):
        make(dpdd, tmp_path, splits=["val"], views=["center"], cut=Patches(20, 9, 0.3))
        report = make(dpdd, tmp_path, splits=["val"], views=["center", "right"], cut=Patches(20, 9, 0.3))
        assert [path.name for path in report.made] == ["right.lmdb"]
        assert not [fault for verdict in verify([tmp_path], workers=1) for fault in verdict.faults]

    def test_another_plan_needs_overwrite(self, dpdd, tmp_path):
        make(dpdd, tmp_path, splits=["val"], views=["center"])
        old = stored(tmp_path / "val/center.lmdb")
        message = refusal(dpdd, tmp_path, splits=["val"], views=["center"], encoding="raw")
        assert "val/center.lmdb: is there, made with encoding png, not raw" in message
        assert stored(tmp_path / "val/center.lmdb") == old
        make(dpdd, tmp_path, splits=["val"], views=["center"], encoding="raw", overwrite=True)
        assert LmdbPictures(tmp_path / "val/center.lmdb").info.encoding == "raw"
        assert sorted(path.name for path in (tmp_path / "val").iterdir()) == ["center.lmdb", "target.lmdb"]

    def test_changed_files_are_noticed(self, tmp_path):
        folder = fill(tmp_path / "in", ["a.png", "b.png"])
        make(folder, tmp_path / "out", "folder")
        fill(folder, ["b.png"], seed=5)
        assert "made with other source files" in refusal(folder, tmp_path / "out", "folder")

    def test_roles_that_belong_together_are_cut_alike(self, dpdd, tmp_path):
        make(dpdd, tmp_path, splits=["val"], views=["left"], cut=CenterCrop(16))
        message = refusal(dpdd, tmp_path, splits=["val"], views=["center"], cut=CenterCrop(24), overwrite=True)
        assert "left.lmdb: is there, made with other names" in message or "made with patch" in message

    def test_a_half_written_one_is_never_taken_for_whole(self, dpdd, tmp_path):
        make(dpdd, tmp_path, splits=["val"], views=["center"])
        (tmp_path / "val/center.lmdb/meta_info.txt").unlink()  # as BasicSR's own would look after a kill
        assert "center.lmdb: is there, but not whole" in refusal(dpdd, tmp_path, splits=["val"], views=["center"])
        make(dpdd, tmp_path, splits=["val"], views=["center"], overwrite=True)
        assert not [fault for verdict in verify([tmp_path], workers=1) for fault in verdict.faults]


class TestBadInput:
    @pytest.fixture
    def root(self, tmp_path):
        return write_dpdd(tmp_path / "in", {"train": 3})

    def check(self, root, *words, **arguments):
        out = root.parent / "out"
        message = refusal(root, out, **{"splits": ["train"], **arguments})
        for word in words:
            assert word in message
        assert not out.exists(), "told before the work starts"

    def test_truncated(self, root):
        path = root / "train_l/source/1P0A0003_L.png"
        path.write_bytes(path.read_bytes()[:-20])
        self.check(root, f"{path}: PNG is damaged or cut short")

    def test_eight_bits_among_sixteen(self, root):
        path = fill(root / "train_r/source", ["1P0A0003_R.png"], (48, 64)) / "1P0A0003_R.png"
        self.check(root, f"{path}: picture has 8 bits a channel, others of train have 16")
        self.check(root, f"{path}: picture has 8 bits a channel, but bit_depth is 16", bit_depth=16)
        make(root, root.parent / "out", bit_depth=8)

    def test_transparent_pictures_are_named_at_once(self, root):
        paths = sorted((root / "train_c/target").iterdir())[:2]
        for path in paths:
            cv2.imwrite(str(path), np.zeros((48, 64, 4), np.uint16))
        self.check(root, f"{paths[0]}: picture is rgba, not opaque", f"so with 1 more: {paths[1].name}")

    def test_unequal_sizes(self, root):
        path = fill(root / "train_c/target", ["1P0A0002.png"], (48, 60), 16) / "1P0A0002.png"
        self.check(root, f"{path}: size 60x48 differs from 64x48 of")

    def test_a_missing_view_and_an_extra_file(self, root):
        self.check(root, "inputC_crops: folder not found", layout="restormer")
        fill(root / "train_l/source", ["zzz.png"], (48, 64), 16)
        self.check(root, "unequal numbers of pictures", "zzz.png")
        (root / "train_r/source").rename(root / "gone")
        self.check(root, "train_r/source: folder not found", views=["center", "right"])

    def test_an_empty_folder(self, root):
        for path in (root / "train_c/source").iterdir():
            path.unlink()
        self.check(root, "train_c/source: no pictures found")

    def test_a_missing_root_and_wrong_names(self, root):
        self.check(root / "nowhere", "nowhere: folder not found")
        self.check(root, "has no split 'trian'; did you mean 'train'?", splits=["trian"])
        self.check(root, "unknown layout 'dpd'; did you mean 'dpdd'?", layout="dpd")
        self.check(root, "unknown encoding 'zip'", encoding="zip")
        self.check(root, "bit depth is 12", bit_depth=12)
        self.check(root, "compression is 10", compression=10)
        self.check(root, "workers is 0", workers=0)

    def test_folders_by_role(self, tmp_path):
        center = fill(tmp_path / "center", ["a.png"])
        cases = [
            ({"target": center}, "give the folder of at least one view"),
            ({"centre": center, "left": center}, "unknown role 'centre'; did you mean 'center'?"),
            ({"center": tmp_path / "no"}, "no: folder not found (center)"),
        ]
        for folders, words in cases:
            assert words in refusal(None, tmp_path / "out", "folders", folders=folders)

    def test_what_only_decoding_tells_keeps_the_work_done(self, root):
        path = root / "train_c/target/1P0A0004.png"
        data = bytearray(path.read_bytes())
        data[60:400] = bytes(340)  # header and end are whole
        path.write_bytes(data)
        out = root.parent / "out"
        assert str(path) in refusal(root, out, views=["center"])
        assert "1P0A0001\n" in (out / "train/.center.lmdb.partial/journal.txt").read_text()
        assert not (out / "train/center.lmdb").exists()

    def test_keys(self):
        with pytest.raises(UserError, match=r"'a\.b' and 'a_b' would both be stored as 'a_b'"):
            keys_of([Scene("a_b"), Scene("a.b")], [0, 0])
        with pytest.raises(UserError, match="it has 513 bytes; LMDB takes 511"):
            keys_of([Scene("é" * 254)], [20])
        assert len(keys_of([Scene("é" * 253)], [20])[0][-1].encode()) == 511
        for name in (" a", "a\u2028b"):
            with pytest.raises(UserError, match="can't be a key"):
                keys_of([Scene(name)], [0])


def test_the_plan_names_no_places(dpdd, tmp_path):
    """A data set that moves with its times is still the same."""
    make(dpdd, tmp_path, splits=["val"], views=["center"])
    facts = json.loads((tmp_path / "val/center.lmdb/plan.json").read_text())
    assert str(dpdd) not in json.dumps(facts)
    assert facts["layout"] == "dpdd"
