from __future__ import annotations

import importlib
import json
import logging
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ifan_plugin.ops import IAC, active_backend, available_backends, filter_channels, iac, reference

GOLDEN = Path(__file__).parents[1] / "data_files" / "golden"
CASES = {name: case for name, case in json.loads((GOLDEN / "cases.json").read_text()).items() if name.startswith("iac")}
iac_module = importlib.import_module("ifan_plugin.ops.iac")  # the package's attribute is the function


def arguments(
    batch: int = 2, channels: int = 3, height: int = 5, width: int = 7, num_steps: int = 2, taps: int = 3
) -> tuple[Tensor, Tensor]:
    """x and filters in float64."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, channels, height, width, generator=generator, dtype=torch.float64)
    rows = filter_channels(channels, num_steps, taps)
    filters = 0.4 * torch.randn(batch, rows, height, width, generator=generator, dtype=torch.float64)
    return x, filters


def slow_iac(
    x: Tensor, filters: Tensor, num_steps: int, taps: int, slope: float, act_last: bool, isotropic: bool
) -> Tensor:
    """The docstring's equations, pixel by pixel."""
    batch, channels, height, width = x.shape
    half, block = taps // 2, channels * taps
    out = x.clone()
    for i in range(num_steps):
        t, u = torch.zeros_like(x), torch.zeros_like(x)
        for source, target, offset in ((out, t, 0), (t, u, 0 if isotropic else block)):
            for b, c, y, col in np.ndindex(batch, channels, height, width):
                for j in range(taps):
                    if target is t:
                        value = source[b, c, min(max(y + j - half, 0), height - 1), col]
                    else:
                        value = source[b, c, y, min(max(col + j - half, 0), width - 1)]
                    target[b, c, y, col] += filters[b, i * 2 * block + offset + c * taps + j, y, col] * value
        first_bias = num_steps * 2 * block + i * channels
        out = u + filters[:, first_bias : first_bias + channels]
        if act_last or i < num_steps - 1:
            out = torch.where(out > 0, out, slope * out)
    return out


def test_smoke() -> None:
    x, filters = arguments()
    result = iac(x, filters, 2)
    assert result.shape == x.shape
    assert result.dtype == x.dtype
    assert result.isfinite().all()


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (0, 3, 4, 5), (2, 3, 1, 6), (2, 3, 6, 1), (3, 2, 2, 9)], ids=str)
@pytest.mark.parametrize("taps", [1, 3, 5])
def test_cardinality(shape: tuple[int, ...], taps: int) -> None:
    x, filters = arguments(*shape, num_steps=3, taps=taps)
    assert iac(x, filters, 3, taps).shape == shape


@pytest.mark.parametrize("isotropic", [False, True])
@pytest.mark.parametrize("act_last", [False, True])
@pytest.mark.parametrize(("height", "width", "taps"), [(4, 3, 3), (2, 4, 5), (1, 4, 3), (4, 1, 3)])
def test_equations(height: int, width: int, taps: int, act_last: bool, isotropic: bool) -> None:
    x, filters = arguments(2, 2, height, width, 2, taps)
    expected = slow_iac(x, filters, 2, taps, 0.3, act_last, isotropic)
    actual = iac(x, filters, 2, taps, negative_slope=0.3, act_last=act_last, isotropic=isotropic)
    torch.testing.assert_close(actual, expected)


def test_edges_are_replicated() -> None:
    """A filter that looks one pixel up and left, on a ramp: the first row and column see themselves."""
    ramp = torch.arange(12.0).reshape(1, 1, 3, 4)
    filters = torch.zeros(1, filter_channels(1, 1), 3, 4)
    filters[:, [0, 3]] = 1
    padded = F.pad(ramp, (1, 0, 1, 0), mode="replicate")[..., :3, :4]
    assert torch.equal(iac(ramp, filters, 1), padded)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_golden(name: str, dtype: torch.dtype) -> None:
    case = CASES[name]
    rng = np.random.default_rng(case["seed"])
    small = (case["b"], case["c"], case["h"], case["w"])
    rows = (case["b"], filter_channels(case["c"], case["n"], case["k"]), case["h"], case["w"])
    drawn = rng.standard_normal(small), rng.standard_normal(rows) * 0.4, rng.standard_normal(small)
    x, filters, upstream = (torch.from_numpy(values.astype(np.float32)).to(dtype) for values in drawn)
    x.requires_grad_()
    filters.requires_grad_()
    result = iac(x, filters, case["n"], case["k"], act_last=case["last_act"], isotropic=case["isotropic"])
    result.backward(upstream)

    golden = np.load(GOLDEN / f"{name}.npz")
    for ours, key in ((result, "y"), (x.grad, "grad_x"), (filters.grad, "grad_f")):
        theirs = torch.from_numpy(golden[key]).double()
        error = (ours.detach().double() - theirs).abs().max() / theirs.abs().max()
        assert error < 1e-5, key


def test_golden_cases_are_the_files() -> None:
    assert {path.stem for path in GOLDEN.glob("iac_*.npz")} == set(CASES)
    assert len(CASES) == 6


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 1e-3), (torch.bfloat16, 8e-3)])
def test_half_types_are_rounded_once(dtype: torch.dtype, tolerance: float) -> None:
    x, filters = (tensor.to(dtype) for tensor in arguments(num_steps=17))
    expected = reference.iac(x.float(), filters.float(), 17)
    assert torch.equal(iac(x, filters, 17, backend="reference"), expected.to(dtype))
    actual = iac(x, filters, 17)
    assert actual.dtype == dtype
    assert (actual.float() - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize("isotropic", [False, True])
@pytest.mark.parametrize(("height", "width", "taps"), [(3, 2, 3), (1, 3, 5)])
def test_gradcheck(height: int, width: int, taps: int, isotropic: bool) -> None:
    inputs = [tensor.requires_grad_() for tensor in arguments(1, 2, height, width, 2, taps)]

    def function(x: Tensor, filters: Tensor, backend: str | None = None) -> Tensor:
        return iac(x, filters, 2, taps, 0.2, act_last=False, isotropic=isotropic, backend=backend)

    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(partial(function, backend="reference"), inputs)


def test_isotropic_ignores_the_horizontal_filters() -> None:
    x, filters = arguments(num_steps=1)
    filters.requires_grad_()
    iac(x, filters, 1, isotropic=True).sum().backward()
    assert (filters.grad[:, 9:18] == 0).all()
    assert (filters.grad[:, :9] != 0).any()


def test_non_contiguous_inputs() -> None:
    x, filters = arguments(num_steps=2)
    expected = iac(x, filters, 2)
    last = torch.channels_last
    actual = iac(x.to(memory_format=last), filters.transpose(2, 3).contiguous().transpose(2, 3), 2)
    torch.testing.assert_close(actual, expected)


def test_module_equals_function() -> None:
    x, filters = arguments(num_steps=3, taps=5)
    options = {"negative_slope": 0.25, "act_last": False, "isotropic": True, "backend": "reference"}
    module = IAC(3, 5, **options)
    assert torch.equal(module(x, filters), iac(x, filters, 3, 5, **options))
    assert not torch.equal(module(x, filters), iac(x, filters, 3, 5))
    assert "num_steps=3, taps=5, negative_slope=0.25, act_last=False, isotropic=True" in repr(module)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"taps": 2}, ValueError, "odd"),
        ({"taps": -1}, ValueError, "odd"),
        ({"num_steps": 0}, ValueError, "at least 1"),
        ({"num_steps": 3}, ValueError, "num_steps=3"),
        ({"num_steps": 2.0}, TypeError, "num_steps must be an int"),
        ({"num_steps": True}, TypeError, "num_steps must be an int"),
        ({"negative_slope": -0.1}, ValueError, "negative_slope"),
        ({"negative_slope": float("nan")}, ValueError, "negative_slope"),
        ({"x": torch.zeros(3, 5, 7, dtype=torch.float64)}, ValueError, r"\[B, C, H, W\]"),
        ({"x": torch.zeros(2, 3, 5, 8, dtype=torch.float64)}, ValueError, "filters must be"),
        ({"x": torch.zeros(1, 3, 5, 7, dtype=torch.float64)}, ValueError, "filters must be"),
        ({"x": torch.zeros(2, 3, 0, 7, dtype=torch.float64)}, ValueError, "at least one"),
        ({"x": torch.zeros(2, 3, 5, 7)}, TypeError, "one dtype"),
        ({"x": torch.zeros(2, 3, 5, 7, device="meta")}, TypeError, "one dtype"),
        ({"x": torch.zeros(2, 3, 5, 7, dtype=torch.int64)}, TypeError, "float64"),
        ({"x": torch.zeros(2, 3, 5, 7, dtype=torch.float64, device="meta")}, ValueError, "one device"),
        ({"x": np.zeros((2, 3, 5, 7))}, TypeError, "must be a tensor"),
        ({"backend": "fastest"}, ValueError, "one of cuda, cpu, reference"),
    ],
    ids=str,
)
def test_exception(changed: dict, error: type[Exception], message: str) -> None:
    x, filters = arguments()
    with pytest.raises(error, match=message):
        iac(**{"x": x, "filters": filters, "num_steps": 2, **changed})


def test_one_channel_too_many() -> None:
    x, filters = arguments()
    with pytest.raises(ValueError, match=r"filters must be \[2, 42, 5, 7\]"):
        iac(x, F.pad(filters, (0, 0, 0, 0, 0, 1)), 2)


def test_backends_explain_themselves() -> None:
    backends = available_backends()
    assert backends["reference"] is None
    assert set(backends) >= {"cpu", "cuda", "reference"}
    for reason in backends.values():
        assert reason is None or (reason and "\n" not in reason)
    assert active_backend("mps") == "reference"


@pytest.mark.parametrize("name", [name for name, reason in available_backends().items() if reason])
def test_an_unusable_backend_says_why(name: str) -> None:
    x, filters = arguments()
    with pytest.raises(RuntimeError, match=f"'{name}' can't be used"):
        iac(x, filters, 2, backend=name)


def test_the_fallback_is_told_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    unusable = iac_module._BACKENDS["cpu"]._replace(run=None, reason="left out of this test")
    monkeypatch.setitem(iac_module._BACKENDS, "cpu", unusable)
    monkeypatch.setattr(iac_module, "_fallback_told", False)
    x, filters = arguments()
    with caplog.at_level(logging.WARNING, logger="ifan_plugin"):
        iac(x, filters, 2, backend="reference")
        assert not caplog.records  # asked for: nothing to tell
        iac(x, filters, 2)
        iac(x, filters, 2)
    assert [record.getMessage() for record in caplog.records] == [
        "IAC runs on its PyTorch reference, several times slower: backend 'cpu' left out of this test."
    ]


def test_a_usable_backend_is_taken(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def run(x: Tensor, *_: object, **__: object) -> Tensor:
        return x + 1

    monkeypatch.setitem(iac_module._BACKENDS, "cpu", iac_module._Backend(run, "cpu", None))
    monkeypatch.setattr(iac_module, "_fallback_told", False)
    x, filters = arguments()
    assert active_backend("cpu") == "cpu"
    assert torch.equal(iac(x, filters, 2), x + 1)
    assert torch.equal(iac(x, filters, 2, backend="reference"), reference.iac(x, filters, 2))
    assert not caplog.records


def test_autocast_takes_the_filters_dtype() -> None:
    x, filters = arguments()
    with torch.autocast("cpu", torch.bfloat16):
        result = iac(x.float(), filters.bfloat16(), 2)
    assert result.dtype == torch.bfloat16
    assert torch.equal(result, iac(x.bfloat16(), filters.bfloat16(), 2))
