"""What a network costs: parameters, operations, time and memory for one picture."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ifan_plugin.inference import run_network
from ifan_plugin.inference.memory import PeakMemory
from ifan_plugin.ops.padding import pad_to_multiple

_WITH_BIAS = (nn.modules.conv._ConvNd, nn.Linear)
_ACTIVATIONS = (
    nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ReLU6, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish,
    nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh,
)  # fmt: skip


class Operations(NamedTuple):
    """Operations for one picture; IAC's own are in neither."""

    products: int  # multiplications of convolutions, linear layers and matrix products (MACs)
    paper_count: int  # products, one more per bias and per activation output: as the IFAN paper's table counts


class Cost(NamedTuple):
    """Time and memory for one picture, batch 1, warm."""

    latency_s: float  # median, seconds
    cpu_s: float | None  # median of what all threads computed: holds on a busy machine, too; None on a GPU
    runs: int  # how many were timed
    peak_memory_bytes: int | None  # beyond weights and input; CUDA: allocated, CPU: resident; None: can't be told here
    products: int | None  # counted while it ran, where asked for


def count_parameters(net: nn.Module) -> int:
    """Number of parameters; one that is shared counts once."""
    return sum(parameter.numel() for parameter in net.parameters())


def count_operations(net: nn.Module, height: int, width: int) -> Operations:
    """Operations of ``net`` for one picture, counted on a copy without memory (the meta device), so at any size.

    Products are those of (transposed) convolutions, linear layers and matrix products, those of attention included.
    Activations called as functions aren't seen; in IFAN these are the residual units' last ones, which the paper's
    counter leaves out as well (Lee et al., CVPR 2021, the table of DPDD; its MACs are ``paper_count``).

    Args:
        net: ``forward(lq) -> restored``; ``in_channels`` (default 3) and ``multiple_of`` (default 1) are read.
        height, width: of the picture, in pixels; padded to ``multiple_of``.

    Raises:
        Whatever ``net`` raises where it can't run without data: networks that look at values, or leave PyTorch.
    """
    shadow = copy.deepcopy(net).to("meta").eval()
    extra = 0

    def count(module: nn.Module, inputs: Any, output: Any) -> None:
        nonlocal extra
        if isinstance(output, Tensor) and (isinstance(module, _ACTIVATIONS) or module.bias is not None):
            extra += output.numel()

    for module in shadow.modules():
        if isinstance(module, (*_ACTIVATIONS, *_WITH_BIAS)):
            module.register_forward_hook(count)
    lq = torch.empty(1, getattr(net, "in_channels", 3), height, width, device="meta")
    # With gradients: without them IFAN makes its filters outside the layer that they belong to.
    with torch.enable_grad(), FlopCounterMode(display=False) as counter:
        shadow(pad_to_multiple(lq, getattr(net, "multiple_of", 1)))
    products = counter.get_total_flops() // 2
    return Operations(products, products + extra)


def example_picture(channels: int, height: int, width: int) -> Tensor:
    """An always equal picture [1, channels, height, width] in [0, 1]: areas with edges between them, more blurred to
    the right.

    What doesn't cost the same for every picture (deconvolution by edges) has its work with it, as with a photograph.
    """
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, channels, max(height // 16, 2), max(width // 16, 2), generator=generator)
    picture = nn.functional.interpolate(coarse, (height, width), mode="nearest")
    for start in range(0, width, max(width // 8, 1)):  # what lies to the right is blurred once more each time
        blurred = nn.functional.avg_pool2d(picture, 5, stride=1, padding=2, count_include_pad=False)
        picture = torch.cat([picture[..., :start], blurred[..., start:]], -1)
    return picture


def measure_cost(
    net: nn.Module,
    height: int,
    width: int,
    runs: int = 5,
    max_seconds: float = float("inf"),
    *,
    count_products: bool = False,
) -> Cost:
    """Latency (median of warm runs, device synchronised) and peak memory of ``net`` where its parameters are.

    One that takes longer than ``max_seconds`` at its first run at this size, which finds the memory, is timed by that.

    On the CPU the memory is the growth of the process's resident peak: right in a fresh process only, since what was
    freed before may be used again unseen.

    Args:
        net: as for :func:`count_operations`.
        height, width: of the picture, in pixels.
        runs: how many to time.
        max_seconds: no further run starts after so long; one is timed at least.
        count_products: also count products, while the network warms up.
    """
    first = next(net.parameters(), torch.empty(0))
    lq = example_picture(getattr(net, "in_channels", 3), height, width).to(first.device)
    synchronize: Callable[[], Any] = (
        (lambda: torch.cuda.synchronize(first.device)) if first.device.type == "cuda" else lambda: None
    )

    def restore() -> tuple[float, float]:
        synchronize()
        start, computed = time.perf_counter(), time.process_time()
        run_network(net, lq)
        synchronize()
        return time.perf_counter() - start, time.process_time() - computed

    # Libraries make their threads and buffers at the first call; a small picture shows them to nobody.
    run_network(net, lq[..., : min(height, 64), : min(width, 64)])
    peak = PeakMemory(first.device)
    if count_products:
        with FlopCounterMode(display=False) as counter:
            first_run = restore()
    else:
        first_run = restore()
    used = peak.growth()
    times = [first_run] if first_run[0] > max_seconds > 0 else []
    while len(times) < runs and (not times or sum(latency for latency, _ in times) < max_seconds):
        times.append(restore())
    products = counter.get_total_flops() // 2 if count_products else None
    latency, computed = (statistics.median(each) for each in zip(*times))
    return Cost(latency, computed if first.device.type == "cpu" else None, len(times), used, products)
