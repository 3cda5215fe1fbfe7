"""What the page answers, without a browser: the values that its components get."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

pytest.importorskip("gradio", reason="needs gradio (pip install 'gradio>=5')")

from ifan_plugin.archs.ifan_arch import IFAN
from ifan_plugin.demo import figures, page
from ifan_plugin.demo.pictures import Limits
from ifan_plugin.demo.samples import find_samples
from ifan_plugin.demo.work import Worker
from ifan_plugin.inference.networks import Network
from ifan_plugin.inference.photos import Photo, read_photo, write_photo

LIMITS = Limits(megabytes=0.2, megapixels=0.05)


def pixels(height: int = 60, width: int = 90, dtype: type = np.uint16, seed: int = 0) -> np.ndarray:
    smooth = cv2.resize(np.random.default_rng(seed).random((4, 5, 3)), (width, height), interpolation=cv2.INTER_CUBIC)
    return np.round(smooth.clip(0, 1) * np.iinfo(dtype).max).astype(dtype)


def answers_of(folder: Path, **options: Any) -> page.Answers:
    torch.manual_seed(0)
    net = IFAN(width=2, num_steps=2, res_units=1, **options).eval().requires_grad_(False)
    samples = folder / "samples"
    samples.mkdir()
    write_photo(samples / "eins.png", Photo(pixels=pixels(), format="png"))
    served = folder / "served"
    served.mkdir()
    worker = Worker(Network(net, ("center",), "IFAN", None, "small"))
    return page.Answers(page.Setting(worker, LIMITS, find_samples(samples, LIMITS), served, ["<small>"]))


@pytest.fixture
def answers(tmp_path: Path) -> page.Answers:
    return answers_of(tmp_path)


def silent(fraction: float, what: str) -> None:
    pass


def restored(answers: page.Answers) -> dict[str, Any]:
    work = answers.load_sample(0)["work"]
    return answers.restore(work, -1, silent)


def test_an_upload_is_named_and_everything_before_it_is_cleared(answers, tmp_path):
    write_photo(tmp_path / "grün <b>.png", Photo(pixels=pixels(), format="png"))
    found = answers.load_file(str(tmp_path / "grün <b>.png"))
    assert found["work"].photo.size == (60, 90)
    assert "grün &lt;b&gt;.png: 90 x 60 pixels, 16 bit. Ready" in found["status"]
    assert found["run"]["interactive"] is True
    assert (found["slider"], found["place"], found["upload"]) == (None, None, None)
    assert found["places"]["visible"] is False


def test_a_bad_upload_is_explained_and_leaves_nothing_to_restore(answers, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"text")
    found = answers.load_file(str(tmp_path / "bad.jpg"))
    assert found["work"] is None
    assert 'role="alert"' in found["status"]
    assert "bad.jpg: not a picture" in found["status"]
    assert str(tmp_path) not in found["status"]
    assert found["run"]["interactive"] is False
    assert "Upload a picture or choose a sample first" in answers.restore(None, -1, silent)["status"]
    assert answers.load_file(None)["status"] == ""


def test_the_result_is_in_files_of_the_private_folder(answers):
    found = restored(answers)
    work = found["work"]
    before, after = found["slider"]
    np.testing.assert_array_equal(read_photo(after).pixels, np.round(work.restored / 257).astype(np.uint8))
    np.testing.assert_array_equal(read_photo(before).pixels, np.round(pixels() / 257).astype(np.uint8))
    result = Path(found["download"]["value"])
    assert result.name == "eins_deblurred.png"
    np.testing.assert_array_equal(read_photo(result).pixels, work.restored)
    assert {Path(path).parent.parent for path in (before, after, result)} == {answers.setting.folder}
    assert (found["x"], found["y"]) == (45, 30), "the inspection begins in the middle"
    assert "mean of 8 channels" in found["kernel"]
    assert "Disparity map" in found["disparity"]
    assert found["errors"] == "", "the sharp picture isn't known"


def test_old_results_are_deleted(answers):
    folders = [Path(restored(answers)["slider"][0]).parent for _ in range(page.SESSIONS + 2)]
    assert [folder.exists() for folder in folders] == [False] * 2 + [True] * page.SESSIONS


def test_places_are_given_in_pixels_of_the_picture(answers):
    work = restored(answers)["work"]
    found = answers.inspect(work, 89, 0, 3)
    assert "channel 3;" in found["kernel"]
    assert "columns 88 to 95, rows 0 to 7" in found["kernel"]
    for x, y, said in (
        (90, 0, "x must be 0 to 89, not 90"),
        (0, -1, "y must be 0 to 59, not -1"),
        (None, 0, "nothing"),
    ):
        found = answers.inspect(work, x, y, -1)
        assert said in found["kernel"]
        assert set(found) == {"kernel"}, "what was shown stays"
    assert "Restore a picture first" in answers.inspect(None, 1, 1, -1)["kernel"]
    assert "Restore a picture first" in answers.click(answers.load_sample(0)["work"], (3, 3), -1)["kernel"]


def test_clicks_are_in_pixels_of_the_shown_picture(answers):
    work = restored(answers)["work"]
    shown = figures.preview(work)
    assert shown.shape[1] > 90, "small pictures are enlarged"
    for x, y in ((0, 0), (45, 31), (89, 59)):
        at = ((x + 0.5) / 90 * shown.shape[1], (y + 0.5) / 60 * shown.shape[0])
        found = answers.click(work, at, -1)
        assert (found["x"], found["y"]) == (x, y)
    last = answers.click(work, (shown.shape[1] - 1, shown.shape[0] - 1), -1)
    assert (last["x"], last["y"]) == (89, 59)


def test_a_network_without_filters_has_a_page_too(tmp_path):
    answers = answers_of(tmp_path, use_filters=False)
    found = restored(answers)
    assert found["slider"] is not None
    assert "use_filters: false" in found["kernel"]
    assert "no disparity" in found["disparity"]
    page.build(answers.setting)


def test_too_little_memory_is_a_message(answers, monkeypatch):
    def fails(*_, **__):
        raise page.UserError("too little memory for any tile")

    monkeypatch.setattr(answers.setting.worker, "restore", fails)
    found = restored(answers)
    assert "too little memory for any tile" in found["status"]
    assert set(found) == {"status"}


def test_the_page_names_what_is_loaded_and_asks_nothing_of_other_sites(answers):
    config = str(page.build(answers.setting).get_config_file())
    assert "&lt;small&gt;" in config
    assert not re.findall(r"https?://[^'\" ]*(?:google|cdn|huggingface)", config)


def test_a_sample_that_is_not_there(answers):
    for index in (-1, 99, None):
        assert "There is no sample" in answers.load_sample(index)["status"]


def test_whose_requests_are_taken():
    host = (b"host", b"127.0.0.1:7860")
    assert page._is_own([host])
    assert page._is_own([host, (b"origin", b"http://127.0.0.1:7860")])
    for origin in (b"http://evil.example", b"null", b"http://127.0.0.1:80", b""):
        assert not page._is_own([host, (b"origin", origin)])
