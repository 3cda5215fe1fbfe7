"""`basicsr dataset show`: a sheet, a line that says where, and mistakes in one line."""

from __future__ import annotations

import copy

import cv2
import pytest
from helpers import ROOT, write_options

from ifan_plugin import cli
from ifan_plugin.common.errors import UserError

PLUGIN = """
import torch
from basicsr.utils.registry import DATASET_REGISTRY


@DATASET_REGISTRY.register()
class Sixes(torch.utils.data.Dataset):
    def __init__(self, opt):
        self.opt = opt

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return {"lq": torch.full((3, 20, 20), 0.6) + 0 * torch.rand(1), "lq_path": f"/somewhere/{index}.png"}
"""


def test_the_command_writes_a_sheet_and_says_where(options, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "mit Leerzeichen"
    folder.mkdir()
    path = write_options(folder, options, "größe.yml")
    monkeypatch.chdir(folder)
    assert cli.main(["dataset", "show", "-opt", str(path), "--count", "3"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "train_set (train, DualPixelDataset): 3 samples of 5 scenes, what the first epoch begins with",
        "a sample: " + ", ".join(f"{role} 32x32 (3 channels)" for role in ("lq", "gt", "left", "right")),
        "5 pairs, train_l/source by names, without '_l'; train_r/source by names, without '_r'; train_c/target by order: "
        "a number in the names differs by -1 throughout, as in DPDD:",
        *(
            f"  1P0A000{n}: train_c/source/1P0A000{n}.png, train_l/source/1P0A000{n}_L.png, "
            f"train_r/source/1P0A000{n}_R.png, train_c/target/1P0A000{n - 1}.png"
            for n in (1, 3, 5, 7, 9)
        ),
        "written to größe_train_set.png",
    ]
    (sheet,) = folder.glob("*.png")
    data = sheet.read_bytes()
    assert cli.main(["dataset", "show", "-opt", str(path)]) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message == "basicsr: --out größe_train_set.png: is there already; give another name, or add --overwrite"
    assert sheet.read_bytes() == data
    assert cli.main(["dataset", "show", "-opt", str(path), "--overwrite", "--seed", "9"]) == 0
    assert sheet.read_bytes() != data


def test_data_sets_of_plugins_and_overrides(options, tmp_path, monkeypatch, capsys):
    (tmp_path / "sixes_plugin.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    options = copy.deepcopy(options) | {"plugins": ["sixes_plugin"]}
    options["datasets"]["train"] = {
        "type": "Sixes", "name": "sixes", "batch_size_per_gpu": 1, "num_worker_per_gpu": 0,
    }  # fmt: skip
    path = write_options(tmp_path, options)
    assert cli.main(["dataset", "show", "-opt", str(path), "--out", "a.png"]) == 0
    assert "sixes (train, Sixes): 3 samples of 3 scenes" in capsys.readouterr().out
    assert cv2.imread("a.png").shape[0] > 3 * 240
    flags = ["--phase", "val_set", "--force_yml", "datasets:val:views=[left, right]", "--out", "b.png", "--count", "1"]
    assert cli.main(["dataset", "show", "-opt", str(path), *flags]) == 0
    assert "a sample: lq 64x48 (6 channels), gt 64x48 (3 channels)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "basicsr dataset: no action given; valid: show"),
        (["shwo"], "basicsr dataset: unknown action 'shwo'; did you mean 'show'?"),
        (["show"], "basicsr dataset show: the following arguments are required: -opt"),
        (["show", "-opt", "none.yml"], "option file not found: none.yml"),
        (
            ["show", "-opt", "a.yml", "--phsae", "x"],
            "basicsr dataset show: unknown flag --phsae; did you mean '--phase'?",
        ),
        (["show", "-opt", "a.yml", "--count", "x"], "basicsr dataset show: argument --count: invalid int value: 'x'"),
    ],
)
def test_slips(arguments, message, capsys):
    assert cli.main(["dataset", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_help(capsys):
    for arguments in (["--help"], ["show", "-h"]):
        with pytest.raises(SystemExit) as caught:
            cli.main(["dataset", *arguments])
        assert caught.value.code == 0
        assert "usage: basicsr dataset show" in capsys.readouterr().out


def test_a_recipes_own_data_set_is_shown_by_the_command_in_its_head():
    """The line in train_IFAN_simulated.yml is one that the parser takes."""
    from ifan_plugin.cli.dataset import build_parser

    head = (ROOT / "options/train_IFAN_simulated.yml").read_text().partition("\nname:")[0]
    (line,) = [line for line in head.splitlines() if "basicsr dataset show" in line]
    args = build_parser().parse_args(line.split("(")[0].split()[4:])
    assert (ROOT / args.opt).is_file()
    with pytest.raises(UserError):
        build_parser().parse_args(["-opt"])
