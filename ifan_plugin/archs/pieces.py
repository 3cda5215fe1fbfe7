"""Layers run on a large picture piece by piece, so that what lies between them stays small."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

PIECE_BYTES = {"cpu": 20 * 2**20, "cuda": 2**29}
"""Device type -> the largest tensor made for a piece.

On CPUs it pays: memory that is asked for in larger blocks than 32 MiB comes from the system anew each time (glibc), and
mapping its pages takes longer than a convolution's products of 32 channels.
"""


def in_pieces(run: Callable[..., Tensor], *inputs: Tensor, size: tuple[int, int], channels: int, halo: int) -> Tensor:
    """`run(*inputs)`, without gradients piece by piece where the pictures are large; the same values but for rounding.

    Args:
        run: layers with zero padding, from `inputs` to [B, any, *size]. One output pixel may look at most `halo`
            output pixels' worth beyond its own place.
        inputs: [B, any, h, w] each, where h and w are `size`, or half or twice as much. Others run whole.
        size: height and width of the output; odd ones run whole.
        channels: the most that any tensor within `run` has at the output's size.
        halo: even.
    """
    whole = torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export()
    whole = whole or any(edge % 2 for edge in size)
    whole = whole or any(_doubled(x) not in [(e * size[0], e * size[1]) for e in (1, 2, 4)] for x in inputs)
    limit = PIECE_BYTES.get(inputs[0].device.type, math.inf)
    pixel_bytes = inputs[0].shape[0] * channels * inputs[0].element_size()
    if whole or pixel_bytes * math.prod(size) <= limit:
        return run(*inputs)
    side = max(math.isqrt(int(limit) // pixel_bytes) - 2 * halo, 4 * halo)
    out: Tensor | None = None
    for top, bottom in _spans(size[0], side):
        for left, right in _spans(size[1], side):
            # Zeros are padded where the picture ends; where only the piece does, the halo takes what that spoils.
            first_row, first_column = max(top - halo, 0), max(left - halo, 0)
            rows = first_row, min(bottom + halo, size[0])
            columns = first_column, min(right + halo, size[1])
            piece = run(*(_part(x, rows, columns, size) for x in inputs))
            if out is None:
                shape = (*piece.shape[:2], *size)
                out = torch.empty(shape, dtype=piece.dtype, device=piece.device, memory_format=torch.channels_last)
            out[..., top:bottom, left:right] = piece[
                ..., top - first_row : bottom - first_row, left - first_column : right - first_column
            ]
    assert out is not None  # pictures have a pixel at least
    return out


def _doubled(x: Tensor) -> tuple[int, int]:
    return 2 * x.shape[2], 2 * x.shape[3]


def _spans(length: int, side: int) -> list[tuple[int, int]]:
    """As few about equal parts as are no longer than `side`, their bounds even."""
    count = -(-length // side)
    bounds = [length * i // count // 2 * 2 for i in range(count)]
    return list(zip(bounds, [*bounds[1:], length], strict=True))


def _part(x: Tensor, rows: tuple[int, int], columns: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """What belongs to some of the output's rows and columns."""
    height, width = x.shape[2:]
    top, bottom = (row * height // size[0] for row in rows)
    left, right = (column * width // size[1] for column in columns)
    return x[..., top:bottom, left:right].contiguous(memory_format=torch.channels_last)
