"""A batch of photographs: what is found, how it is named, what is refused before work, and what a failure leaves."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from ifan_plugin.archs.ifan_arch import IFAN
from ifan_plugin.common.errors import UserError
from ifan_plugin.images.transparency import hidden_in, with_hidden
from ifan_plugin.inference.api import stacked
from ifan_plugin.photos import batch
from ifan_plugin.photos import plan as batch_plan
from ifan_plugin.photos import read_write as photos
from ifan_plugin.photos.batch import Outcome, Settings, Watcher, restore_all
from ifan_plugin.photos.compare import gained_most, side_by_side
from ifan_plugin.photos.disparity import OFFSET, SCALE, DisparityPicture, disparity_map, write_disparity
from ifan_plugin.photos.plan import find_inputs, plan
from ifan_plugin.photos.read_write import Photo, read_photo, write_photo
from ifan_plugin.weights.networks import Network


class Halved(nn.Module):
    """The mean of the first view's double weight and all others, halved: told apart from its input and from others."""

    def __init__(self, in_channels: int = 3) -> None:
        super().__init__()
        self.in_channels = in_channels

    def forward(self, lq: Tensor) -> Tensor:
        return sum((number + 1) * view for number, view in enumerate(lq.split(3, 1))) / 12


HALVED = Network(Halved(), ("center",), "Halved", None, "halves")
DUAL = Network(Halved(9), ("center", "left", "right"), "Dual", None, "weighs three views")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "Ferien am Fluß"
    path.mkdir()
    return path


def noise(channels: int = 3, bits: int = 8, seed: int = 0, height: int = 19, width: int = 26) -> np.ndarray:
    shape = (height, width) if channels == 1 else (height, width, channels)
    return np.random.default_rng(seed).integers(0, 2**bits, shape).astype(f"uint{bits}")


def put(path: Path, pixels: np.ndarray | None = None, alpha: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_photo(path, Photo(noise() if pixels is None else pixels, "png", alpha), quality=100)
    return path


def planned(inputs: list, out: Path, *arguments, **options) -> list[batch_plan.Job]:
    return plan(find_inputs(inputs, out)[0], out, *arguments, **options)


def outputs(inputs: list, out: Path, *arguments, **options) -> list[str]:
    return [str(job.output.relative_to(out)) for job in planned(inputs, out, *arguments, **options)]


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def refused(function, *arguments, **options) -> str:
    with pytest.raises(UserError) as caught:
        function(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def halved(pixels: np.ndarray) -> np.ndarray:
    return np.rint(pixels / np.float32(12)).astype(pixels.dtype)


def test_folders_keep_their_tree_and_other_files_are_left_alone(folder):
    for name in ("b.png", "a.png", "tag 1/ä.png", "tag 1/tiefer/c.TIF", "tag 2/ä.png"):
        put(folder / name)
    for name in ("notes.txt", ".hidden.jpg", "tag 1/._c.TIF", ".trash/x.png", "film.mp4"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    put(folder / "scharf/a.png")  # of a run before, to the same place
    found, others = find_inputs([folder], folder / "scharf")
    assert [str(each.relative) for each in found] == [
        "a.png",
        "b.png",
        "tag 1/ä.png",
        "tag 1/tiefer/c.TIF",
        "tag 2/ä.png",
    ]
    assert others == 2
    assert len(find_inputs([folder], folder / "elsewhere")[0]) == 6
    assert len(find_inputs([f"{folder}/**/*.png"], folder / "elsewhere")[0]) == 5
    assert len(find_inputs([f"{folder}/**/*.png"], folder / "scharf")[0]) == 4


def test_several_folders_keep_their_names_and_patterns_what_they_match(folder, monkeypatch):
    for name in ("x/1.png", "y/1.png", "y/z/2.jpg", "y/text.txt"):
        put(folder / name) if not name.endswith("txt") else (folder / name).write_text("")
    out = folder / "out"
    assert outputs([folder / "x"], out) == ["1.png"]
    assert outputs([folder / "x", folder / "y"], out) == ["x/1.png", "y/1.png", "y/z/2.jpg"]
    assert outputs([f"{folder}/*/*"], out) == ["x/1.png", "y/1.png"]
    assert outputs([f"{folder}/y/**/*.jpg"], out) == ["z/2.jpg"]
    assert outputs([folder / "x/1.png", f"{folder}/x/*.png", folder / "x"], out) == ["1.png"]  # once
    monkeypatch.chdir(folder)
    assert outputs(["*/[0-9].png"], out) == ["x/1.png", "y/1.png"]
    put(folder / "odd [1].png")
    assert outputs(["odd [1].png"], out) == ["odd [1].png"]


def test_inputs_that_are_not_there(folder):
    (folder / "empty").mkdir()
    os.mkfifo(folder / "pipe.png")
    for entry, message in (
        (folder / "none.jpg", "none.jpg: no such file or folder"),
        (folder / "empty", "empty: no pictures in this folder; valid endings: .jpg"),
        (f"{folder}/*.jpg", "*.jpg: no picture is named like this"),
        (folder / "pipe.png", "pipe.png: neither a file nor a folder"),
    ):
        assert message in refused(find_inputs, [entry], folder)


def test_kinds_of_files_that_are_written(folder):
    names = ("a.JPG", "b.jpeg", "c.png", "d.TIFF", "e.webp", "f.NEF", "g.bin", "h.1.png")
    for name in names:
        (folder / name).write_bytes(b"")
    paths, out = [folder / name for name in names], folder / "out"
    assert outputs(paths, out) == ["a.JPG", "b.jpeg", "c.png", "d.TIFF", "e.webp", "f.tif", "g.bin.png", "h.1.png"]
    assert outputs(paths[:7], out, "jpeg") == ["a.JPG", "b.jpeg", "c.jpg", "d.jpg", "e.jpg", "f.jpg", "g.bin.jpg"]
    assert outputs(paths, out, "tiff")[4:] == ["e.tif", "f.tif", "g.bin.tif", "h.1.tif"]
    job = planned([paths[7]], out, compare=True, disparity=True)[0]
    assert [path.name for path in job.outputs] == [
        "h.1.png", "h.1_compare.jpg", "h.1_disparity.png", "h.1_disparity_colours.png",
    ]  # fmt: skip
    pair = planned([paths[0], put(folder / "a.tif"), paths[2]], out, compare=True, disparity=True)
    assert [[path.name for path in job.outputs[1:3]] for job in pair] == [
        ["a.JPG_compare.jpg", "a.JPG_disparity.png"], ["a.tif_compare.jpg", "a.tif_disparity.png"],
        ["c_compare.jpg", "c_disparity.png"],
    ]  # fmt: skip
    put(folder / "neu/c.tif")  # in another folder of OUT: they don't meet
    pair = planned([paths[2], f"{folder}/*/c.tif"], out, compare=True)
    assert [job.compare.relative_to(out) for job in pair] == [Path("c_compare.jpg"), Path("neu/c_compare.jpg")]
    (folder / "c.nef").write_bytes(b"")
    pair = planned([folder / "c.nef", paths[2]], out, compare=True)
    assert [job.compare.name for job in pair] == ["c.tif_compare.jpg", "c.png_compare.jpg"]
    assert planned([paths[0]], folder / "sharp ü.png")[0].output == folder / "sharp ü.png"
    assert planned(paths[:2], folder / "sharp.png")[0].output == folder / "sharp.png" / "a.JPG"  # a folder of that name
    assert "its ending says png, but --format jpeg" in refused(planned, [paths[0]], folder / "sharp.png", "jpeg")


def test_names_that_would_meet_are_refused_before_work(folder):
    a, b, c = put(folder / "a.png"), put(folder / "a.webp"), put(folder / "two/a.png")
    out = folder / "out"
    assert "a.webp would both be written to" in refused(planned, [a, b], out, "tiff")
    assert "whose sub-folders are kept" in refused(planned, [a, c], out)
    put(folder / "three/a.png"), put(folder / "four/three/a.png")
    assert "both be written" in refused(planned, [folder / "three", folder / "four/three"], out)
    compared = put(folder / "a_compare.jpg")
    assert outputs([a, compared], out) == ["a.png", "a_compare.jpg"]
    assert "a_compare.jpg" in refused(planned, [a, compared], out, compare=True)
    # And with what is read: the file itself, by another name, or another input.
    assert "inputs are never written over" in refused(planned, [folder / "two"], folder / "two")
    (folder / "link").symlink_to(folder / "two")
    assert "inputs are never written over" in refused(planned, [c], folder / "link")
    assert "is an input" in refused(planned, [a, b], folder, "png")
    (out / "a.png").mkdir(parents=True)
    assert "a.png: is a folder" in refused(planned, [a], out)
    assert "is a file; give a folder" in refused(planned, [a, compared], b)


def test_left_and_right_views_are_found_by_name(folder):
    for name in ("c/1.png", "c/sub/2.png", "l/1.tif", "l/sub/2_L.png", "r/1_R.png", "r/sub/2.png"):
        put(folder / name)
    jobs = planned([folder / "c"], folder / "out", left=folder / "l", right=folder / "r")
    assert [job.left.name for job in jobs] == ["1.tif", "2_L.png"]
    assert [job.right.name for job in jobs] == ["1_R.png", "2.png"]
    one = planned([folder / "c/1.png"], folder / "out", left=folder / "l/1.tif", right=folder / "r/1_R.png")[0]
    assert (one.left, one.right) == (folder / "l/1.tif", folder / "r/1_R.png")
    assert "is one file for 2 inputs" in refused(planned, [folder / "c"], folder / "out", left=folder / "l/1.tif")
    assert "no such file or folder" in refused(planned, [folder / "c"], folder / "out", left=folder / "none")
    (folder / "r/sub/2.png").unlink()
    said = refused(planned, [folder / "c"], folder / "out", right=folder / "r")
    assert "no picture for" in said
    assert "valid: sub/2 or sub/2_R" in said


class Notes(Watcher):
    """Everything a batch told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def says(self, job, line):
        self.lines.append(line)

    def ends(self, job, line):
        self.lines.append(line)


def test_each_kind_of_pixels_comes_back_in_kind(folder):
    cases = {
        "rgb.png": (noise(), None), "rgb16.tif": (noise(3, 16), None), "grey.png": (noise(1), None),
        "grey16.tif": (noise(1, 16), None), "alpha16.png": (noise(3, 16), noise(1, 16)), "ga.tif": (noise(1), noise(1, 8, 3)),
    }  # fmt: skip
    for name, (pixels, alpha) in cases.items():
        put(folder / name, pixels, alpha)
    outcome = restore_all(planned([folder], folder / "out"), Settings(HALVED))
    assert [job.source.name for job in outcome.restored] == sorted(cases)
    for name, (pixels, alpha) in cases.items():
        back = read_photo(folder / "out" / name)
        assert back.pixels.dtype == pixels.dtype
        # Of 16 bits float32 may round the last one either way.
        hidden = hidden_in(alpha)
        expected = halved(pixels) if hidden is None else with_hidden(halved(pixels), pixels, alpha)
        np.testing.assert_allclose(back.pixels, expected.astype(int), atol=0 if pixels.dtype == np.uint8 else 1)
        assert alpha is None or np.array_equal(back.alpha, alpha)
        assert (back.alpha is None) == (alpha is None)


def test_a_failure_does_not_stop_the_others(folder):
    good, last = put(folder / "a.png"), put(folder / "z.png")
    (folder / "bad.png").write_text("kein Bild")
    put(folder / "alpha.png", noise(), noise(1))
    notes = Notes()
    outcome = restore_all(planned([folder], folder / "out", "jpeg"), Settings(HALVED), notes)
    assert [job.source for job in outcome.restored] == [good, last]
    assert [(job.source.name, reason) for job, reason in outcome.failed] == [
        ("alpha.png", f"{folder / 'alpha.png'}: {folder / 'out/alpha.jpg'}: JPEG can't hold the alpha channel; valid: "
         "--format png, tiff or webp"),
        ("bad.png", f"{folder / 'bad.png'}: not a picture; {photos.VALID}"),
    ]  # fmt: skip
    assert files(folder / "out") == ["a.jpg", "z.jpg"]
    assert [line.split(" ")[0] for line in notes.lines] == ["->", "failed:", "failed:", "->"]


def test_names_that_are_no_text(folder):
    """Bytes that aren't UTF-8, as old archives have them; half a surrogate must not end a batch."""
    source = Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9 \n 1.png"))
    put(source)
    notes = Notes()
    outcome = restore_all(planned([folder], folder / "out", compare=True), Settings(HALVED), notes)
    assert outcome.failed == []
    assert (folder / "out" / source.name).is_file()


def test_what_is_there_is_skipped_unless_it_may_be_replaced(folder):
    put(folder / "a.png"), put(folder / "b.png")
    out = folder / "out"
    out.mkdir()
    (out / "a.png").write_bytes(b"mine")
    (out / "b_compare.jpg").symlink_to(out / "nowhere")  # a dangling link is there, too
    jobs = planned([folder], out, compare=True)
    outcome = restore_all(jobs, Settings(HALVED))
    assert [path.name for _, path in outcome.skipped] == ["a.png"]
    assert [reason for _, reason in outcome.failed] == [
        f"{folder / 'b.png'}: {out / 'b_compare.jpg'} is there already, though {out / 'b.png'} isn't; "
        "--overwrite replaces it"
    ]
    assert (out / "a.png").read_bytes() == b"mine"
    assert not (out / "b.png").exists()
    outcome = restore_all(jobs, Settings(HALVED, overwrite=True))
    assert len(outcome.restored) == 2
    np.testing.assert_array_equal(read_photo(out / "a.png").pixels, halved(noise()))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_full_disk_ends_the_batch_and_leaves_nothing_half(folder, monkeypatch, number):
    for name in ("a.png", "b.png", "c.png"):
        put(folder / name)
    real = batch.put_photo

    def put_photo(file, photo, format, quality, name):
        if name.name == "b_compare.jpg":
            file.write(b"half")
            raise OSError(number, os.strerror(number))
        return real(file, photo, format, quality, name)

    monkeypatch.setattr(batch, "put_photo", put_photo)
    outcome = restore_all(planned([folder], folder / "out", compare=True), Settings(HALVED))
    assert [job.source.name for job in outcome.restored] == ["a.png"]
    assert os.strerror(number) in outcome.stopped
    assert [job.source.name for job in outcome.untried] == ["c.png"]
    assert files(folder / "out") == ["a.png", "a_compare.jpg"]


def test_another_fault_of_the_disk_concerns_one_picture(folder, monkeypatch):
    for name in ("a.png", "sub/b.png"):
        put(folder / name)
    (folder / "out").mkdir()
    (folder / "out" / "sub").write_text("a file where a folder must be")
    outcome = restore_all(planned([folder], folder / "out"), Settings(HALVED))
    assert len(outcome.restored) == 1
    assert "sub/b.png" in outcome.failed[0][1]
    assert outcome.untried == []


def test_an_interruption_leaves_no_file(folder, monkeypatch):
    put(folder / "a.png")

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(batch, "write_disparity", interrupted)
    monkeypatch.setattr(batch, "disparity_map", lambda *_: np.zeros((19, 26), np.float32))
    monkeypatch.setattr(batch, "require_disparity", lambda _: None)
    monkeypatch.setattr(batch, "_restore", _with_disparity(batch._restore))
    with pytest.raises(KeyboardInterrupt):
        restore_all(planned([folder / "a.png"], folder / "out", disparity=True), Settings(HALVED))
    assert files(folder / "out") == []


def test_the_restored_picture_is_in_its_place_first(folder, monkeypatch):
    """What a run that is killed between two files leaves; the next one skips the picture, which is restored."""
    put(folder / "a.png")
    real, order = os.replace, []

    def replace(source, target):
        if order:
            raise KeyboardInterrupt
        order.append(target)
        return real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    jobs = planned([folder / "a.png"], folder / "out", compare=True)
    with pytest.raises(KeyboardInterrupt):
        restore_all(jobs, Settings(HALVED))
    assert order == [folder / "out/a.png"]
    assert files(folder / "out") == ["a.png"]
    np.testing.assert_array_equal(read_photo(folder / "out/a.png").pixels, halved(noise()))


def _with_disparity(function):
    return lambda job, settings, _, watcher: function(job, settings, object(), watcher)


def test_dual_pixel_networks_get_their_views_in_order(folder):
    views = {name: noise(seed=number) for number, name in enumerate(("c", "l", "r"))}
    for name, pixels in views.items():
        put(folder / name / "1.png", pixels)
    jobs = planned([folder / "c"], folder / "out", left=folder / "l", right=folder / "r")
    assert restore_all(jobs, Settings(DUAL)).failed == []
    c, left, right = (views[name].astype(np.float32) for name in "clr")
    got = read_photo(folder / "out/1.png").pixels
    np.testing.assert_allclose(got, (c + 2 * left + 3 * right) / 12, atol=0.51)

    assert "--left: Halved takes the center view alone" in refused(restore_all, jobs, Settings(HALVED))
    alone = planned([folder / "c"], folder / "out")
    assert "--left: is missing; Dual takes the views center, left, right" in refused(restore_all, alone, Settings(DUAL))

    put(folder / "l/1.png", noise(3, 16))
    outcome = restore_all(jobs, Settings(DUAL, overwrite=True))
    assert "26x19 pixels, RGB, 16 bits, but" in outcome.failed[0][1]
    put(folder / "l/1.png", views["l"])
    block = Image.Exif()
    block[0x0112] = 6
    Image.fromarray(noise(height=26, width=19)).save(folder / "c/1.png", exif=block)
    outcome = restore_all(jobs, Settings(DUAL, overwrite=True))
    assert "c/1.png: its EXIF data turn it" in outcome.failed[0][1]
    put(folder / "c/1.png", views["c"])
    for view in ("l", "r"):
        block[0x0112] = 3  # the size stays
        Image.fromarray(views[view]).save(folder / view / "1.png", exif=block)
        outcome = restore_all(jobs, Settings(DUAL, overwrite=True))
        assert f"{view}/1.png: its EXIF data turn it" in outcome.failed[0][1]
        put(folder / view / "1.png", views[view])


def test_half_precision_needs_a_gpu(folder):
    jobs = planned([put(folder / "a.png")], folder / "out")
    assert "--precision: fp16 needs a GPU" in refused(restore_all, jobs, Settings(HALVED, precision="fp16"))


def test_too_little_memory_for_one_picture_is_its_failure(folder, monkeypatch):
    put(folder / "a.png"), put(folder / "b.png")
    real = batch.restore

    def restore(pixels, *arguments, **options):
        if not pixels[0, 0].any():
            raise MemoryError
        return real(pixels, *arguments, **options)

    put(folder / "a.png", noise() * 0)
    monkeypatch.setattr(batch, "restore", restore)
    outcome: Outcome = restore_all(planned([folder], folder / "out"), Settings(HALVED))
    assert outcome.failed[0][1] == f"{folder / 'a.png'}: too little memory for this picture"
    assert len(outcome.restored) == 1


@pytest.fixture(scope="module")
def small_ifan() -> Network:
    torch.manual_seed(0)
    net = IFAN(width=4, num_steps=2, res_units=1)
    with torch.no_grad():  # large enough to be seen in 256ths of a pixel
        net.disparity_estimator[-1].bias.fill_(-0.75)
    return Network(net.eval().requires_grad_(False), ("center",), "IFAN", None, "small")


@pytest.mark.parametrize("tile", ["off", 32])
def test_the_saved_disparity_gives_back_the_networks_numbers(folder, small_ifan, tile):
    pixels = cv2.resize(noise(height=6, width=9), (75, 50), interpolation=cv2.INTER_CUBIC)
    put(folder / "a.png", pixels)
    outcome = restore_all(
        planned([folder / "a.png"], folder / "out", disparity=True, compare=True), Settings(small_ifan, tile=tile)
    )
    assert outcome.failed == []
    with Image.open(folder / "out/a_disparity.png") as file:
        values, words = np.asarray(file).astype(np.float64), file.text
    assert (float(words["disparity:scale"]), float(words["disparity:offset"])) == (SCALE, OFFSET)
    assert "value * 0.00390625 + -128.0" in words["Description"]
    found = values * SCALE + OFFSET
    expected = 8 * small_ifan.net.disparity(stacked([pixels]))[0, 0].numpy()
    assert found.shape == (50, 75)
    assert np.abs(expected).max() > 1  # pixels
    # At the middles of the network's 8 x 8 cells; between them it is interpolated.
    cells = (found[3::8, 3::8] + found[4::8, 3::8] + found[3::8, 4::8] + found[4::8, 4::8]) / 4
    rows, columns = cells.shape
    np.testing.assert_allclose(cells[:, :columns], expected[:rows, :columns], atol=0.15 * np.ptp(expected) + 2 * SCALE)
    with Image.open(folder / "out/a_disparity_colours.png") as file:
        assert file.size == (75, 50)
        red, _, blue = np.asarray(file).reshape(-1, 3).mean(0)
        assert (red < blue) == (expected.mean() < 0)


def test_a_map_of_the_blurs_size_is_in_pixels_of_its_diameter_and_says_so(folder, small_ifan):
    put(folder / "a.png", cv2.resize(noise(height=6, width=9), (72, 48), interpolation=cv2.INTER_CUBIC))
    jobs = planned([folder / "a.png"], folder / "out", disparity=True)
    assert restore_all(jobs, Settings(small_ifan, tile=None)).failed == []
    shift = np.asarray(Image.open(folder / "out/a_disparity.png")).astype(np.float64) * SCALE + OFFSET
    blur_size = replace(small_ifan, blur_unit=4)
    assert restore_all(jobs, Settings(blur_size, tile=None, overwrite=True)).failed == []
    with Image.open(folder / "out/a_disparity.png") as file:
        diameter = np.asarray(file).astype(np.float64) * SCALE + OFFSET
        assert file.text["Description"].startswith("diameter of the blur in pixels")
    np.testing.assert_allclose(diameter, shift / 2, atol=SCALE)  # 4 instead of 8 pixels a step


def test_disparity_is_refused_where_there_is_none(folder, small_ifan):
    jobs = planned([put(folder / "a.png")], folder / "out", disparity=True)
    assert "--save-disparity: Halved estimates no disparity" in refused(restore_all, jobs, Settings(HALVED))
    plain = Network(IFAN(width=4, num_steps=2, res_units=1, use_disparity=False), ("center",), "IFAN", None, "")
    assert "estimates no disparity" in refused(restore_all, jobs, Settings(plain))
    found = disparity_map(DisparityPicture(small_ifan.net), torch.rand(1, 3, 17, 23))
    assert found.shape == (17, 23)
    assert found.dtype == np.float32


def test_disparities_beyond_the_range_are_clipped(tmp_path):
    with (tmp_path / "d.png").open("wb") as file:
        write_disparity(file, np.array([[-1000.0, OFFSET, 0.0, 1.5, 1000.0]]))
    assert np.asarray(Image.open(tmp_path / "d.png")).tolist() == [[0, 0, 32768, 33152, 65535]]


@pytest.mark.parametrize("size", [(40, 64), (64, 40), (1, 1), (3, 90), (1500, 900)])
def test_side_by_side_shows_both_in_two_columns(size):
    """Any shape; large pictures are scaled down."""
    before, after = (60, 10, 10), (200, 10, 10)  # no grey, as the captions are
    sheet = side_by_side(
        np.full((*size, 3), before, np.uint8), np.full((*size, 3), after, np.uint8), "Übung.jpg", "IFAN"
    )
    assert sheet.dtype == np.uint8
    half = sheet.shape[1] // 2
    assert (sheet[:, :half] == before).all(2).any()
    assert not (sheet[:, :half] == after).all(2).any()
    assert (sheet[:, half:] == after).all(2).any()
    assert not (sheet[:, half:] == before).all(2).any()
    assert max(sheet.shape) < 2200
    grey = side_by_side(np.full(size, 15420, np.uint16), np.full(size, 51400, np.uint16))
    assert grey.shape == sheet.shape


def test_the_part_that_gained_most_is_shown():
    rng = np.random.default_rng(0)
    blurred = np.full((80, 120, 3), 128, np.uint8)
    blurred[:30, :30] = rng.integers(0, 256, (30, 30, 3))  # sharp before as after
    restored = blurred.copy()
    restored[50:70, 80:100] = rng.integers(100, 156, (20, 20, 3))
    top, left, side = gained_most(blurred, restored, 24)
    assert side == 24
    assert top <= 52
    assert top + side >= 68
    assert left <= 82
    assert left + side >= 98


def test_linked_folders_are_searched_and_circles_end(folder):
    put(folder / "in/a.png"), put(folder / "elsewhere/deep/b.png")
    (folder / "in/link").symlink_to(folder / "elsewhere")
    (folder / "elsewhere/deep/up").symlink_to(folder / "in")
    (folder / "in/self").symlink_to(folder / "in")
    (folder / "in/scharf").symlink_to(folder / "out")
    put(folder / "out/a.png")
    assert outputs([folder / "in"], folder / "out") == ["a.png", "link/deep/b.png"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("fold[a]/*.png", ["1.png", "x[1].png"]), ("fold[a]/[1].png", ["1.png"]), ("fold[a]/**/*.png", ["1.png", "x[1].png"]),
        ("*/x[1].png", ["fold[a]/x[1].png"]), ("fold[b]/*.png", ["2.png"]), ("fold[a]/x[1].pn?", ["x[1].png"]),
    ],
)  # fmt: skip
def test_brackets_in_names_and_in_patterns(folder, pattern, expected):
    put(folder / "fold[a]/1.png"), put(folder / "fold[a]/x[1].png"), put(folder / "foldb/2.png")
    wanted = [name if pattern != "fold[b]/*.png" else f"foldb/{name}" for name in expected]
    assert outputs([f"{folder}/{pattern}"], folder / "out") == wanted


@pytest.mark.parametrize("suffix", [".bmp", ".GIF", ".heic", ".nef", ".jxl", ".jp2"])
def test_out_named_like_a_picture_that_is_not_written(folder, suffix):
    a = put(folder / "a.png")
    assert f"pictures aren't written as {suffix}; valid: .jpg" in refused(planned, [a], folder / f"x{suffix}")
    assert planned([a], folder / "x.v2")[0].output == folder / "x.v2/a.png"


@pytest.mark.parametrize("letter", ["n", "ü", "焦"])
def test_long_names_have_room_for_what_is_added(folder, letter):
    bytes_each = len(letter.encode())
    stem = letter * ((255 - 4) // bytes_each)
    one, two = put(folder / f"{stem[:-1]}1.png"), put(folder / f"{stem[:-1]}2.png")
    jobs = planned([one, two], folder / "out", "tiff", compare=True, disparity=True)
    names = [path.name for job in jobs for path in job.outputs]
    assert len(set(names)) == 8
    assert max(len(name.encode()) for name in names) <= 255
    assert jobs[0].output.name == f"{stem[:-1]}1.tif"
    jobs = planned([one, two], folder / "out", "tiff", compare=True)
    outcome = restore_all(jobs, Settings(HALVED))
    assert len(outcome.restored) == 2, outcome.failed
    assert files(folder / "out") == sorted(path.name for job in jobs for path in job.outputs)


def test_kinds_that_are_not_written_become_others_beside_their_namesakes(folder):
    for name in ("a.bmp", "a.png", "b.heic", "c.nef", "c.tif", "d.jfif"):
        (folder / name).write_bytes(b"")
    assert outputs([folder], folder / "out") == ["a.bmp.png", "a.png", "b.png", "c.nef.tif", "c.tif", "d.jfif"]


def test_what_was_sharp_or_nearly_nothing_is_not_what_gained_most():
    """A sharp leaflet that was sharpened more, faint texture that grew by a large factor, and a blurred edge restored."""
    rng = np.random.default_rng(0)
    blurred = np.full((240, 360, 3), 128, np.uint8)
    restored = blurred.copy()
    leaflet = rng.integers(0, 2, (60, 60, 1)).astype(np.uint8)
    blurred[20:80, 20:80], restored[20:80, 20:80] = 90 + 80 * leaflet, 60 + 140 * leaflet
    faint = rng.integers(0, 2, (60, 60, 1)).astype(np.uint8)
    blurred[20:80, 280:340] = 128
    restored[20:80, 280:340] = 126 + 4 * faint
    edges = np.repeat(np.repeat(rng.integers(0, 2, (12, 12)), 10, 0), 10, 1).astype(np.float32) * 160 + 40
    restored[110:230, 120:240] = edges[..., None]
    blurred[110:230, 120:240] = cv2.GaussianBlur(edges, (0, 0), 5)[..., None]
    top, left, side = gained_most(blurred, restored, 80)
    assert 110 <= top <= 230 - side + 10
    assert 120 - 10 <= left <= 240 - side + 10


@pytest.mark.parametrize("crop", [(0, 0, 64, 40), (10, 5, 30, 8), (3, 2, 1, 38)])
def test_the_part_that_is_asked_for_is_shown(crop):
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (40, 64, 3)).astype(np.uint8) for _ in range(2)]
    left, top, width, height = crop
    sheet = side_by_side(*pictures, crop=crop)
    part = pictures[1][top : top + height, left : left + width]
    enlarged = cv2.resize(part, (2 * width, 2 * height), interpolation=cv2.INTER_CUBIC)
    found = cv2.matchTemplate(sheet[:, sheet.shape[1] // 2 :], enlarged, cv2.TM_SQDIFF_NORMED).min()
    assert found < 0.05
    huge = side_by_side(
        np.zeros((3000, 2000, 3), np.uint8), np.zeros((3000, 2000, 3), np.uint8), crop=(0, 0, 1999, 2999)
    )
    assert max(huge.shape) < 2200


class Counted(nn.Module):
    """Changes nothing, and counts its runs."""

    in_channels = 3

    def __init__(self) -> None:
        super().__init__()
        self.runs = 0

    def forward(self, lq: Tensor) -> Tensor:
        self.runs += 1
        return lq


@pytest.mark.parametrize(
    ("name", "make", "options", "message"),
    [
        ("a.png", lambda: Photo(noise(), "png", noise(1)), {"format": "jpeg"}, "JPEG can't hold the alpha channel"),
        ("w.png", lambda: Photo(np.zeros((1, 16384, 3), np.uint8), "png"), {"format": "webp"}, "holds at most 16383 pixels"),
        ("c.png", lambda: Photo(noise(), "png"), {"compare": True}, "--crop 20,10,30,5: lies outside of the picture, 26x19"),
    ],
)  # fmt: skip
def test_what_cannot_be_written_is_told_before_it_is_computed(folder, name, make, options, message):
    path = folder / name
    write_photo(path, make())
    net = Counted()
    jobs = planned([path], folder / "out", **options)
    outcome = restore_all(jobs, Settings(Network(net, ("center",), "Counted", None, ""), crop=(20, 10, 30, 5)))
    assert len(outcome.failed) == 1
    assert message in outcome.failed[0][1]
    assert net.runs == 0
    assert files(folder) == [name]


def test_a_name_that_the_system_refuses_fails_alone(folder, monkeypatch):
    put(folder / "a.png"), put(folder / "b.png")
    jobs = planned([folder], folder / "out")
    real = Path.exists

    def exists(path: Path, **options) -> bool:
        if path.name == "a.png":
            raise OSError(errno.ENAMETOOLONG, "File name too long")
        return real(path, **options)

    monkeypatch.setattr(Path, "exists", exists)
    outcome = restore_all(jobs, Settings(HALVED))
    assert [job.source.name for job in outcome.restored] == ["b.png"]
    assert "File name too long" in outcome.failed[0][1]


def test_scale_and_strength_reach_the_result(folder):
    pixels = np.full((40, 60, 3), 240, np.uint8)
    path = put(folder / "a.png", pixels)
    for options, expected in (
        ({}, 20),
        ({"strength": 0.5}, 130),
        ({"scale": 0.5}, 20),
        ({"scale": 0.5, "strength": 0.25}, 185),
    ):
        restore_all(planned([path], folder / "out"), Settings(HALVED, overwrite=True, **options))
        assert np.unique(read_photo(folder / "out/a.png").pixels).tolist() == [expected], options


def test_a_large_photograph_of_wide_blur_says_at_what_size_it_is_restored(folder):
    rng = np.random.default_rng(0)
    cells = cv2.resize(
        rng.integers(0, 256, (40, 60, 3)).astype(np.uint8), (1500, 1000), interpolation=cv2.INTER_NEAREST
    )
    path = put(folder / "a.png", cv2.GaussianBlur(cells, (0, 0), 9))
    told = []

    class Teller(Watcher):
        def says(self, job, line):
            told.append(line)

    for scale in ("auto", 1.0):
        restore_all(planned([path], folder / f"out{scale}"), Settings(HALVED, scale=scale), Teller())
    assert len(told) == 1
    assert "is wider than networks undo: restored at " in told[0]
    assert "--scale 1 works at full size" in told[0]
