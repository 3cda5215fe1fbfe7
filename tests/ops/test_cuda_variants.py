"""The kernels' variants, which a card is to choose between: the same bits as the form that the plan takes, without a GPU.

What each is for: `struct Variants` in csrc/common/cuda/iac_cuda_plan.hpp. The base form's arithmetic: test_cuda_source.py.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from ops.host_shim.cases import LARGE, make, needs_compiler, same_bits, too_small
from ops.host_shim.driver import CUDA_SOURCES, Device, KernelError, Kernels, Order, Problem, Shim, build
from torch import Tensor

NAMES = ("single", "serial", "short_passes", "long_passes", "wide_tiles", "tall_tiles", "paired")
SETS = (*NAMES, "wide_tiles,short_passes", "paired,wide_tiles", ",".join(NAMES))

# B, C, H, W, N, k
PLANES = [
    (2, 3, 8, 8, 3, 3),
    (1, 2, 17, 6, 3, 3),
    (1, 1, 33, 34, 4, 3),
    (2, 1, 1, 10, 2, 3),
    (1, 2, 9, 2, 3, 3),
    (1, 1, 5, 7, 3, 3),
]
TILES = [
    (1, 2, 37, 70, 3, 3),
    (1, 1, 3, 600, 4, 3),
    (1, 1, 5, 1100, 2, 3),
    (2, 1, 70, 20, 2, 3),
    (1, 2, 9, 7, 3, 3),
    (1, 1, 10, 2, 1, 3),
]
WIDE = [(1, 2, 20, 23, 3, 17)]


def all_results(shim: Shim, arguments: tuple[Tensor, ...], problem: Problem) -> list[Tensor]:
    """y and the steps, y without saving steps, both gradients."""
    x, filters, grad = arguments
    y, steps = shim.forward(x, filters, problem)
    without, _ = shim.forward(x, filters, replace(problem, save_steps=False))
    return [y, steps, without, *shim.backward(grad, x, filters, y, steps, problem)]


@needs_compiler
@pytest.mark.parametrize("names", SETS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("case", PLANES + TILES + WIDE, ids=str)
def test_gives_the_same_bits(shim: Shim, case: tuple, dtype: torch.dtype, names: str) -> None:
    *shape, num_steps, taps = case
    device = LARGE if case in PLANES else too_small(tuple(shape), dtype)
    base = Problem(num_steps, taps, isotropic=num_steps % 2 == 0, device=device)
    arguments = make(tuple(shape), base, dtype)
    want = all_results(shim, arguments, base)
    for order in (Order.REVERSE, Order.SHUFFLED):
        got = all_results(shim, arguments, replace(base, variants=names, order=order))
        assert all(map(same_bits, got, want)), order.name


@needs_compiler
@pytest.mark.parametrize("names", ["single", ",".join(NAMES)])
@pytest.mark.parametrize("case", [PLANES[2], TILES[0]], ids=str)
def test_the_other_half_type_too(shim: Shim, case: tuple, names: str) -> None:
    test_gives_the_same_bits(shim, case, torch.bfloat16, names)


@needs_compiler
@pytest.mark.parametrize("case", [PLANES[0], TILES[0]], ids=str)
def test_float64_keeps_its_form(shim: Shim, case: tuple) -> None:
    *shape, num_steps, taps = case
    base = Problem(num_steps, taps, device=LARGE if case in PLANES else too_small(tuple(shape), torch.float64))
    arguments = make(tuple(shape), base, torch.float64)
    problem = replace(base, variants=",".join(NAMES))
    plan = shim.plan(shape, torch.float64, problem)
    assert plan.columns_at_once == 1
    assert all(map(same_bits, all_results(shim, arguments, problem), all_results(shim, arguments, base)))


@needs_compiler
@pytest.mark.parametrize(("gap", "columns"), [(0, 2), (6, 2), (5, 1)])
def test_pairs_need_an_even_batch_stride(shim: Shim, gap: int, columns: int) -> None:
    problem = Problem(3)
    x, filters, grad = make((2, 3, 9, 6), problem, torch.float16)
    space = torch.full((2, filters[0].numel() + gap), float("nan"), dtype=torch.float16)
    apart = space.as_strided(filters.shape, (space.stride(0), *filters.stride()[1:]))
    apart.copy_(filters)
    plan = shim.plan(x.shape, torch.float16, problem, batch_stride=space.stride(0))
    assert plan.columns_at_once == columns
    want = all_results(shim, (x, filters, grad), replace(problem, variants="single"))
    got = all_results(shim, (x, apart, grad), problem)
    assert all(map(same_bits, got, want))


@needs_compiler
@pytest.mark.parametrize("offset", [1, 2])
def test_pairs_of_filters_that_begin_anywhere(shim: Shim, offset: int) -> None:
    """Two bytes past a multiple of four there are no words to load; a shifted x may be."""
    shape, problem = (1, 2, 6, 8), Problem(3)
    x, filters, _ = make(shape, problem, torch.bfloat16)
    space = torch.zeros(filters.numel() + 8, dtype=torch.bfloat16)
    moved = space[offset : offset + filters.numel()].view(filters.shape)
    moved.copy_(filters)
    assert moved.data_ptr() % 4 == 2 * (offset % 2)
    want, _ = shim.forward(x, filters, replace(problem, variants="single"))
    assert same_bits(shim.forward(x, moved, problem)[0], want)


@needs_compiler
@pytest.mark.parametrize("case", [PLANES[0], TILES[0]], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize(
    ("offset", "moved"), [(0, ""), (1, ""), (2, ""), (0, "grad"), (0, "x"), (0, "y"), (0, "steps")]
)
def test_pairs_of_the_backward_need_words(shim: Shim, case: tuple, dtype: torch.dtype, offset: int, moved: str) -> None:
    """Where filters or saved steps begin between two words, or in float32 any activations, they are read one by one."""
    *shape, num_steps, taps = case
    device = LARGE if case in PLANES else too_small(tuple(shape), dtype)
    problem = Problem(num_steps, taps, device=device)
    x, filters, grad = make(tuple(shape), problem, dtype)
    y, steps = shim.forward(x, filters, problem)
    want = shim.backward(grad, x, filters, y, steps, problem)
    assert shim.columns_at_once == 1
    elsewhere = torch.zeros(filters.numel() + 8, dtype=dtype)[offset : offset + filters.numel()].view(filters.shape)
    elsewhere.copy_(filters)
    got = shim.backward(grad, x, elsewhere, y, steps, replace(problem, variants="paired"), moved)
    alone = offset == 1 or dtype == torch.float64 or moved == "steps" or (dtype == torch.float32 and moved != "")
    assert shim.columns_at_once == (1 if alone else 2)
    assert all(map(same_bits, got, want))


# ---------------------------------------------------------------- what the plan makes of them


@needs_compiler
def test_plan_of_a_training_batch(shim: Shim) -> None:
    shape = (8, 128, 32, 32)
    plans = {names: shim.plan(shape, torch.float16, Problem(17, variants=names)) for names in ("", *NAMES)}
    assert {plan.path for plan in plans.values()} == {Kernels.PLANE}
    assert (plans["single"].threads_x, plans[""].threads_x, plans[""].columns_at_once) == (32, 16, 2)
    assert not any(plan.programmatic for plan in plans.values()), "there is one launch"


@needs_compiler
def test_plan_of_a_photograph(shim: Shim) -> None:
    shape = (1, 128, 140, 210)
    plans = {names: shim.plan(shape, torch.float16, Problem(17, variants=names)) for names in ("", *NAMES)}
    assert {plan.path for plan in plans.values()} == {Kernels.TILED}
    assert plans[""].threads_x * 2 >= 210 > plans[""].threads_x
    assert [names for names, plan in plans.items() if not plan.programmatic] == ["serial"]
    older = Problem(17, device=Device(programmatic_launch=False))
    assert not shim.plan(shape, torch.float16, older).programmatic
    passes = [plans[names].planes_per_pass for names in ("long_passes", "", "short_passes")]
    assert passes == sorted(passes, reverse=True)
    assert len(set(passes)) > 1


@needs_compiler
def test_plan_of_a_photographs_backward(shim: Shim) -> None:
    """A thread has one column of a tile and its halo: a second round for two columns would take as long as the first."""
    shape = (1, 128, 140, 210)
    for names, across, rows in (("", 32, 30), ("wide_tiles", 64, 14), ("tall_tiles", 64, 30)):
        plan = shim.plan(shape, torch.float32, Problem(17, variants=names), backward=True)
        assert (plan.threads_x, plan.tile_rows) == (across, rows)
        assert plan.tile_columns + 2 <= across
    for names, rows in (("paired", 30), ("paired,wide_tiles", 14), ("paired,tall_tiles", 30)):
        for dtype in (torch.float32, torch.float16):
            plan = shim.plan(shape, dtype, Problem(17, variants=names), backward=True)
            assert (plan.columns_at_once, plan.threads_x, plan.tile_rows) == (2, 32, rows)
            assert plan.tile_columns + 4 <= 64
            assert plan.tile_columns % 2 == 0
            assert plan.threads_x * plan.threads_y <= 256
    odd = shim.plan((1, 128, 140, 211), torch.float32, Problem(17, variants="paired"), backward=True)
    assert odd.columns_at_once == 1


@needs_compiler
def test_only_the_first_launch_waits_for_what_was_before(shim: Shim) -> None:
    shape = (1, 6, 33, 40)
    device = too_small(shape, torch.float32, Device(multiprocessors=1, l2_bytes=1))
    problem = Problem(4, device=device, save_steps=False)
    x, filters, _ = make(shape, problem, torch.float32)
    passes = -(-6 // shim.plan(shape, torch.float32, problem).planes_per_pass)
    shim.forward(x, filters, problem)
    assert passes > 1
    assert shim.programmatic_launches == 4 * passes - 1


@needs_compiler
@pytest.mark.parametrize(
    ("names", "known"),
    [
        ("", True),
        ("single", True),
        ("single,serial", True),
        ("singl", False),
        ("singles", False),
        ("single,,serial", False),
        ("single serial", False),
    ],
)
def test_names(shim: Shim, names: str, known: bool) -> None:
    assert shim.knows(names) == known


# ---------------------------------------------------------------- the tests' own teeth

WAITS = [
    (path.name, found.start())
    for path in sorted(CUDA_SOURCES.glob("*.cuh"))
    for found in re.finditer(r"(?<!void )wait_for_previous_launch\(\);", path.read_text(encoding="utf-8"))
]


def test_there_are_waits_to_delete() -> None:
    """The tiled forward and backward, and both kernels of the wide path."""
    assert len(WAITS) == 4


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize(("name", "at"), WAITS)
def test_a_missing_wait_is_found(tmp_path: Path, name: str, at: int) -> None:
    sources = tmp_path / "cuda"
    shutil.copytree(CUDA_SOURCES, sources)
    text = (sources / name).read_text(encoding="utf-8")
    (sources / name).write_text(text[:at] + text[at + len("wait_for_previous_launch();") :], encoding="utf-8")
    shim = Shim(build(tmp_path, sources, float_only=True))
    failed = 0
    for case in ((1, 1, 37, 70, 3, 3), (1, 1, 9, 7, 3, 5)):  # the second one's backward is wide
        *shape, num_steps, taps = case
        problem = Problem(num_steps, taps, device=too_small(tuple(shape), torch.float32))
        arguments = make(tuple(shape), problem, torch.float32)
        try:
            all_results(shim, arguments, problem)
        except KernelError:
            failed += 1
    assert failed
