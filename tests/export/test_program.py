"""Exported networks: any size, the original's results, nothing of this package in them, and nothing left if wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ifan_plugin import __version__
from ifan_plugin.archs.conventional_arch import DefocusDeconvolution
from ifan_plugin.archs.dpdnet_arch import DPDNet
from ifan_plugin.archs.ifan_arch import IFAN
from ifan_plugin.common.errors import UserError
from ifan_plugin.export import formats as export_formats
from ifan_plugin.export import program as export
from ifan_plugin.export.program import Report, export_network
from ifan_plugin.weights.networks import Network

SMALL = {"width": 4, "num_steps": 2, "res_units": 1}
VIEWS = {3: ("center",), 6: ("left", "right"), 9: ("center", "left", "right")}
SIZES = [(1, 9, 9), (3, 33, 57), (1, 40, 16)]


def onnx_packages() -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason=f"{name} isn't installed")


def prepared(net: nn.Module) -> Network:
    net = net.eval().requires_grad_(False)
    return Network(net, VIEWS[getattr(net, "in_channels", 3)], type(net).__name__, None, "")


def ifan(**options: Any) -> Network:
    torch.manual_seed(1)
    return prepared(IFAN(**{**SMALL, **options}))


@torch.no_grad()
def require_same(network: Network, run: Any, sizes: list[tuple[int, int, int]]) -> None:
    torch.manual_seed(2)
    for batch, height, width in sizes:
        lq = torch.rand(batch, 3 * len(network.views), height, width)
        expected = network.net(lq)
        assert expected.std() > 0.05, "a picture, not one value"
        torch.testing.assert_close(run(lq), expected, rtol=0, atol=export.TOLERANCE)


@pytest.fixture(scope="module")
def onnx_export(tmp_path_factory: pytest.TempPathFactory) -> tuple[Network, Report]:
    onnx_packages()
    network = ifan(dual_pixel=True, isotropic=True)
    return network, export_network(network, tmp_path_factory.mktemp("Ausgabe für alle") / "Netz ä.onnx")


@pytest.fixture(scope="module")
def torch_export(tmp_path_factory: pytest.TempPathFactory) -> tuple[Network, Report]:
    network = ifan()
    return network, export_network(network, tmp_path_factory.mktemp("Ausgabe für alle") / "Netz ä.pt2")


def test_onnx_takes_any_size(onnx_export: tuple[Network, Report]) -> None:
    network, report = onnx_export
    require_same(network, export_formats.onnx_runner(report.path), SIZES)


def test_onnx_is_plain(onnx_export: tuple[Network, Report]) -> None:
    import onnx

    _, report = onnx_export
    model = onnx.load(report.path)
    onnx.checker.check_model(model, full_check=True)
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert shapes == {"lq": ["batch", 9, "height", "width"], "restored": ["batch", 3, "height", "width"]}
    assert str(Path(export.__file__).parent).encode() not in report.path.read_bytes(), "no paths of this machine"


def test_onnx_says_what_it_is(onnx_export: tuple[Network, Report]) -> None:
    import onnx

    network, report = onnx_export
    model = onnx.load(report.path)
    said = {entry.key: entry.value for entry in model.metadata_props}
    assert said["architecture"] == "IFAN"
    assert said["producer"] == f"ifan_plugin {__version__}"
    assert IFAN(**json.loads(said["hyper_parameters"])).hyper_parameters == network.net.hyper_parameters
    assert json.loads(said["views"]) == ["center", "left", "right"]
    assert (said["color"], json.loads(said["range"])) == ("RGB", [0, 1])
    assert (said["multiple_of"], said["smallest_size"], said["batch"]) == ("1", "9", "any")
    assert [entry.version for entry in model.opset_import if not entry.domain] == [report.opset]
    assert report.file_size == report.path.stat().st_size


@pytest.mark.parametrize("kind", ["onnx_export", "torch_export"])
def test_report(kind: str, request: pytest.FixtureRequest) -> None:
    _, report = request.getfixturevalue(kind)
    assert (report.smallest, report.multiple, report.any_batch) == (9, 1, True)
    shapes = list(report.differences)
    assert len(shapes) == 3
    assert any(height % 8 and width % 8 for _, _, height, width in shapes)
    assert any(height != width for _, _, height, width in shapes)
    assert max(report.differences.values()) <= export.TOLERANCE
    assert [path.name for path in report.path.parent.iterdir()] == [report.path.name], "no remains"


_FRESH = """
import importlib.abc, json, sys

class Refusing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("ifan_plugin", "basicsr"):
            raise ImportError(name + " is asked for")

sys.meta_path.insert(0, Refusing())
import torch

said = {"ifan_plugin.json": ""}
program = torch.export.load(sys.argv[1], extra_files=said)
with torch.no_grad():
    results = [program.module()(lq) for lq in torch.load(sys.argv[2])]
torch.save([results, json.loads(said["ifan_plugin.json"])], sys.argv[3])
"""


def test_program_runs_without_this_package(torch_export: tuple[Network, Report], tmp_path: Path) -> None:
    network, report = torch_export
    torch.manual_seed(2)
    pictures = [torch.rand(batch, 3, height, width) for batch, height, width in SIZES]
    torch.save(pictures, tmp_path / "in.pth")
    arguments = [str(report.path), str(tmp_path / "in.pth"), str(tmp_path / "out.pth")]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", _FRESH, *arguments]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    results, said = torch.load(tmp_path / "out.pth")
    for lq, result in zip(pictures, results):
        torch.testing.assert_close(result, network.net(lq), rtol=0, atol=export.TOLERANCE)
    assert said["architecture"] == "IFAN"
    assert json.loads(said["hyper_parameters"]) == network.net.hyper_parameters
    assert json.loads(said["views"]) == ["center"]


def test_the_network_stays_as_it_was(torch_export: tuple[Network, Report]) -> None:
    network, _ = torch_export
    assert network.net.iac.backend is None


# Small networks, so that each of these is a second.


class Brighter(nn.Module):
    """An ordinary network."""

    def forward(self, lq: Tensor) -> Tensor:
        return 0.9 * lq + 0.05


class Counting(Brighter):
    """What it does depends on something that a graph can't hold."""

    calls = 0

    def forward(self, lq: Tensor) -> Tensor:
        self.calls += 1
        return lq * (0.5 + 0.01 * self.calls)


class Undefined(Brighter):
    def forward(self, lq: Tensor) -> Tensor:
        return lq * float("nan")


class Padding(Brighter):
    """Pads by itself, by another rule than the exporter's, and halves the size."""

    def forward(self, lq: Tensor) -> Tensor:
        height, width = lq.shape[-2:]
        padded = F.pad(lq, (0, (4 - width % 4) % 4, 0, (4 - height % 4) % 4))
        small = F.avg_pool2d(padded, 4)
        return F.interpolate(small, scale_factor=4, mode="nearest")[..., :height, :width]


class OneByOne(Brighter):
    def forward(self, lq: Tensor) -> Tensor:
        return torch.cat([0.9 * part for part in lq.split(1)])


class Deciding(Brighter):
    def forward(self, lq: Tensor) -> Tensor:
        return lq if float(lq.mean()) > 0.5 else 1 - lq


class Larger(Brighter):
    def forward(self, lq: Tensor) -> Tensor:
        return F.interpolate(lq, scale_factor=2)


@pytest.mark.parametrize("network_class", [Counting, Undefined])
@pytest.mark.parametrize("there", [True, False])
def test_nothing_is_left_where_it_differs(network_class: type[nn.Module], there: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.pt2"
    if there:
        path.write_bytes(b"mine")
    with pytest.raises(UserError, match=r"a\.pt2: not written: at \d+x\d+ it differs from the original by .* \(limit"):
        export_network(prepared(network_class()), path, overwrite=True)
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == ([("a.pt2", b"mine")] if there else [])


def test_unchecked_it_is_written(tmp_path: Path) -> None:
    report = export_network(prepared(Counting()), tmp_path / "a.pt2", check=False)
    assert report.path.is_file()
    assert report.differences == {}


def test_sizes_asked_for_are_checked(tmp_path: Path) -> None:
    stages: list[str] = []
    report = export_network(prepared(Brighter()), tmp_path / "a.pt2", sizes=[(30, 70), (5, 6)], progress=stages.append)
    assert list(report.differences)[3:] == [(1, 3, 30, 70), (1, 3, 5, 6)]
    assert stages[:3] == ["trace", "write", "check at 40x56"]
    with pytest.raises(UserError, match="--size: 6x1: both sides must be at least 2"):
        export_network(prepared(Brighter()), tmp_path / "b.pt2", sizes=[(1, 6)])


def test_a_network_of_its_own_padding_takes_multiples(tmp_path: Path) -> None:
    network = prepared(Padding())
    report = export_network(network, tmp_path / "a.pt2")
    assert (report.multiple, report.smallest) == (16, 32)
    assert all(height % 16 == width % 16 == 0 for _, _, height, width in report.differences)
    said = {export_formats.EXTRA_FILE: ""}
    torch.export.load(report.path, extra_files=said)
    assert json.loads(said[export_formats.EXTRA_FILE])["multiple_of"] == "16"
    require_same(network, export_formats.torch_runner(report.path), [(1, 96, 32), (2, 48, 64)])
    with pytest.raises(UserError, match="--size: 64x33: both sides must be multiples of 16 and at least 32"):
        export_network(network, tmp_path / "b.pt2", sizes=[(33, 64)])


def test_a_network_of_one_picture_at_a_time(tmp_path: Path) -> None:
    network = prepared(OneByOne())
    report = export_network(network, tmp_path / "a.pt2")
    assert not report.any_batch
    require_same(network, export_formats.torch_runner(report.path), [(1, 9, 33)])


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (Deciding, "Deciding: torch.export can't follow this network"),
        (DefocusDeconvolution, "DefocusDeconvolution: torch.export can't follow this network"),
        (Larger, "Larger: makes .* only networks whose result has the picture's size can be exported"),
    ],
)
def test_networks_that_cannot_be(net: type[nn.Module], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as caught:
        export_network(prepared(net()), tmp_path / "a.pt2")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_operators_of_others_are_refused(tmp_path: Path) -> None:
    @torch.library.custom_op("ifan_plugin_test::halved", mutates_args=())
    def halved(lq: Tensor) -> Tensor:
        return lq / 2

    halved.register_fake(torch.empty_like)

    class Foreign(Brighter):
        def forward(self, lq: Tensor) -> Tensor:
            return halved(lq)

    with pytest.raises(UserError, match=r"uses the operator ifan_plugin_test.halved.default, which isn't torch's own"):
        export_network(prepared(Foreign()), tmp_path / "a.pt2")


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"a\.pt2: can't be written: No space left on device"):
        export_network(prepared(Brighter()), tmp_path / "a.pt2")
    assert not list(tmp_path.iterdir())


# Every kind of IFAN, and others: half a minute each.

KINDS_OF_IFAN = [
    {}, {"isotropic": True}, {"dual_pixel": True}, {"taps": 5}, {"use_disparity": False}, {"use_filters": False},
    {"filter_type": "fac", "fac_taps": 3},
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("options", KINDS_OF_IFAN, ids=str)
@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_every_kind_of_ifan(options: dict, suffix: str, tmp_path: Path) -> None:
    if suffix == ".onnx":
        onnx_packages()
    network = ifan(**options)
    report = export_network(network, tmp_path / f"a{suffix}")
    assert (report.multiple, report.smallest, report.any_batch) == (1, 9, True)
    run = (export_formats.onnx_runner if suffix == ".onnx" else export_formats.torch_runner)(report.path)
    require_same(network, run, SIZES)


@pytest.mark.slow
@pytest.mark.parametrize("in_channels", [3, 6])
def test_dpdnet(in_channels: int, tmp_path: Path) -> None:
    onnx_packages()
    torch.manual_seed(1)
    network = prepared(DPDNet(in_channels=in_channels, width=4))
    report = export_network(network, tmp_path / "a.onnx")
    assert (report.multiple, report.smallest) == (1, 17)


@pytest.mark.slow
@pytest.mark.parametrize("opset", [18, 23])
def test_opset(opset: int, tmp_path: Path) -> None:
    onnx_packages()
    import onnx

    report = export_network(prepared(Brighter()), tmp_path / "a.onnx", opset=opset)
    assert report.opset == opset
    assert [entry.version for entry in onnx.load(report.path).opset_import if not entry.domain] == [opset]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_torch_compile_takes_any_size() -> None:
    torch._dynamo.reset()
    network = ifan()
    compiled = torch.compile(network.net, backend="aot_eager")
    require_same(network, compiled, SIZES)
