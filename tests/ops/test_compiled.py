"""The compiled operator on the CPU against its PyTorch twin. Skipped where it isn't compiled."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from iac_cases import TOLERANCE, Recorder, arguments, assert_near, compiled, every_dtype, with_gradients

from ifan_plugin.ops import active_backend, filter_channels, iac, iac_step

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "data_files" / "golden"
CASES = {name: case for name, case in json.loads((GOLDEN / "cases.json").read_text()).items() if name.startswith("iac")}
# (B, C, H, W), num_steps, taps
SIZES = [
    ((2, 3, 5, 7), 2, 3),
    ((1, 2, 1, 1), 2, 3),
    ((2, 2, 1, 6), 3, 3),
    ((2, 2, 6, 1), 3, 3),
    ((1, 3, 2, 2), 2, 5),
    ((1, 2, 3, 40), 1, 3),
    ((1, 2, 9, 33), 2, 5),
    ((1, 2, 4, 3), 2, 7),
    ((1, 2, 3, 4), 2, 1),
    ((2, 4, 19, 67), 17, 3),
]

every_size = pytest.mark.parametrize(("shape", "num_steps", "taps"), SIZES, ids=str)


@compiled
def test_it_is_the_one_taken() -> None:
    assert active_backend("cpu") == "cpu"
    x, filters = arguments()
    assert torch.equal(iac(x, filters, 2), iac(x, filters, 2, backend="cpu"))


@compiled
@every_dtype
@every_size
@pytest.mark.parametrize(("act_last", "isotropic"), [(True, False), (False, True)])
def test_against_the_twin(
    shape: tuple[int, ...], num_steps: int, taps: int, dtype: torch.dtype, act_last: bool, isotropic: bool
) -> None:
    x, filters = arguments(shape, num_steps, taps, dtype)
    options = (num_steps, taps, 0.2, act_last, isotropic)
    actual = with_gradients(x, filters, *options, backend="cpu")
    expected = with_gradients(x, filters, *options, backend="reference")
    for ours, theirs in zip(actual, expected, strict=True):
        assert_near(ours, theirs, TOLERANCE[dtype])


@compiled
@every_dtype
@pytest.mark.parametrize("taps", [3, 5])
@pytest.mark.parametrize(("act", "isotropic"), [(True, False), (False, True)])
def test_step_against_the_twin(taps: int, dtype: torch.dtype, act: bool, isotropic: bool) -> None:
    x, filters = arguments((2, 3, 9, 21), 1, taps, dtype)
    weights, bias = filters.split([6 * taps, 3], 1)
    options = {"taps": taps, "negative_slope": 0.3, "act": act, "isotropic": isotropic}
    actual = iac_step(x, weights, bias, **options, backend="cpu")
    assert_near(actual, iac_step(x, weights, bias, **options, backend="reference"), TOLERANCE[dtype])
    assert torch.equal(actual, iac(x, filters, 1, taps, 0.3, act_last=act, isotropic=isotropic, backend="cpu"))


@compiled
@pytest.mark.parametrize("level", ["default", "avx2"])
def test_every_instruction_set(level: str) -> None:
    """PyTorch's own variable lowers it; results differ by rounding only."""
    code = (
        "import torch; from ops.test_compiled import *\n"
        "for dtype, tolerance in TOLERANCE.items():\n"
        "    x, filters = arguments((2, 3, 9, 37), 3, 3, dtype)\n"
        "    pairs = zip(*(with_gradients(x, filters, 3, backend=name) for name in ('cpu', 'reference')))\n"
        "    for ours, theirs in pairs: assert_near(ours, theirs, tolerance)\n"
    )
    env = {**os.environ, "ATEN_CPU_CAPABILITY": level, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@compiled
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
    options = {"act_last": case["last_act"], "isotropic": case["isotropic"], "backend": "cpu"}
    result = iac(x, filters, case["n"], case["k"], **options)
    result.backward(upstream)
    golden = np.load(GOLDEN / f"{name}.npz")
    for ours, key in ((result, "y"), (x.grad, "grad_x"), (filters.grad, "grad_f")):
        theirs = torch.from_numpy(golden[key]).double()
        error = (ours.detach().double() - theirs).abs().max() / theirs.abs().max()
        assert error < 1e-5, key


@compiled
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_conversions_are_torch_s(dtype: torch.dtype) -> None:
    """Every half number through the identity: subnormals, infinities and NaNs too; and roundings by a factor."""
    values = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype).reshape(1, 1, 256, 256)
    weights = torch.zeros(1, 2, 256, 256, dtype=dtype)
    weights[:, 0], weights[:, 1] = 1, 1
    zero = torch.zeros_like(values)
    same = iac_step(values, weights, zero, taps=1, act=False, backend="cpu")
    torch.testing.assert_close(same, values, rtol=0, atol=0, equal_nan=True)
    factor = torch.tensor(0.3371, dtype=dtype)
    weights[:, 1] = factor
    scaled = iac_step(values, weights, zero, taps=1, act=False, backend="cpu")
    torch.testing.assert_close(scaled, values * factor, rtol=0, atol=0, equal_nan=True)


@compiled
def test_empty_batch() -> None:
    x, filters = (tensor[:0].requires_grad_() for tensor in arguments(dtype=torch.float32))
    y = iac(x, filters, 2, backend="cpu")
    y.sum().backward()
    assert y.shape == x.shape == x.grad.shape
    assert filters.grad.shape == filters.shape
    assert iac_step(x.detach(), filters.detach()[:, :18], filters.detach()[:, 18:21]).shape == x.shape


@compiled
def test_slices_along_the_channels_are_read_in_place() -> None:
    x, filters = arguments(dtype=torch.float32)
    rows = filters.shape[1]
    wide = torch.cat([filters + 1, filters, filters - 1], 1)
    piece = wide[:, rows : 2 * rows]
    with Recorder() as recorder:
        actual = iac(x, piece, 2, backend="cpu")
    assert torch.equal(actual, iac(x, filters, 2, backend="cpu"))
    names = [name for name, _ in recorder.calls]
    assert not [name for name in names if "clone" in name or "copy" in name or "contiguous" in name]
    (given,) = [args[1] for name, args in recorder.calls if name == "ifan_plugin::iac"]
    assert given.data_ptr() == piece.data_ptr()
    assert given.stride() == piece.stride() != filters.stride()
    for ours, theirs in zip(
        with_gradients(x, piece, 2, backend="cpu"), with_gradients(x, filters, 2, backend="cpu"), strict=True
    ):
        assert torch.equal(ours, theirs)


@compiled
def test_other_layouts() -> None:
    x, filters = arguments()
    expected = with_gradients(x, filters, 2, backend="cpu")
    layouts = (
        (x.to(memory_format=torch.channels_last), filters.to(memory_format=torch.channels_last)),
        (x.mT.contiguous().mT, filters.mT.contiguous().mT),
        (x[:1].expand(2, -1, -1, -1), filters[:1].expand(2, -1, -1, -1)),
    )
    for number, (other_x, other_filters) in enumerate(layouts):
        actual = with_gradients(other_x, other_filters, 2, backend="cpu")
        if number == 2:
            expected = with_gradients(other_x.contiguous(), other_filters.contiguous(), 2, backend="cpu")
        for ours, theirs in zip(actual, expected, strict=True):
            assert torch.equal(ours, theirs)
    y = iac(x.requires_grad_(), filters, 2, backend="cpu")
    (grad,) = torch.autograd.grad(y.mT.sum(), x)  # upstream gradient with other strides
    assert grad.isfinite().all()


@compiled
@pytest.mark.parametrize("isotropic", [False, True])
@pytest.mark.parametrize(("shape", "taps"), [((1, 2, 4, 3), 3), ((1, 1, 1, 3), 5), ((1, 1, 3, 2), 7)])
def test_gradcheck(shape: tuple[int, ...], taps: int, isotropic: bool) -> None:
    inputs = [tensor.requires_grad_() for tensor in arguments(shape, 2, taps)]
    for act_last in (False, True):
        assert torch.autograd.gradcheck(
            lambda x, f: iac(x, f, 2, taps, 0.2, act_last=act_last, isotropic=isotropic, backend="cpu"),  # noqa: B023
            inputs,
        )


@compiled
def test_double_backward_raises() -> None:
    x, filters = (tensor.requires_grad_() for tensor in arguments())
    (grad,) = torch.autograd.grad(iac(x, filters, 2, backend="cpu").sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="backend='reference'"):
        grad.sum().backward()


@compiled
def test_only_one_gradient() -> None:
    x, filters = arguments()
    both = with_gradients(x, filters, 2, backend="cpu")
    for index in (0, 1):
        inputs = [x.clone(), filters.clone()]
        inputs[index].requires_grad_()
        (grad,) = torch.autograd.grad(iac(*inputs, 2, backend="cpu").square().sum() / 2, inputs[index])
        expected = torch.ops.ifan_plugin.iac_backward(
            both[0],
            x,
            filters,
            *torch.ops.ifan_plugin.iac(x, filters, 2, 3, 0.1, True, False, True),
            2,
            3,
            0.1,
            True,
            False,
        )
        assert torch.equal(grad, expected[index])


@compiled
def test_steps_are_saved_for_gradients_only() -> None:
    x, filters = arguments(dtype=torch.bfloat16)
    y, steps = torch.ops.ifan_plugin.iac(x, filters, 2, 3, 0.1, True, False, True)
    assert steps.shape == (1, *x.shape)
    assert steps.dtype == torch.float32
    assert torch.ops.ifan_plugin.iac(x, filters, 2, 3, 0.1, True, False, False)[1].numel() == 0
    filters.requires_grad_()
    for gradients, saved in ((True, True), (False, False)):
        with torch.set_grad_enabled(gradients), Recorder() as recorder:
            iac(x, filters, 2, backend="cpu")
        assert [args[-1] for name, args in recorder.calls if name == "ifan_plugin::iac"] == [saved]
    y, _ = torch.ops.ifan_plugin.iac(x, filters, 2, 3, 0.1, True, False, False)
    with pytest.raises(RuntimeError, match="save_steps=False"):
        y.sum().backward()


@compiled
def test_step_and_gradients() -> None:
    x, filters = arguments(num_steps=1)
    weights, bias = (tensor.requires_grad_() for tensor in filters.split([18, 3], 1))
    y = iac_step(x, weights, bias)  # the reference, because a gradient is asked for
    y.sum().backward()
    assert weights.grad.abs().sum() > 0
    y = iac_step(x, weights, bias, backend="cpu")
    with pytest.raises(RuntimeError, match="backend='reference'"):
        y.sum().backward()


@compiled
def test_number_of_threads_changes_no_bit() -> None:
    x, filters = arguments((2, 5, 23, 41), 3, 3, torch.float32)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(with_gradients(x, filters, 3, backend="cpu"))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        for ours, theirs in zip(results[0], other, strict=True):
            assert torch.equal(ours, theirs)


@compiled
def test_large_gradients_are_streamed_alike() -> None:
    """Above 64 MiB the filters' gradient goes past the caches, into huge pages: the same bits as in small pieces."""
    x, filters = arguments((3, 8, 101, 211), 9, 3, torch.float32)
    whole = with_gradients(x, filters, 9, backend="cpu")
    assert whole[2].numel() * 4 > 64 << 20
    upstream = torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64).float()
    for item in range(3):
        inputs = x[item : item + 1].requires_grad_(), filters[item : item + 1].requires_grad_()
        y = iac(*inputs, 9, backend="cpu")
        parts = torch.autograd.grad(y, inputs, upstream[item : item + 1])
        assert torch.equal(parts[0], whole[1][item : item + 1])
        assert torch.equal(parts[1], whole[2][item : item + 1])
