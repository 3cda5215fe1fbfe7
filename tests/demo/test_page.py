"""What the page answers, without a browser: the values that its components get."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("gradio", reason="needs gradio (pip install 'gradio>=5')")

from ifan_plugin.archs.ifan_arch import IFAN
from ifan_plugin.common.errors import UserError
from ifan_plugin.demo import answers as answering
from ifan_plugin.demo import figures, page, serve
from ifan_plugin.demo.choice import Choice, Pool
from ifan_plugin.demo.pictures import Limits
from ifan_plugin.demo.samples import find_samples
from ifan_plugin.demo.work import Worker
from ifan_plugin.photos.read_write import Photo, read_photo, write_photo
from ifan_plugin.weights.networks import Network

LIMITS = Limits(megabytes=0.2, megapixels=0.05)


def pixels(height: int = 60, width: int = 90, dtype: type = np.uint16, seed: int = 0) -> np.ndarray:
    smooth = cv2.resize(np.random.default_rng(seed).random((4, 5, 3)), (width, height), interpolation=cv2.INTER_CUBIC)
    return np.round(smooth.clip(0, 1) * np.iinfo(dtype).max).astype(dtype)


def network_of(seed: int = 0, path: Path | None = None, **options: Any) -> Network:
    torch.manual_seed(seed)
    net = IFAN(width=2, num_steps=2, res_units=1, **options).eval().requires_grad_(False)
    return Network(net, ("center",), "IFAN", path, f"<small> {seed}")


def answers_of(folder: Path, **options: Any) -> answering.Answers:
    """A page with three networks to choose from, of which the last can't be loaded."""
    samples = folder / "samples"
    samples.mkdir()
    write_photo(samples / "eins.png", Photo(pixels=pixels(), format="png"))
    served = folder / "served"
    served.mkdir()

    def load(choice: Choice) -> Network:
        if choice.name == "broken":
            raise UserError("broken.pth: no checkpoint")
        return network_of(int(choice.name), folder / f"{choice.name}.pth", **options)

    pool = Pool([Choice(name, None) for name in ("0", "1", "broken")], load, Worker)
    return answering.Answers(answering.Setting(pool, LIMITS, find_samples(samples, LIMITS), served))


@pytest.fixture
def answers(tmp_path: Path) -> answering.Answers:
    return answers_of(tmp_path)


def silent(fraction: float, what: str) -> None:
    pass


def restored(answers: answering.Answers) -> dict[str, Any]:
    work = answers.load_sample(0)["work"]
    return answers.restore(work, -1, silent)


def shown(compare: str) -> dict[str, np.ndarray]:
    """The pictures in the frame, by their alt."""
    found = re.findall(r'src="data:image/\w+;base64,([^"]+)" alt="(\w+)"', compare)
    return {
        alt: cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        for data, alt in found
    }


def test_an_upload_is_named_and_everything_before_it_is_cleared(answers, tmp_path):
    write_photo(tmp_path / "grün <b>.png", Photo(pixels=pixels(), format="png"))
    found = answers.load_file(str(tmp_path / "grün <b>.png"))
    assert found["work"].photo.size == (60, 90)
    assert "grün &lt;b&gt;.png: 90 x 60 pixels, 16 bit" in found["status"]
    assert (found["compare"], found["place"], found["upload"], found["errors"]) == ("", None, None, "")
    assert found["places"]["visible"] is found["output"]["visible"] is False
    assert found["download"]["value"] is None


def test_a_bad_upload_is_explained_and_leaves_nothing_to_restore(answers, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"text")
    found = answers.load_file(str(tmp_path / "bad.jpg"))
    assert found["work"] is None
    assert 'role="alert"' in found["status"]
    assert "bad.jpg: not a picture" in found["status"]
    assert str(tmp_path) not in found["status"]
    assert "Upload a picture or choose a sample first" in answers.restore(None, -1, silent)["status"]
    assert answers.load_file(None)["status"] == ""


def test_the_result_is_shown_and_in_a_file_of_the_private_folder(answers):
    found = restored(answers)
    work = found["work"]
    pictures = shown(found["compare"])
    np.testing.assert_array_equal(pictures["restored"], np.round(work.restored / 257).astype(np.uint8))
    np.testing.assert_array_equal(pictures["blurred"], np.round(pixels() / 257).astype(np.uint8))
    assert '<span class="tag before">before</span><span class="tag after">after</span>' in found["compare"]
    result = Path(found["download"]["value"])
    assert result.name == "eins_deblurred.png"
    np.testing.assert_array_equal(read_photo(result).pixels, work.restored)
    assert result.parent.parent == answers.setting.folder
    assert str(answers.setting.folder) not in found["status"] + found["about"]
    assert (found["x"], found["y"]) == (45, 30), "the inspection begins in the middle"
    assert "mean of 8 channels" in found["kernel"]
    assert found["errors"] == "", "the sharp picture isn't known"
    assert found["full"]["visible"] is False


@pytest.mark.parametrize(
    ("kind", "suffix", "format"),
    [("as it came", ".jpg", "jpeg"), ("jpeg", ".jpg", "jpeg"), ("png", ".png", "png"), ("tiff", ".tif", "tiff")],
)
def test_the_file_is_of_the_uploads_kind_or_another_and_keeps_its_exif(answers, tmp_path, kind, suffix, format):
    exif = Image.Exif()
    exif[0x0110] = "Model X"
    Image.fromarray(pixels(dtype=np.uint8)).save(tmp_path / "foto.jpg", exif=exif)
    work = answers.load_file(str(tmp_path / "foto.jpg"))["work"]
    result = Path(answers.restore(work, -1, silent, 0, 100, kind)["download"]["value"])
    assert result.name == f"foto_deblurred{suffix}"
    assert read_photo(result).format == format
    assert Image.open(result).getexif()[0x0110] == "Model X"


@pytest.mark.parametrize("strength", [0, 35, 100])
def test_strength_lies_between_the_original_and_the_restored_picture(answers, strength):
    work = restored(answers)["work"]
    found = answers.give(work, strength, "png")
    expected = np.rint(pixels() + strength / 100 * (work.restored.astype(float) - pixels()))
    assert np.abs(read_photo(found["download"]["value"]).pixels - expected).max() <= 1
    assert np.abs(shown(found["compare"])["restored"] - expected / 257).max() <= 1
    assert f"at {strength} % strength" in found["status"]


def test_a_camera_picture_is_reduced_first_and_whole_on_request(tmp_path):
    answers = answers_of(tmp_path)
    object.__setattr__(answers.setting, "limits", Limits(megabytes=1, megapixels=1, at_once=0.02))
    write_photo(tmp_path / "gross.png", Photo(pixels=pixels(200, 300), format="png"))
    work = answers.load_file(str(tmp_path / "gross.png"))["work"]
    found = answers.restore(work, -1, silent)
    assert work.photo.size[0] * work.photo.size[1] <= 20_000
    assert "300 x 200 pixels, 16 bit were reduced to 173 x 115 pixels" in found["status"]
    assert found["full"]["visible"] is True
    whole = answers.restore_whole(work, -1, silent)
    assert read_photo(whole["download"]["value"]).size == (200, 300)
    assert whole["full"]["visible"] is False
    assert "reduced" not in whole["status"]


def test_another_network_is_another_result(answers):
    work = answers.load_sample(0)["work"]
    first = answers.restore(work, -1, silent, 0)
    second = answers.restore(work, -1, silent, 1)
    assert first["compare"] != second["compare"]
    assert "&lt;small&gt; 1" in second["about"]
    assert "1.pth [params]" in second["about"]
    broken = answers.restore(work, -1, silent, 2)
    assert "broken.pth: no checkpoint" in broken["status"]
    assert broken["compare"] == "", "nothing of another network stays"
    assert answers.restore(broken["work"], -1, silent, 0)["compare"] == first["compare"]
    assert "no network 7" in answers.about(7)


def test_old_results_are_deleted(answers):
    folders = [Path(restored(answers)["download"]["value"]).parent for _ in range(serve.SESSIONS + 2)]
    assert [folder.exists() for folder in folders] == [False] * 2 + [True] * serve.SESSIONS


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
    assert answering.FIRST in answers.inspect(None, 1, 1, -1)["kernel"]
    assert answering.FIRST in answers.click(answers.load_sample(0)["work"], (3, 3), -1)["kernel"]


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
    assert found["compare"]
    assert "use_filters: false" in found["kernel"]
    assert "no disparity" in found["disparity"]
    page.build(answers.setting)


def test_too_little_memory_is_a_message(answers, monkeypatch):
    def fails(*_, **__):
        raise UserError("too little memory for any tile")

    monkeypatch.setattr(answers.setting.pool.worker(0), "restore", fails)
    found = restored(answers)
    assert "too little memory for any tile" in found["status"]
    assert found["compare"] == ""


def test_the_page_names_what_is_loaded_and_asks_nothing_of_other_sites(answers):
    config = str(page.build(answers.setting).get_config_file())
    assert "&lt;small&gt;" in config
    assert not re.findall(r"https?://[^'\" ]*(?:google|cdn|huggingface)", config)


def test_a_sample_that_is_not_there(answers):
    for index in (-1, 99, None):
        assert "There is no sample" in answers.load_sample(index)["status"]


def test_whose_requests_are_taken():
    host = (b"host", b"127.0.0.1:7860")
    assert serve.is_own([host])
    assert serve.is_own([host, (b"origin", b"http://127.0.0.1:7860")])
    for origin in (b"http://evil.example", b"null", b"http://127.0.0.1:80", b""):
        assert not serve.is_own([host, (b"origin", origin)])


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        (np.eye(5)[2][:, None] * np.eye(5)[2], "changes next to nothing"),
        (0.01 * np.ones((5, 5)) + 0.99 * np.eye(5)[2][:, None] * np.eye(5)[2], ""),
        (np.full((5, 5), 0.04), "is flat"),
        (np.linspace(-1, 1, 25).reshape(5, 5), ""),
    ],
)
def test_a_kernel_that_does_nothing_is_said_to(weights, said):
    found = figures._flatness(weights)
    assert (said in found) if said else found == ""


def test_a_map_of_the_blurs_size_begins_with_zero(answers):
    work = answers.load_sample(0)["work"]
    work.disparity, work.blur_size = np.linspace(-0.3, 8.0, 88).reshape(8, 11), True
    found = figures.disparity_html(work)
    assert "<span>0, in focus</span><span>8 px</span>" in found
    assert "Diameter of the blur, from 0.00 to 8.00 pixels" in found
    assert "opposite sides" not in found


@pytest.mark.parametrize(("spread", "flat"), [(0.0, True), (0.01, True), (0.5, False)])
def test_a_flat_disparity_map_is_said_to_be_flat(answers, spread, flat):
    work = restored(answers)["work"]
    work.disparity = np.linspace(0.3, 0.3 + spread, work.disparity.size, dtype=np.float32).reshape(work.disparity.shape)
    found = figures.disparity_html(work)
    assert ("The map is flat" in found) is flat
    assert ("<img" in found) is not flat


@pytest.mark.parametrize(
    ("host", "port", "said"),
    [
        ("no-such-machine.invalid", 7999, "no machine is called no-such-machine.invalid"),
        ("192.0.2.1", 7999, "the address isn't this machine's"),
    ],
)
def test_where_it_cannot_be_served_is_told_in_words_of_ours(answers, host, port, said):
    with pytest.raises(UserError, match=said):
        serve.launch(page.build(answers.setting), LIMITS, host, port)


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:9", "http://proxy.invalid:3128"])
def test_a_proxy_for_other_machines_is_not_in_the_way(answers, monkeypatch, proxy):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, proxy)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "elsewhere.example")
    served = page.build(answers.setting)
    try:
        assert serve.launch(served, LIMITS, "127.0.0.1", None).startswith("http://127.0.0.1:")
    finally:
        serve.close(served, answers.setting.folder)
