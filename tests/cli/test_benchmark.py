"""``basicsr benchmark``: files, exit status, and one-line errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from helpers import basicsr, write_dpdd, write_options

from ifan_plugin.archs.ifan_arch import IFAN
from ifan_plugin.benchmark import run
from ifan_plugin.cli.benchmark import build_parser, main
from ifan_plugin.common.errors import UserError


@pytest.fixture
def option_path(tmp_path: Path) -> Path:
    data = write_dpdd(tmp_path / "Bilder für Tests", {"test": 1})
    torch.manual_seed(0)
    net = IFAN(width=2, num_steps=1, res_units=1)
    torch.save({"params": net.state_dict()}, tmp_path / "net 1.pth")
    return write_options(
        tmp_path,
        {
            "name": "klein und ä",
            "device": "cpu",
            "models": [
                {"name": "blurred", "type": "blurred input"},
                {"name": "IFAN", "type": "IFAN", "path": str(tmp_path / "net 1.pth")},
            ],
            "datasets": [{"name": "tiny", "type": "DualPixelDataset", "dataroot": str(data)}],
            "profile": {"height": 64, "width": 96, "runs": 1},
        },
    )


@pytest.mark.slow
def test_whole_run_and_again(option_path, tmp_path, monkeypatch, capsys):
    done = basicsr("benchmark", "-opt", option_path, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "results" / "benchmark" / "klein und ä"
    reports = {f"report.{kind}" for kind in ("md", "json", "csv", "html", "tex")}
    assert {path.name for path in out.iterdir()} == {"cells", "scenes.csv", *reports}
    row = json.loads((out / "report.json").read_text(encoding="utf-8"))["rows"][1]
    assert row["latency_s"] > 0
    assert row["quality"]["tiny"]["mean"]["psnr"] > 10
    assert not row["random_weights"]
    assert "3 cells run, 0 finished before" in done.stdout
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        run, "machine", lambda: json.loads((out / "report.json").read_text(encoding="utf-8"))["machine"]
    )
    assert main(["-opt", str(option_path)]) == 0  # that process had one thread, as its report says
    assert "0 cells run, 3 finished before" in capsys.readouterr().out


def test_failed_cell_is_named_at_the_end(option_path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ["-opt", str(option_path), "--out", "o", "--force_yml", "models:1:type=IFANN", "profile=none"]
    assert main(arguments) == 1
    said = capsys.readouterr().out
    assert "failed: IFAN (tiny): model IFAN: type: unknown type 'IFANN'; did you mean 'IFAN'?" in said
    assert (tmp_path / "o" / "report.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--only", "IFAM"], "--only IFAM: no such model; did you mean 'IFAN'?"),
        (["--force_yml", "devise=cpu"], "unknown key 'devise'; did you mean 'device'?"),
        (["--force_yml", "plugins=[no_such_module_here]"], "plugins: 'no_such_module_here' can't be loaded"),
        (["--overwritte"], "unknown flag --overwritte; did you mean '--overwrite'?"),
        (["--out", "small.yml/x"], "small.yml/x/cells: the folder can't be made"),
    ],
)
def test_slips(option_path, tmp_path, monkeypatch, arguments, expected):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        main(["-opt", str(option_path), *arguments])
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_help_names_every_flag():
    text = build_parser().format_help()
    assert all(flag in text for flag in ("-opt", "--out", "--only", "--overwrite", "--force_yml", "exit status"))
