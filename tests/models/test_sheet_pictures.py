"""`val: error_map` and `val: kernels`: in the contact sheet and in TensorBoard, for networks that have them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import ifan_plugin
from ifan_plugin.common.errors import UserError
from ifan_plugin.host import option_check
from ifan_plugin.host.mends import mend_all

ifan_plugin.register()
mend_all()

from basicsr.data import build_dataset  # noqa: E402 (the host can be imported only once it is mended)
from basicsr.models import build_model  # noqa: E402

from ifan_plugin.models import validation  # noqa: E402
from ifan_plugin.pictures.visual import contact_sheet, error_map, kernel_grid  # noqa: E402


class Board:
    """Keeps what a TensorBoard writer gets."""

    def __init__(self) -> None:
        self.images: dict[str, np.ndarray] = {}

    def add_image(self, tag: str, picture: np.ndarray, step: int, dataformats: str) -> None:
        assert dataformats == "HWC"
        assert picture.dtype == np.uint8
        self.images[tag] = picture

    def add_scalar(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def tested(options: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A small training run's model after validation of one scene with everything on its sheet."""
    options["val"] |= {"contact_sheet": 1, "error_map": True, "kernels": 3}
    checked = option_check.check(copy.deepcopy(options), "f.yml", is_train=True)
    checked |= {"is_train": True, "dist": False, "rank": 0, "world_size": 1}
    checked["path"] |= {
        "experiments_root": str(tmp_path), "models": str(tmp_path), "training_states": str(tmp_path),
        "visualization": str(tmp_path / "visualization"),
    }  # fmt: skip
    checked["datasets"]["val"] |= {"phase": "val"}
    model = build_model(checked)
    dataset = build_dataset(checked["datasets"]["val"])
    shown: list = []
    found = validation._sheet_row
    monkeypatch.setattr(validation, "_sheet_row", lambda *given: shown.append(found(*given)) or shown[-1])
    board = Board()
    validation.validate(model, dataset, 4, board, save_img=False)
    sheet = cv2.imread(str(tmp_path / "visualization" / "val_set" / "contact_sheet_4.png"))[..., ::-1]
    return model, dataset, dict(shown[0]), board.images, sheet


def test_the_sheet_and_tensorboard_have_them(tested):
    model, dataset, row, images, sheet = tested
    captions = list(row)
    assert captions[:5] == ["blurred", captions[1], "ground truth", "error before", "error: bright at 0.2"]
    np.testing.assert_array_equal(images["pictures/val_set"], sheet)
    np.testing.assert_array_equal(images["errors/val_set"], row["error: bright at 0.2"])
    np.testing.assert_array_equal(images["kernels/val_set"], row[captions[-1]])

    sample = dataset[0]
    model.feed_data({key: value[None] for key, value in sample.items() if hasattr(value, "shape")})
    model.test()
    as_array = validation._as_array
    np.testing.assert_array_equal(row["error before"], error_map(as_array(model.lq), as_array(model.gt)))
    np.testing.assert_array_equal(row["error: bright at 0.2"], error_map(as_array(model.output), as_array(model.gt)))
    kernels = [[kernel.weights for kernel in line] for line in model.inspector().grid(3)]
    np.testing.assert_array_equal(row[captions[-1]], kernel_grid(kernels, validation.KERNEL_GRID_SIDE))
    largest = max(np.abs(weights).max() for line in kernels for weights in line)
    assert captions[-1] == f"kernels, fullest at {largest:.2g}"


def test_without_the_options_they_are_left_out(options, tmp_path):
    assert {"error_map", "kernels"} <= set(validation.VAL_OPTIONS)
    checked = option_check.check(copy.deepcopy(options), "f.yml", is_train=True)
    assert (checked["val"]["error_map"], checked["val"]["kernels"]) == (False, 0)


@pytest.mark.parametrize("key", ["error_map", "kernels"])
def test_they_need_a_contact_sheet(options, key):
    options["val"][key] = {"error_map": True, "kernels": 2}[key]
    with pytest.raises(UserError, match=f"val: {key}: is a picture in the contact sheet; set contact_sheet to 1"):
        option_check.check(options, "f.yml", is_train=True)


def test_kernels_need_a_network_that_predicts_some(options):
    options["val"] |= {"contact_sheet": 1, "kernels": 2}
    options["network_g"]["use_filters"] = False
    del options["network_r"], options["train"]["reblur_opt"], options["train"]["disparity_opt"]
    with pytest.raises(UserError, match="val: kernels: needs network_g of type IFAN with use_filters: true"):
        option_check.check(options, "f.yml", is_train=True)
    options["val"]["kernels"] = 0
    option_check.check(options, "f.yml", is_train=True)


def test_portrait_pictures_are_turned_back(tested, monkeypatch):
    model, dataset, _, _, _ = tested
    sample = dataset[0]
    model.feed_data({key: value[None] for key, value in sample.items() if hasattr(value, "shape")})
    model.test()
    record = {"blurred": {}, "restored": {}}
    upright = validation._sheet_row(model, dataset, record)
    monkeypatch.setattr(dataset, "unrotate", lambda picture: np.rot90(picture, -1))
    turned = validation._sheet_row(model, dataset, record)
    assert len(turned) == len(upright) == 7
    for (caption, before), (same, after) in zip(upright, turned):
        assert caption == same
        np.testing.assert_array_equal(after, np.rot90(before, -1))
    contact_sheet([turned])  # takes them as they are
