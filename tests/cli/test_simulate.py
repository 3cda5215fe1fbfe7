"""``basicsr simulate``: files, splits, preset and one-line errors."""

from __future__ import annotations

import hashlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from ifan_plugin.cli.simulate import build_parser, main
from ifan_plugin.common.errors import UserError
from ifan_plugin.images.image_io import write_image
from ifan_plugin.simulation import quickstart as quickstart_data
from ifan_plugin.simulation.data_set import write_set
from ifan_plugin.simulation.depth_pictures import read_depth

HEIGHT, WIDTH = 40, 56


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Three pictures, their depth in three formats (two walls at 1.5 m and 3 m)."""
    sharp, depth = tmp_path / "sharp", tmp_path / "depth"
    sharp.mkdir()
    depth.mkdir()
    rng = np.random.default_rng(0)
    walls = np.full((HEIGHT, WIDTH), 3.0)
    walls[:, :20] = 1.5
    for name in ("a", "b", "c"):
        write_image(sharp / f"{name}.png", rng.random((HEIGHT, WIDTH, 3)), bit_depth=8)
    np.save(depth / "a.npy", walls)
    np.savez(depth / "b.npz", walls)
    (depth / "c.pfm").write_bytes(b"Pf\n56 40\n-1.0\n" + walls[::-1].astype("<f4").tobytes())
    return sharp, depth


def arguments(folders: tuple[Path, Path], out: Path, *more: str) -> list[str]:
    return ["--sharp", str(folders[0]), "--depth", str(folders[1]), "--out", str(out), "--workers", "1", *more]


def digests(folder: Path) -> dict[str, str]:
    """Content of every file under a folder, hidden ones too."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def refusal(argv: list[str]) -> str:
    with pytest.raises(UserError) as caught:
        main(argv)
    message = str(caught.value)
    assert "\n" not in message
    return message


class TestFolders:
    def test_layout_and_content(self, folders, tmp_path, capsys):
        out = tmp_path / "out"
        assert main(arguments(folders, out, "--split", "val", "--pixel-pitch", "40", "--save-coc")) == 0
        parts = ("val_c/source", "val_c/target", "val_l/source", "val_r/source", "val_coc")
        assert sorted(digests(out)) == sorted(f"{part}/{name}.png" for part in parts for name in "abc")
        center, target, left, right, coc = (
            cv2.imread(str(out / part / "a.png"), cv2.IMREAD_UNCHANGED).astype(np.int64) for part in parts
        )
        for picture in (center, target, left, right):
            assert picture.shape == (HEIGHT, WIDTH, 3)
            assert picture.max() > 255  # 16 bits
        # The sharp picture comes through as it was, channels in order.
        np.testing.assert_array_equal(target, cv2.imread(str(folders[0] / "a.png")).astype(np.int64) * 257)
        assert np.abs(left - right).max() > 1000
        assert np.abs(center - target).mean() > 100
        assert coc.shape == (HEIGHT, WIDTH)
        assert (coc[:, :20] < coc[:, 20:].min()).all()  # nearer is smaller
        summary = capsys.readouterr().out
        assert "val: 3 scenes" in summary
        assert f"b: {WIDTH}x{HEIGHT}" in summary

    def test_coc_file_holds_the_documented_scale(self, folders, tmp_path):
        lens = ("--focal-length", "50", "--f-number", "2", "--focus-distance", "2", "--pixel-pitch", "50")
        main(arguments(folders, tmp_path / "out", "--save-coc", *lens))
        coc = cv2.imread(str(tmp_path / "out/train_coc/a.png"), cv2.IMREAD_UNCHANGED)
        assert coc.dtype == np.uint16
        # l D / s = 12.820513 px; times (1.5 - 2) / 1.5 and (3 - 2) / 3
        assert (coc[0, 0] - 32768.0) / 256 == pytest.approx(-4.273504, abs=1 / 512)
        assert (coc[0, -1] - 32768.0) / 256 == pytest.approx(4.273504, abs=1 / 512)

    def test_formats_hold_the_same_depth(self, folders):
        first = read_depth(folders[1] / "a.npy")
        assert first.shape == (HEIGHT, WIDTH)
        np.testing.assert_array_equal(read_depth(folders[1] / "b.npz"), first)
        np.testing.assert_array_equal(read_depth(folders[1] / "c.pfm"), first)

    def test_16_bit_png_depth_with_scale(self, folders, tmp_path):
        for path in folders[1].iterdir():
            stored = np.rint(read_depth(path) * 1000).astype(np.uint16)
            stored[5, 5] = 0  # unknown
            path.unlink()
            cv2.imwrite(str(path.with_suffix(".png")), stored)
        assert np.isnan(read_depth(folders[1] / "a.png")[5, 5])
        main(arguments(folders, tmp_path / "out", "--depth-scale", "0.001", "--focus-distance", "2", "--save-coc"))
        coc = cv2.imread(str(tmp_path / "out/train_coc/a.png"), cv2.IMREAD_UNCHANGED)
        assert coc[0, 0] < 32768 < coc[0, -1]

    def test_disparity(self, folders, tmp_path):
        for path in folders[1].iterdir():
            disparity = 0.2 * 500 / read_depth(path) - 10
            path.unlink()
            np.save(path.with_suffix(".npy"), disparity)
        stereo = ("--depth-kind", "disparity", "--focal-px", "500", "--baseline-m", "0.2", "--doffs", "10")
        main(arguments(folders, tmp_path / "out", *stereo, "--f-number", "2", "--focus-distance", "2", "--save-coc"))
        coc = cv2.imread(str(tmp_path / "out/train_coc/a.png"), cv2.IMREAD_UNCHANGED)
        # The pitch is 50 mm / 500 px = 100 um: half the circle of 50 um.
        assert (coc[0, 0] - 32768.0) / 256 == pytest.approx(-4.273504 / 2, abs=1 / 512)

    def test_same_bytes_with_one_and_two_workers(self, folders, tmp_path):
        lens = ("--pixel-pitch", "40", "--optics", "random", "--sensor", "camera")
        main(arguments(folders, tmp_path / "one", "--seed", "3", *lens))
        main([*arguments(folders, tmp_path / "two", "--seed", "3", *lens), "--workers", "2"])
        main(arguments(folders, tmp_path / "other", "--seed", "4", *lens))
        assert digests(tmp_path / "one") == digests(tmp_path / "two")
        assert digests(tmp_path / "one") != digests(tmp_path / "other")  # the seed draws the focus

    def test_occupied_folder_is_refused_and_left_alone(self, folders, tmp_path):
        out = tmp_path / "out"
        main(arguments(folders, out))
        before = digests(out)
        message = refusal(arguments(folders, out, "--f-number", "2"))
        assert str(out) in message
        assert "--overwrite" in message
        assert digests(out) == before

    def test_folder_with_other_things_is_refused(self, folders, tmp_path):
        (tmp_path / "out").mkdir()
        (tmp_path / "out/thesis.txt").write_text("mine")
        assert "thesis.txt" in refusal(arguments(folders, tmp_path / "out"))

    def test_splits_can_be_added_one_at_a_time(self, folders, tmp_path):
        main(arguments(folders, tmp_path / "out", "--split", "train"))
        main(arguments(folders, tmp_path / "out", "--split", "test"))
        assert {path.name.split("_")[0] for path in (tmp_path / "out").iterdir()} == {"train", "test"}

    def test_overwrite_replaces_the_whole_split_only(self, folders, tmp_path):
        out = tmp_path / "out"
        main(arguments(folders, out, "--save-coc"))
        main(arguments(folders, out, "--split", "val"))
        val = digests(out / "val_c")
        (folders[0] / "a.png").unlink()
        main(arguments(folders, out, "--overwrite"))
        # Pictures of the old run would pair with the wrong scene, since DPDD's scenes pair by order.
        assert sorted(path.name for path in (out / "train_c/source").iterdir()) == ["b.png", "c.png"]
        assert not (out / "train_coc").exists()
        assert digests(out / "val_c") == val

    @pytest.mark.parametrize("workers", ["1", "2"])
    def test_failure_leaves_nothing_behind(self, folders, tmp_path, workers):
        np.save(folders[1] / "a.npy", np.ones((HEIGHT, WIDTH + 1)))
        message = refusal([*arguments(folders, tmp_path / "out"), "--workers", workers])
        assert "a.npy" in message
        assert "sizes must be equal" in message
        assert not (tmp_path / "out").exists()

    def test_all_splits_in_one_call(self, folders, tmp_path, capsys):
        for split, names in (("train", "ab"), ("test", "c")):
            for kind in folders:
                (kind / split).mkdir()
                for path in [path for path in kind.iterdir() if path.stem in list(names)]:
                    path.rename(kind / split / path.name)
        assert main(arguments(folders, tmp_path / "out", "--split", "all")) == 0
        found = {part: sorted(path.name for path in (tmp_path / "out" / part).iterdir())
                 for part in ("train_c/source", "test_l/source")}  # fmt: skip
        assert found == {"train_c/source": ["a.png", "b.png"], "test_l/source": ["c.png"]}
        assert not (tmp_path / "out/val_c").exists()
        summary = capsys.readouterr().out
        assert "train: 2 scenes" in summary
        assert "test: 1 scene," in summary
        nothing = tmp_path / "nothing"
        nothing.mkdir()
        assert "no folder train, val or test" in refusal(
            arguments((nothing, nothing), tmp_path / "x", "--split", "all")
        )

    def test_photographs_without_depth(self, folders, tmp_path):
        argv = ["--sharp", str(folders[0]), "--depth-kind", "invented", "--workers", "1", "--pixel-pitch", "30"]
        for out, seed in (("one", "3"), ("again", "3"), ("other", "4")):
            main([*argv, "--out", str(tmp_path / out), "--seed", seed, "--save-coc"])
        assert digests(tmp_path / "one") == digests(tmp_path / "again") != digests(tmp_path / "other")
        coc = cv2.imread(str(tmp_path / "one/train_coc/a.png"), cv2.IMREAD_UNCHANGED)
        assert np.ptp(coc.astype(int)) > 128, "there is depth"

    def test_the_sensor_spoils_the_blurred_pictures_alone(self, folders, tmp_path):
        lens = ("--focus-distance", "2", "--pixel-pitch", "40", "--optics", "canon_rf50")
        main(arguments(folders, tmp_path / "clean", *lens))
        main(
            arguments(folders, tmp_path / "noisy", *lens, "--sensor", "camera", "--noise", "6400", "--highlights", "1")
        )
        clean, noisy = digests(tmp_path / "clean"), digests(tmp_path / "noisy")
        for name in clean:
            assert (clean[name] == noisy[name]) == ("target" in name)


class TestErrors:
    def test_missing_folders(self, folders, tmp_path):
        missing = tmp_path / "missing"
        assert f"{missing}: no such folder" in refusal(arguments((missing, folders[1]), tmp_path / "out"))
        assert "give --depth" in refusal(arguments((folders[0], missing), tmp_path / "out"))

    def test_empty_folder(self, folders, tmp_path):
        (tmp_path / "empty").mkdir()
        assert "no pictures" in refusal(arguments((tmp_path / "empty", folders[1]), tmp_path / "out"))

    def test_picture_without_depth(self, folders, tmp_path):
        (folders[1] / "b.npz").unlink()
        message = refusal(arguments(folders, tmp_path / "out"))
        assert "b.png: no depth" in message
        assert "b.npy" in message

    def test_two_depths_of_one_name(self, folders, tmp_path):
        np.save(folders[1] / "b.npy", np.ones((HEIGHT, WIDTH)))
        assert "same stem" in refusal(arguments(folders, tmp_path / "out"))

    def test_transparent_picture(self, folders, tmp_path):
        cv2.imwrite(str(folders[0] / "a.png"), np.zeros((HEIGHT, WIDTH, 4), np.uint8))
        message = refusal(arguments(folders, tmp_path / "out"))
        assert "a.png" in message
        assert "rgba, not opaque" in message

    @pytest.mark.parametrize(
        ("name", "content", "expected"),
        [
            ("a.npy", b"not an array", "not a readable .npy"),
            ("a.npy", b"", "not a readable .npy"),
            ("a.npz", b"PK\x03\x04 broken", "not a readable .npz"),
            ("a.png", b"\x89PNG\r\n\x1a\n", "not a readable .png"),
            ("a.pfm", b"PF\n1 1\n-1\n", "grey PFM"),
            ("a.pfm", b"Pf\n9 9\n-1\n1234", "not a readable .pfm"),
        ],
    )
    def test_unreadable_depth(self, tmp_path, name, content, expected):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=expected) as caught:
            read_depth(tmp_path / name)
        assert name in str(caught.value)

    def test_8_bit_depth(self, tmp_path):
        cv2.imwrite(str(tmp_path / "a.png"), np.zeros((4, 4), np.uint8))
        with pytest.raises(UserError, match="8-bit PNG"):
            read_depth(tmp_path / "a.png")

    def test_depth_of_wrong_kind(self, tmp_path):
        np.save(tmp_path / "a.npy", np.ones((4, 4, 3)))
        with pytest.raises(UserError, match="one H x W array"):
            read_depth(tmp_path / "a.npy")
        np.savez(tmp_path / "b.npz", x=np.ones(3), y=np.ones(3))
        with pytest.raises(UserError, match="holds 2 arrays"):
            read_depth(tmp_path / "b.npz")

    def test_depth_values(self, folders, tmp_path):
        np.save(folders[1] / "a.npy", np.zeros((HEIGHT, WIDTH)))
        message = refusal(arguments(folders, tmp_path / "out"))
        assert "a.npy: depth is 0 or negative" in message
        np.save(folders[1] / "a.npy", np.full((HEIGHT, WIDTH), np.nan))
        assert "no finite value" in refusal(arguments(folders, tmp_path / "out"))

    def test_depth_in_the_wrong_unit(self, folders, tmp_path):
        # Millimetres taken for metres, seen through a long lens: refused, not simulated with kernels far too large.
        argv = arguments(folders, tmp_path / "out", "--depth-scale", "0.1", "--focal-length", "100", "--f-number", "1")
        assert "circle of confusion" in refusal([*argv, "--focus-distance", "5"])

    @pytest.mark.parametrize(
        ("flags", "expected"),
        [
            (("--focus-distance", "0.04"), "focal length"),
            (("--focus-distance", "0"), "focus distance"),
            (("--f-number", "0"), "f number"),
            (("--pixel-pitch", "-3"), "pixel pitch"),
            (("--depth-scale", "0"), "depth scale"),
            (("--seed", "-1"), "seed"),
            (("--workers", "0"), "workers"),
            (("--depth-kind", "disparity"), "--focal-px"),
            (("--focal-px", "100"), "--depth-kind disparity"),
            (("--preset", "quickstart"), "--sharp"),
            (("--split", "training"), "train"),
            (("--optics", "pixel3"), "pixel4"),
            (("--noise", "-1"), "iso is -1"),
            (("--tone", "2"), "tone is 2"),
            (("--depth-kind", "invented"), "--depth: isn't used with --depth-kind invented"),
            (("--f-numbr", "2"), "--f-number"),
            (("--f-number", "two"), "--f-number"),
        ],
    )
    def test_arguments(self, folders, tmp_path, flags, expected):
        assert expected in refusal(arguments(folders, tmp_path / "out", *flags))
        assert not (tmp_path / "out").exists()

    def test_nothing_to_simulate(self, tmp_path):
        assert "--preset quickstart" in refusal(["--out", str(tmp_path / "out")])
        assert "--depth-kind invented" in refusal(["--sharp", str(tmp_path), "--out", str(tmp_path / "out")])
        assert "--noise: can't be combined" in refusal(["--preset", "quickstart", "--noise", "9", "--out", "x"])
        assert "--depth: missing" in refusal(["--sharp", str(tmp_path), "--out", str(tmp_path / "out")])
        assert "--out" in refusal(["--preset", "quickstart"])

    def test_out_is_a_file(self, folders, tmp_path):
        (tmp_path / "out").write_text("")
        assert "is a file" in refusal(arguments(folders, tmp_path / "out", "--overwrite"))

    def test_negative_seed_of_the_preset(self, tmp_path):
        assert "seed" in refusal(["--preset", "quickstart", "--seed", "-1", "--out", str(tmp_path / "out")])

    def test_help_names_units_and_examples(self):
        text = build_parser().format_help()
        for word in ("basicsr simulate", "metres", "micrometres", "examples:", "--preset quickstart", "32768"):
            assert word in text


class TestQuickstart:
    def test_split_sizes_and_disjoint_pictures(self, monkeypatch):
        scenes = quickstart_data.quickstart_scenes()
        by_split = {split: [s for s in scenes if s.split == split] for split in ("train", "val", "test")}
        assert 60 <= len(by_split["train"]) <= 400
        assert len(by_split["test"]) >= 2
        assert len({(scene.split, scene.name) for scene in scenes}) == len(scenes)

        used: dict[str, set[str]] = {split: set() for split in by_split}
        load = quickstart_data._load_picture
        for split, members in by_split.items():
            note = used[split]
            monkeypatch.setattr(quickstart_data, "_load_picture", lambda name, n=note: n.add(name) or load(name))
            for scene in members[:30]:
                scene.build()
        assert "motorcycle_left.png" in used["test"]
        assert used["train"] <= set(quickstart_data.CUT_OUTS)
        assert not used["train"] & used["val"]
        assert not (used["train"] | used["val"]) & used["test"]
        assert not set(quickstart_data.CUT_OUTS) & (used["val"] | used["test"])

    def test_seed_changes_training_only(self):
        first, second = quickstart_data.quickstart_scenes(0), quickstart_data.quickstart_scenes(1)
        assert not np.array_equal(first[0].build().sharp, second[0].build().sharp)
        np.testing.assert_array_equal(first[0].build().sharp, first[0].build().sharp)
        for one, two in zip(first[-3:], second[-3:]):
            np.testing.assert_array_equal(one.build().depth, two.build().depth)
            assert one.build().camera == two.build().camera

    def test_training_content_is_valid(self):
        for scene in quickstart_data.quickstart_scenes(5, train_count=12)[:12]:
            content = scene.build()
            assert content.sharp.shape == (quickstart_data.TRAIN_SIZE, quickstart_data.TRAIN_SIZE, 3)
            assert content.sharp.min() >= 0
            assert content.sharp.max() <= 1
            assert content.depth.min() > 0.05
            coc = np.abs(content.camera.circle_of_confusion(content.depth))
            assert 3.9 < coc.max() < 16.1

    def test_test_scenes_are_blurred_but_not_beyond_repair(self, tmp_path):
        scenes = [scene for scene in quickstart_data.quickstart_scenes() if scene.split == "test"]
        for report in write_set(scenes, tmp_path / "out"):
            assert 22 < report.psnr_db < 28
            assert report.width <= 768
            assert report.height <= 512
            assert 6 < max(-report.coc_min, report.coc_max) < 24

    def test_measured_depth_is_middleburys(self):
        scene = next(s for s in quickstart_data.quickstart_scenes() if s.name == "motorcycle_near")
        depth = scene.build().depth
        assert depth.shape == (500, 741)
        # 0.193001 m * 994.978 px / (59.909 + 31.086) px and / (7.191 + 31.086) px
        assert depth.min() == pytest.approx(2.1104, abs=1e-3)
        assert depth.max() == pytest.approx(5.0169, abs=0.01)  # an edge pixel counts as the nearer side

    def test_missing_pictures_are_named(self, monkeypatch, tmp_path):
        monkeypatch.setattr(quickstart_data, "_picture_folder", lambda: tmp_path)
        with pytest.raises(UserError, match=r"astronaut\.png: missing; install scikit-image"):
            quickstart_data.quickstart_scenes()

    @pytest.mark.slow
    def test_whole_preset(self, tmp_path):
        assert main(["--preset", "quickstart", "--out", str(tmp_path / "out"), "--workers", "2"]) == 0
        for split, count in (("train", 280), ("val", 2), ("test", 3)):
            names = [
                {path.name for path in (tmp_path / "out" / part).iterdir()}
                for part in (f"{split}_c/source", f"{split}_c/target", f"{split}_l/source", f"{split}_r/source")
            ]
            assert all(found == names[0] for found in names)
            assert len(names[0]) == count
