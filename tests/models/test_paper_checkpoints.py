"""The authors' files, each generated with exactly its names and shapes, under the option file of its row."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from helpers import ROOT, write_dpdd

import ifan_plugin
from ifan_plugin import cli
from ifan_plugin.common.errors import UserError
from ifan_plugin.host import option_check
from ifan_plugin.host.mends import mend_all
from ifan_plugin.options import file as option_file
from ifan_plugin.weights import official

ifan_plugin.register()
mend_all()

from basicsr.models import build_model  # noqa: E402 (the host can be imported only once it is mended)

SHAPES = json.loads((ROOT / "tests/data_files/golden/official_state_dict_shapes.json").read_text())
MILLIONS = {8: 9.437, 17: 10.477, 26: 11.517, 35: 12.558, 44: 13.598}
REBLURRING_STEPS = {8: 8, 17: 17, 26: 9, 35: 17, 44: 17}
ROWS = {
    "IFAN": ("IFAN_DPDD", 17, False),
    "IFAN_8": ("IFAN_8_DPDD", 8, False),
    "IFAN_26": ("IFAN_26_DPDD", 26, False),
    "IFAN_35": ("IFAN_35_DPDD", 35, False),
    "IFAN_44": ("IFAN_44_DPDD", 44, False),
    "IFAN_16bit": ("IFAN_16bit_DPDD", 17, False),
    "IFAN_dual": ("IFAN_dual_DPDD", 17, True),
    "IFAN RealDOF": ("IFAN_RealDOF", 17, False),
}


def shapes(num_steps: int, dual: bool) -> dict[str, list[int]]:
    """The authors' N = 17, with the rows that make the filters, and what the reblurring network takes, for other N."""
    found = copy.deepcopy(SHAPES["paper"])
    rows = num_steps * 128 * 7
    for part in ("weight", "bias"):
        found[f"module.Network.F.3.{part}"][0] = rows
        found[f"module.reblurNet.RBF.3.{part}"][0] = REBLURRING_STEPS[num_steps] * 3 * 7
    found["module.reblurNet.RBF.0.0.weight"][1] = rows
    if dual:
        found["module.Network.kconv1_1.0.weight"][1] = 6
    return found


def write_checkpoint(path: Path, num_steps: int, dual: bool) -> dict[str, torch.Tensor]:
    """A small file of large tensors: each is one number, spread out."""
    content = {
        key: torch.tensor(float(number)).expand(shape)
        for number, (key, shape) in enumerate(shapes(num_steps, dual).items())
    }
    torch.save(content, path)
    return content


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_dpdd(tmp_path_factory.mktemp("data"), {"test": 2})
    for link, folder in (("source", "test_c/source"), ("target", "test_c/target")):  # RealDOF's layout, too
        (root / link).symlink_to(root / folder)
    return root


def options_of(name: str, data: Path, weights: Path) -> dict:
    options = option_file.read(ROOT / f"options/test/test_{name}.yml")
    options["num_gpu"] = 0
    options["path"]["pretrain_network_g"] = str(weights)
    options["datasets"]["test"]["dataroot"] = str(data)
    return options


@pytest.mark.parametrize("row", ROWS)
def test_every_row_has_an_option_file_that_takes_its_checkpoint(row, data, tmp_path):
    name, num_steps, dual = ROWS[row]
    path = tmp_path / f"{row}.pytorch"
    content = write_checkpoint(path, num_steps, dual)
    text = (ROOT / f"options/test/test_{name}.yml").read_text()
    for head in (
        "# Reproduces:",
        "# Data:",
        "# Weights:",
        "# Hardware:",
        f"#   basicsr test -opt options/test/test_{name}.yml",
    ):
        assert head in text
    assert "published" in text or "known to us" in text
    opt = option_check.check(options_of(name, data, path), name, is_train=False)
    expected = {
        "width": 32, "num_steps": num_steps, "taps": 3, "res_units": 2, "dual_pixel": dual, "isotropic": True,
        "use_disparity": True, "use_filters": True,
    }  # fmt: skip
    assert {key: value for key, value in opt["network_g"].items() if key != "type"} == expected
    assert opt["val"]["protocol"] == "ifan"
    assert opt["datasets"]["test"]["crop_multiple"] == 8
    assert opt["datasets"]["test"]["bit_depth"] == (16 if "16bit" in name else 8)

    opt |= {"dist": False, "rank": 0, "world_size": 1, "is_train": False}
    network = build_model(opt).net_g
    count = sum(parameter.numel() for parameter in network.parameters())
    assert count / 1e6 == pytest.approx(10.478 if dual else MILLIONS[num_steps], abs=5e-4)
    loaded = official.to_official(network.state_dict())
    assert loaded.keys() == {key for key in content if ".Network." in key}
    assert all(torch.equal(value, content[key]) for key, value in loaded.items())


@pytest.mark.parametrize("row", ["IFAN_8", "IFAN_44"])
def test_another_rows_checkpoint_is_one_line(row, data, tmp_path):
    path = tmp_path / "IFAN_26.pytorch"
    write_checkpoint(path, 26, False)
    name, num_steps, _ = ROWS[row]
    with pytest.raises(UserError, match=rf"num_steps is 26 in the checkpoint, but {num_steps} was asked for"):
        option_check.check(options_of(name, data, path), name, is_train=False)
    with pytest.raises(UserError, match="dual_pixel is False in the checkpoint, but True was asked for"):
        option_check.check(options_of("IFAN_dual_DPDD", data, path), name, is_train=False)


@pytest.mark.parametrize("num_steps", [8, 44])
def test_they_convert(num_steps, tmp_path, capsys):
    path, out = tmp_path / "IFAN.pytorch", tmp_path / "IFAN.pth"
    content = write_checkpoint(path, num_steps, False)
    assert cli.main(["convert", str(path), str(out), "--reblurring", str(tmp_path / "r.pth")]) == 0
    said = capsys.readouterr().out
    millions = [
        float(line.rsplit(";", 1)[1].split()[0].replace(",", "")) / 1e6 for line in said.splitlines() if ";" in line
    ]
    assert millions[0] == pytest.approx(MILLIONS[num_steps], abs=5e-4)
    assert f"ReblurNet: filter_channels {num_steps * 896}, width 32, num_steps {REBLURRING_STEPS[num_steps]}" in said
    params = torch.load(out, weights_only=True)["params"]
    reblur = torch.load(tmp_path / "r.pth", weights_only=True)["params"]
    back = official.to_official(params, reblur)
    assert back.keys() == content.keys()
    assert all(torch.equal(value, content[key]) for key, value in back.items())


def test_a_converted_checkpoint_loads_from_an_option_file(data, tmp_path):
    """Safetensors of ours as pretrain_network_g: its metadata says what shapes don't, and is compared."""
    from ifan_plugin.archs.ifan_arch import IFAN

    torch.manual_seed(0)
    network = IFAN(width=4, num_steps=2, res_units=1, isotropic=True)
    content = {"params": network.state_dict(), "hyper_parameters": network.hyper_parameters}
    torch.save(content, tmp_path / "net_g.pth")
    path = tmp_path / "Gewichte für Tests.safetensors"
    assert cli.main(["convert", str(tmp_path / "net_g.pth"), str(path)]) == 0
    options = options_of("IFAN_DPDD", data, path)
    opt = option_check.check(copy.deepcopy(options), "f", is_train=False)
    assert opt["network_g"].items() >= network.hyper_parameters.items()
    loaded = build_model(opt | {"dist": False, "rank": 0, "world_size": 1, "is_train": False}).net_g
    assert loaded.iac.isotropic
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in network.state_dict().items())
    options["network_g"]["isotropic"] = False
    with pytest.raises(UserError, match="isotropic is True in the checkpoint, but False was asked for"):
        option_check.check(options, "f", is_train=False)


def test_hyper_parameters_that_no_network_has_are_one_line(data, tmp_path):
    from ifan_plugin.archs.ifan_arch import IFAN

    path = tmp_path / "net_g.pth"
    for said, message in (
        ({"depth": 3}, r"net_g\.pth: hyper_parameters: unknown key 'depth'"),
        ({"num_steps": "two"}, r"net_g\.pth: hyper_parameters: num_steps: must be an integer, not 'two'"),
    ):
        torch.save({"params": IFAN(width=4, num_steps=2).state_dict(), "hyper_parameters": said}, path)
        with pytest.raises(UserError, match=message) as caught:
            option_check.check(options_of("IFAN_DPDD", data, path), "f", is_train=False)
        assert "\n" not in str(caught.value)
