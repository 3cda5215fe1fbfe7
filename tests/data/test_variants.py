"""Simulated patches that are kept: the same for the same key, cut from what was made once."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import ifan_plugin
from ifan_plugin.common.errors import UserError
from ifan_plugin.data.sampler import EpochIndex
from ifan_plugin.data.simulated_dataset import SimulatedDualPixelDataset
from ifan_plugin.data.variants import Variants
from ifan_plugin.images.image_io import write_image

ifan_plugin.register()


def made(index: int, key: list[int]) -> dict:
    """A sample whose values tell row and column."""
    rows, columns = torch.meshgrid(torch.arange(16) / 255, torch.arange(16) / 255, indexing="ij")
    picture = torch.stack([rows, columns, torch.full_like(rows, key[-1] / 255)])
    return {"lq": picture, "gt": picture, "coc": 2 * rows[None] - 0.5, "key": str(index)}


def test_patches_are_cut_alike_and_made_once() -> None:
    asked = []
    variants = Variants(lambda *given: asked.append(given) or made(*given), count=3, size=16, levels=255)
    patches = [variants.patch(1, 5, [5, 0, position], 8) for position in range(60)]
    assert len(asked) == 3
    assert {key[0] for _, key in asked} == {5}
    assert len({float(patch["lq"][2, 0, 0]) for patch in patches}) == 3
    corners = set()
    for patch in patches:
        assert patch["lq"].shape == (3, 8, 8)
        assert patch["coc"].shape == (1, 8, 8)
        assert patch["key"] == "1"
        assert torch.equal(patch["lq"], patch["gt"])
        torch.testing.assert_close(patch["coc"], 2 * patch["lq"][:1] - 0.5, atol=1e-3, rtol=0)
        corners.add((float(patch["lq"][0, 0, 0]), float(patch["lq"][1, 0, 0])))
        assert patch["lq"].min() >= 0
        assert patch["lq"].max() <= 15 / 255
    assert len(corners) > 20
    again = variants.patch(1, 5, [5, 0, 7], 8)
    assert all(torch.equal(again[name], patches[7][name]) for name in ("lq", "gt", "coc"))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        write_image(folder / f"{name}.png", rng.random((90, 120, 3)), 8)
    return folder


def options(folder, **more):
    return {
        "name": "photos", "type": "SimulatedDualPixelDataset", "phase": "train", "dataroot_sharp": str(folder),
        "depth_kind": "invented", "max_coc_px": 3.0, "patch_size": 16, "variants": 2, "variant_size": 32,
        "aux_views": ["left", "right"], "coc": True, "augment": {"noise_probability": 0},
    } | more  # fmt: skip


@pytest.mark.parametrize("bit_depth", [8, 16])
def test_a_data_set_keeps_what_it_blurred(photographs, bit_depth) -> None:
    """Another process, or the run resumed, sees the same; another seed and another epoch don't."""

    def sample(position: int = 3, epoch: int = 1, **more) -> dict:
        dataset = SimulatedDualPixelDataset(options(photographs, bit_depth=bit_depth, **more))
        if more.pop("warm", False):
            dataset[EpochIndex(1, 0, 0)]
        return dataset[EpochIndex(1, epoch, position)]

    first, again = sample(), sample()
    assert set(first) == {"lq", "gt", "left", "right", "coc", "key", "lq_path", "gt_path"}
    assert first["key"] == "b"
    assert first["lq"].shape == (3, 16, 16)
    assert first["coc"].shape == (1, 16, 16)
    assert all(torch.equal(first[name], again[name]) for name in ("lq", "gt", "left", "right", "coc"))
    assert not torch.equal(first["lq"], first["gt"])
    assert not torch.equal(first["gt"], sample(epoch=2)["gt"])
    assert not torch.equal(first["gt"], sample(seed=1)["gt"])
    assert "coc" not in sample(coc=False)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"phase": "val", "coc": False}, "variants: is for training"),
        ({"on_device": True, "coc": False}, "variants: needs depth_kind: invented, and on_device: false"),
        ({"variant_size": 8}, "variant_size: must be at least the patch_size, 16, not 8"),
        ({"variants": 0}, "variants"),
        ({"variant_size": 100}, "too small; valid: at least 100 each way \\(variant_size\\)"),
    ],
    ids=str,
)
def test_wrong_options_are_told(photographs, more, said) -> None:
    with pytest.raises(UserError, match=said):
        SimulatedDualPixelDataset(options(photographs, **more))
