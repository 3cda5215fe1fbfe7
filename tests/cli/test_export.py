"""`basicsr export`: what it writes and says, and what it refuses in one line."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path

import pytest
import torch
from helpers import basicsr

from ifan_plugin import cli
from ifan_plugin.archs.ifan_arch import IFAN
from ifan_plugin.archs.reblur_arch import ReblurNet
from ifan_plugin.export import program as export

SMALL = {"width": 4, "num_steps": 2, "res_units": 1}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "Gewichte für Tests"
    path.mkdir()
    return path


@pytest.fixture
def weights(folder: Path) -> Path:
    """A file as training saves it, with averaged weights."""
    torch.manual_seed(1)
    network = IFAN(**SMALL)
    averaged = {name: 0.5 * value for name, value in network.state_dict().items()}
    content = {"hyper_parameters": network.hyper_parameters, "params": network.state_dict(), "params_ema": averaged}
    torch.save(content, folder / "net_g.pth")
    return folder / "net_g.pth"


def refused(capsys: pytest.CaptureFixture, *arguments: object) -> str:
    """The one line that a wrong call ends in."""
    capsys.readouterr()
    assert cli.main(["export", *map(str, arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = [line for line in captured.err.replace("\r", "\n").splitlines() if line.startswith("basicsr")]
    assert lines == captured.err.splitlines()[-1:]
    assert "Traceback" not in captured.err
    return lines[0].removeprefix("basicsr: ")


@pytest.mark.slow
def test_from_file_to_file(weights: Path, folder: Path) -> None:
    """In a process of its own, as people call it: the averaged weights, options without a meaning to weights."""
    out = folder / "IFAN ä.pt2"
    done = basicsr(
        "export",
        "--weights",
        weights,
        "--param-key",
        "params_ema",
        "--out",
        out,
        "--size",
        "24x31",
        cwd=folder,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"written to {out} (torch.export program, ")
    assert lines[1] == "takes any number of pictures at a time; width and height: any, at least 9"
    assert lines[2].startswith(
        "checked by torch.export.load against the original at 56x40, 53x35, 25x9, 24x31: largest difference "
    )
    assert lines[2].endswith("(limit 1e-04 of values in [0, 1])")
    said = [line for line in done.stderr.replace("\r", "\n").splitlines() if line.strip() and "|" not in line]
    assert len(said) == 1, "the network's description, and no noise"
    assert said[0].startswith("IFAN: width 4, num_steps 2")

    network = IFAN(**SMALL).eval()
    network.load_state_dict(torch.load(weights)["params_ema"])
    lq = torch.rand(2, 3, 21, 34)
    extra = {"ifan_plugin.json": ""}
    program = torch.export.load(out, extra_files=extra).module()
    with torch.no_grad():
        torch.testing.assert_close(program(lq), network(lq), rtol=0, atol=1e-4)
    assert json.loads(extra["ifan_plugin.json"])["architecture"] == "IFAN"


def test_unchecked_is_said(weights: Path, folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["export", "--weights", str(weights), "--out", str(folder / "a.pt2"), "--no-check"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "not checked against the original (--no-check)"


def test_what_is_there_is_kept(weights: Path, folder: Path, capsys: pytest.CaptureFixture) -> None:
    out = folder / "a.onnx"
    out.write_bytes(b"mine")
    message = refused(capsys, "--weights", weights, "--out", out)
    assert message == f"{out}: is there already; give another name, or add --overwrite"
    assert out.read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("name", "flags", "message"),
    [
        ("a.pth", [], "unknown ending '.pth'; valid: .onnx (--onnx) or .pt2 (--torch-export)"),
        ("a", ["--onnx"], "unknown ending ''; valid: .onnx (--onnx) or .pt2 (--torch-export)"),
        ("a.onnx", ["--torch-export"], "the ending .onnx is --onnx's; valid with --torch-export: .pt2"),
        ("a.pt2", ["--onnx"], "the ending .pt2 is --torch-export's; valid with --onnx: .onnx"),
        ("a.pt2", ["--onnx", "--torch-export"], "not allowed with argument"),
        ("no such/a.onnx", [], "folder not found"),
        ("net_g.pth/a.onnx", [], "folder not found"),
        ("", [], "is a folder; give a file's name"),
        ("a.pt2", ["--opset", "18"], "--opset: is ONNX's; a torch.export program has none"),
        ("a.pt2", ["--size", "20"], "--size 20: must be WIDTHxHEIGHT in pixels, such as 1280x720"),
        ("a.pt2", ["--size", "0x9"], "--size 0x9: must be WIDTHxHEIGHT"),
        ("a.pt2", ["--size", "8x64"], "--size: 8x64: both sides must be at least 9"),
        ("a.pt2", ["--size", "20x20", "--no-check"], "--size: is for the check, and --no-check leaves it out"),
        ("a.pt2", ["--arch-option", "isotropic"], "--arch-option isotropic: must have the form key=value"),
        ("a.pt2", ["--sise", "9x9"], "unknown flag --sise; did you mean '--size'?"),
    ],
)
def test_arguments(
    name: str, flags: list[str], message: str, weights: Path, folder: Path, capsys: pytest.CaptureFixture
) -> None:
    assert message in refused(capsys, "--weights", weights, "--out", folder / name, *flags)
    assert [path.name for path in folder.iterdir()] == ["net_g.pth"]


def test_home_folders_that_nobody_has(weights: Path, capsys: pytest.CaptureFixture) -> None:
    nobody = "~no such user/a.pt2"
    assert refused(capsys, "--weights", weights, "--out", nobody).startswith(f"--out {nobody}: no home folder is known")
    assert refused(capsys, "--weights", nobody, "--out", weights.with_name("a.pt2")).startswith(f"--weights {nobody}: ")
    assert refused(capsys, "--weights", weights, "--out", "").startswith("--out: is empty; give the name")


@pytest.mark.parametrize("opset", [17, 99])
def test_opset_out_of_range(opset: int, weights: Path, folder: Path, capsys: pytest.CaptureFixture) -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason=f"{name} isn't installed")
    message = refused(capsys, "--weights", weights, "--out", folder / "a.onnx", "--opset", opset)
    assert message.startswith("--opset: must be from 18 to ")
    assert message.endswith(f", not {opset}")


def test_packages_that_are_missing(weights, folder, capsys, monkeypatch) -> None:
    there = importlib.util.find_spec

    def without(name: str, *rest: object) -> object:
        return None if name in ("onnxscript", "onnxruntime") else there(name, *rest)

    monkeypatch.setattr(export.importlib.util, "find_spec", without)
    message = refused(capsys, "--weights", weights, "--out", folder / "a.onnx")
    assert message.startswith("--onnx needs ")
    assert message.endswith("onnxscript and onnxruntime: pip install 'ifan_plugin[onnx]'")


@pytest.mark.parametrize("kind", ["reblurring", "text", "list", "none"])
def test_weights_of_another_kind(kind: str, folder: Path, capsys: pytest.CaptureFixture) -> None:
    path = folder / "other.pth"
    if kind == "reblurring":
        torch.save({"params": ReblurNet(24, 4, 2, res_units=1).state_dict()}, path)
    elif kind == "text":
        path.write_text("no checkpoint")
    elif kind == "list":
        torch.save([torch.zeros(1)], path)
    assert str(path) in refused(capsys, "--weights", path, "--out", folder / "a.pt2")
    assert not (folder / "a.pt2").exists()


def test_a_folder_that_is_read_only(weights: Path, folder: Path, capsys: pytest.CaptureFixture) -> None:
    closed = folder / "closed"
    closed.mkdir(mode=0o555)
    if os.access(closed, os.W_OK):
        pytest.skip("this user may write everywhere")
    message = refused(capsys, "--weights", weights, "--out", closed / "a.pt2")
    assert message == f"{closed}: no permission to write into this folder"


def test_help_is_quick_and_has_examples(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["export", "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert "basicsr export --weights IFAN.pytorch --out IFAN.onnx --onnx" in text
    assert "onnxruntime.InferenceSession" in text
