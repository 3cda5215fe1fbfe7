"""Samples as the hosts get them, the same from any worker, and the checks before training starts."""

from __future__ import annotations

import pickle

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from ifan_plugin.common.errors import UserError
from ifan_plugin.data.augment import AugmentConfig, augment
from ifan_plugin.data.dual_pixel_dataset import DualPixelDataset
from ifan_plugin.data.sampler import EpochIndex

ALL = ["center", "left", "right"]
FOLDERS = {"center": "{}_c/source", "left": "{}_l/source", "right": "{}_r/source", "target": "{}_c/target"}
NAMES = {"center": "1P0A{:04}", "left": "1P0A{:04}_L", "right": "1P0A{:04}_R", "target": "1P0A{:04}"}


def picture(seed, height=44, width=60, bits=16):
    dtype = np.uint16 if bits == 16 else np.uint8
    return np.random.default_rng(seed).integers(0, 2**bits, (height, width, 3)).astype(dtype)


def save(path, rgb):
    path.parent.mkdir(parents=True, exist_ok=True)
    done, data = cv2.imencode(path.suffix, rgb[..., ::-1] if rgb.ndim == 3 else rgb)
    assert done
    path.write_bytes(data.tobytes())


def scene_path(root, role, number, split="train"):
    shot = 915 + 2 * number - (role == "target")
    return root / FOLDERS[role].format(split) / (NAMES[role].format(shot) + ".png")


def truth(number, role, **kwargs):
    return picture([number, list(FOLDERS).index(role)], **kwargs)


@pytest.fixture
def dpdd(tmp_path):
    """Four scenes for training and two for testing in a folder with an inconvenient name."""
    root = tmp_path / "Größe 16 bit"
    for split, count in (("train", 4), ("test", 2)):
        for number in range(count):
            for role in FOLDERS:
                save(scene_path(root, role, number, split), truth(number, role))
    return root


def options(root, phase="train", **kwargs):
    host = {"name": "DPDD", "type": "DualPixelDataset", "phase": phase, "scale": 1, "io_backend": {"type": "disk"}}
    return host | {"dataroot": str(root), "patch_size": 16, "views": ALL, "bit_depth": 16} | kwargs


def refusal(opt):
    """The one line that building, or else reading the first scene, ends in."""
    with pytest.raises(UserError) as caught:
        DualPixelDataset(opt)[0]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def same(a, b):
    return a.keys() == b.keys() and all(
        torch.equal(a[key], b[key]) if isinstance(a[key], torch.Tensor) else a[key] == b[key] for key in a
    )


def as_tensor(rgb):
    return torch.from_numpy((rgb.astype(np.float32) / np.float32(65535)).transpose(2, 0, 1).copy())


def test_test_sample_holds_the_files_values(dpdd):
    dataset = DualPixelDataset(options(dpdd, "test", aux_views=["left"]))
    assert len(dataset) == 2
    sample = dataset[1]
    assert set(sample) == {"lq", "gt", "left", "lq_path", "gt_path", "key"}
    cut = (slice(None), slice(0, 40), slice(0, 56))  # 44 x 60, top-left, to multiples of 8
    views = torch.cat([as_tensor(truth(1, role)) for role in ALL])
    assert torch.equal(sample["lq"], views[cut])
    assert torch.equal(sample["gt"], as_tensor(truth(1, "target"))[cut])
    assert torch.equal(sample["left"], as_tensor(truth(1, "left"))[cut])
    assert sample["lq_path"] == str(scene_path(dpdd, "center", 1, "test"))
    assert sample["gt_path"] == str(scene_path(dpdd, "target", 1, "test"))
    assert sample["key"] == "1P0A0917"
    assert sample["lq"].is_contiguous()


def test_views_are_stacked_in_the_order_given(dpdd):
    sample = DualPixelDataset(options(dpdd, "test", views=["right", "left"], crop_multiple=1))[0]
    assert sample["lq"].shape == (6, 44, 60)
    assert torch.equal(sample["lq"][:3], as_tensor(truth(0, "right")))
    assert torch.equal(sample["lq"][3:], as_tensor(truth(0, "left")))
    assert sample["lq_path"].endswith("_R.png")
    assert sample["key"] == "1P0A0915"


def test_defaults(dpdd):
    dataset = DualPixelDataset({"phase": "val_1", "name": "v", "dataroot": str(dpdd), "split": "test"})
    assert dataset.bit_depth == 8
    assert dataset[0]["lq"].shape == (3, 40, 56)
    np.testing.assert_array_equal(
        np.rint(dataset[0]["lq"].numpy() * 255), (truth(0, "center") >> 8)[:40, :56].transpose(2, 0, 1)
    )


def test_training_sample_is_the_augmentation_of_its_scene(dpdd):
    changes = {"noise_probability": 0.5, "grey_probability": 0.5, "hflip_probability": 0.5}
    dataset = DualPixelDataset(options(dpdd, augment=changes, seed=7, aux_views=["right"]))
    images = {role: (truth(2, role) / np.float32(65535)).astype(np.float32) for role in FOLDERS}
    config = AugmentConfig(**changes, patch_size=16)
    for position in range(12):
        sample = dataset[EpochIndex(2, 5, position)]
        expected = augment(images, config, np.random.default_rng([7, 5, position]))
        for place, role in enumerate(ALL):
            got = sample["lq"][3 * place : 3 * place + 3].numpy().transpose(1, 2, 0)
            np.testing.assert_array_equal(got, expected[role])
        np.testing.assert_array_equal(sample["gt"].numpy().transpose(1, 2, 0), expected["target"])
        np.testing.assert_array_equal(sample["right"].numpy().transpose(1, 2, 0), expected["right"])


def test_sample_depends_on_seed_epoch_and_position_alone(dpdd):
    dataset = DualPixelDataset(options(dpdd, seed=1))
    first = dataset[EpochIndex(3, 2, 9)]
    np.random.seed(123)
    torch.manual_seed(123)
    dataset[EpochIndex(0, 0, 0)]
    assert same(first, dataset[EpochIndex(3, 2, 9)])
    assert same(first, DualPixelDataset(options(dpdd, seed=1))[EpochIndex(3, 2, 9)])
    assert not same(first, dataset[EpochIndex(3, 3, 9)])
    assert not same(first, dataset[EpochIndex(3, 2, 10)])
    assert not same(first, DualPixelDataset(options(dpdd, seed=2))[EpochIndex(3, 2, 9)])
    assert same(dataset[3], dataset[EpochIndex(3, 0, 3)])  # a plain int: epoch 0, its own position


@pytest.fixture
def plan():
    return [EpochIndex(place % 4, 1, place) for place in (5, 2, 7, 0, 3, 6, 1, 4)]


@pytest.mark.parametrize(("workers", "start"), [(1, "fork"), (2, "fork"), (2, "spawn")])
def test_samples_are_the_same_from_any_worker(dpdd, plan, workers, start):
    changes = {"noise_probability": 0.5, "grey_probability": 0.5}
    dataset = DualPixelDataset(options(dpdd, augment=changes, aux_views=["left", "right"]))
    expected = list(DataLoader(dataset, batch_size=2, sampler=plan, num_workers=0))
    # OpenCV has been used with threads in this process by now, which a forked one must survive.
    loader = DataLoader(
        dataset, batch_size=2, sampler=plan, num_workers=workers, multiprocessing_context=start, timeout=50
    )
    got = list(loader)
    assert len(got) == len(expected) == 4
    assert all(same(a, b) for a, b in zip(got, expected))


def test_an_error_in_a_worker_stays_one_line(dpdd):
    path = scene_path(dpdd, "left", 0)
    path.write_bytes(path.read_bytes()[:-20])
    dataset = DualPixelDataset(options(dpdd))
    expected = refusal(options(dpdd))
    assert path.name in expected
    loader = DataLoader(dataset, sampler=[0], num_workers=1, multiprocessing_context="fork", timeout=50)
    with pytest.raises(UserError) as caught:
        list(loader)
    assert str(caught.value) == expected


def test_dataset_survives_pickling(dpdd):
    dataset = DualPixelDataset(options(dpdd))
    again = pickle.loads(pickle.dumps(dataset))  # noqa: S301 - our own bytes
    assert same(dataset[1], again[1])


def test_index_past_the_end(dpdd):
    dataset = DualPixelDataset(options(dpdd))
    for index in (4, -1):
        with pytest.raises(IndexError):
            dataset[index]


def test_max_images(dpdd):
    assert [s.key for s in DualPixelDataset(options(dpdd, max_images=2)).scenes] == ["1P0A0915", "1P0A0917"]
    assert len(DualPixelDataset(options(dpdd, max_images=99)).scenes) == 4


def test_gt_size_is_patch_size(dpdd):
    opt = options(dpdd, gt_size=24)
    del opt["patch_size"]
    assert DualPixelDataset(opt)[0]["gt"].shape == (3, 24, 24)
    message = refusal(options(dpdd, gt_size=24))
    assert "gt_size (24)" in message
    assert "patch_size (16)" in message


def test_augment_false_only_crops(dpdd):
    whole = as_tensor(truth(0, "target"))
    sample = DualPixelDataset(options(dpdd, augment=False))[0]["gt"]
    windows = whole.unfold(1, 16, 1).unfold(2, 16, 1)  # [3, tops, lefts, 16, 16]
    assert (windows == sample[:, None, None]).all(dim=-1).all(dim=-1).all(dim=0).sum() == 1


def test_without_ground_truth(dpdd, tmp_path):
    (dpdd / "test_c/target").rename(tmp_path / "elsewhere")
    sample = DualPixelDataset(options(dpdd, "test"))[0]
    assert "gt" not in sample
    assert "gt_path" not in sample
    assert str(dpdd / "test_c/target") in refusal(options(dpdd, "test", gt="required"))


def test_training_wants_ground_truth_unless_told(dpdd, tmp_path):
    (dpdd / "train_c/target").rename(tmp_path / "elsewhere")
    assert str(dpdd / "train_c/target") in refusal(options(dpdd))
    assert "gt" not in DualPixelDataset(options(dpdd, gt="none"))[0]


def test_gt_none_leaves_sharp_pictures_aside(dpdd):
    assert "gt" not in DualPixelDataset(options(dpdd, "test", gt="none"))[0]


def test_pixeldp_is_turned_and_turned_back(tmp_path):
    rgb = picture(0, height=60, width=44, bits=8)
    for side in "clr":
        save(tmp_path / f"test_{side}/source/1.png", rgb)
    dataset = DualPixelDataset({
        "phase": "val", "name": "PixelDP", "dataroot": str(tmp_path), "layout": "pixeldp", "crop_multiple": 1,
    })  # fmt: skip
    lq = dataset[0]["lq"]
    assert lq.shape == (3, 44, 60)
    # Counter-clockwise: the top right corner goes to the top left.
    np.testing.assert_array_equal(np.rint(lq[:, 0, 0].numpy() * 255), rgb[0, -1])
    np.testing.assert_array_equal(np.rint(lq[:, 0, -1].numpy() * 255), rgb[-1, -1])
    back = dataset.unrotate(lq)
    np.testing.assert_array_equal(np.rint(back.numpy() * 255), rgb.transpose(2, 0, 1))
    np.testing.assert_array_equal(dataset.unrotate(lq.numpy().transpose(1, 2, 0)), back.numpy().transpose(1, 2, 0))
    assert dataset.rotate_back == 3


def test_other_layouts_are_not_turned(dpdd):
    dataset = DualPixelDataset(options(dpdd, "test"))
    assert dataset.rotate_back == 0
    lq = dataset[0]["lq"]
    assert torch.equal(dataset.unrotate(lq), lq)


def test_folder_layout_of_jpegs(tmp_path):
    save(tmp_path / "mein Foto.jpg", picture(0, bits=8))
    dataset = DualPixelDataset({"phase": "test", "name": "x", "dataroot": str(tmp_path), "layout": "folder"})
    assert dataset[0]["key"] == "mein Foto"
    assert set(dataset[0]) == {"lq", "lq_path", "key"}
    assert "'left'" in refusal(dataset.opt | {"aux_views": ["left"]})


def test_8_bit_file_among_16_bit_ones(dpdd):
    path = scene_path(dpdd, "right", 3)
    save(path, picture(0, bits=8))
    assert str(path) in refusal(options(dpdd))  # at start-up, although scene 3 isn't read
    assert len(DualPixelDataset(options(dpdd, bit_depth=8))[3]["lq"]) == 9
    assert len(DualPixelDataset(options(dpdd, views=["center"]))[3]["lq"]) == 3  # not among the files used


def test_unequal_sizes_within_a_scene(dpdd):
    path = scene_path(dpdd, "target", 0)
    save(path, picture(0, height=42))
    for check in ("headers", "none"):
        message = refusal(options(dpdd, check=check))
        assert str(path) in message
        assert "60x42" in message
        assert "60x44" in message


def test_scenes_may_differ_in_size(dpdd):
    for role in FOLDERS:
        save(scene_path(dpdd, role, 1), picture(0, height=30, width=70))
    dataset = DualPixelDataset(options(dpdd))
    assert {dataset[index]["lq"].shape for index in range(4)} == {(9, 16, 16)}


def test_pictures_smaller_than_the_patch(dpdd):
    for check in ("headers", "none"):
        message = refusal(options(dpdd, patch_size=48, check=check))
        assert scene_path(dpdd, "center", 0).name in message
        assert "60x44" in message
        assert "48" in message
    assert DualPixelDataset(options(dpdd, patch_size=44))[0]["lq"].shape == (9, 44, 44)
    assert DualPixelDataset(options(dpdd, "test", patch_size=48))[0]["lq"].shape == (9, 40, 56)


def test_grey_pictures_become_rgb_and_transparent_ones_are_found_at_start_up(dpdd):
    grey = scene_path(dpdd, "left", 1)
    save(grey, picture(0)[..., 0])
    DualPixelDataset(options(dpdd))
    path = scene_path(dpdd, "left", 2)
    save(path, np.dstack([picture(0), picture(0)[..., :1]]))
    message = refusal(options(dpdd))
    assert str(path) in message
    assert "rgba, not opaque" in message


def test_extra_file_and_empty_folder(dpdd):
    extra = scene_path(dpdd, "left", 9)
    save(extra, picture(0))
    assert str(extra) in refusal(options(dpdd))
    for path in (dpdd / "train_l/source").iterdir():
        path.unlink()
    assert f"{dpdd / 'train_l/source'}: no pictures" in refusal(options(dpdd))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dataroot": "nowhere"}, "dataroot: folder not found: nowhere"),
        ({"layout": "dpd"}, "did you mean 'dpdd'?"),
        ({"views": ["centre"]}, "did you mean 'center'?"),
        ({"views": []}, "views: give at least one"),
        ({"views": ["left", "left"]}, "views: each view at most once"),
        ({"views": "center"}, "views: must be a list"),
        ({"aux_views": ["center"]}, "aux_views"),
        ({"bit_depth": 12}, "must be one of 8, 16"),
        ({"patch_size": 0}, "patch_size: must be at least 1"),
        ({"patch_size": "256"}, "patch_size: must be an integer"),
        ({"augment": {"flip": 1}}, "augment: unknown key 'flip'"),
        ({"augment": 3}, "augment: must be a mapping or true or false"),
        ({"views": ["left"], "augment": {"hflip_probability": 0.5}}, "hflip_probability"),
        ({"gt": "maybe"}, "gt: must be one of"),
        ({"check": "all"}, "check: must be one of"),
        ({"split": "valid"}, "did you mean 'val'?"),
        ({"seed": -1}, "seed: must be at least 0"),
        ({"max_images": 0}, "max_images"),
        ({"phase": "fit"}, "phase must be train, val or test"),
        ({"split": "val"}, "val_c/source: folder not found"),
        ({"coc": True}, "train_coc: folder not found (coc: true); basicsr simulate --save-coc writes it"),
        ({"coc": True, "phase": "test"}, "coc: is for training; leave it out in phase test"),
        ({"coc": True, "layout": "lmdb"}, "coc: needs layout: dpdd, as basicsr simulate writes it, not lmdb"),
    ],
)
def test_wrong_options(dpdd, change, words):
    with pytest.raises(UserError) as caught:
        DualPixelDataset.check_options(options(dpdd) | change, "x.yml: datasets: train")
    message = str(caught.value)
    assert words in message
    assert "\n" not in message
    assert refusal(options(dpdd) | change)  # the constructor checks the same


def coc_map(number):
    """Values that a file of 1/256 px steps holds exactly; both signs."""
    return np.random.default_rng([9, number]).integers(-2560, 2560, (44, 60)) / np.float32(256)


def with_coc(root):
    for number in range(4):
        stored = (256 * coc_map(number) + 32768).astype(np.uint16)
        save(root / "train_coc" / f"{NAMES['center'].format(915 + 2 * number)}.png", stored)
    return root


@pytest.mark.parametrize("scaled", [0.0, 1.0])
def test_the_circle_of_confusion_is_cut_as_its_pictures(dpdd, scaled):
    """Pictures whose red values say what the map says, so that both are cut, shrunk and mirrored alike or not at all."""
    with_coc(dpdd)
    for number in range(4):
        told = np.rint((coc_map(number) + 10) / 20 * 65535).astype(np.uint16)
        save(scene_path(dpdd, "center", number), np.repeat(told[..., None], 3, 2))
    quiet = {"noise_probability": 0.0, "grey_probability": 0.0, "scale_probability": scaled, "hflip_probability": 0.5}
    dataset = DualPixelDataset(options(dpdd, augment=quiet, coc=True))
    factors = set()
    for position in range(8):
        sample = dataset[EpochIndex(position % 4, 1, position)]
        assert sample["coc"].shape == (1, 16, 16)
        assert sample["coc"].dtype == torch.float32
        plain = sample["lq"][:1] * 20 - 10  # the map in the pixels of the whole picture
        factor = float((sample["coc"] * plain).sum() / (plain * plain).sum())  # a shrunk picture's blur shrinks with it
        torch.testing.assert_close(sample["coc"], factor * plain, atol=1e-3, rtol=0)
        factors.add(round(factor, 2))
    assert (factors == {1.0}) == (scaled == 0)
    assert min(factors) >= 0.68


def test_a_circle_of_confusion_that_does_not_fit(dpdd):
    with_coc(dpdd)
    first = dpdd / "train_coc" / "1P0A0915.png"
    for wrong in (np.zeros((44, 59), np.uint16), np.zeros((44, 60), np.uint8), np.zeros((44, 60, 3), np.uint16)):
        save(first, wrong)
        assert str(first) in refusal(options(dpdd, coc=True))
    first.write_bytes(b"nothing")
    assert "must be a 16-bit grey PNG" in refusal(options(dpdd, coc=True))
    first.unlink()
    assert f"{first}: not found (coc: true)" in refusal(options(dpdd, coc=True))


def test_dataroot_is_required_and_host_keys_are_not_ours(dpdd):
    opt = options(dpdd, batch_size_per_gpu=4, prefetch_mode=None)
    values = DualPixelDataset.check_options(opt, "x.yml")
    assert values["split"] == "train"
    assert values["crop_multiple"] == 8
    assert values["augment"] == AugmentConfig(patch_size=16)
    del opt["dataroot"]
    with pytest.raises(UserError, match="'dataroot' is missing"):
        DualPixelDataset.check_options(opt, "x.yml")


def test_mirroring_needs_both_sides_or_none(dpdd):
    off = {"noise_probability": 0, "grey_probability": 0, "scale_probability": 0}
    flip = {"augment": off | {"hflip_probability": 1.0}}
    DualPixelDataset(options(dpdd, views=["center"], **flip))
    sample = DualPixelDataset(options(dpdd, views=["left"], aux_views=["right"], **flip, patch_size=44))[0]
    whole = as_tensor(truth(0, "right")).flip(-1)
    assert any(torch.equal(sample["lq"], whole[:, :, x : x + 44]) for x in range(17))
