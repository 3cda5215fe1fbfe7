"""Finished pictures in a row of their own: found by scene, measured like a network's, refused by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers import write_dpdd

from ifan_plugin.benchmark import options, report, run
from ifan_plugin.common.errors import UserError
from ifan_plugin.host import registry
from ifan_plugin.images.image_io import read_image, write_image
from ifan_plugin.metrics import psnr

ROW = {"name": "theirs", "type": "pictures"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    registry.register_classes()
    return write_dpdd(tmp_path_factory.mktemp("set"), {"test": 2})


@pytest.fixture
def finished(data, tmp_path) -> Path:
    """The sharp pictures under the blurred ones' names, a little darker."""
    folder = tmp_path / "their results"
    folder.mkdir()
    source = sorted((data / "test_c" / "source").iterdir())
    for blurred, sharp in zip(source, sorted((data / "test_c" / "target").iterdir())):
        write_image(folder / blurred.name, 0.9 * read_image(sharp))
    return folder


def run_all(data: Path, out: Path, row: dict, **more) -> tuple[dict, options.Benchmark]:
    content = {
        "name": "small", "device": "cpu", "models": [{"name": "blurred", "type": "blurred input"}, row],
        "datasets": [{"name": "tiny", "type": "DualPixelDataset", "dataroot": str(data)}], **more,
    }  # fmt: skip
    checked = options.check(content, "b.yml")
    return run.run(checked, out, options.chosen_models(checked, None)), checked


def test_measured_like_a_network(data, finished, tmp_path):
    profile = {"height": 32, "width": 32, "runs": 1}
    found, checked = run_all(data, tmp_path / "out", {**ROW, "path": str(finished)}, profile=profile)
    cell = found["quality"]["theirs"]["tiny"]
    assert cell["status"] == "done"
    for image in cell["images"]:
        theirs = read_image(finished / f"{image['image']}.png").transpose(2, 0, 1)
        sharp = sorted((data / "test_c" / "target").iterdir())[cell["images"].index(image)]
        expected = psnr(torch.from_numpy(theirs)[None], torch.from_numpy(read_image(sharp).transpose(2, 0, 1))[None])
        assert image["psnr"] == pytest.approx(expected, abs=1e-4)
    made = report.make_report(checked, found)
    row = next(row for row in made["rows"] if row["name"] == "theirs")
    assert row["latency_s"] is None, "there is nothing to time"
    assert row["parameters"] is None
    assert not row["random_weights"]


def test_new_pictures_are_measured_anew(data, finished, tmp_path):
    row = {**ROW, "path": str(finished)}
    run_all(data, tmp_path / "out", row)
    again, _ = run_all(data, tmp_path / "out", row)
    assert again["ran"] == 0
    first = sorted(finished.iterdir())[0]
    write_image(first, np.zeros_like(read_image(first)))
    assert run_all(data, tmp_path / "out", row)[0]["ran"] == 1


def test_a_folder_of_the_test_sets_name_comes_first(data, finished, tmp_path):
    (tmp_path / "all").mkdir()
    shutil.move(finished, tmp_path / "all" / "tiny")
    found, _ = run_all(data, tmp_path / "out", {**ROW, "path": str(tmp_path / "all")})
    assert found["quality"]["theirs"]["tiny"]["status"] == "done"


def spoil_missing(folder: Path) -> None:
    sorted(folder.iterdir())[1].unlink()


def spoil_two(folder: Path) -> None:
    first = sorted(folder.iterdir())[0]
    shutil.copy(first, first.with_suffix(".tif"))


def spoil_size(folder: Path) -> None:
    first = sorted(folder.iterdir())[0]
    cv2.imwrite(str(first), cv2.imread(str(first))[:16])


def spoil_all(folder: Path) -> None:
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (spoil_missing, "has no picture of scene"),
        (spoil_two, "has two pictures"),
        (spoil_size, "its scene is 64x48"),
        (spoil_all, "folder not found"),
    ],
)
def test_what_does_not_fit_is_said_in_the_cell(data, finished, tmp_path, spoil, said):
    spoil(finished)
    found, _ = run_all(data, tmp_path / "out", {**ROW, "path": str(finished)})
    cell = found["quality"]["theirs"]["tiny"]
    assert cell["status"] == "failed"
    assert said in cell["error"], json.dumps(cell)
    assert found["quality"]["blurred"]["tiny"]["status"] == "done"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (ROW, "'path' is missing: the folder of the finished pictures"),
        ({**ROW, "path": "x", "param_key": "params"}, "unknown key 'param_key'; pictures takes name, type and path"),
        ({**ROW, "path": "x", "width": 3}, "unknown key 'width'"),
    ],
)
def test_options(row, said):
    content = {"name": "b", "models": [row], "datasets": [{"name": "d", "type": "DualPixelDataset"}]}
    with pytest.raises(UserError, match=said):
        options.check(content, "b.yml")
