"""Networks that ship with the package: found by name, and files of that name come first."""

from __future__ import annotations

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import ifan_plugin
from ifan_plugin import cli
from ifan_plugin.archs.ifan_arch import IFAN
from ifan_plugin.common.errors import UserError
from ifan_plugin.images.image_io import write_image
from ifan_plugin.weights.networks import load_network
from ifan_plugin.zoo import shipped as module

SMALL = {"width": 2, "num_steps": 1, "res_units": 1}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that ships one tiny network under the default's name."""
    net = IFAN(**SMALL)
    said = {"hyper_parameters": json.dumps(net.hyper_parameters), "summary": "trained on nothing"}
    params = {name: tensor.contiguous() for name, tensor in net.state_dict().items()}
    save_file(params, tmp_path / f"{module.DEFAULT}.safetensors", said)
    monkeypatch.setattr(module, "FOLDER", tmp_path)
    return tmp_path


def test_by_name(folder):
    found = module.find(module.DEFAULT)
    assert found.path == folder / f"{module.DEFAULT}.safetensors"
    assert found.summary == "trained on nothing"
    assert list(module.networks()) == [module.DEFAULT]
    assert module.located(module.DEFAULT) == found.path


@pytest.mark.parametrize("name", ["none_such", "../ifan_small", "x/ifan_small", "", ".", "ifan_small.safetensors"])
def test_other_names_are_paths(folder, name):
    assert module.find(name) is None
    assert module.located(name) == name


def test_a_file_of_that_name_comes_first(folder, tmp_path, monkeypatch):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    Path(module.DEFAULT).write_bytes(b"somebody's")
    assert module.located(module.DEFAULT) == module.DEFAULT


@pytest.mark.parametrize("asked", [None, module.DEFAULT])
def test_taken_where_nobody_named_one(folder, asked):
    network = load_network(asked, device="cpu")
    assert network.name == "IFAN"
    assert network.description.endswith(f"{module.DEFAULT}.safetensors (trained on nothing)")
    with torch.no_grad():
        assert network.net(torch.rand(1, 3, 16, 16)).shape == (1, 3, 16, 16)


def test_every_file_says_what_it_is():
    for name, network in module.networks().items():
        for key in ("arch", "hyper_parameters", "recipe", "data", "date", "commit", "figures", "licence", "summary"):
            assert network.metadata.get(key), f"{name}: {key}"
        assert network.path.stat().st_size <= 8_000_000
        load_network(name, device="cpu")


@pytest.mark.parametrize(("said", "found"), [("5", 5), (None, None), ("-1", "above 0, not -1"), ('"x"', "not 'x'")])
def test_a_file_says_whether_its_map_is_the_blurs_size_wherever_it_lies(folder, tmp_path, said, found):
    net = IFAN(**SMALL)
    metadata = {"hyper_parameters": json.dumps(net.hyper_parameters)} | ({} if said is None else {"blur_unit": said})
    save_file(net.state_dict(), tmp_path / "copy.safetensors", metadata)
    if isinstance(found, str):
        with pytest.raises(UserError, match=found):
            load_network(tmp_path / "copy.safetensors", device="cpu")
    else:
        assert load_network(tmp_path / "copy.safetensors", device="cpu").blur_unit == found


@pytest.mark.parametrize("place", ["networks", "option file", "benchmark", "convert"])
def test_a_name_without_a_folder_is_looked_for_in_weights(place, tmp_path, monkeypatch):
    """Wherever a checkpoint is asked for; a file here comes first, and one that is nowhere is told where to get."""
    from ifan_plugin.benchmark.options import check
    from ifan_plugin.host.option_check import _check_paths

    monkeypatch.chdir(tmp_path)
    Path("weights").mkdir()
    net = IFAN(width=2, num_steps=1, res_units=1)
    torch.save({"params": net.state_dict(), "hyper_parameters": net.hyper_parameters}, "weights/mine.pth")

    def found(name: str) -> str:
        if place == "networks":
            return str(load_network(name, device="cpu").path)
        if place == "option file":
            paths = {"pretrain_network_g": name}
            _check_paths(paths, {"network_g"}, "a.yml: path")
            return paths["pretrain_network_g"]
        if place == "benchmark":
            model, data = {"name": "a", "type": "IFAN", "path": name}, {"name": "d", "type": "DualPixelDataset"}
            return str(check({"name": "b", "models": [model], "datasets": [data]}, "b.yml").models[0].path)
        assert cli.main(["convert", name, "out.safetensors"]) == (0 if Path("weights", name).exists() else 2)
        return str(Path("weights/mine.pth")) if Path("out.safetensors").exists() else ""

    assert found("mine.pth") == str(Path("weights/mine.pth"))
    if place in ("networks", "option file"):
        with pytest.raises(UserError, match=r"looked for here and in weights/ \(docs/weights.md"):
            found("none.pth")


def test_the_page_on_checkpoints_names_every_file_that_options_ask_for():
    root = Path(__file__).parents[2]
    page = (root / "docs" / "weights.md").read_text(encoding="utf-8")
    asked = set()
    for path in (root / "options").rglob("*.yml"):
        asked |= set(re.findall(r"weights/([\w.]+\.\w+)", path.read_text(encoding="utf-8")))
    assert asked
    for name in asked:
        stem = name.partition(".")[0]
        assert name in page or f"`{stem}`" in page or f"`_{stem.rpartition('_')[2]}`" in page, name


def test_commands_take_it_where_nobody_names_another(folder, tmp_path, capsys):
    picture = tmp_path / "picture.png"
    write_image(picture, np.random.default_rng(0).random((16, 24, 3)))
    assert cli.main(["deblur", str(picture), "--out", str(tmp_path / "out"), "--device", "cpu"]) == 0
    assert "(trained on nothing)" in capsys.readouterr().err
    assert (tmp_path / "out" / "picture.png").is_file()


def test_without_one_they_ask_for_weights(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "FOLDER", tmp_path / "nothing")
    assert cli.main(["deblur", "x.png", "--out", str(tmp_path)]) == 2
    assert "--weights: is missing; give a checkpoint" in capsys.readouterr().err
    assert cli.main(["export", "--out", str(tmp_path / "x.onnx")]) == 2
    assert "--weights: is missing; give the network's checkpoint" in capsys.readouterr().err


def test_the_packages_own_network_is_small_says_what_it_is_and_deblurs():
    """A picture that it wasn't trained on, through a disk of 13 pixels; what is sharp it leaves nearly alone."""
    found = module.find()
    if found is None:
        pytest.skip("this checkout has no ifan_plugin/zoo/ifan_small.safetensors")
    assert found.path.stat().st_size <= 8_000_000
    for key in ("recipe", "data", "date", "commit", "figures", "licence", "summary"):
        assert found.metadata[key] not in ("", "{}"), key
    data = pytest.importorskip("skimage.data", reason="scikit-image isn't installed")
    sharp = np.ascontiguousarray(data.astronaut()[:256, 128:384])
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (13, 13)).astype(np.float32)
    blurred = cv2.filter2D(sharp, -1, disk / disk.sum())
    restored, kept = (ifan_plugin.restore(picture, weights="ifan_small") for picture in (blurred, sharp))

    def error(picture: np.ndarray) -> float:
        return float(np.square(picture.astype(np.float64) - sharp).mean())

    assert error(restored) < 0.9 * error(blurred)
    assert np.abs(kept.astype(np.float64) - sharp).mean() < 2.5
