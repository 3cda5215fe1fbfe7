"""The data sets, transforms and the sampler that mmengine's Runner uses."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

pytest.importorskip("mmengine", reason="mmengine isn't installed (pip install ifan_plugin[mm])")

from mmengine.registry import DATA_SAMPLERS, DATASETS, TRANSFORMS
from torch.utils.data import DataLoader

import ifan_plugin.mm  # noqa: F401 (registers)
from ifan_plugin.common.errors import UserError
from ifan_plugin.data import dual_pixel_dataset
from ifan_plugin.data.augment import AugmentConfig, augment
from ifan_plugin.data.sampler import EpochIndex, ResumableSampler
from ifan_plugin.images.image_io import write_image
from ifan_plugin.metrics.protocols import PROTOCOLS

OPTIONS = {"aux_views": ["left", "right"], "bit_depth": 16, "patch_size": 32, "seed": 3}


def build(dpdd, **options):
    return DATASETS.build({"type": "DualPixelDataset", "dataroot": str(dpdd)} | options)


def test_samples_are_those_of_the_packages_data_set(dpdd):
    found = build(dpdd, phase="train", **OPTIONS)
    expected = dual_pixel_dataset.DualPixelDataset({"dataroot": str(dpdd), "phase": "train", "name": "train"} | OPTIONS)
    assert len(found) == len(expected) == 5
    for index in (EpochIndex(0), EpochIndex(3, epoch=2, position=7)):
        sample, ours = expected[index], found[index]
        packed = ours["data_samples"]
        assert torch.equal(ours["inputs"], sample["lq"])
        for field, role in (("gt_img", "gt"), ("left", "left"), ("right", "right")):
            assert torch.equal(packed.get(field), sample[role])
        assert (packed.key, packed.img_path, packed.gt_path) == (sample["key"], sample["lq_path"], sample["gt_path"])
        assert packed.views == ("center",)
        assert packed.bit_depth == 16
        assert packed.rotate_back == 0
        assert packed.sample_idx == int(index)
        assert packed.channel_order == "RGB"
    assert not torch.equal(found[EpochIndex(3, 0)]["inputs"], found[EpochIndex(3, 1)]["inputs"])
    np.random.seed(4)
    plain = [found[3]["inputs"] for _ in range(2)]
    assert not torch.equal(*plain)  # somebody else's sampler
    np.random.seed(4)
    assert torch.equal(found[3]["inputs"], plain[0])
    assert found.metainfo["name"] == "train"
    assert found.scenes[0].key == expected.scenes[0].key


def test_a_data_set_takes_transforms_a_protocol_and_tuples(dpdd):
    keep = build(dpdd, phase="val", views=("left", "right"), pipeline=[lambda sample: sample])
    assert {"lq", "gt", "key", "views", "sample_idx"} <= keep[1].keys()
    assert keep[1]["lq"].shape == (6, 48, 64)
    resized = build(dpdd, phase="test", protocol="dpdnet")
    assert resized.bit_depth == 16
    assert resized[0]["inputs"].shape == (3, 1120, 1680)
    whole = dual_pixel_dataset.DualPixelDataset({"dataroot": str(dpdd), "phase": "test", "bit_depth": 16})
    assert torch.equal(resized[0]["data_samples"].gt_img, PROTOCOLS["dpdnet"].prepared(whole[0]["gt"]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"datarot": "x"}, "DualPixelDataset (val): unknown key 'datarot'; did you mean 'dataroot'?"),
        ({"views": ["middle"]}, "views: unknown item 'middle'"),
        ({"phase": "vall"}, "phase must be train, val or test"),
        ({"protocol": "ifaan"}, "DualPixelDataset (val): protocol: unknown protocol 'ifaan'; did you mean 'ifan'?"),
        ({"protocol": "dpdnet", "bit_depth": 8}, "bit_depth: must be 16 under protocol 'dpdnet'"),
        ({"phase": "train", "protocol": "ifan"}, "protocol: valid in phases val and test only"),
        ({"dataroot": "/none"}, "folder not found"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(dpdd, options, message):
    with pytest.raises(UserError) as caught:
        build(dpdd, **{"phase": "val"} | options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_simulated_data_set(tmp_path):
    rng = np.random.default_rng(0)
    for folder, channels in (("sharp", 3), ("depth", 1)):
        picture = rng.random((40, 48, channels)) if channels == 3 else np.full((40, 48), 2.0, np.float32)
        (tmp_path / folder).mkdir()
        if channels == 3:
            write_image(tmp_path / folder / "a.png", picture, 8)
        else:
            np.save(tmp_path / folder / "a.npy", picture)
    roots = {f"dataroot_{name}": str(tmp_path / name) for name in ("sharp", "depth")}
    dataset = DATASETS.build({"type": "SimulatedDualPixelDataset", "phase": "train", "patch_size": 32} | roots)
    sample = dataset[EpochIndex(0, 1)]
    assert sample["inputs"].shape == (3, 32, 32)
    assert sample["data_samples"].gt_img.shape == (3, 32, 32)
    assert torch.equal(sample["inputs"], dataset.dataset[EpochIndex(0, 1)]["lq"])


def test_the_sampler_goes_through_basicsrs_epochs_without_end():
    dataset = list(range(5))
    expected = []
    for epoch in range(4):
        theirs = ResumableSampler(dataset, 1, 0, ratio=1.5, seed=7)
        theirs.set_batch_size(3, 3)
        theirs.set_epoch(epoch)
        expected += [(int(index), index.epoch, index.position) for index in theirs]
    sampler = DATA_SAMPLERS.build(
        {"type": "EpochSampler", "batch_size": 3, "ratio": 1.5}, default_args={"dataset": dataset, "seed": 7}
    )
    sampler.set_epoch(2)  # mmengine's Runner says 0 all the time; it mustn't matter

    def drawn(count):
        return [(int(i), i.epoch, i.position) for i in itertools.islice(iter(sampler), count)]

    assert len(sampler) == 9
    assert len(expected) == 36
    assert drawn(36) == expected
    for iteration in (1, 3, 8):
        sampler.start_at(iteration)
        assert drawn(36 - 3 * iteration) == expected[3 * iteration :]
    with pytest.raises(ValueError, match="batch_size must be a positive integer"):
        DATA_SAMPLERS.build({"type": "EpochSampler", "batch_size": 0, "dataset": dataset, "seed": 0})


def test_workers_give_the_same_batches(dpdd):
    def batches(workers):
        dataset = build(dpdd, phase="train", **OPTIONS)
        sampler = DATA_SAMPLERS.build({"type": "EpochSampler", "batch_size": 2, "dataset": dataset, "seed": 1})
        loader = DataLoader(dataset, 2, sampler=sampler, num_workers=workers, collate_fn=list)
        return [[sample["inputs"] for sample in each] for each in itertools.islice(iter(loader), 4)]

    for ours, theirs in zip(batches(0), batches(1)):
        assert all(torch.equal(one, other) for one, other in zip(ours, theirs))


def test_the_augmentation_as_a_transform():
    rng = np.random.default_rng(0)
    results = {name: rng.integers(0, 65536, (40, 48, 3), np.uint16) for name in ("img", "gt")} | {"sample_idx": 4}
    options = {"noise_probability": 1.0, "grey_probability": 0.0, "scale_probability": 1.0}
    keys = {"center": "img", "target": "gt"}
    transform = TRANSFORMS.build({"type": "AugmentDefocus", "keys": keys, "patch_size": 24, "seed": 9} | options)
    found = transform(results)
    pictures = {role: results[name].astype(np.float32) / np.float32(65535) for role, name in keys.items()}
    config = AugmentConfig.from_options(options, 24)
    expected = augment(pictures, config, np.random.default_rng([9, 4]))
    for role, name in keys.items():
        assert found[name].shape == (24, 24, 3)
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], expected[role])
    unseeded = TRANSFORMS.build({"type": "AugmentDefocus", "keys": keys, "patch_size": 24})
    np.random.seed(1)
    first, second = unseeded(results), unseeded(results)
    assert not np.array_equal(first["img"], second["img"])
    for wrong, message in (
        ({"keys": {"middle": "img"}}, "keys: unknown role 'middle'"),
        ({"keys": keys, "noise": 1}, "AugmentDefocus: unknown key 'noise'"),
    ):
        with pytest.raises(UserError, match=message):
            TRANSFORMS.build({"type": "AugmentDefocus"} | wrong)
    with pytest.raises(UserError, match=r"at least 64 pixels each way \(patch_size\), not 48x40"):
        TRANSFORMS.build({"type": "AugmentDefocus", "keys": keys, "patch_size": 64})(results)
