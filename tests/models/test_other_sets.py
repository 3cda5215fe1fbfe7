"""`basicsr test` on sets of other kinds with a network that changes nothing: what is saved is what was read."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers import ROOT, basicsr, write_options

NETWORK = """
import torch
from basicsr.utils.registry import ARCH_REGISTRY


@ARCH_REGISTRY.register()
class Identity(torch.nn.Module):
    multiple_of = 8

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, lq):
        assert lq.shape[2] % 8 == lq.shape[3] % 8 == 0, "whatever the data set gives"
        return lq[:, :3] * self.weight
"""


def stored(path: Path) -> np.ndarray:
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert pixels is not None, path
    return pixels


def write(path: Path, seed: int, height: int, width: int, dtype: type = np.uint16) -> np.ndarray:
    """A picture of noise, so that nothing but the very samples can be equal."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, (height, width, 3)).astype(dtype)
    path.write_bytes(cv2.imencode(path.suffix, pixels)[1].tobytes())
    return pixels


@pytest.fixture(scope="module")
def tested(tmp_path_factory) -> tuple[Path, str]:
    """One run of ``basicsr test`` over four sets; gives its folder and its log."""
    folder = tmp_path_factory.mktemp("Sätze ohne Wahrheit")
    (folder / "identity_plugin.py").write_text(NETWORK)
    for number in range(2):
        write(folder / f"sixteen/test_c/source/s{number}.png", number, 40, 48)
        write(folder / f"sixteen/test_c/target/t{number}.png", 10 + number, 40, 48)
        write(folder / f"odd/source/o{number}.png", 20 + number, 45, 67, np.uint8)
        write(folder / f"odd/target/o{number}.png", 30 + number, 45, 67, np.uint8)
    write(folder / "portrait/test_c/source/p.png", 40, 61, 43, np.uint8)
    write(folder / "flat/ä b.png", 50, 197, 205, np.uint8)
    sets = {
        "sixteen": {"layout": "dpdd", "bit_depth": 16},
        "odd": {"layout": "realdof"},
        "odd_whole": {"layout": "realdof", "crop_multiple": 1, "dataroot": str(folder / "odd")},
        "portrait": {"layout": "pixeldp"},
        "flat": {"layout": "folder", "crop_multiple": 1},
    }
    options = {
        "name": "kinds",
        "model_type": "IFANModel",
        "num_gpu": 0,
        "plugins": ["identity_plugin"],
        "datasets": {
            f"test_{number}": {"name": name, "type": "DualPixelDataset", "dataroot": str(folder / name)} | own
            for number, (name, own) in enumerate(sets.items())
        },
        "network_g": {"type": "Identity"},
        "path": {},
        "val": {
            "save_img": True, "pbar": False, "baseline": True, "contact_sheet": 1,
            "metrics": {
                "psnr": {"type": "psnr"}, "niqe": {"type": "niqe", "better": "lower"},
                "sharpness": {"type": "sharpness"},
            },
        },
    }  # fmt: skip
    path = write_options(folder, options)
    done = basicsr("test", "-opt", path, cwd=folder, PYTHONPATH=f"{ROOT}:{folder}")
    assert done.returncode == 0, done.stderr
    return folder, done.stderr


def saved(folder: Path, name: str, stem: str) -> np.ndarray:
    return stored(folder / f"results/kinds/visualization/{name}/{stem}_kinds.png")


def test_16_bit_pictures_come_out_as_they_went_in(tested):
    folder, _ = tested
    for number in range(2):
        result = saved(folder, "sixteen", f"s{number}")
        assert result.dtype == np.uint16
        np.testing.assert_array_equal(result, stored(folder / f"sixteen/test_c/source/s{number}.png"))


def test_odd_sizes_are_cropped_by_the_protocol_or_kept(tested):
    folder, log = tested
    for number in range(2):
        whole = stored(folder / f"odd/source/o{number}.png")
        np.testing.assert_array_equal(saved(folder, "odd", f"o{number}"), whole[:40, :64])
        np.testing.assert_array_equal(saved(folder, "odd_whole", f"o{number}"), whole)
    assert json.loads((folder / "results/kinds/odd/metrics.json").read_text())["protocol"] == "ifan"
    assert json.loads((folder / "results/kinds/odd_whole/metrics.json").read_text())["protocol"] == "custom"
    assert "Validation odd: mean of 2 pictures, protocol ifan (RGB floats in [0, 1], not quantised)" in log
    assert "Validation odd_whole: mean of 2 pictures, protocol custom (not comparable" in log


def test_portrait_pictures_are_turned_back(tested):
    folder, _ = tested
    # Turned counter-clockwise for the network, cropped at the bottom and right there, and turned back.
    turned = np.rot90(stored(folder / "portrait/test_c/source/p.png"))
    np.testing.assert_array_equal(saved(folder, "portrait", "p"), np.rot90(turned[:40, :56], -1))


def test_without_ground_truth_one_line_says_so_and_no_reference_metrics_remain(tested):
    folder, log = tested
    said = "no ground truth: pictures and no-reference metrics (niqe, sharpness) only; left out, for want of sharp pictures: psnr"
    for name in ("portrait", "flat"):
        assert log.count(f"{name}: {said}.") == 1
    assert log.count("no ground truth") == 2, "the others have some"
    np.testing.assert_array_equal(saved(folder, "flat", "ä b"), stored(folder / "flat/ä b.png"))
    table = json.loads((folder / "results/kinds/flat/metrics.json").read_text())
    assert table["protocol"] == "no-reference"
    assert set(table["mean"]["restored"]) == {"niqe", "sharpness"}
    assert table["mean"]["restored"] == table["mean"]["blurred"], "the network changes nothing"
    with (folder / "results/kinds/flat/metrics.csv").open() as file:
        assert set(next(csv.DictReader(file))) == {"image", "protocol"} | {
            f"{which}_{metric}" for which in ("blurred", "restored") for metric in ("niqe", "sharpness")
        }
    assert "Validation flat: mean of 1 picture, no-reference metrics" in log
    assert (folder / "results/kinds/flat/contact_sheet.png").is_file()


def test_a_metric_that_small_pictures_do_not_allow_is_left_out_in_one_line(tested):
    folder, log = tested
    assert log.count("portrait: 'niqe' is left out: niqe: a picture of 56x40 is too small") == 1
    table = json.loads((folder / "results/kinds/portrait/metrics.json").read_text())
    assert set(table["mean"]["restored"]) == {"sharpness"}
