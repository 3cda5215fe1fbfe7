"""The compiled IAC on a CUDA device, against the twin in float64 on the CPU. Sizes at the plan's limits: test_iac_limits_cuda.py.

Run:
    python -m pytest tests/gpu
    IFAN_TEST_DEVICE=cpu python -m pytest tests/gpu     # what of it makes sense there, so that the tests are tested
Memory errors, races in shared memory, reads of what nobody wrote, barriers that not all threads reach (slow: choose the
small tests; PyTorch's caching allocator hides errors between its blocks, so it is switched off):
    for tool in memcheck racecheck initcheck synccheck; do
        PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool $tool --error-exitcode 1 \
            python -m pytest tests/gpu -q -k "agrees or gradcheck"
    done
(initcheck also reports what PyTorch's own kernels leave unwritten: only lines that name ifan:: are ours.)
Timings: scripts/benchmark_iac.py.
"""

from __future__ import annotations

import pytest
import torch
from gpu.device import DEVICE, DTYPES, assert_close, compiled, expected, make, needs_cuda, of_channel, room_for
from torch import Tensor

from ifan_plugin.ops import reference

# B, C, H, W, N, k: what each is there for. Which kernel a shape gets: csrc/common/cuda/iac_cuda_plan.hpp.
CASES = {
    "plane in shared memory": (2, 4, 32, 32, 5, 3),
    "plane of odd sizes": (2, 3, 31, 33, 3, 3),
    "one step": (2, 3, 37, 70, 1, 3),
    "tiles": (1, 3, 150, 300, 4, 3),
    "tiles, columns cut": (1, 2, 9, 3000, 3, 3),
    "one pixel": (1, 2, 1, 1, 3, 3),
    "one row": (1, 2, 1, 77, 2, 3),
    "one column": (1, 2, 77, 1, 2, 3),
    "five taps": (1, 2, 20, 21, 3, 5),
    "seven taps, tiles": (1, 2, 150, 300, 2, 7),
    "wide": (1, 2, 150, 300, 2, 17),
    "one tap": (1, 2, 6, 5, 2, 1),
}


@pytest.mark.parametrize("isotropic", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_agrees_with_the_twin(case: str, dtype: torch.dtype, isotropic: bool) -> None:
    *shape, num_steps, taps = CASES[case]
    x, filters, grad = make(tuple(shape), num_steps, taps, dtype)
    parameters = (num_steps, taps, 0.2, num_steps % 2 == 0, isotropic)
    assert_close(compiled(x, filters, grad, *parameters), expected(x, filters, grad, *parameters), dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_agrees_at_the_papers_size(dtype: torch.dtype) -> None:
    """17 steps, at an eighth of 1280x720; 8 of the 128 channels, which don't depend on each other."""
    x, filters, grad = make((1, 8, 90, 160), 17, 3, dtype)
    assert_close(compiled(x, filters, grad, 17, 3), expected(x, filters, grad, 17, 3), dtype)


@needs_cuda
@pytest.mark.parametrize("shape", [(3, 2, 32, 32), (3, 2, 150, 300)])
def test_agrees_with_filters_that_are_a_slice(shape: tuple[int, ...]) -> None:
    """Read in place: nothing of the filters' size is allocated."""
    x, filters, grad = make(shape, 3, 3, torch.float32, extra=5)
    assert not filters.is_contiguous()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    torch.ops.ifan_plugin.iac(x, filters, 3, 3, 0.1, True, False, False)
    assert torch.cuda.max_memory_allocated() - before < filters.numel() * 4
    assert_close(compiled(x, filters, grad, 3, 3), expected(x, filters, grad, 3, 3), torch.float32)


@pytest.mark.parametrize("shape", [(1, 2, 4, 5), (2, 1, 3, 1)])
@pytest.mark.parametrize("isotropic", [False, True])
def test_gradcheck(shape: tuple[int, ...], isotropic: bool) -> None:
    x, filters, _ = make(shape, 2, 3, torch.float64)

    def run(x: Tensor, filters: Tensor) -> Tensor:
        return torch.ops.ifan_plugin.iac(x, filters, 2, 3, 0.3, True, isotropic, True)[0]

    assert torch.autograd.gradcheck(run, (x.requires_grad_(), filters.contiguous().requires_grad_()))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("isotropic", [False, True])
def test_step_agrees_with_the_twin(dtype: torch.dtype, isotropic: bool) -> None:
    x, filters, _ = make((2, 3, 37, 70), 1, 3, dtype, extra=2)
    weights, bias = filters[:, :18], filters[:, 18:]
    got = torch.ops.ifan_plugin.iac_step(x, weights, bias, 3, 0.2, True, isotropic)
    want = reference.iac(x.cpu().double(), filters.cpu().double(), 1, 3, 0.2, act_last=True, isotropic=isotropic)
    assert_close((got,), (want,), dtype)


@pytest.mark.parametrize("shape", [(8, 16, 32, 32), (1, 16, 140, 210)])
def test_every_run_gives_the_same_bits(shape: tuple[int, ...]) -> None:
    x, filters, grad = make(shape, 9, 3, torch.float32)
    first = compiled(x, filters, grad, 9, 3)
    for _ in range(10):
        assert all(map(torch.equal, compiled(x, filters, grad, 9, 3), first))
    assert torch.equal(torch.ops.ifan_plugin.iac(x, filters, 9, 3, 0.1, True, False, False)[0], first[0])


def test_empty_batch() -> None:
    x, filters, grad = make((0, 3, 5, 6), 2, 3, torch.float32)
    y, grad_x, grad_filters = compiled(x, filters, grad, 2, 3)
    assert (y.shape, grad_x.shape, grad_filters.shape) == (x.shape, x.shape, filters.shape)


@needs_cuda
@pytest.mark.parametrize("shape", [(2, 4, 32, 32), (1, 3, 150, 300)])
def test_runs_on_the_current_stream(shape: tuple[int, ...]) -> None:
    """On another stream than the default one: its result waits for what that stream was doing to its inputs."""
    x, filters, grad = make(shape, 4, 3, torch.float32)
    want = compiled(x, filters, grad, 4, 3)
    late_x = torch.zeros_like(x)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)
        late_x.copy_(x)
        got = compiled(late_x, filters, grad, 4, 3)
    stream.synchronize()
    assert all(map(torch.equal, got, want))


@needs_cuda
def test_runs_on_the_tensors_device() -> None:
    """Which isn't the current one, and is the current one again afterwards."""
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    x, filters, grad = make((2, 4, 32, 32), 4, 3, torch.float32)
    want = compiled(x, filters, grad, 4, 3)
    other = [tensor.to("cuda:1") for tensor in (x, filters, grad)]
    with torch.cuda.device(0):
        got = compiled(*other, 4, 3)
        assert torch.cuda.current_device() == 0
    assert all(tensor.device == torch.device("cuda:1") for tensor in got)
    assert all(torch.equal(one.cpu(), two.cpu()) for one, two in zip(got, want))


@needs_cuda
@pytest.mark.parametrize("shape", [(2, 4, 32, 32), (1, 3, 150, 300)])
def test_can_be_captured_in_a_graph(shape: tuple[int, ...]) -> None:
    x, filters, grad = make(shape, 4, 3, torch.float32)
    compiled(x, filters, grad, 4, 3)  # loads the kernels
    still_x = torch.zeros_like(x)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = compiled(still_x, filters, grad, 4, 3)
    still_x.copy_(x)
    graph.replay()
    assert all(map(torch.equal, got, compiled(x, filters, grad, 4, 3)))


@needs_cuda
@pytest.mark.slow
def test_more_filters_than_32_bits_count() -> None:
    """A 24-megapixel photo's: 5.7 thousand million coefficients. Channels don't depend on each other: the last is right."""
    room_for(14)
    num_steps, taps, channels, height, width = 17, 3, 128, 500, 750
    count = reference.filter_channels(channels, num_steps, taps)
    torch.manual_seed(0)
    filters = torch.empty(1, count, height, width, device=DEVICE, dtype=torch.float16)
    for part in filters[0].split(256):
        part.normal_(0, 0.5)
    x = torch.randn(1, channels, height, width, device=DEVICE, dtype=torch.float16)
    assert filters.numel() > 2**32
    y, _ = torch.ops.ifan_plugin.iac(x, filters, num_steps, taps, 0.1, True, False, False)
    for channel in (0, channels - 1):
        got, want = (
            y[:, channel : channel + 1],
            reference.iac(
                x[:, channel : channel + 1], of_channel(filters, channels, channel, num_steps, taps), num_steps
            ),
        )
        assert_close((got,), (want.cpu().double(),), torch.float16)


@needs_cuda
@pytest.mark.slow
def test_more_gradients_than_32_bits_count() -> None:
    """Backward at a size whose filters exceed 2^31 elements."""
    room_for(24)
    num_steps, taps, channels, height, width = 7, 3, 128, 500, 750
    count = reference.filter_channels(channels, num_steps, taps)
    torch.manual_seed(0)
    filters = torch.empty(1, count, height, width, device=DEVICE, dtype=torch.float16)
    for part in filters[0].split(256):
        part.normal_(0, 0.5)
    x, grad = (torch.randn(1, channels, height, width, device=DEVICE, dtype=torch.float16) for _ in range(2))
    assert filters.numel() > 2**31
    got = compiled(x, filters, grad, num_steps, taps)
    for channel in (0, channels - 1):
        one = [tensor[:, channel : channel + 1] for tensor in (x, grad)]
        want = expected(one[0], of_channel(filters, channels, channel, num_steps, taps), one[1], num_steps)
        part = of_channel(got[2], channels, channel, num_steps, taps)
        assert_close((got[0][:, channel : channel + 1], got[1][:, channel : channel + 1], part), want, torch.float16)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x, f: (x[0], f), r"x must be \[B, C, H, W\]"),
        (lambda x, f: (x, f[:, 1:]), "filters .* must be"),
        (lambda x, f: (x, f.double()), "dtype"),
        (lambda x, f: (x.int(), f.int()), "float64, float32, float16 or bfloat16"),
        (lambda x, f: (x.mT, f), "contiguous"),
        (lambda x, f: (x, f.transpose(2, 3).contiguous().transpose(2, 3)), "contiguous"),
        pytest.param(lambda x, f: (x, f.cpu()), "device", marks=needs_cuda),
    ],
)
def test_refuses_what_does_not_fit(change: object, words: str) -> None:
    x, filters, _ = make((2, 3, 6, 6), 2, 3, torch.float32)
    with pytest.raises(RuntimeError, match=words):
        torch.ops.ifan_plugin.iac(*change(x, filters), 2, 3, 0.1, True, False, False)


@pytest.mark.parametrize("parameters", [(0, 3, 0.1), (2, 2, 0.1), (2, 3, -0.1), (2, 3, float("nan"))])
def test_refuses_parameters_out_of_range(parameters: tuple) -> None:
    x, filters, _ = make((2, 3, 6, 6), 2, 3, torch.float32)
    with pytest.raises(RuntimeError, match="iac: "):
        torch.ops.ifan_plugin.iac(x, filters, *parameters, True, False, False)


def test_opcheck() -> None:
    x, filters, _ = make((2, 3, 6, 5), 2, 3, torch.float32)
    arguments = (x.requires_grad_(), filters.contiguous().requires_grad_(), 2, 3, 0.1, True, False, True)
    torch.library.opcheck(torch.ops.ifan_plugin.iac.default, arguments)
