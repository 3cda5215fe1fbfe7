"""The compiled IAC on both sides of every limit of csrc/common/cuda/iac_cuda_plan.hpp, in every form of its kernels.

The numbers of the shapes are that file's, for a device with 227 KB of shared memory and 132 multiprocessors; elsewhere
they are ordinary sizes.
"""

from __future__ import annotations

import pytest
import torch
from gpu.device import DEVICE, DTYPES, assert_close, compiled, expected, make, needs_cuda, of_channel, room_for

VARIANTS = (
    "single", "serial", "short_passes", "long_passes", "wide_tiles", "tall_tiles", "paired", "single,serial,tall_tiles",
    "paired,wide_tiles",
)  # fmt: skip

# B, C, H, W, N, k
LIMITS = {
    "a small plane, however few": (1, 2, 64, 64, 2, 3),  # kSmallPlane
    "one row more: tiles": (1, 2, 65, 64, 2, 3),
    "a row of 16 pixels: threads of several rows a warp": (2, 3, 20, 16, 3, 3),
    "and of 17": (2, 3, 20, 17, 3, 3),
    "32 columns": (2, 2, 33, 32, 2, 3),
    "33 columns": (2, 2, 33, 33, 2, 3),
    "a block's threads across": (1, 2, 3, 1024, 2, 3),  # kPlaneThreads
    "one column more": (1, 2, 3, 1025, 2, 3),
    "a forward tile's columns": (1, 2, 20, 256, 1, 3),  # kForwardColumns
    "and one more": (1, 2, 20, 257, 1, 3),
    "two of them": (1, 2, 20, 512, 1, 3),
    "a backward tile's columns": (1, 2, 140, 32, 2, 3),  # kBackwardColumns
    "and one more: cut, with a halo": (1, 2, 140, 33, 2, 3),
    "cut into whole ones": (1, 2, 70, 90, 2, 3),
    "a backward tile's rows": (1, 2, 30, 300, 2, 3),  # kBackwardRows, less the halo
    "and one more row": (1, 2, 31, 300, 2, 3),
    "most taps of a tile": (1, 1, 70, 70, 2, 15),
    "too many taps: wide": (1, 1, 70, 70, 2, 17),
    "more taps than pixels": (1, 2, 3, 4, 2, 21),
    "wide, one row": (1, 2, 1, 5000, 2, 17),
    "wide, one column": (1, 2, 5000, 1, 2, 17),
    "one row, tiles": (1, 2, 1, 5001, 2, 3),
    "one column, tiles": (1, 2, 5001, 1, 2, 3),
    "odd sides, tiles": (1, 3, 97, 131, 3, 3),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", LIMITS)
def test_agrees_with_the_twin(case: str, dtype: torch.dtype) -> None:
    *shape, num_steps, taps = LIMITS[case]
    x, filters, grad = make(tuple(shape), num_steps, taps, dtype)
    parameters = (num_steps, taps, 0.2, True, False)
    assert_close(compiled(x, filters, grad, *parameters), expected(x, filters, grad, *parameters), dtype)


# Enough planes for the plane kernels, at the most pixels that two buffers in float32 leave room for (29,056), and that
# the backward's eight do (7,264).
@pytest.mark.parametrize("shape", [(2, 40, 120, 242), (2, 40, 120, 243), (2, 40, 88, 82), (2, 40, 88, 83)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_agrees_where_shared_memory_ends(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, filters, grad = make(shape, 2, 3, dtype)
    got = compiled(x, filters, grad, 2, 3)
    for channel in (0, 39):
        part = [tensor[:, channel : channel + 1] for tensor in (x, grad)]
        want = expected(part[0], of_channel(filters, 40, channel, 2, 3), part[1], 2)
        found = (*(tensor[:, channel : channel + 1] for tensor in got[:2]), of_channel(got[2], 40, channel, 2, 3))
        assert_close(found, want, dtype)


@needs_cuda
def test_agrees_in_passes_of_planes() -> None:
    """200 planes, which 50 MB of L2 cut into passes of 34 forward and of 67 backward."""
    room_for(4)
    x, filters, grad = make((1, 200, 260, 260), 2, 3, torch.float32)
    got = compiled(x, filters, grad, 2, 3)
    for channel in (0, 33, 34, 66, 67, 199):
        part = [tensor[:, channel : channel + 1] for tensor in (x, grad)]
        want = expected(part[0], of_channel(filters, 200, channel, 2, 3), part[1], 2)
        found = (*(tensor[:, channel : channel + 1] for tensor in got[:2]), of_channel(got[2], 200, channel, 2, 3))
        assert_close(found, want, torch.float32)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("offset", [1, 2, 3])
@pytest.mark.parametrize("shape", [(2, 3, 12, 14), (1, 2, 70, 210)], ids=str)
def test_tensors_that_begin_anywhere(shape: tuple[int, ...], offset: int, dtype: torch.dtype) -> None:
    """One element past an aligned address, and with an odd batch stride: vectors can't be loaded there."""
    x, filters, grad = make(shape, 3, 3, dtype)
    want = compiled(x, filters, grad, 3, 3)
    stride = filters[0].numel() + offset
    moved = torch.empty(shape[0] * stride + offset, dtype=dtype, device=DEVICE).as_strided(
        filters.shape, (stride, *filters.stride()[1:]), offset
    )
    moved.copy_(filters)
    moved_x = torch.empty(x.numel() + offset, dtype=dtype, device=DEVICE)[offset:].view(x.shape).copy_(x)
    moved_grad = torch.empty(x.numel() + offset, dtype=dtype, device=DEVICE)[offset:].view(x.shape).copy_(grad)
    assert all(map(torch.equal, compiled(moved_x, moved, moved_grad, 3, 3), want))


@needs_cuda
@pytest.mark.parametrize("names", VARIANTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", [
    (4, 32, 32, 32, 17, 3), (1, 80, 90, 160, 9, 3), (1, 16, 140, 210, 17, 3), (1, 4, 97, 131, 5, 3), (1, 2, 40, 600, 5, 3),
    (1, 2, 150, 300, 3, 17),
], ids=str)  # fmt: skip
def test_variants_give_the_same(case: tuple, dtype: torch.dtype, names: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """To a few roundings: how the compiler fuses products and sums is its own, form by form."""
    *shape, num_steps, taps = case
    x, filters, grad = make(tuple(shape), num_steps, taps, dtype)
    want = compiled(x, filters, grad, num_steps, taps)
    monkeypatch.setenv("IFAN_IAC_VARIANTS", names)
    for _ in range(3):
        got = compiled(x, filters, grad, num_steps, taps)
        assert_close(got, tuple(tensor.cpu().double() for tensor in want), dtype)
        plain, _ = torch.ops.ifan_plugin.iac(x, filters, num_steps, taps, 0.1, True, False, False)
        assert torch.equal(plain, got[0])


@needs_cuda
def test_an_unknown_variant_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    x, filters, _ = make((1, 2, 6, 6), 2, 3, torch.float32)
    monkeypatch.setenv("IFAN_IAC_VARIANTS", "single,peers")
    with pytest.raises(RuntimeError, match="IFAN_IAC_VARIANTS must be a list of single"):
        torch.ops.ifan_plugin.iac(x, filters, 2, 3, 0.1, True, False, False)
