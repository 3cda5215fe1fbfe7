"""The command from outside: help, one-line errors, exit status, other working directories."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from helpers import basicsr, write_dpdd, write_options

from ifan_plugin import cli
from ifan_plugin.common.errors import UserError
from ifan_plugin.options.arguments import parse_pipeline_arguments


def test_help_names_every_command_with_examples(capsys):
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    for command in cli.COMMANDS:
        assert f"  {command}" in text
    assert "examples:" in text
    assert cli.main([]) == 2
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("ifan_plugin ")


@pytest.mark.parametrize("command", list(cli.COMMANDS))
def test_every_command_has_help_with_examples(command, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main([command, "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert f"usage: basicsr {command}" in text
    assert "examples:" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "basicsr: unknown command 'trian'; did you mean 'train'?"),
        (["train"], "basicsr train: the following arguments are required: -opt"),
        (
            ["train", "-opt", "a.yml", "--auto_resum"],
            "basicsr train: unknown flag --auto_resum; did you mean '--auto_resume'?",
        ),
        (["train", "-opt", "a.yml", "--launcher", "mpi"], "basicsr train: argument --launcher: invalid choice: 'mpi'"),
        (["doctor", "--verbose"], "basicsr doctor: unknown flag --verbose"),
    ],
)
def test_slips_on_the_command_line(arguments, message, capsys):
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(message)
    assert error.count("\n") == 1


def test_an_interrupt_is_one_line(monkeypatch, capsys):
    from ifan_plugin.cli import doctor

    def interrupted(argv):
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor, "main", interrupted)
    assert cli.main(["doctor"]) == 130
    assert capsys.readouterr().err == "basicsr: interrupted\n"


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch):
    from ifan_plugin.cli import doctor

    def broken(argv):
        raise RuntimeError("a fault")

    monkeypatch.setattr(doctor, "main", broken)
    with pytest.raises(RuntimeError, match="a fault"):
        cli.main(["doctor"])


def test_the_hosts_flags_are_unchanged():
    args = parse_pipeline_arguments(
        [
            "-opt",
            "a.yml",
            "--launcher",
            "pytorch",
            "--auto_resume",
            "--debug",
            "--local_rank",
            "1",
            "--force_yml",
            "a=1",
            "b:c=2",
        ],
        "train",
    )
    assert (args.opt, args.launcher, args.auto_resume, args.debug, args.local_rank) == (
        "a.yml",
        "pytorch",
        True,
        True,
        1,
    )
    assert args.force_yml == ["a=1", "b:c=2"]
    with pytest.raises(UserError, match="-opt"):
        parse_pipeline_arguments([], "test")


def test_doctor_reports(tmp_path):
    done = basicsr("doctor", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for words in ("IFAN registered", "IAC operator", "reference", "torch ", "CPU", "plug-ins"):
        assert words in done.stdout


def test_doctor_without_basicsr_says_so_and_fails(tmp_path):
    """A process where basicsr isn't importable (its distribution hidden)."""
    code = (
        "import sys, importlib.metadata as m\n"
        "real = m.version\n"
        "def version(name):\n"
        "    if name == 'basicsr':\n"
        "        raise m.PackageNotFoundError(name)\n"
        "    return real(name)\n"
        "m.version = version\n"
        "from ifan_plugin import cli\n"
        "sys.exit(cli.main(['doctor']))\n"
    )
    from helpers import ROOT

    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done.stderr
    assert "FAILS: not installed: python -m ifan_plugin.install_basicsr" in done.stdout


@pytest.fixture(scope="module")
def trained(tmp_path_factory, dpdd):
    """A tiny network trained by the command, in a folder of its own."""
    from helpers import small_options

    folder = tmp_path_factory.mktemp("trained")
    done = basicsr("train", "-opt", write_options(folder, small_options(dpdd)), cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "experiments/small/models/net_g_latest.pth"


def options_for_testing(trained, dpdd) -> dict:
    """What ``basicsr test`` gets below: the network's sizes follow from the checkpoint."""
    return {
        "name": "small_test",
        "model_type": "IFANModel",
        "datasets": {
            "test_1": {"name": "whole", "type": "DualPixelDataset", "dataroot": str(dpdd), "bit_depth": 16},
            "test_2": {"name": "two", "type": "DualPixelDataset", "dataroot": str(dpdd), "max_images": 2},
        },
        "network_g": {"type": "IFAN"},
        "path": {"pretrain_network_g": str(trained)},
        "val": {
            "save_img": True, "save_disparity": True, "baseline": True, "contact_sheet": 2,
            "metrics": {"psnr": {"type": "psnr"}, "ssim": {"type": "ssim"}, "host": {"type": "calculate_psnr", "crop_border": 0}},
        },
    }  # fmt: skip


def test_test_writes_tables_pictures_and_a_contact_sheet(trained, dpdd, tmp_path):
    import csv
    import json

    import cv2
    import numpy as np

    from ifan_plugin.images.image_io import read_header, read_image
    from ifan_plugin.metrics import psnr

    options = options_for_testing(trained, dpdd)
    done = basicsr("test", "-opt", write_options(tmp_path, options), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    results = tmp_path / "results/small_test"
    table = json.loads((results / "whole/metrics.json").read_text())
    assert table["protocol"] == "custom", "the host's metric is among them"
    assert [image["image"] for image in table["images"]] == ["1P0A0001", "1P0A0003", "1P0A0005"]
    mean = np.mean([image["restored"]["psnr"] for image in table["images"]])
    assert table["mean"]["restored"]["psnr"] == pytest.approx(mean)
    assert "gain:" in done.stderr

    pictures = results / "visualization/whole"
    restored = pictures / "1P0A0001_small_test.png"
    assert read_header(restored).bit_depth == 16
    assert read_header(results / "visualization/two/1P0A0001_small_test.png").bit_depth == 8
    sharp = read_image(dpdd / "test_c/target/1P0A0000.png", 16)
    assert psnr(read_image(restored, 16), sharp) == pytest.approx(table["images"][0]["restored"]["psnr"], abs=1e-3)
    blurred = read_image(dpdd / "test_c/source/1P0A0001.png", 16)
    assert psnr(blurred, sharp) == pytest.approx(table["images"][0]["blurred"]["psnr"], abs=1e-3)
    assert np.load(pictures / "1P0A0001_small_test_disparity.npy").shape == (6, 8)
    assert cv2.imread(str(pictures / "1P0A0001_small_test_disparity.png")).shape == (6, 8, 3)
    with (results / "whole/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert float(rows[0]["restored_psnr"]) == table["images"][0]["restored"]["psnr"]
    assert cv2.imread(str(results / "whole/contact_sheet.png")) is not None


def test_a_set_without_ground_truth_gives_pictures_only(trained, dpdd, tmp_path):
    options = {
        "name": "cuhk_like",
        "model_type": "IFANModel",
        "datasets": {
            "test": {
                "name": "flat", "type": "DualPixelDataset", "layout": "folder", "dataroot": str(dpdd / "test_c/source"),
            }
        },
        "network_g": {"type": "IFAN"},
        "path": {"pretrain_network_g": str(trained)},
        "val": {"save_img": True, "metrics": {"psnr": {"type": "psnr"}}},
    }  # fmt: skip
    done = basicsr("test", "-opt", write_options(tmp_path, options), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "flat: no ground truth: pictures only; left out, for want of sharp pictures: psnr." in done.stderr
    assert len(list((tmp_path / "results/cuhk_like/visualization/flat").glob("*.png"))) == 3


def test_a_checkpoint_of_other_sizes_is_one_line(trained, dpdd, tmp_path):
    options = options_for_testing(trained, dpdd)
    options["network_g"]["width"] = 32
    done = basicsr("test", "-opt", write_options(tmp_path, options), cwd=tmp_path)
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert "width" in last
    assert "32" in last
    assert "net_g_latest.pth" in last


def test_bad_data_is_one_line_before_training_starts(options, tmp_path):
    data = write_dpdd(tmp_path / "data", {"train": 3, "val": 1})
    broken = data / "train_l/source/1P0A0003_L.png"
    broken.write_bytes(broken.read_bytes()[:200])
    for dataset in options["datasets"].values():
        dataset["dataroot"] = str(data)
    done = basicsr("train", "-opt", write_options(tmp_path, options), cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert str(broken) in done.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize("command", ["train", "test", "benchmark", "dataset show", "deblur", "export", "demo"])
def test_networks_of_others_join_every_command_that_builds_one(command, capsys):
    with pytest.raises(SystemExit):
        cli.main([*command.split(), "--help"])
    assert "--plugin MODULE" in capsys.readouterr().out


BASICSR = "name: x\nmodel_type: IFANModel\nnetwork_g: {type: IFAN}\ntrain: {}\n"
BENCHMARK = "name: x\nmodels: []\ndatasets: []\n"
MMENGINE = "model: {type: IFANRestorer}\ntrain_cfg: {max_iters: 2}\n"


@pytest.mark.parametrize(
    ("text", "arguments", "command"),
    [
        ("x = 1\n", ["train", "-opt", "F.py"], "basicsr mm train F.py"),
        ("x = 1\n", ["test", "-opt", "F.py"], "basicsr mm train F.py"),
        ("x = 1\n", ["benchmark", "-opt", "F.py"], "basicsr mm train F.py"),
        ("x = 1\n", ["dataset", "show", "-opt", "F.py"], "basicsr mm train F.py"),
        (MMENGINE, ["train", "-opt", "F.yml"], "basicsr mm train F.yml"),
        (MMENGINE, ["benchmark", "-opt", "F.yml"], "basicsr mm train F.yml"),
        (BENCHMARK, ["train", "-opt", "F.yml"], "basicsr benchmark -opt F.yml"),
        (BENCHMARK, ["mm", "train", "F.yml"], "basicsr benchmark -opt F.yml"),
        (BASICSR, ["mm", "train", "F.yml"], "basicsr train -opt F.yml"),
        (BASICSR, ["benchmark", "-opt", "F.yml"], "basicsr train -opt F.yml"),
    ],
)
def test_a_file_of_another_command_is_told_which(text, arguments, command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["basicsr"])
    (tmp_path / arguments[-1]).write_text(text)
    assert cli.main(arguments) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.rstrip().endswith(command)


def test_mmengines_side_is_a_command_too(capsys):
    with pytest.raises(SystemExit):
        cli.main(["mm", "--help"])
    assert "basicsr mm train options/mm/ifan_quickstart.py" in capsys.readouterr().out
    assert cli.main(["mm", "tran"]) == 2
    assert capsys.readouterr().err == "basicsr mm: unknown command 'tran'; did you mean 'train'?\n"


@pytest.mark.parametrize("module", ["tensorboard.main", "cv2", "lpips", "gradio", "mmengine.runner"])
def test_doctor_imports_what_it_lists(module, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, module, None)  # as where a package that it needs is gone
    from ifan_plugin.cli import doctor

    listed = {**doctor.REQUIRED, **doctor.OPTIONAL, **doctor.FRAMEWORKS}
    name = next(name for name, found in listed.items() if found == module)
    assert doctor.main([]) == 1
    assert f"  {name:<16}FAILS: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "given", "expected"),
    [
        ("deblur", {}, "10000"),
        ("demo", {}, "10000"),
        ("train", {}, None),
        ("deblur", {"OMP_WAIT_POLICY": "ACTIVE"}, None),
        ("deblur", {"GOMP_SPINCOUNT": "7"}, "7"),
    ],
)
def test_restoring_commands_let_waiting_threads_sleep_unless_the_user_said_otherwise(
    command, given, expected, monkeypatch
):
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.setenv(name, "")  # so that it is put back afterwards, whatever the command sets
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    seen = []
    module = SimpleNamespace(main=lambda arguments: seen.append(os.environ.get("GOMP_SPINCOUNT")) or 0)
    monkeypatch.setattr(cli.importlib, "import_module", lambda name: module)
    assert cli.main([command]) == 0
    assert seen == [expected]
