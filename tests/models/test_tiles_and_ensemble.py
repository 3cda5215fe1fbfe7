"""`val: tile` and `val: ensemble`: checked, and carried into the pictures and figures of a test."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml

import ifan_plugin
from ifan_plugin.common.errors import UserError
from ifan_plugin.host import option_check
from ifan_plugin.host.mends import mend_all
from ifan_plugin.inference import run_network

ifan_plugin.register()
mend_all()

from basicsr.data import build_dataset  # noqa: E402 (the host can be imported only once it is mended)
from basicsr.models import build_model  # noqa: E402
from basicsr.utils.registry import ARCH_REGISTRY  # noqa: E402


class LeansToTheLeft(torch.nn.Module):
    """Darkens the view `center` to the right, and adds the left one's rows: flips and the order of views show."""

    def __init__(self, in_channels: int = 3) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, lq: torch.Tensor) -> torch.Tensor:
        ramp = torch.linspace(1, 0.5, lq.shape[-1])
        return 0.5 * (lq[:, :3] + lq[:, -3:]) * ramp * self.weight


if "LeansToTheLeft" not in ARCH_REGISTRY:
    ARCH_REGISTRY.register()(LeansToTheLeft)


def options_of(dpdd: Path, network: dict, views: list[str], **val) -> dict:
    return {
        "name": "tiles",
        "model_type": "IFANModel",
        "num_gpu": 0,
        "datasets": {"test": {"name": "set", "type": "DualPixelDataset", "dataroot": str(dpdd), "views": views}},
        "network_g": network,
        "path": {},
        "val": {"metrics": {"psnr": {"type": "psnr"}}, "pbar": False, "save_img": True, **val},
    }


def run(options: dict, folder: Path) -> tuple[dict, list[np.ndarray], object]:
    """metrics.json, the pictures written, and the model."""
    opt = option_check.check(copy.deepcopy(options), "f.yml", is_train=False)
    opt |= {"dist": False, "rank": 0, "world_size": 1, "is_train": False}
    opt["path"] |= {"results_root": str(folder), "visualization": str(folder / "pictures")}
    torch.manual_seed(0)
    model = build_model(opt)
    dataset = build_dataset(opt["datasets"]["test"])
    loader = type("Loader", (), {"dataset": dataset})()
    model.validation(loader, "tiles", None, True)
    written = [cv2.imread(str(path)) for path in sorted((folder / "pictures").rglob("*.png"))]
    return json.loads((folder / "set/metrics.json").read_text()), written, (model, dataset)


def test_tiles_give_the_same_figures(dpdd, tmp_path):
    network = {"type": "IFAN", "width": 4, "num_steps": 2, "res_units": 1}
    whole, pictures, _ = run(options_of(dpdd, network, ["center"]), tmp_path / "whole")
    tiled, again, _ = run(options_of(dpdd, network, ["center"], tile=16), tmp_path / "tiled")
    assert tiled["mean"]["restored"]["psnr"] == pytest.approx(whole["mean"]["restored"]["psnr"], abs=1e-3)
    assert len(pictures) == len(again) == 3
    assert max(np.abs(a.astype(int) - b).max() for a, b in zip(pictures, again)) <= 1
    assert "ensemble" not in whole


@pytest.mark.parametrize("views", [["center"], ["left", "right"]], ids=str)
def test_an_ensemble_is_the_packages(dpdd, tmp_path, views):
    network = {"type": "LeansToTheLeft", "in_channels": 3 * len(views)}
    plain, _, _ = run(options_of(dpdd, network, views), tmp_path / "plain")
    found, pictures, (model, dataset) = run(options_of(dpdd, network, views, ensemble=True), tmp_path / "ensemble")
    assert found["ensemble"] is True
    assert found["mean"]["restored"]["psnr"] != pytest.approx(plain["mean"]["restored"]["psnr"], abs=1e-3)
    lq = dataset[0]["lq"][None]
    expected = run_network(model.net_g, lq, ensemble=True, views=views)[0].permute(1, 2, 0).numpy()[..., ::-1]
    assert np.abs(pictures[0] - 255 * expected).max() <= 0.51
    assert not torch.equal(run_network(model.net_g, lq), run_network(model.net_g, lq, ensemble=True, views=views))


@pytest.mark.parametrize(("text", "expected"), [("off", None), ("auto", "auto"), ("512", 512), ("~", None)])
def test_what_yaml_gives(dpdd, text, expected):
    val = yaml.safe_load(f"tile: {text}")
    options = options_of(dpdd, {"type": "LeansToTheLeft"}, ["center"], **val)
    assert option_check.check(options, "f.yml", is_train=False)["val"]["tile"] == expected


@pytest.mark.parametrize(
    ("val", "message"),
    [
        ({"tile": "large"}, r"f\.yml: val: tile: must be auto, off or a positive number of pixels, not 'large'"),
        ({"tile": -4}, r"f\.yml: val: tile: must be auto, off"),
        ({"tile": True}, r"f\.yml: val: tile: must be auto, off"),
        ({"ensemble": 8}, r"f\.yml: val: ensemble: must be true or false"),
        ({"tiles": 64}, r"f\.yml: val: unknown key 'tiles'; did you mean 'tile'\?"),
    ],
)
def test_errors_are_one_line(dpdd, val, message):
    with pytest.raises(UserError, match=message):
        option_check.check(options_of(dpdd, {"type": "LeansToTheLeft"}, ["center"], **val), "f.yml", is_train=False)


def test_out_of_memory_names_the_option(dpdd, tmp_path, monkeypatch):
    def starved(self, lq):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(LeansToTheLeft, "forward", starved)
    with pytest.raises(UserError, match="out of memory at a picture of 64x48 pixels as a whole; set tile: auto"):
        run(options_of(dpdd, {"type": "LeansToTheLeft"}, ["center"]), tmp_path)
