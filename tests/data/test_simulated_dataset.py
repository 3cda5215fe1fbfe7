"""Blurred at load time: the samples of `basicsr simulate`, patches as of the whole picture, and mistakes in one line."""

from __future__ import annotations

import copy
import pickle

import cv2
import numpy as np
import pytest
import torch
from helpers import basicsr, write_options
from torch.utils.data import DataLoader, default_collate

import ifan_plugin
from ifan_plugin.common.errors import UserError
from ifan_plugin.data import device_patches
from ifan_plugin.data.augment import AugmentConfig, augment
from ifan_plugin.data.dual_pixel_dataset import DualPixelDataset
from ifan_plugin.data.sampler import EpochIndex
from ifan_plugin.data.simulated_dataset import SimulatedDualPixelDataset, detail
from ifan_plugin.host import option_check
from ifan_plugin.images.image_io import write_image
from ifan_plugin.simulation.data_set import Scene, SceneContent, write_set
from ifan_plugin.simulation.depth_pictures import FolderOptions, read_sharp_and_depth
from ifan_plugin.simulation.simulator import simulate_dual_pixel

ifan_plugin.register()

ALL = ["center", "left", "right"]
HEIGHT, WIDTH = 84, 108


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Three textured pictures, 8 and 16 bit, with a box in front of a receding floor, in folders with odd names."""
    root = tmp_path_factory.mktemp("Tiefe und Schärfe")
    (root / "depth").mkdir()
    rng = np.random.default_rng(4)
    for number, name in enumerate(["ä b", "second", "third"]):
        coarse = cv2.resize(rng.random((14, 18, 3)), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
        picture = (0.6 * coarse + 0.4 * rng.random((HEIGHT, WIDTH, 3))).clip(0, 1)
        write_image(root / "sharp" / f"{name}.png", picture, 8 if number == 1 else 16)
        depth = np.linspace(6, 2, HEIGHT)[:, None] * np.ones(WIDTH)
        depth[20:50, 30 + 8 * number : 60] = 1.2
        depth[0, :3] = np.nan
        np.save(root / "depth" / f"{name}.npy", depth)
    return root


def options(folders, phase="train", **kwargs):
    own = {"dataroot_sharp": str(folders / "sharp"), "dataroot_depth": str(folders / "depth"), "max_coc_px": 4.0}
    host = {"name": "sim", "type": "SimulatedDualPixelDataset", "phase": phase, "scale": 1}
    return host | own | {"views": ALL, "patch_size": 32, "bit_depth": 16} | kwargs


def lens_of(dataset, index, key=None):
    """(sharp, depth, lens) of a scene: the fixed one, or the one drawn with ``key``."""
    scene = dataset.scenes[index]
    sharp, depth, pitch = read_sharp_and_depth(scene.sharp, scene.depth, FolderOptions())
    return sharp, depth, dataset._draw(scene, depth, pitch, key) if key else dataset.lens(index, depth, pitch)


def same(a, b):
    return a.keys() == b.keys() and all(
        torch.equal(a[key], b[key]) if isinstance(a[key], torch.Tensor) else a[key] == b[key] for key in a
    )


@pytest.mark.parametrize("bit_depth", [8, 16])
def test_validation_gives_what_the_files_of_a_simulated_set_would(folders, tmp_path, bit_depth):
    dataset = SimulatedDualPixelDataset(options(folders, "val", bit_depth=bit_depth, aux_views=["left"]))
    scenes = []
    for index, scene in enumerate(dataset.scenes):
        sharp, depth, lens = lens_of(dataset, index)
        content = SceneContent(sharp, depth, lens.camera, {"optics": lens.optics})
        scenes.append(Scene("test", scene.key, lambda content=content: content))
    write_set(scenes, tmp_path / "set")
    files = DualPixelDataset({
        "name": "files", "phase": "test", "dataroot": str(tmp_path / "set"), "views": ALL, "aux_views": ["left"],
        "bit_depth": bit_depth,
    })  # fmt: skip
    assert dataset[0]["lq"].shape == (9, 80, 104)
    assert dataset.bit_depth == bit_depth
    for index in range(3):
        ours, theirs = dataset[index], files[index]
        assert ours["key"] == theirs["key"]
        assert set(ours) == set(theirs)
        for key in ("lq", "gt", "left"):
            assert torch.equal(ours[key], theirs[key])
        assert not torch.equal(ours["lq"][:3], ours["gt"]), "it is blurred"
        assert ours["lq_path"] == ours["gt_path"] == str(dataset.scenes[index].sharp)


@pytest.mark.parametrize("scaled", [0.0, 1.0])
def test_a_patch_is_that_of_the_whole_picture(folders, scaled):
    """Only a part is simulated. What lies outside its margin would change what is invented behind near objects, by up
    to some 1e-3; 2e-5 is rounding: two steps of 16 bits, and float32 blurs of arrays of another size."""
    augmented = {"scale_probability": scaled, "grey_probability": 0.5, "noise_probability": 0.0}
    dataset = SimulatedDualPixelDataset(options(folders, augment=augmented, seed=5))
    config = AugmentConfig.from_options(augmented, 32)
    for position in range(12):
        index = EpochIndex(position % 3, 2, position)
        sample = dataset[index]
        sharp, depth, lens = lens_of(dataset, position % 3, [5, 2, position])
        seen = simulate_dual_pixel(sharp, depth, lens.camera, optics=lens.optics)
        whole = {"center": seen.center, "left": seen.left, "right": seen.right, "target": sharp}
        patch = augment(whole, config, np.random.default_rng([5, 2, position]))
        expected = np.concatenate([patch[view] for view in ALL], axis=2).transpose(2, 0, 1)
        np.testing.assert_allclose(sample["lq"], expected, atol=2e-5)
        np.testing.assert_allclose(sample["gt"], patch["target"].transpose(2, 0, 1), atol=2e-5)
        assert sample["lq"].shape == (9, 32, 32)


def test_the_circle_of_confusion_is_that_of_the_device(folders):
    """And where pictures are shrunk, which the device does before the blur, the blur's map shrinks with them."""
    quiet = {"noise_probability": 0.0, "grey_probability": 0.0, "scale_probability": 0.0}
    here = SimulatedDualPixelDataset(options(folders, augment=quiet, coc=True, seed=5))
    for position in range(3):
        index = EpochIndex(position, 1, position)
        device = finished(on_device(folders, seed=5), index)["coc"]
        torch.testing.assert_close(here[index]["coc"][None], device, atol=1e-5, rtol=0)
    assert "coc" not in SimulatedDualPixelDataset(options(folders))[0]
    scaled = SimulatedDualPixelDataset(options(folders, augment=quiet | {"scale_probability": 1.0}, coc=True, seed=5))
    _, depth, lens = lens_of(scaled, 0, [5, 1, 0])
    largest = np.abs(lens.camera.circle_of_confusion(depth)).max()
    assert 0.1 * largest < scaled[EpochIndex(0, 1, 0)]["coc"].abs().max() < largest
    invented = {"depth_kind": "invented", "dataroot_depth": None}
    assert SimulatedDualPixelDataset(options(folders, coc=True, **invented))[0]["coc"].shape == (1, 32, 32)
    assert "coc" not in SimulatedDualPixelDataset(options(folders, **invented))[0]


def test_a_region_at_every_border_equals_the_whole(folders):
    dataset = SimulatedDualPixelDataset(options(folders, "val"))
    sharp, depth, lens = lens_of(dataset, 0)
    whole = simulate_dual_pixel(sharp, depth, lens.camera)
    for top in (0, 21, HEIGHT - 40):
        for left in (0, 33, WIDTH - 48):
            part = simulate_dual_pixel(sharp, depth, lens.camera, region=(top, left, 40, 48))
            for one, all_of_it in zip(part, whole):
                np.testing.assert_allclose(one, all_of_it[top : top + 40, left : left + 48], atol=5e-6)
    for region in ((-1, 0, 8, 8), (0, 0, 0, 8), (HEIGHT - 7, 0, 8, 8), (0, WIDTH - 7, 8, 8)):
        with pytest.raises(ValueError, match="isn't inside a picture of 108x84"):
            simulate_dual_pixel(sharp, depth, lens.camera, region=region)


def test_draws_follow_from_seed_epoch_and_position_alone(folders):
    dataset = SimulatedDualPixelDataset(options(folders, aux_views=["right"]))
    assert dataset.draws_by_position
    indices = [EpochIndex(i % 3, 1, i) for i in range(4)]
    alone = [dataset[index] for index in indices]
    loaded = list(DataLoader(dataset, None, sampler=indices, num_workers=2, multiprocessing_context="fork"))
    assert pickle.dumps(dataset), "it can be sent to spawned workers, too"
    assert all(same(a, b) for a, b in zip(alone, loaded))
    assert not same(alone[0], dataset[EpochIndex(0, 2, 0)])
    assert not same(alone[0], dataset[EpochIndex(0, 1, 9)])
    other = SimulatedDualPixelDataset(options(folders, aux_views=["right"], seed=1))
    assert not same(alone[0], other[indices[0]])


def test_a_scenes_camera_in_validation_stays_when_others_join(folders):
    whole, one = (SimulatedDualPixelDataset(options(folders, "val", max_images=n)) for n in (None, 1))
    assert lens_of(whole, 0)[2] == lens_of(one, 0)[2]
    assert len({lens_of(whole, index)[2].camera for index in range(3)}) == 3
    assert same(whole[0], whole[EpochIndex(0, 7, 7)])


def test_cameras_keep_to_their_ranges(folders):
    ranges = {
        "f_number": [2, 4],
        "focal_length_mm": 50,
        "focus_distance_m": [1.5, 3],
        "camera": "abuolaim",
        "psf_order": 6,
        "max_coc_px": 90.0,
    }
    dataset = SimulatedDualPixelDataset(options(folders, **ranges, pixel_pitch_um=20.0))
    lenses = [lens_of(dataset, 0, [i])[2] for i in range(200)]
    cameras = [lens.camera for lens in lenses]
    stops = [camera.f_number for camera in cameras]
    assert 2 <= min(stops) < 2.1
    assert 3.9 < max(stops) <= 4
    assert np.median(stops) == pytest.approx(8**0.5, rel=0.1), "as many between 2 and 2.8 as between 2.8 and 4"
    distances = [camera.focus_distance_m for camera in cameras]
    assert 1.5 <= min(distances) < max(distances) <= 3
    assert np.median(distances) == pytest.approx(2, rel=0.1), "uniform in inverse distance"
    assert {camera.focal_length_mm for camera in cameras} == {50}
    assert {(lens.optics.order, lens.optics.cutoff, lens.optics.beta) for lens in lenses} == {
        (6, cutoff, beta) for cutoff in (2.0, 2.5) for beta in (0.1, 0.2)
    }


def test_the_aperture_is_closed_where_the_blur_would_be_too_large(folders):
    dataset = SimulatedDualPixelDataset(options(folders, f_number=[0.1, 0.2], max_coc_px=3.0))
    for seed in range(20):
        _, depth, lens = lens_of(dataset, 0, [seed])
        assert np.abs(lens.camera.circle_of_confusion(depth)).max() == pytest.approx(3.0)
        assert lens.camera.f_number > 0.2
        inverse = 1 / lens.camera.focus_distance_m
        assert 1 / 6.0 < inverse < 1 / 1.2, "focused within the scene"


def test_disparity_is_depth_and_keeps_the_real_angle_of_view(folders, tmp_path):
    (tmp_path / "disparity").mkdir()
    for path in (folders / "depth").iterdir():
        np.save(tmp_path / "disparity" / path.name, 0.2 * 500 / np.load(path) - 3)
    stereo = {"depth_kind": "disparity", "focal_px": 500.0, "baseline_m": 0.2, "doffs_px": 3.0}
    dataset = SimulatedDualPixelDataset(options(folders, "val", **stereo, dataroot_depth=str(tmp_path / "disparity")))
    plain = SimulatedDualPixelDataset(options(folders, "val"))
    scene = dataset.scenes[0]
    _, depth, pitch = read_sharp_and_depth(scene.sharp, scene.depth, dataset._folder_options)
    np.testing.assert_allclose(depth, lens_of(plain, 0)[1], rtol=1e-5)
    camera = dataset.lens(0, depth, pitch).camera
    assert camera.focal_length_mm / camera.pixel_pitch_um * 1000 == pytest.approx(500)


# --- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataroot_sharp": "/no/where"}, "dataroot_sharp: folder not found: /no/where"),
        ({"f_number": [4, 2]}, "f_number: must be a number or [lower, upper], not [4, 2]"),
        ({"f_number": [1, 2, 3]}, "f_number: must be a number or [lower, upper], not [1, 2, 3]"),
        ({"f_number": 0}, "f_number: must be at least 1e-06, not 0"),
        ({"f_number": "wide"}, "f_number: must be a list or a number, not 'wide'"),
        ({"focus_distance_m": [0.03, 2]}, "focus_distance_m: must be beyond the focal length, 70 mm, not 0.03 m"),
        ({"camera": "abuolaim", "psf_beta": [0.1, 2]}, "psf_beta: must be at most 1.0, not 2"),
        ({"camera": "abuolaim", "psf_order": []}, "psf_order: give at least one number"),
        ({"psf_order": 6}, "psf_order: is only used with camera: abuolaim"),
        ({"camera": "pixel3"}, "not 'pixel3'; did you mean 'pixel4'?"),
        ({"sensor": "film"}, "sensor: must be one of 'none', 'camera', 'phone', 'random', not 'film'"),
        ({"on_device": True, "camera": "abuolaim"}, "on_device: isn't there for camera: abuolaim; valid: thin_lens"),
        ({"on_device": True, "phase": "val"}, "on_device: is for training; leave it out in phase val"),
        ({"coc": True, "phase": "test"}, "coc: is for training; leave it out in phase test"),
        ({"depth_kind": "invented"}, "dataroot_depth: isn't used with depth_kind: invented; leave one out"),
        ({"dataroot_depth": None}, "'dataroot_depth' is missing; without depth, set depth_kind: invented"),
        ({"max_coc_px": 200}, "max_coc_px: must be at most 90.0, not 200"),
        ({"depth_kind": "disparity"}, "'focal_px' is missing; depth_kind: disparity needs"),
        ({"baseline_m": 0.1}, "baseline_m: is only used with depth_kind: disparity"),
        ({"views": ["middle"]}, "views: unknown item 'middle'"),
        ({"views": ["left", "left"]}, "views: each view at most once, not left, left"),
        ({"views": []}, "views: give at least one of center"),
        ({"gt_size": 16}, "gt_size (16) and patch_size (32) differ"),
        ({"augment": {"flip": 1}}, "augment: unknown key 'flip'"),
        ({"augment": {"hflip_probability": 0.5}, "views": ["center", "left"]}, "mirroring swaps left and right"),
        ({"patch_size": 96}, "size 108x84 is too small; valid: at least 96 each way (patch_size)"),
        ({"phase": "trial"}, "phase must be train, val or test"),
    ],
)
def test_slips_are_one_line(folders, changes, message):
    with pytest.raises(UserError) as caught:
        SimulatedDualPixelDataset(options(folders, **changes))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_depth_that_does_not_fit_is_told_before_training_starts(folders, tmp_path):
    depth = tmp_path / "depth"
    depth.mkdir()
    for path in (folders / "depth").iterdir():
        np.save(depth / path.name, np.load(path))
    np.save(depth / "second.npy", np.ones((HEIGHT, WIDTH - 1)))
    broken = options(folders, dataroot_depth=str(depth))
    with pytest.raises(UserError, match=r"second\.npy: is 107x84, but second\.png is 108x84"):
        SimulatedDualPixelDataset(broken)
    late = SimulatedDualPixelDataset(broken | {"check": "none"})
    with pytest.raises(UserError, match=r"second\.npy: is 107x84, but second\.png is 108x84"):
        late[0]
    (depth / "second.npy").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"second\.npy: not a readable \.npy file"):
        SimulatedDualPixelDataset(broken)
    (depth / "second.npy").unlink()
    with pytest.raises(UserError, match=r"second\.png: no depth of that name"):
        SimulatedDualPixelDataset(broken)
    np.save(depth / "second.npy", np.full((HEIGHT, WIDTH), 0.01))
    with pytest.raises(UserError, match=r"second\.npy: focus distance 0\.01 m is not beyond the focal length"):
        SimulatedDualPixelDataset(broken)[0]


def test_basicsr_train_runs_on_it(folders, tmp_path, options_of_a_run):
    done = basicsr("train", "-opt", write_options(tmp_path, options_of_a_run), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "l_disparity" in done.stderr
    assert "Validation val_set: mean of 3 pictures" in done.stderr


def test_the_option_check_knows_it(options_of_a_run):
    filled = option_check.check(copy.deepcopy(options_of_a_run), "f", is_train=True)
    assert filled["datasets"]["train"]["seed"] == options_of_a_run["manual_seed"]
    for key, value, message in (
        ("views", ["left"], "f: datasets: train: views: network_g with dual_pixel: false needs [center], not [left]"),
        ("patch_size", 20, "f: datasets: train: patch_size: must be a multiple of 8, not 20"),
        ("f_nubmer", 2, "f: datasets: train: unknown key 'f_nubmer'; did you mean 'f_number'?"),
    ):
        wrong = copy.deepcopy(options_of_a_run)
        wrong["datasets"]["train"][key] = value
        with pytest.raises(UserError) as caught:
            option_check.check(wrong, "f", is_train=True)
        assert str(caught.value).startswith(message)


@pytest.fixture
def options_of_a_run(folders, dpdd):
    from helpers import small_options

    run = small_options(dpdd)
    for phase, dataset in run["datasets"].items():
        ours = options(folders, phase, views=["center"], type="SimulatedDualPixelDataset")
        kept = {key: dataset[key] for key in dataset if key not in ("dataroot", "type")}
        run["datasets"][phase] = {key: ours[key] for key in ours if key not in ("phase", "name", "scale")} | kept
    return run


# --- blurred where the network is ------------------------------------------------------------------------------------


def on_device(folders, **kwargs):
    quiet = {"noise_probability": 0.0, "grey_probability": 0.0, "scale_probability": 0.0}
    return SimulatedDualPixelDataset(options(folders, on_device=True, **({"augment": quiet} | kwargs)))


def finished(dataset, *indices):
    return device_patches.finish(default_collate([dataset[index] for index in indices]), "cpu")


def test_patches_blurred_on_the_device_are_those_of_the_whole_picture(folders):
    """As far as one place's kernels serve the patch: the thin lens's do everywhere."""
    dataset = on_device(folders, camera="thin_lens", aux_views=["left", "right"], seed=5)
    config = dataset._options["augment"]
    indices = [EpochIndex(position % 3, 2, position) for position in range(6)]
    batch = finished(dataset, *indices)
    assert batch["lq"].shape == (6, 9, 32, 32)
    for number, index in enumerate(indices):
        key = [5, 2, index.position]
        sharp, depth, lens = lens_of(dataset, int(index), key)
        seen = simulate_dual_pixel(sharp, depth, lens.camera, optics=lens.optics)
        whole = {"center": seen.center, "left": seen.left, "right": seen.right, "target": sharp}
        patch = augment(whole, config, np.random.default_rng(key))
        expected = np.concatenate([patch[view] for view in ALL], axis=2).transpose(2, 0, 1)
        np.testing.assert_allclose(batch["lq"][number], expected, atol=1e-4)
        np.testing.assert_allclose(batch["gt"][number], patch["target"].transpose(2, 0, 1), atol=2e-5)
        assert torch.equal(batch["left"][number], batch["lq"][number, 3:6])


def test_the_devices_draws_follow_from_seed_epoch_and_position_alone(folders):
    kwargs = {"sensor": "random", "motion": True, "augment": {"scale_probability": 1.0}, "aux_views": ["left"]}
    dataset = on_device(folders, **kwargs)
    indices = [EpochIndex(i % 3, 1, i) for i in range(4)]
    alone = [finished(dataset, index) for index in indices]
    loader = DataLoader(dataset, 2, sampler=indices, num_workers=2, multiprocessing_context="fork")
    together = [device_patches.finish(batch, "cpu") for batch in loader]
    for key in ("lq", "gt", "left", "coc"):
        assert torch.equal(torch.cat([one[key] for one in alone]), torch.cat([pair[key] for pair in together]))
    for other in (EpochIndex(0, 2, 0), EpochIndex(0, 1, 9)):
        assert not torch.equal(finished(dataset, other)["lq"], alone[0]["lq"])
    kept = on_device(folders, keep_in_memory=True, **kwargs)
    for _ in range(2):
        assert torch.equal(finished(kept, indices[1])["lq"], alone[1]["lq"])


@pytest.mark.parametrize("phase", ["train", "val"])
def test_pictures_without_depth_get_one(folders, phase):
    plain = options(folders, phase, depth_kind="invented", max_coc_px=12.0)
    del plain["dataroot_depth"]
    dataset = SimulatedDualPixelDataset(plain)
    first = dataset[EpochIndex(0, 0, 0)]
    assert same(first, dataset[EpochIndex(0, 0, 0)])
    assert not torch.equal(first["lq"][:3], first["gt"]), "it is blurred"
    assert not torch.equal(first["lq"][3:6], first["lq"][6:]), "and the views differ"
    if phase == "train":
        assert first["lq"].shape == (9, 32, 32)
        there = SimulatedDualPixelDataset(plain | {"on_device": True})
        assert torch.equal(finished(there, EpochIndex(0, 0, 0))["lq"][0], first["lq"]), "wherever it is blurred"


@pytest.mark.parametrize("own", [{"on_device": True}, {"on_device": True, "sensor": "random", "motion": True}], ids=str)
def test_basicsr_train_blurs_on_the_device(folders, tmp_path, options_of_a_run, own):
    options_of_a_run["datasets"]["train"] |= own
    done = basicsr("train", "-opt", write_options(tmp_path, options_of_a_run), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "l_disparity" in done.stderr


def test_only_a_model_that_makes_the_blur_takes_it(options_of_a_run):
    options_of_a_run["datasets"]["train"]["on_device"] = True
    option_check.check(copy.deepcopy(options_of_a_run), "f", is_train=True)
    options_of_a_run["model_type"] = "SRModel"
    del options_of_a_run["network_r"]
    with pytest.raises(UserError, match="f: datasets: train: on_device: needs model_type IFANModel"):
        option_check.check(options_of_a_run, "f", is_train=True)


def test_samples_that_are_not_blurred(folders):
    """Of a share of one all come back as the sharp patch, to what rounding leaves; of a half, more than of none."""

    def sharp_ones(share):
        dataset = on_device(folders, sharp_share=share, views=["center"], max_coc_px=12.0)
        samples = [finished(dataset, EpochIndex(number % 3, 0, number)) for number in range(12)]
        return sum(float((each["lq"] - each["gt"]).abs().max()) < 1.5 / 255 for each in samples)

    assert sharp_ones(0.0) == 0
    assert 2 <= sharp_ones(0.5) <= 10
    assert sharp_ones(1.0) == 12


def test_places_with_detail_are_looked_for(tmp_path):
    """Half of the picture is flat: with a threshold every patch comes from the other half, without one some don't."""
    rng = np.random.default_rng(0)
    picture = np.full((96, 400, 3), 128, np.uint8)
    picture[:, 250:] = rng.integers(0, 256, (96, 150, 3))
    (tmp_path / "sharp").mkdir()
    cv2.imwrite(str(tmp_path / "sharp" / "half.png"), picture)
    plain = {
        "phase": "train", "name": "t", "dataroot_sharp": str(tmp_path / "sharp"), "depth_kind": "invented",
        "patch_size": 32, "augment": False, "max_coc_px": 4.0, "on_device": True,
    }  # fmt: skip

    def found(**more):
        least = []
        for seed in range(12):
            dataset = SimulatedDualPixelDataset(plain | {"seed": seed} | more)
            patch = device_patches.finish_one(dataset[0])["gt"].permute(1, 2, 0).numpy()
            least.append(detail(patch))
        return min(least)

    assert found() < 40
    assert found(min_detail=40.0) >= 40
