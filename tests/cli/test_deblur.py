"""``basicsr deblur``: the whole command, its lines and bars, its exit status, and what it refuses in one line."""

from __future__ import annotations

import io
import os
import re
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import basicsr
from PIL import Image

from ifan_plugin import cli
from ifan_plugin.archs.dpdnet_arch import DPDNet
from ifan_plugin.archs.ifan_arch import IFAN
from ifan_plugin.cli import deblur as command
from ifan_plugin.inference import stages
from ifan_plugin.photos import batch
from ifan_plugin.photos import plan as batch_plan
from ifan_plugin.photos.read_write import VALID, Photo, read_photo, write_photo
from ifan_plugin.weights.networks import Network, load_network

SMALL = {"width": 2, "num_steps": 1, "res_units": 1}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two photographs, 16 bits and 8, in folders with names as people have them."""
    path = tmp_path / "Fotos für Oma"
    rng = np.random.default_rng(0)
    (path / "Tag 1").mkdir(parents=True)
    write_photo(path / "a b.png", Photo(rng.integers(0, 65536, (30, 44, 3)).astype(np.uint16), "png"))
    write_photo(path / "Tag 1" / "ö.jpg", Photo(rng.integers(0, 256, (36, 26, 3)).astype(np.uint8), "jpeg"))
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("Gewichte") / "net g.pth"
    net = IFAN(**SMALL)
    torch.save({"params": net.state_dict(), "hyper_parameters": net.hyper_parameters}, path)
    return path


def deblur(*arguments: object) -> int:
    return cli.main(["deblur", *map(str, arguments)])


def refused(capsys, *arguments: object) -> str:
    """What is said where nothing is done."""
    assert deblur(*arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    lines = [line for line in said.err.splitlines() if line.startswith("basicsr")]
    assert len(lines) == 1
    return lines[0]


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_process_of_its_own(folder, weights, tmp_path):
    (folder / "kaputt.jpg").write_text("kein Bild")
    (folder / "notes.txt").write_text("")
    done = basicsr("deblur", folder.name, "--out", "scharf ß", "--weights", weights, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert done.stdout == f"2 restored, 1 failed\nresults: {tmp_path / 'scharf ß'}\n"
    lines = done.stderr.splitlines()
    assert lines[0] == "1 file of other kinds left alone"
    assert lines[1].startswith("IFAN: width 2, num_steps 1")
    assert lines[2].startswith("[1/3] Fotos für Oma/a b.png -> scharf ß/a b.png (44x30, 16 bits, ")
    assert lines[3].startswith("[2/3] Fotos für Oma/kaputt.jpg failed: not a picture; valid: ")
    assert lines[4].startswith("[3/3] Fotos für Oma/Tag 1/ö.jpg -> ")
    assert lines[5].startswith("failed: Fotos für Oma/kaputt.jpg: not a picture; valid: ")
    assert len(lines) == 6
    assert files(tmp_path / "scharf ß") == ["Tag 1/ö.jpg", "a b.png"]


def test_pictures_are_what_the_network_makes_of_them(folder, weights, tmp_path, capsys):
    """By tiles and with all files; then again, where all is skipped, and replaced."""
    out = tmp_path / "out"
    every = (folder, "--out", out, "--weights", weights, "--compare", "--save-disparity", "--device", "cpu")
    assert deblur(*every, "--tile", 32) == 0
    said = capsys.readouterr()
    assert said.out == f"2 restored\nresults: {out}\n"
    assert said.err.count("disparity from ") == 2
    extra = ["_compare.jpg", "_disparity.png", "_disparity_colours.png"]
    expected = ["a b.png", *(f"a b{name}" for name in extra), "Tag 1/ö.jpg", *(f"Tag 1/ö{name}" for name in extra)]
    assert files(out) == sorted(expected)

    pixels = read_photo(folder / "a b.png").pixels
    lq = torch.from_numpy(pixels.astype(np.float32) / 65535).permute(2, 0, 1)[None]
    with torch.no_grad():
        whole = load_network(weights, device="cpu").net(lq).clamp(0, 1)[0].permute(1, 2, 0).numpy()
    restored = read_photo(out / "a b.png")
    assert restored.bit_depth == 16
    assert np.abs(restored.pixels / 65535 - whole).max() < 2e-4

    before = (out / "a b.png").read_bytes()
    (out / "a b_compare.jpg").unlink()
    assert deblur(*every) == 0
    said = capsys.readouterr()
    assert said.out == f"0 restored, 2 skipped, there already (--overwrite replaces)\nresults: {out}\n"
    assert f"a b.png skipped, {out / 'a b.png'} is there already" in said.err
    assert not (out / "a b_compare.jpg").exists()
    assert deblur(*every, "--overwrite", "--ensemble", "--quiet", "--tile", "off") == 0
    assert capsys.readouterr() == ("", "")
    assert (out / "a b_compare.jpg").exists()
    assert (out / "a b.png").read_bytes() != before  # the ensemble


def test_a_file_to_a_file_and_to_another_kind(folder, weights, tmp_path, capsys):
    out = tmp_path / "new folder" / "sharp.tif"
    assert deblur(folder / "a b.png", "--out", out, "--weights", weights) == 0
    assert read_photo(out).bit_depth == 16
    assert deblur(f"{folder}/**/*.jpg", "--out", tmp_path / "webp", "--weights", weights, "--format", "webp") == 0
    assert files(tmp_path / "webp") == ["Tag 1/ö.webp"]
    sizes = []
    for quality in (20, 90):
        arguments = (folder / "Tag 1", "--out", tmp_path / f"q{quality}", "--weights", weights, "--quality", quality)
        assert deblur(*arguments) == 0
        sizes.append((tmp_path / f"q{quality}" / "ö.jpg").stat().st_size)
    assert sizes[0] < sizes[1]


def test_only_a_restored_picture_counts_as_done(folder, weights, tmp_path, capsys):
    compared = tmp_path / "out" / "a b_compare.jpg"
    compared.parent.mkdir()
    compared.write_bytes(b"of a run that was killed")
    arguments = (folder / "a b.png", "--out", tmp_path / "out", "--weights", weights, "--compare")
    assert deblur(*arguments) == 1
    said = f"{folder / 'a b.png'}: {compared} is there already, though {tmp_path / 'out/a b.png'} isn't; --overwrite"
    assert f"\nfailed: {said} replaces it\n" in capsys.readouterr().err
    assert files(tmp_path / "out") == ["a b_compare.jpg"]
    assert deblur(*arguments, "--overwrite") == 0
    assert files(tmp_path / "out") == ["a b.png", "a b_compare.jpg"]


def test_quiet_says_only_what_failed(folder, weights, tmp_path, capsys):
    (folder / "kaputt.png").write_bytes(b"")
    assert deblur(folder, "--out", tmp_path / "out", "--weights", weights, "--quiet") == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == f"failed: {folder / 'kaputt.png'}: file is empty; {VALID}\n"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_has_bars_over_pictures_and_tiles(folder, weights, tmp_path, monkeypatch, capsys):
    (folder / "kaputt.png").write_bytes(b"")
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    assert deblur(folder, "--out", tmp_path / "out", "--weights", weights, "--tile", 24) == 1
    shown = screen.getvalue()
    assert "3/3" in shown
    assert "picture" in shown
    assert "4/4" in shown  # tiles of the first: 2 rows of 2
    assert "kaputt.png failed: file is empty" in shown
    assert "->" not in shown
    assert capsys.readouterr().out == f"2 restored, 1 failed\nresults: {tmp_path / 'out'}\n"


def test_an_interruption_keeps_what_is_finished(folder, weights, tmp_path, monkeypatch, capsys):
    real, calls = batch.restore, []

    def restore(*arguments, **options):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(batch, "restore", restore)
    assert deblur(folder, "--out", tmp_path / "out", "--weights", weights) == 130
    assert capsys.readouterr().err.endswith("basicsr: interrupted\n")
    assert files(tmp_path / "out") == ["a b.png"]


def test_sigterm_leaves_no_half_file(folder, weights, tmp_path, monkeypatch, capsys):
    """As job schedulers end programs; in the middle of writing."""
    before = signal.getsignal(signal.SIGTERM)

    def put_photo(file, *_):
        file.write(b"half")
        file.flush()
        assert [name for name in os.listdir(tmp_path / "out") if name.startswith(".a b.png.aside.")]
        assert signal.getsignal(signal.SIGTERM) != before, "else it would end these tests"
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("the signal was lost")

    monkeypatch.setattr(batch, "put_photo", put_photo)
    assert deblur(folder, "--out", tmp_path / "out", "--weights", weights) == 130
    assert capsys.readouterr().err.endswith("basicsr: interrupted\n")
    assert files(tmp_path / "out") == []
    assert signal.getsignal(signal.SIGTERM) == before


def test_memory_does_not_grow_with_the_number_of_pictures(tmp_path):
    """The peak of what numpy and Pillow hold, of 3 and of 9 pictures."""
    import tracemalloc

    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(9):
        write_photo(folder / f"{number}.png", Photo(np.full((300, 400, 3), 20 * number, np.uint8), "png"))
    settings = batch.Settings(Network(torch.nn.Identity(), ("center",), "Identity", None, ""))

    def peak(count: int) -> int:
        found, _ = batch_plan.find_inputs([folder / f"{number}.png" for number in range(count)], tmp_path)
        jobs = batch_plan.plan(found, tmp_path / f"out {count}", compare=True)
        tracemalloc.start()
        assert len(batch.restore_all(jobs, settings).restored) == count
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(1)  # imports
    assert peak(9) < 1.1 * peak(3)


def test_other_architectures(folder, tmp_path, capsys):
    """One without weights, with its options; one of two views; and what is said of wrong ones."""
    out = tmp_path / "out"
    conventional = ("--arch", "DefocusDeconvolution", "--arch-option", "max_sigma=1.5", "--arch-option", "noise=4e-2")
    assert deblur(folder / "a b.png", "--out", out, *conventional) == 0
    assert "max_sigma 1.5" in capsys.readouterr().err
    assert "unknown key 'max_sigmas'; did you mean 'max_sigma'?" in refused(
        capsys, folder, "--out", out, "--arch", "DefocusDeconvolution", "--arch-option", "max_sigmas=2"
    )
    net = DPDNet(in_channels=6, width=2)
    path = tmp_path / "dpdnet.pth"
    torch.save({"params": net.state_dict(), "hyper_parameters": {"in_channels": 6, "width": 2}}, path)
    for view in ("l", "r"):
        (tmp_path / view).mkdir()
        (tmp_path / view / "a b.png").write_bytes((folder / "a b.png").read_bytes())
    pair = ("--left", tmp_path / "l", "--right", tmp_path / "r")
    assert deblur(folder / "a b.png", "--out", tmp_path / "dual", "--weights", path, *pair) == 0
    assert read_photo(tmp_path / "dual/a b.png").bit_depth == 16
    capsys.readouterr()
    assert "--left: is missing; DPDNet takes the views left, right" in refused(
        capsys, folder / "a b.png", "--out", tmp_path / "dual 2", "--weights", path
    )
    assert not (tmp_path / "dual 2").exists()
    swapped = ("--arch-option", "views=[right, left]")
    assert deblur(folder / "a b.png", "--out", tmp_path / "dual 3", "--weights", path, *pair, *swapped) == 0
    capsys.readouterr()
    assert "views: center make 3 channels; DPDNet takes 6" in refused(
        capsys, folder / "a b.png", "--out", tmp_path / "x", "--weights", path, *pair, "--arch-option", "views=[center]"
    )


def test_wrong_calls_do_nothing(folder, weights, tmp_path, capsys):
    out = tmp_path / "out"
    usual = (folder, "--out", out, "--weights", weights)
    for arguments, message in (
        ((folder, "--weights", weights), "the following arguments are required: --out"),
        ((folder / "none", "--out", out, "--weights", weights), "none: no such file or folder"),
        ((folder, "--out", folder, "--weights", weights), "is an input"),
        ((folder, "--out", folder / "a b.png", "--weights", weights), "a b.png: is a file; give a folder"),
        ((folder, "--out", folder / "a b.png" / "x", "--weights", weights), "can't be made: Not a directory"),
        ((folder, "--out", out, "--weights", folder / "none.pth"), "none.pth: no such file"),
        ((folder, "--out", out, "--weights", folder / "a b.png"), "a b.png: not a checkpoint"),
        ((*usual, "--tile", "0"), "argument --tile: must be auto, off or a positive number of pixels, not '0'"),
        ((*usual, "--quality", "101"), "--quality 101: must be from 1 to 100"),
        ((*usual, "--max-megapixels", "0"), "--max-megapixels 0: must be above 0"),
        ((*usual, "--max-megapixels", "inf"), "--max-megapixels inf: must be above 0, and finite"),
        ((*usual, "--max-megapixels", "1e400"), "--max-megapixels inf: must be above 0, and finite"),
        ((*usual, "--max-megapixels", "1e305"), "--max-megapixels 1e+305: must be above 0, and finite"),
        (("", "--out", out, "--weights", weights), "INPUT: is empty; give the name of a file or a folder"),
        ((folder, "--out", "", "--weights", weights), "--out: is empty"),
        ((*usual, "--left", ""), "--left: is empty"),
        ((*usual, "--right", ""), "--right: is empty"),
        (("~nobody here/x.png", "--out", out, "--weights", weights), "INPUT ~nobody here/x.png: no home folder is"),
        ((folder, "--out", "~nobody here/o", "--weights", weights), "--out ~nobody here/o: no home folder is known"),
        ((*usual, "--left", "~nobody here"), "--left ~nobody here: no home folder is known for ~nobody here"),
        ((*usual, "--right", "~nobody here"), "--right ~nobody here: no home folder is known for ~nobody here"),
        ((folder, "--out", out, "--weights", "~nobody here/w.pth"), "--weights ~nobody here/w.pth: no home folder is"),
        ((*usual, "--precision", "fp8"), "invalid choice: 'fp8'"),
        ((*usual, "--precision", "fp16", "--device", "cpu"), "--precision: fp16 needs a GPU"),
        ((*usual, "--device", "gpu"), "device: unknown 'gpu'; there are: auto"),
        ((*usual, "--left", folder), "--left: IFAN takes the center view alone"),
        ((*usual, "--arch-option", "width"), "--arch-option width: must have the form key=value"),
        ((*usual, "--arch-option", "width=[1"), "--arch-option width=[1: line 1: not valid YAML here"),
        ((*usual, "--arch-option", "width=8"), "width is 2 in the checkpoint, but 8 was asked for"),
        ((*usual, "--plugin", "nothing_like_it"), "plugins: 'nothing_like_it' can't be loaded"),
        ((*usual, "--overwrit"), "unknown flag --overwrit; did you mean '--overwrite'?"),
    ):
        assert message in refused(capsys, *arguments), arguments
    assert not out.exists()
    assert files(folder) == ["Tag 1/ö.jpg", "a b.png"]


def test_limits_and_missing_rawpy_concern_single_pictures(folder, weights, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "rawpy", None)
    (folder / "roh.NEF").write_bytes(b"II*\0")
    assert deblur(folder, "--out", tmp_path / "o", "--weights", weights, "--max-megapixels", "0.001", "--quiet") == 1
    said = capsys.readouterr().err
    assert "a b.png: says it has 44x30 pixels" in said
    assert "roh.NEF: camera raw needs rawpy: pip install 'ifan_plugin[raw]'" in said
    assert files(tmp_path / "o") == ["Tag 1/ö.jpg"]


def test_orientation_and_profile_survive_the_command(folder, weights, tmp_path):
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    block = Image.Exif()
    block[0x0112], block[0x010F] = 6, "Kamera"
    Image.fromarray(np.zeros((24, 40, 3), np.uint8)).save(folder / "quer.jpg", exif=block, icc_profile=profile)
    arguments = (folder / "quer.jpg", "--out", tmp_path / "out", "--weights", weights, "--compare")
    assert deblur(*arguments) == 0
    for name in ("quer.jpg", "quer_compare.jpg"):
        with Image.open(tmp_path / "out" / name) as image:
            assert image.info["icc_profile"] == profile
            if name == "quer.jpg":
                assert image.size == (24, 40)
                assert (image.getexif()[0x0112], image.getexif()[0x010F]) == (1, "Kamera")


def test_help_says_what_scripts_need(capsys):
    assert tuple(batch_plan.ENDINGS) == command.FORMATS
    with pytest.raises(SystemExit) as caught:
        deblur("--help")
    assert caught.value.code == 0
    said = capsys.readouterr().out
    for words in (
        "x.png_compare.jpg",
        "130 interrupted, by Ctrl-C or SIGTERM",
        "exit status: 0",
        "1 some failed",
        "2 invalid arguments",
        "examples:",
        "value / 256 - 128",
    ):
        assert words in said


def test_scale_strength_and_crop(folder, weights, tmp_path, capsys):
    arguments = (folder / "a b.png", "--out", tmp_path / "out", "--weights", weights)
    for wrong, message in (
        (("--scale", "2"), "--scale: must be auto or a number above 0 and up to 1, not '2'"),
        (("--scale", "small"), "--scale: must be auto or a number"), (("--strength", "0"), "--strength: must be a number above 0"),
        (("--strength", "nan"), "--strength: must be"), (("--crop", "1,2,3"), "--crop: must be four whole numbers X,Y,W,H"),
        (("--crop", "1,2,0,4"), "--crop: must be four"), (("--crop", "1,2,-3,4"), "--crop: must be four"),
        (("--crop", "1,2,3,4"), "--crop: says what --compare enlarges; give --compare, too"),
    ):  # fmt: skip
        assert message in refused(capsys, *arguments, *wrong)
    assert deblur(*arguments, "--scale", "0.6", "--strength", "0.5", "--compare", "--crop", "1,2,30,20") == 0
    assert files(tmp_path / "out") == ["a b.png", "a b_compare.jpg"]
    assert f"results: {tmp_path / 'out'}\n" in capsys.readouterr().out


def test_what_tiles_cost_is_said(tmp_path, weights, capsys):
    write_photo(
        tmp_path / "a.png", Photo(np.random.default_rng(0).integers(0, 256, (200, 300, 3)).astype(np.uint8), "png")
    )
    assert deblur(tmp_path / "a.png", "--out", tmp_path / "out", "--weights", weights, "--tile", 40) == 0
    said = capsys.readouterr().err
    assert "Tiles of 40 pixels with an overlap of " in said
    assert " times as long as the picture as a whole" in said


def test_progress_within_a_picture_without_a_terminal(folder, weights, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "_SECONDS", 0.0)
    monkeypatch.setattr(stages, "_EVERY", 0.0)
    assert deblur(folder / "a b.png", "--out", tmp_path / "out", "--weights", weights) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.endswith(" %")]
    assert len(lines) > 5
    assert all(line.startswith(f"[1/1] {folder / 'a b.png'} ") for line in lines)


def test_a_bar_moves_within_a_picture(folder, weights, tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "_EVERY", 0.0)
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    assert deblur(folder / "a b.png", "--out", tmp_path / "out", "--weights", weights) == 0
    shares = {int(found) for found in re.findall(r"(\d+)/100", screen.getvalue())}
    assert len(shares) > 10
