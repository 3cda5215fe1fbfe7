"""The CUDA kernels' arithmetic, memory accesses and launch plan, tested without a GPU.

The unmodified kernel source is compiled with a host compiler through tests/ops/host_shim: every CUDA thread is a fiber,
and each case runs with a block's threads in three orders, which must not change a bit. Nothing here runs on a GPU:
tests/gpu does. The last tests compile the source with nvcc, where there is one.
"""

from __future__ import annotations

import itertools
import os
import random
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from ops.host_shim.cases import LARGE, TOLERANCE, expected, make, needs_compiler, same_bits, too_small
from ops.host_shim.driver import CUDA_SOURCES, DTYPES, Device, Kernels, Order, Problem, Shim, build
from torch import Tensor

from ifan_plugin.ops import reference

NO_L2 = Device(multiprocessors=1, l2_bytes=1)  # takes planes in many passes


def check(shim: Shim, shape: tuple[int, ...], problem: Problem, dtype: torch.dtype, extra: int = 0) -> None:
    """Forward and backward agree with the twin, and bit by bit with themselves in every order of the threads."""
    x, filters, grad = make(shape, problem, dtype, extra)
    want_y, want_grad_x, want_grad_filters = expected(x, filters, grad, problem)
    first: list[Tensor] = []
    for order in Order:
        run = replace(problem, order=order)
        y, steps = shim.forward(x, filters, run)
        without, _ = shim.forward(x, filters, replace(run, save_steps=False))
        grad_x, grad_filters = shim.backward(grad, x, filters, y, steps, run)
        results = [y, steps, without, grad_x, grad_filters]
        first = first or results
        assert all(map(same_bits, results, first)), f"{order.name}: depends on the order of the threads"
    assert same_bits(first[0], first[2]), "depends on whether the steps are saved"
    for name, got, want in (
        ("y", y, want_y),
        ("grad_x", grad_x, want_grad_x),
        ("grad_filters", grad_filters, want_grad_filters),
    ):
        scale = want.abs().max().item() or 1.0
        error = (got.to(want.dtype) - want).abs().max().item() / scale  # NaN fails, too
        assert error <= TOLERANCE[dtype], f"{name} is off by {error:.3g}"


# ---------------------------------------------------------------- against the twin

# B, C, H, W, N, k
PLANE_CASES = [
    (2, 3, 8, 8, 3, 3), (1, 2, 17, 5, 2, 3), (1, 1, 1, 1, 3, 3), (2, 1, 1, 9, 2, 3), (1, 2, 9, 1, 2, 3), (1, 2, 2, 2, 5, 3),
    (1, 1, 31, 33, 4, 3), (1, 1, 45, 40, 2, 3),
    (1, 2, 7, 6, 2, 5), (1, 1, 2, 3, 2, 7), (1, 1, 12, 11, 2, 7), (1, 2, 4, 5, 2, 1), (1, 1, 3, 4, 2, 21),
]  # fmt: skip

# The same and the kernel each runs on once a plane doesn't fit shared memory.
TILED_CASES = [
    (1, 2, 37, 70, 3, 3, Kernels.TILED), (1, 1, 33, 65, 2, 3, Kernels.TILED), (2, 1, 70, 20, 2, 3, Kernels.TILED),
    (1, 1, 3, 600, 2, 3, Kernels.TILED), (1, 1, 300, 1, 2, 3, Kernels.TILED), (1, 1, 45, 90, 2, 5, Kernels.TILED),
    (1, 1, 60, 90, 2, 7, Kernels.TILED), (1, 2, 9, 7, 2, 5, Kernels.WIDE), (1, 2, 20, 23, 3, 17, Kernels.WIDE),
    (1, 1, 5, 300, 1, 3, Kernels.TILED), (1, 2, 20, 5, 4, 1, Kernels.TILED), (1, 1, 1, 2, 3, 5, Kernels.WIDE),
]  # fmt: skip


@needs_compiler
@pytest.mark.parametrize("isotropic", [False, True])
@pytest.mark.parametrize("case", PLANE_CASES, ids=str)
def test_plane_kernels_agree_with_the_twin(shim: Shim, case: tuple, isotropic: bool) -> None:
    *shape, num_steps, taps = case
    problem = Problem(num_steps, taps, isotropic=isotropic)
    assert shim.plan(shape, torch.float32, problem).path == Kernels.PLANE
    assert shim.plan(shape, torch.float32, problem, backward=True).path == Kernels.PLANE
    check(shim, tuple(shape), problem, torch.float32)


@needs_compiler
@pytest.mark.parametrize("isotropic", [False, True])
@pytest.mark.parametrize("case", TILED_CASES, ids=str)
def test_tiled_and_wide_kernels_agree_with_the_twin(shim: Shim, case: tuple, isotropic: bool) -> None:
    *shape, num_steps, taps, backward_path = case
    problem = Problem(num_steps, taps, isotropic=isotropic, device=too_small(tuple(shape), torch.float32))
    assert shim.plan(shape, torch.float32, problem).path == Kernels.TILED
    assert shim.plan(shape, torch.float32, problem, backward=True).path == backward_path
    check(shim, tuple(shape), problem, torch.float32)


@needs_compiler
@pytest.mark.parametrize("taps", [3, 5])
@pytest.mark.parametrize("tiled", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_type(shim: Shim, dtype: torch.dtype, tiled: bool, taps: int) -> None:
    shape = (2, 2, 33, 34) if tiled else (2, 2, 6, 7)
    problem = Problem(3, taps, slope=0.2, device=too_small(shape, dtype) if tiled else LARGE)
    assert shim.plan(shape, dtype, problem).path == (Kernels.TILED if tiled else Kernels.PLANE)
    check(shim, shape, problem, dtype)


@needs_compiler
@pytest.mark.parametrize("tiled", [False, True])
@pytest.mark.parametrize(
    ("num_steps", "act_last", "slope"),
    [(1, True, 0.1), (1, False, 0.1), (2, False, 0.0), (4, True, 1.0), (5, False, 0.3)],
)
def test_steps_and_activation(shim: Shim, num_steps: int, act_last: bool, slope: float, tiled: bool) -> None:
    shape = (1, 3, 33, 34) if tiled else (1, 3, 5, 4)
    problem = Problem(num_steps, 3, slope, act_last, device=too_small(shape, torch.float64) if tiled else LARGE)
    check(shim, shape, problem, torch.float64)


@needs_compiler
@pytest.mark.parametrize("device", ["plane", "tiled", "wide"])
def test_filters_may_have_any_batch_stride(shim: Shim, device: str) -> None:
    shape, taps = ((3, 2, 33, 34), 3) if device == "tiled" else ((3, 2, 6, 5), 5)
    device = LARGE if device == "plane" else too_small(shape, torch.float32)
    check(shim, shape, Problem(3, taps, device=device), torch.float32, extra=5)


@needs_compiler
@pytest.mark.parametrize("taps", [3, 17])
@pytest.mark.parametrize("save_steps", [False, True])
def test_passes_of_planes_change_nothing(shim: Shim, save_steps: bool, taps: int) -> None:
    shape = (1, 6, 33, 40)
    one = Problem(4, taps, save_steps=save_steps, device=too_small(shape, torch.float32))
    many = replace(one, device=too_small(shape, torch.float32, NO_L2))
    assert shim.plan(shape, torch.float32, one).planes_per_pass == 6
    assert shim.plan(shape, torch.float32, many).planes_per_pass < 6
    assert shim.plan(shape, torch.float32, many, backward=True).planes_per_pass < 6
    x, filters, grad = make(shape, one, torch.float32)
    y, _ = shim.forward(x, filters, one)
    assert same_bits(y, shim.forward(x, filters, many)[0])
    _, steps = shim.forward(x, filters, replace(one, save_steps=True))
    results = [shim.backward(grad, x, filters, y, steps, each) for each in (one, many)]
    assert all(map(same_bits, *results))


@needs_compiler
def test_saved_steps_are_the_inputs_of_the_later_steps(shim: Shim) -> None:
    shape, problem = (1, 2, 6, 5), Problem(4)
    x, filters, _ = make(shape, problem, torch.float64)
    _, steps = shim.forward(x, filters, problem)
    e = x
    for i in range(3):
        weights, bias = filters[:, i * 12 : (i + 1) * 12], filters[:, 48 + i * 2 : 48 + (i + 1) * 2]
        e = reference.iac(e, torch.cat([weights, bias], 1), 1)
        torch.testing.assert_close(steps[i], e, rtol=1e-12, atol=1e-12)


@needs_compiler
def test_step_takes_bias_and_filters_from_different_tensors(shim: Shim) -> None:
    """What `iac_step` does: both are slices along the channels of something larger."""
    shape, problem = (2, 3, 7, 6), Problem(1, save_steps=False)
    x, filters, _ = make(shape, problem, torch.float32, extra=4)
    biases = torch.randn(2, 9, 7, 6)
    got, _ = shim.forward_parts(x, filters[:, :18], biases[:, 2:5], problem)
    want = reference.iac(x, torch.cat([filters[:, :18], biases[:, 2:5]], 1), 1)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


@needs_compiler
@pytest.mark.parametrize("tiled", [False, True])
def test_batch_strides_past_32_bits(shim: Shim, tiled: bool) -> None:
    """Nothing is written between the two batch items, so hardly any of this memory is ever real."""
    shape = (2, 1, 33, 34) if tiled else (2, 1, 4, 5)
    problem = Problem(2, device=too_small(shape, torch.float16) if tiled else LARGE)
    x, filters, _ = make(shape, problem, torch.float16)
    stride = 2**32 + 77
    try:
        space = torch.empty(stride + filters[0].numel(), dtype=torch.float16)
    except RuntimeError:
        pytest.skip("this machine doesn't lend address space beyond its memory")
    apart = space.as_strided(filters.shape, (stride, *filters.stride()[1:]))
    apart.copy_(filters)
    assert same_bits(shim.forward(x, apart, problem)[0], shim.forward(x, filters, problem)[0])


@needs_compiler
def test_nan_and_infinity_pass_through(shim: Shim) -> None:
    shape, problem = (1, 1, 5, 5), Problem(1, slope=0.0)
    x, filters, _ = make(shape, problem, torch.float32)
    x[0, 0, 2, 2] = float("nan")
    x[0, 0, 0, 4] = float("inf")
    got, _ = shim.forward(x, filters, problem)
    assert torch.equal(got.isnan(), reference.iac(x, filters, 1, negative_slope=0.0).isnan())


# ---------------------------------------------------------------- the launch plan


@needs_compiler
@pytest.mark.parametrize(
    ("shape", "dtype", "forward", "backward"),
    [
        ((8, 128, 32, 32), torch.float32, Kernels.PLANE, Kernels.PLANE),  # a training batch: one launch each
        ((8, 128, 32, 32), torch.float64, Kernels.PLANE, Kernels.PLANE),
        ((1, 128, 90, 160), torch.float32, Kernels.PLANE, Kernels.TILED),  # a 1280x720 photo
        ((1, 128, 140, 210), torch.float32, Kernels.TILED, Kernels.TILED),  # 235,200 bytes: more than there is
        ((1, 128, 500, 750), torch.bfloat16, Kernels.TILED, Kernels.TILED),  # 24 megapixels
        ((1, 4, 90, 160), torch.float32, Kernels.TILED, Kernels.TILED),  # too few planes to fill the machine
        ((1, 4, 64, 64), torch.float32, Kernels.PLANE, Kernels.PLANE),  # but so small that launches cost more
    ],
)
def test_kernels_by_shape(shim: Shim, shape: tuple, dtype: torch.dtype, forward: Kernels, backward: Kernels) -> None:
    assert shim.plan(shape, dtype, Problem(17)).path == forward
    assert shim.plan(shape, dtype, Problem(17), backward=True).path == backward


@needs_compiler
def test_a_single_step_is_tiled(shim: Shim) -> None:
    assert shim.plan((8, 128, 32, 32), torch.float32, Problem(1)).path == Kernels.TILED


@needs_compiler
def test_many_taps_are_wide(shim: Shim) -> None:
    paths = [shim.plan((1, 128, 140, 210), torch.float32, Problem(17, taps), True).path for taps in (3, 7, 15, 17, 301)]
    assert paths == [Kernels.TILED] * 3 + [Kernels.WIDE] * 2


@needs_compiler
def test_scratch_of_a_large_photo_stays_in_l2(shim: Shim) -> None:
    plan = shim.plan((1, 128, 500, 750), torch.float32, Problem(17, save_steps=False))
    assert plan.scratch_planes * 500 * 750 * 4 <= LARGE.l2_bytes
    assert plan.planes_per_pass * plan.tiles >= 8 * LARGE.multiprocessors


@needs_compiler
def test_plans_are_within_every_limit(shim: Shim) -> None:
    generator = random.Random(0)
    for _ in range(3000):
        taps = 2 * generator.choice([0, 1, 1, 2, 3, 7, 8, 20]) + 1
        height, width = (int(2 ** generator.uniform(0, 15)) for _ in range(2))
        shape = (generator.randint(1, 9), generator.choice([1, 3, 128, 100_000]), height, width)
        shared = generator.choice([48, 99, 163, 227]) * 1024
        device = Device(shared, generator.choice([1, 20, 132]), generator.choice([1, 4, 50]) * 2**20)
        dtype = generator.choice([torch.float64, torch.float32])
        problem = Problem(generator.choice([1, 2, 17]), taps, save_steps=False, device=device)
        for backward in (False, True):
            plan = shim.plan(shape, dtype, problem, backward)
            planes = shape[0] * shape[1]
            text = f"{shape} {dtype} {problem} {backward=}"
            assert 1 <= plan.threads_x * plan.threads_y <= (1024 if plan.path == Kernels.PLANE else 512), text
            if backward:
                assert plan.threads_x * plan.threads_y <= (512 if plan.path == Kernels.PLANE else 256), text
                if plan.path == Kernels.TILED:
                    assert plan.threads_x >= min(width, plan.tile_columns + taps - 1), text  # one round for each row
            assert 0 <= plan.shared_bytes <= shared, text
            assert 1 <= plan.planes_per_pass <= planes, text
            assert plan.planes_per_pass * plan.tiles < 2**31, text
            if plan.path == Kernels.WIDE:
                assert plan.tiles * plan.threads_x >= height * width, text
            else:
                assert plan.tiles_x * plan.tile_columns >= width, text
                assert plan.tiles // plan.tiles_x * plan.tile_rows >= height, text
                assert plan.tiles % plan.tiles_x == 0, text
                assert plan.threads_x >= plan.tile_columns, text  # forward: a thread has one column


# ---------------------------------------------------------------- the tests' own teeth

BARRIERS = [
    (path.name, index)
    for path in sorted(CUDA_SOURCES.glob("*.cuh"))
    for index in range(path.read_text(encoding="utf-8").count("__syncthreads();"))
]


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize(("name", "index"), BARRIERS)
def test_a_missing_barrier_is_found(tmp_path: Path, name: str, index: int) -> None:
    sources = tmp_path / "cuda"
    shutil.copytree(CUDA_SOURCES, sources)
    parts = (sources / name).read_text(encoding="utf-8").split("__syncthreads();")
    text = "__syncthreads();".join(parts[: index + 1]) + "__syncthreads();".join(parts[index + 1 :])
    (sources / name).write_text(text, encoding="utf-8")
    shim = Shim(build(tmp_path, sources, float_only=True, optimise="-O1"))

    assert failures(shim)


@needs_compiler
def test_with_all_barriers_the_same_runs_pass(shim: Shim) -> None:
    assert not failures(shim)


def failures(shim: Shim) -> list[Problem]:
    """Of a few runs on both paths, by the kernels for 3 taps and those for any number, those that fail."""
    shape = (1, 1, 12, 11)
    found = []
    devices = (LARGE, too_small(shape, torch.float32))
    for device, taps, isotropic in itertools.product(devices, (3, 5), (False, True)):
        problem = Problem(3, taps, isotropic=isotropic, device=device)
        try:
            check(shim, shape, problem, torch.float32)
        except AssertionError:  # KernelError is one
            found.append(problem)
    return found


def test_there_are_barriers_to_delete() -> None:
    assert len(BARRIERS) == 9


# ---------------------------------------------------------------- the real compiler


def nvcc() -> str | None:
    """CUDA's compiler, by CUDA_HOME or on the PATH."""
    home = os.environ.get("CUDA_HOME")
    return shutil.which("nvcc", path=str(Path(home) / "bin")) if home else shutil.which("nvcc")


needs_nvcc = pytest.mark.skipif(nvcc() is None, reason="no nvcc by CUDA_HOME or on the PATH")


def compile_cuda(source: Path, into: Path, *arguments: str) -> str:
    """nvcc's messages, names of kernels readable where c++filt is."""
    command = [nvcc(), "-std=c++17", "-O3", "-Xcompiler", "-fPIC", *arguments, "-c", str(source), "-o", str(into)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    messages = done.stdout + done.stderr
    if shutil.which("c++filt"):
        messages = subprocess.run(["c++filt"], input=messages, capture_output=True, text=True, check=True).stdout
    return messages


@needs_nvcc
def test_nvcc_compiles_the_kernels(tmp_path: Path) -> None:
    """One type, so that it is quick."""
    source = tmp_path / "kernels.cu"
    source.write_text(
        '#include "iac_cuda_backward.cuh"\nauto* one = &ifan::forward<float>;\nauto* other = &ifan::backward<float>;\n'
    )
    messages = compile_cuda(source, tmp_path / "kernels.o", "-arch=sm_90", "-Xptxas", "-v", f"-I{CUDA_SOURCES}")
    assert_nothing_spills(messages, kernels=6)


@needs_nvcc
@pytest.mark.slow
@pytest.mark.parametrize("name", ["iac_cuda", "epilogue_cuda"])
@pytest.mark.parametrize("architecture", ["80", "90"])
def test_nvcc_compiles_the_extension(tmp_path: Path, architecture: str, name: str) -> None:
    source = CUDA_SOURCES.parents[1] / "pytorch" / "cuda" / f"{name}.cu"
    messages = compile_cuda(
        source, tmp_path / f"{name}.o", f"-arch=sm_{architecture}", "-Xptxas", "-v", "-DUSE_CUDA",
        "-DTORCH_TARGET_VERSION=0x020a000000000000ULL", f"-I{Path(torch.__path__[0]) / 'include'}",
    )  # fmt: skip
    if name == "iac_cuda":
        assert_nothing_spills(messages, kernels=38)
    else:
        assert set(re.findall(r"(\d+) bytes spill stores", messages)) == {"0"}
    assert "warning" not in messages


def assert_nothing_spills(messages: str, kernels: int) -> None:
    """The kernels for 3 taps keep everything in registers; float64 is for checking gradients and needn't."""
    found = re.findall(r"Function properties for (.*_kernel<.*)\n\s+(.*spill.*)", messages)
    specialised = {name: spills for name, spills in found if re.search(r"_kernel<(\(int\))?3,", name)}
    assert len(specialised) == kernels, messages
    nothing = re.compile(r"\b0 bytes spill stores, 0 bytes spill loads")
    spilling = [name for name, spills in specialised.items() if "double" not in name and not nothing.search(spills)]
    assert not spilling
