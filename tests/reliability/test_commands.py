"""Command lines that nobody would type: each ends in help, a result, or one line; nothing is written elsewhere."""

from __future__ import annotations

import importlib
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from reliability.attack import NASTY_NAMES, attack, command

from ifan_plugin import cli
from ifan_plugin.cli import COMMANDS
from ifan_plugin.common.printable import printable

FLAGS = {
    "deblur": ["--out", "--weights", "--arch", "--arch-option", "--tile", "--scale", "--strength", "--quality", "--crop", "--format",
               "--max-megapixels", "--white-level", "--device", "--plugin", "--param-key", "--left", "--compare", "--ensemble"],
    "lmdb": ["create", "verify", "show", "--layout", "--root", "--out", "--workers", "--compression", "--patch-size", "--drop",
             "--center-crop", "--stride", "--split", "--views", "--count", "--seed", "--center", "--bit-depth"],
    "train": ["-opt", "--force_yml", "--launcher", "--plugin", "--local_rank", "--auto_resume", "--debug"],
    "test": ["-opt", "--force_yml", "--launcher", "--plugin"],
    "convert": ["--to", "--param-key", "--reblurring", "--isotropic", "--taps", "--overwrite"],
    "simulate": ["--preset", "--out", "--sharp", "--depth", "--workers", "--seed", "--count", "--camera"],
    "benchmark": ["-opt", "--only", "--out", "--overwrite", "--force_yml", "--plugin"],
    "export": ["--weights", "--out", "--size", "--to", "--arch", "--arch-option", "--opset"],
    "dataset": ["show", "-opt", "--phase", "--count", "--seed", "--out", "--force_yml"],
    "recipes": ["--out", "--overwrite", "copy", "schema"],
    "mm": ["train", "test", "--work-dir", "--cfg-options", "--resume", "--amp"],
    "demo": ["--port", "--host", "--weights", "--max-megapixels"],
}  # fmt: skip
VALUES = [
    "", "-", "--", "---", "-1", "0", "1", "3", "1e30", "nan", "inf", "-inf", "9" * 5000, "x", "a=b", "views=[left]", "=", "a=", "=b",
    "a:b=c", "train:lr=!!python/name:os.system", "path:root=/proc/x", "a=[" + "[" * 3000, "1,2,3,4", "0,0,0,0", "../../../tmp/none/x",
    "/proc/none", "/dev/null/x", "~nobody/x", "none.yml", "none.pth", "*", "[", "**/*", "auto", "off", "png", "cuda:99", "cpu", "mps",
    "IFAN", "DefocusDeconvolution", "os", "os.py", "--help", "-h", "--version", "--out=x", "\u00b2", "١", "1_000", "0x10", *NASTY_NAMES,
]  # fmt: skip


def case(rng: random.Random) -> Callable[[], str]:
    name = rng.choice([*COMMANDS, *FLAGS, *FLAGS, rng.choice(VALUES)])
    flags = FLAGS.get(name, ["--out", "-h"])
    words = []
    for _ in range(rng.randrange(6)):
        flag, value = rng.choice(flags), rng.choice(VALUES)
        if "\0" in value:  # the system passes no such argument
            value = value.replace("\0", "")
        words += rng.choice([[flag, value], [f"{flag}={value}"], [flag], [value], [flag + value]])
    if "demo" in (name, *words) or (name == "doctor" and not words):  # it serves until it is ended
        words.append("--no-such-flag")
    return command(name, *words)


@pytest.mark.slow
def test_two_thousand_command_lines(tmp_path, monkeypatch):
    pytest.importorskip("mmengine")
    commands = [f"cli.{name}" for name in COMMANDS]
    for module in ("mm.cli", "host.pipeline", "weights.networks", "photos.batch", *commands):
        importlib.import_module(f"ifan_plugin.{module}")  # now: the first case that needs one would be too slow
    monkeypatch.setattr("sys.argv", ["basicsr"])
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    inside = tmp_path / "inside"
    (inside / "deeper").mkdir(parents=True)
    monkeypatch.chdir(inside / "deeper")
    faults = attack(case, cases=2000, seconds=200)
    outside = {path.name for path in [*tmp_path.iterdir(), *inside.iterdir()]} - {"inside", "deeper"}
    assert not faults, "\n".join(faults)
    assert not outside, outside


@pytest.mark.parametrize("flag", ["--workers", "--views", "--root"])
def test_two_dashes_are_no_value(flag, capsys):
    assert cli.main(["lmdb", "create", "--layout", "dpdd", f"{flag}=--", "--out", "x"]) == 2
    assert capsys.readouterr().err.startswith(f"basicsr lmdb create: argument {flag}: expected a value, not --")


def test_an_option_of_an_architecture_is_no_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["deblur", "a.png", "--arch", "DefocusDeconvolution", "--out", "views=[left]"]) == 2
    assert "looks like a value of --arch-option; a folder of that name is ./views=[left]" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["\x1b[31mred", "\u202egnp.x", "\x9b2J", "a\rb"])
def test_control_characters_of_a_name_are_escaped(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(b"no picture")
    for arguments in (
        ["convert", name, "x.pth"],
        ["deblur", name, "--out", "x", "--arch", "DefocusDeconvolution"],
        ["lmdb", "verify", name],
        [name],
    ):
        assert cli.main(arguments) in (1, 2)  # 1: deblur, where one of its pictures failed
        said = capsys.readouterr().err
        assert name not in said
        assert printable(name) in said
