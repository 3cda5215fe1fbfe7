"""Sets in other layouts, in folders of one's own, and several sets as one."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers import write_dpdd

from ifan_plugin.common.errors import UserError
from ifan_plugin.data import DualPixelDataset
from ifan_plugin.data.layouts import find_scenes
from ifan_plugin.data.pixel4 import BLACK, CROP
from ifan_plugin.data.sampler import EpochIndex

RNG = np.random.default_rng(0)


def write(path: Path, size: tuple[int, int] = (32, 32)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), RNG.integers(0, 256, (*size, 3), np.uint8))
    return path


def options(root: Path, phase: str = "test", **more) -> dict:
    return {"phase": phase, "name": "set", "dataroot": str(root), "patch_size": 16, "augment": False, **more}


class TestLightField:
    @pytest.fixture
    def root(self, tmp_path) -> Path:
        for part in ("train_data", "test_data"):
            for scene in ("Airplane_1", "Bikes"):
                write(tmp_path / part / "ground_truth" / f"{scene}.png")
                for focus in range(3):
                    write(tmp_path / part / "input" / scene / f"{focus:02d}.png")
        return tmp_path

    @pytest.mark.parametrize("phase", ["train", "test"])
    def test_each_blurred_picture_is_a_scene_with_its_folders_sharp_one(self, root, phase):
        dataset = DualPixelDataset(options(root, phase, layout="lfdof"))
        assert len(dataset) == 6
        assert [scene.key for scene in dataset.scenes[:4]] == [
            "Airplane_1_00",
            "Airplane_1_01",
            "Airplane_1_02",
            "Bikes_00",
        ]
        sample = dataset[4]
        assert Path(sample["lq_path"]).parts[-3:] == ("input", "Bikes", "01.png")
        assert Path(sample["gt_path"]) == root / f"{phase}_data" / "ground_truth" / "Bikes.png"

    def test_a_scene_without_a_sharp_picture_is_told(self, root):
        (root / "test_data/ground_truth/Bikes.png").unlink()
        with pytest.raises(UserError, match=r"Bikes: has no sharp picture 'Bikes' in .*ground_truth"):
            find_scenes(root, "lfdof", "test", ["center"])
        with pytest.raises(UserError, match="has no folders; its layout keeps each scene's blurred pictures in one"):
            find_scenes(write(root / "other/test_data/input/x.png").parents[2], "lfdof", "test", ["center"], "none")


def test_did_anets_folders(tmp_path):
    for folder in ("image", "sharp", "filtered"):
        write(tmp_path / folder / "a.jpg")
    scene = find_scenes(tmp_path, "ded", "test", ["center"])[0]
    assert (scene.center, scene.target) == (tmp_path / "image/a.jpg", tmp_path / "sharp/a.jpg")


@pytest.mark.parametrize(("phase", "folder"), [("train", "train_patches"), ("val", "test"), ("test", "test")])
def test_jdrls_folders(tmp_path, phase, folder):
    for part in ("train_patches", "test"):
        for role in ("blur", "gt"):
            write(tmp_path / part / role / "a.png")
    scene = DualPixelDataset(options(tmp_path, phase, layout="sdd")).scenes[0]
    assert (scene.center, scene.target) == (tmp_path / folder / "blur/a.png", tmp_path / folder / "gt/a.png")


class TestCamerasAndApertures:
    @pytest.fixture
    def root(self, tmp_path) -> Path:
        for split in ("train", "valid", "test"):
            for camera in ("cam0", "cam1"):
                folder = tmp_path / split / "2022_10_01" / camera
                for aperture in ("1.8", "4"):
                    for name in ("_c", "_l", "_r", ""):
                        write(folder / f"FN_{aperture}{name}.png")
                for name in ("FN_22.png", "FN_22_c.png", "dep.png"):
                    write(folder / name)
        return tmp_path

    @pytest.mark.parametrize(("phase", "split"), [("train", "train"), ("val", "valid"), ("test", "test")])
    def test_each_camera_and_aperture_is_a_scene(self, root, phase, split):
        dataset = DualPixelDataset(options(root, phase, layout="dp5k", views=["center", "left", "right"]))
        folder = root / split / "2022_10_01" / "cam1"
        assert [scene.key for scene in dataset.scenes] == [
            f"2022_10_01_cam{camera}_f{aperture}" for camera in (0, 1) for aperture in ("1.8", "4")
        ]
        scene = dataset.scenes[2]
        assert scene.center == folder / "FN_1.8_c.png"
        assert (scene.left, scene.right) == (folder / "FN_1.8_l.png", folder / "FN_1.8_r.png")
        assert scene.target == folder / "FN_22.png"

    def test_what_is_missing_is_told(self, root):
        lost = root / "test/2022_10_01/cam0/FN_4_r.png"
        lost.unlink()
        with pytest.raises(UserError, match=r"FN_4_r.png: not found, though FN_4_c.png lies there"):
            find_scenes(root, "dp5k", "test", ["center", "right"])
        assert len(find_scenes(root, "dp5k", "test", ["center"])) == 4
        (root / "empty/test").mkdir(parents=True)
        with pytest.raises(UserError, match=r"no pictures found; valid: SCENE/cam0/FN_1.8_l.png"):
            find_scenes(root / "empty", "dp5k", "test", ["left"])


def test_folders_of_ones_own(tmp_path):
    for folder in ("blur", "sharp", "L", "R"):
        write(tmp_path / "part" / folder / "1.png")
    own = {"center": "part/blur", "target": "part/sharp", "left": "part/L", "right": "part/R"}
    dataset = DualPixelDataset(options(tmp_path, folders=own, views=["left", "right"]))
    assert dataset[0]["lq"].shape == (6, 32, 32)
    assert dataset.scenes[0].target == tmp_path / "part/sharp/1.png"


class TestSeveral:
    @pytest.fixture
    def roots(self, tmp_path) -> tuple[Path, Path]:
        return write_dpdd(tmp_path / "a", {"train": 2, "test": 2}), write_dpdd(tmp_path / "b", {"train": 3, "test": 1})

    def test_an_epoch_shows_each_as_often_as_its_weight(self, roots):
        more = [{"dataroot": str(roots[1]), "weight": 2}]
        dataset = DualPixelDataset(options(roots[0], "train", more=more, weight=3))
        assert len(dataset) == 3 * 2 + 2 * 3
        seen = [
            Path(dataset[EpochIndex(index)]["gt_path"]).relative_to(roots[0].parent).parts[0] for index in range(12)
        ]
        assert (seen.count("a"), seen.count("b")) == (6, 6)

    def test_samples_are_those_of_each_set_alone_and_names_stay_apart(self, roots):
        both = DualPixelDataset(options(roots[0], more=[{"dataroot": str(roots[1])}]))
        alone = [DualPixelDataset(options(root)) for root in roots]
        assert len(both) == 3
        for index, (dataset, place) in enumerate([(alone[0], 0), (alone[0], 1), (alone[1], 0)]):
            assert bool((both[index]["lq"] == dataset[place]["lq"]).all())
        keys = [scene.key for scene in both.scenes]
        assert len(set(keys)) == 3
        assert keys[2] == f"2_{alone[1].scenes[0].key}"

    def test_each_scene_has_the_circle_of_confusion_of_its_own_set(self, roots):
        """Their names are the same in both."""
        for number, root in enumerate(roots):
            (root / "train_coc").mkdir()
            for path in (root / "train_c/source").iterdir():
                size = cv2.imread(str(path)).shape[:2]
                cv2.imwrite(str(root / "train_coc" / path.name), np.full(size, 32768 + 256 * (number + 1), np.uint16))
        more = [{"dataroot": str(roots[1]), "weight": 2}]
        dataset = DualPixelDataset(options(roots[0], "train", more=more, coc=True))
        for index in range(len(dataset)):
            sample = dataset[EpochIndex(index)]
            assert sample["coc"].unique().tolist() == [1.0 if "/a/" in sample["gt_path"] else 2.0]
        lost = next((roots[1] / "train_coc").iterdir())
        lost.unlink()
        with pytest.raises(UserError, match=rf"^{re.escape(str(lost))}: not found \(coc: true\)"):
            DualPixelDataset(options(roots[0], "train", more=more, coc=True))

    @pytest.mark.parametrize(
        ("phase", "changed", "message"),
        [
            ("train", {"coc": True, "folders": {"center": "x"}}, "folders: can't be had with coc: true"),
            (
                "train",
                {"coc": True, "more": [{"dataroot": ".", "layout": "folder"}]},
                "more: 0: coc: needs layout: dpdd",
            ),
            ("test", {"weight": 2}, "weight: is for training"),
            ("train", {"weight": 2}, "weight: says nothing of one set alone"),
            ("train", {"more": [{"dataroot": "/none"}]}, "more: 0: dataroot"),
            ("train", {"more": [{"weight": 2}]}, "more: 0: 'dataroot' is missing"),
            ("test", {"folders": {"centre": "x"}}, "unknown key 'centre'; did you mean 'center'"),
            ("test", {"folders": {"center": 3}}, "folders: center: must be a folder's name, not 3"),
        ],
    )
    def test_slips_are_one_line(self, roots, phase, changed, message):
        with pytest.raises(UserError) as caught:
            DualPixelDataset(options(roots[0], phase, **changed))
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_sets_that_do_not_fit_together(self, roots, tmp_path):
        write(tmp_path / "plain/x.png")
        with pytest.raises(UserError, match="sets that are mixed need the same views"):
            DualPixelDataset(options(roots[0], more=[{"dataroot": str(tmp_path / "plain"), "layout": "folder"}]))


@pytest.fixture(scope="module")
def pixel4(tmp_path_factory) -> Path:
    """A scene whose right view sees 80 % of the light, as its white sheet shows, and a truth of another gain."""
    root = tmp_path_factory.mktemp("pixel4")
    rng = np.random.default_rng(1)
    light = cv2.GaussianBlur(rng.random((1512, 2016)).astype(np.float32), (0, 0), 9)
    light = (light - light.min()) / (light.max() - light.min())

    def save(name: str, picture: np.ndarray) -> None:
        (root / name).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(root / name), np.round(picture).astype(np.uint16))

    save("001_left.png", BLACK + 8000 * light)
    save("001_right.png", BLACK + 6400 * light)
    save("gt_all_in_focus/001_gt.png", 3000 + 4000 * light[CROP])
    save("calibration/white_sheet_left.png", np.full(light.shape, BLACK + 10000.0))
    save("calibration/white_sheet_right.png", np.full(light.shape, BLACK + 8000.0))
    return root


class TestPixel4:
    def test_views_are_evened_out_and_the_truth_is_as_bright_as_they(self, pixel4):
        dataset = DualPixelDataset(options(pixel4, layout="pixel4", views=["left", "right"], bit_depth=16))
        sample = dataset[0]
        left, right = sample["lq"][:3].numpy(), sample["lq"][3:].numpy()
        assert left.shape == (3, 1008, 1344)
        assert np.array_equal(left[0], left[2])
        np.testing.assert_allclose(left, right, atol=2e-3)
        np.testing.assert_allclose(left, sample["gt"].numpy(), atol=2e-3)
        light = cv2.imread(str(pixel4 / "001_left.png"), cv2.IMREAD_UNCHANGED)[CROP].astype(np.float64) - BLACK
        expected = (light / np.percentile(light, 99.9)).clip(0, 1) ** (1 / 2.2)
        np.testing.assert_allclose(left[0], expected, atol=3e-3)
        assert dataset.scenes[0].key == "001"

    def test_eight_bits_and_patches(self, pixel4):
        dataset = DualPixelDataset(options(pixel4, "train", layout="pixel4"))
        sample = dataset[EpochIndex(0)]
        assert sample["lq"].shape == sample["gt"].shape == (3, 16, 16)

    def test_what_is_missing_is_told(self, tmp_path):
        with pytest.raises(UserError, match=r"has no pictures NNN_left\.png"):
            DualPixelDataset(options(tmp_path, layout="pixel4"))
        write(tmp_path / "001_left.png")
        with pytest.raises(UserError, match=r"white_sheet_left\.png: not found"):
            DualPixelDataset(options(tmp_path, layout="pixel4"))
