"""Networks as CUDA graphs, which start all their kernels at once.

A network starts some hundred kernels for a picture. On a fast GPU those of a small picture are done sooner than the
processor has started them: on an H100 IFAN took 11 ms for 1280x720 pixels, and as a graph 8 (docs/performance.md).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ifan_plugin.inference.half_copies import is_watched, stamp
from ifan_plugin.inference.memory import is_out_of_memory

logger = logging.getLogger("ifan_plugin")

MOST_PIXELS = 2**21
"""Of a picture: larger ones keep a GPU busy by themselves, and a graph holds all the memory that its picture took."""

Compute = Callable[[Tensor], Tensor]
Record = Callable[[Compute, Tensor], Compute]


def recorded(compute: Compute, lq: Tensor) -> Compute:
    """`compute` as a CUDA graph for pictures like `lq`: a function that gives the same result for another one.

    Raises:
        RuntimeError: `compute` does something that a graph can't hold, such as waiting for a value.
    """
    still = lq.clone()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other threads may go on
        found = compute(still)

    def replay(picture: Tensor) -> Tensor:
        still.copy_(picture)
        graph.replay()
        return found.clone()  # the next picture's result is written to the same place

    return replay


class Replays:
    """The graphs of networks: of each the last size alone, made for the second picture of that size in a row.

    Args:
        record: makes a graph.
    """

    def __init__(self, record: Record = recorded) -> None:
        self._record = record
        # Values that don't hold the network, which would live for ever. None: not a graph, or not yet.
        self._held: WeakKeyDictionary[nn.Module, tuple[Any, Compute | None]] = WeakKeyDictionary()
        self._failed: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()
        self._lock = threading.Lock()  # a graph has one place for its input

    def run(self, network: nn.Module, compute: Compute, lq: Tensor) -> Tensor:
        """`compute(lq)`.

        Args:
            network: whose weights `compute` works with; the graph lives as long, and is made anew where they change.
            compute: the network, or a copy of it that is kept as long.
            lq: [B, C, H, W] on the network's device.
        """
        if lq.shape[-2] * lq.shape[-1] > MOST_PIXELS or is_watched(network):
            return compute(lq)
        with self._lock:
            key = _key(network, compute, lq)
            known, replay = self._held.get(network, (None, None))
            if known != key:
                del replay
                self._held[network] = key, None  # the graph before is gone: its memory may be needed
                return compute(lq)
            if replay is None and self._failed.get(network) != key:
                replay = self._recorded(network, compute, lq)
                self._held[network] = key, replay
                if replay is None:
                    self._failed[network] = key
            return compute(lq) if replay is None else replay(lq)

    def _recorded(self, network: nn.Module, compute: Compute, lq: Tensor) -> Compute | None:
        try:
            return self._record(compute, lq)
        except RuntimeError as error:
            why = "too little memory" if is_out_of_memory(error) else str(error).strip().splitlines()[0]
            logger.warning("%s runs without a CUDA graph: %s.", type(network).__name__, why.rstrip("."))
            return None


def _key(network: nn.Module, compute: Compute, lq: Tensor) -> Any:
    """All that a graph was made for."""
    kind = lq.device.type
    autocast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    stream = torch.cuda.current_stream(lq.device).cuda_stream if lq.is_cuda else None
    flags = (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.enabled)
    weights = stamp(compute if isinstance(compute, nn.Module) else network)
    return lq.shape, lq.dtype, lq.device, lq.stride(), autocast, stream, flags, network.training, weights


replays = Replays()
