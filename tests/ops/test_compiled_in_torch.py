"""The compiled operator inside PyTorch: autocast, opcheck, compile, export, ONNX, errors, loading."""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import io
import logging
from pathlib import Path

import pytest
import torch
from iac_cases import TOLERANCE, Recorder, arguments, assert_near, compiled
from torch import Tensor, nn

from ifan_plugin.archs.ifan_arch import IFAN
from ifan_plugin.ops import IAC, _library, filter_channels, iac, iac_step, reference

ROOT = Path(__file__).parents[2]


@compiled
def test_autocast() -> None:
    x, filters = arguments()
    x, filters = x.float().requires_grad_(), filters.bfloat16()
    expected = iac(x.bfloat16(), filters, 2, backend="reference")
    with torch.autocast("cpu", torch.bfloat16):
        public = iac(x, filters, 2, backend="cpu")
        direct, _ = torch.ops.ifan_plugin.iac(x, filters, 2, 3, 0.1, True, False, True)
        one = torch.ops.ifan_plugin.iac_step(
            x.detach(), filters[:, :18], filters[:, 18:21].float(), 3, 0.1, True, False
        )
    assert one.dtype == torch.bfloat16
    assert torch.equal(direct, public)
    assert_near(public, expected, TOLERANCE[torch.bfloat16])
    public.float().sum().backward()
    assert x.grad.dtype == torch.float32
    with pytest.raises(RuntimeError, match="filters must be of x's dtype"):
        torch.ops.ifan_plugin.iac(x, filters, 2, 3, 0.1, True, False, True)


@compiled
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.filterwarnings("ignore")
def test_opcheck(dtype: torch.dtype) -> None:
    x, filters = (tensor.requires_grad_() for tensor in arguments((2, 2, 4, 5), 2, 3, dtype))
    op = torch.ops.ifan_plugin
    torch.library.opcheck(op.iac.default, (x, filters, 2, 3, 0.1, True, False, True))
    x, filters = x.detach(), filters.detach()
    torch.library.opcheck(op.iac.default, (x, filters, 2, 3, 0.1, False, True, False))
    y, steps = op.iac(x, filters, 2, 3, 0.1, True, False, True)
    torch.library.opcheck(op.iac_backward.default, (y, x, filters, y, steps, 2, 3, 0.1, True, False))
    torch.library.opcheck(op.iac_step.default, (x, filters[:, :12], filters[:, 12:14], 3, 0.1, True, False))


@compiled
@pytest.mark.filterwarnings("ignore")
def test_compile() -> None:
    torch._dynamo.reset()
    function = torch.compile(lambda x, f: iac(x * 2, f + 1, 2).sin(), fullgraph=True, backend="aot_eager")
    for shape in ((2, 3, 5, 7), (1, 3, 8, 4), (3, 3, 6, 9)):  # the second makes the sizes symbols
        inputs = [tensor.float().requires_grad_() for tensor in arguments(shape)]
        expected = iac(inputs[0] * 2, inputs[1] + 1, 2, backend="cpu").sin()
        actual = function(*inputs)
        torch.testing.assert_close(actual, expected)
        upstream = torch.ones_like(actual)
        for ours, theirs in zip(
            torch.autograd.grad(actual, inputs, upstream), torch.autograd.grad(expected, inputs, upstream), strict=True
        ):
            torch.testing.assert_close(ours, theirs)
    with torch.no_grad():
        step = torch.compile(lambda x, f: iac_step(x, f[:, :18], f[:, 18:21]), fullgraph=True, backend="aot_eager")
        x, filters = arguments()
        assert torch.equal(step(x, filters), iac_step(x, filters[:, :18], filters[:, 18:21]))


class Small(nn.Module):
    """A 1x1 convolution that predicts filters, and IAC."""

    def __init__(self) -> None:
        super().__init__()
        self.predict = nn.Conv2d(2, filter_channels(2, 2), 1)
        self.iac = IAC(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.iac(x, self.predict(x))


@compiled
@pytest.mark.filterwarnings("ignore")
def test_export() -> None:
    model, x = Small().eval(), torch.randn(2, 2, 5, 6)
    dim = torch.export.Dim("height", min=2, max=64)
    program = torch.export.export(model, (x,), dynamic_shapes={"x": {2: dim}})
    assert "ifan_plugin.iac" in program.graph_module.code
    taller = torch.randn(2, 2, 9, 6)
    torch.testing.assert_close(program.module()(taller), model(taller))
    stored = io.BytesIO()
    torch.export.save(program, stored)
    stored.seek(0)
    torch.testing.assert_close(torch.export.load(stored).module()(x), model(x))


@compiled
@pytest.mark.filterwarnings("ignore")
def test_onnx_takes_standard_operators(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="onnx isn't installed")
    pytest.importorskip("onnxscript", reason="onnxscript isn't installed")
    model, x, path = Small().eval(), torch.randn(1, 2, 5, 6), tmp_path / "small.onnx"
    torch.onnx.export(model, (x,), path, dynamo=True, verbose=False)
    nodes = onnx.load(path).graph.node
    assert {node.domain for node in nodes} <= {"", "ai.onnx"}
    from onnx.reference import ReferenceEvaluator

    session = ReferenceEvaluator(str(path))
    (result,) = session.run(None, {session.input_names[0]: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(result), model(x).detach(), rtol=1e-4, atol=1e-5)


@compiled
def test_onnx_export_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    x, filters = arguments()
    monkeypatch.setattr(torch.onnx, "is_in_onnx_export", lambda: True)
    with Recorder() as recorder:
        iac(x, filters, 2)
        iac_step(x, filters[:, :18], filters[:, 18:21])
    assert not [name for name, _ in recorder.calls if name.startswith("ifan_plugin")]


@compiled
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"x": torch.zeros(2, 3, 5, 7, dtype=torch.int64)}, "x must be float64"),
        ({"x": torch.zeros(3, 5, 7, dtype=torch.float64)}, r"x must be \[B, C, H, W\], got \[3, 5, 7\]"),
        ({"x": torch.zeros(2, 3, 0, 7, dtype=torch.float64)}, "at least one channel, row and column"),
        ({"x": torch.zeros(2, 3, 5, 7)}, "filters must be of x's dtype"),
        ({"x": torch.zeros(2, 3, 7, 5, dtype=torch.float64).mT}, "x must be contiguous"),
        ({"x": torch.zeros(1, 3, 5, 7, dtype=torch.float64)}, r"must be \[1, 42, 5, 7\], got \[2, 42, 5, 7\]"),
        ({"filters": torch.zeros(2, 41, 5, 7, dtype=torch.float64)}, r"must be \[2, 42, 5, 7\]"),
        ({"filters": torch.zeros(2, 42, 7, 5, dtype=torch.float64).mT}, "batch item of filters must be contiguous"),
        ({"filters": torch.zeros(2, 42, 5, dtype=torch.float64)}, "filters .* must be"),
        ({"num_steps": 0}, "num_steps must be at least 1"),
        ({"num_steps": 2**62}, "too large"),
        ({"taps": 2}, "taps must be odd"),
        ({"taps": -3}, "taps must be odd"),
        ({"negative_slope": -0.1}, "negative_slope"),
        ({"negative_slope": float("nan")}, "negative_slope"),
    ],
    ids=str,
)
def test_operator_errors(changed: dict, message: str) -> None:
    x, filters = arguments()
    given = {"x": x, "filters": filters, "num_steps": 2, "taps": 3, "negative_slope": 0.1, **changed}
    with pytest.raises(RuntimeError, match=message):
        torch.ops.ifan_plugin.iac(*given.values(), True, False, True)


@compiled
def test_operator_errors_of_backward_and_step() -> None:
    op = torch.ops.ifan_plugin
    x, filters = arguments()
    y, steps = op.iac(x, filters, 2, 3, 0.1, True, False, True)
    good = {"grad": y, "x": x, "filters": filters, "y": y, "steps": steps}
    for name, tensor in (
        ("grad", y[:1]),
        ("grad", y.float()),
        ("y", y.mT),
        ("steps", steps[:0]),
        ("steps", steps.float()),
    ):
        with pytest.raises(RuntimeError, match=f"iac: {name}.* must be"):
            op.iac_backward(*{**good, name: tensor}.values(), 2, 3, 0.1, True, False)
    weights, bias = filters[:, :18], filters[:, 18:21]
    for name, inputs in (("step_filters", (x, bias, bias)), ("bias", (x, weights, bias[:, :2]))):
        with pytest.raises(RuntimeError, match=f"iac: {name}.* must be"):
            op.iac_step(*inputs, 3, 0.1, True, False)


@compiled
def test_wrong_device() -> None:
    x, filters = arguments()
    with pytest.raises(RuntimeError, match=r"'cuda' can't be used: .*(cpu|not compiled|loaded)"):
        iac(x, filters, 2, backend="cuda")
    with pytest.raises(RuntimeError, match="'cpu' can't be used: serves cpu tensors"):
        iac(x.to("meta"), filters.to("meta"), 2, backend="cpu")


def spec_of(monkeypatch: pytest.MonkeyPatch, origin: str | None) -> None:
    spec = None if origin is None else importlib.machinery.ModuleSpec("module", None, origin=origin)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)


def test_a_build_without_extension_says_so(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    spec_of(monkeypatch, None)
    reasons = _library.load()
    assert reasons["cpu"] == "not compiled in this build of ifan_plugin (ifan_plugin._C doesn't exist)"
    module = importlib.import_module("ifan_plugin.ops.iac")
    monkeypatch.setitem(module._LOADED, "cpu", reasons["cpu"])
    monkeypatch.setitem(module._BACKENDS, "cpu", module._compiled("cpu"))
    monkeypatch.setattr(module, "_fallback_told", False)
    x, filters = arguments()
    with caplog.at_level(logging.WARNING, logger="ifan_plugin"):
        assert torch.equal(iac(x, filters, 2), reference.iac(x, filters, 2))
    assert [record.getMessage() for record in caplog.records] == [
        f"IAC runs on its PyTorch reference, several times slower: backend 'cpu' {reasons['cpu']}."
    ]
    with pytest.raises(RuntimeError, match="not compiled in this build"):
        iac(x, filters, 2, backend="cpu")


def test_loading_again_changes_nothing() -> None:
    assert _library.load() == _library.load()


def test_a_failed_load_keeps_the_loader_s_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "_C.abi3.so"
    broken.write_bytes(b"not a library")
    spec_of(monkeypatch, str(broken))
    reasons = _library.load()
    assert reasons["cpu"].startswith("ifan_plugin._C can't be loaded: ")
    assert reasons["cpu"].count(str(broken)) >= 1
    assert "\n" not in reasons["cpu"]
    assert reasons["cuda"] == reasons["cpu"]


@pytest.mark.parametrize("training", [False, True])
def test_a_network_is_one_graph(training: bool) -> None:
    """Nothing in its layers makes torch.compile fall back to Python."""
    torch._dynamo.reset()
    network = IFAN(width=4, num_steps=3, res_units=2).train(training)
    function = network.training_outputs if training else network
    lq = torch.rand(1, 3, 32, 40)
    compiled = torch.compile(function, fullgraph=True, backend="eager")
    with torch.set_grad_enabled(training):
        got, want = compiled(lq), function(lq)
    torch.testing.assert_close(got[0], want[0])
