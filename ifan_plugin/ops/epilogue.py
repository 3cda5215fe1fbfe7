"""What follows a convolution on a GPU, in one pass: ``LeakyReLU(x + bias + before) + after``.

cuDNN has no form with LeakyReLU, and PyTorch adds the bias, sums and activates in passes of their own, which together
take as long as the convolutions of a network as narrow as IFAN. Inference alone: there is no gradient.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from ifan_plugin.ops.iac import is_compiled_for_cuda

_precision_lock = threading.Lock()


def fuses(x: Tensor) -> bool:
    """Whether :func:`epilogue_` does what follows on `x` in one pass: on a GPU, with the compiled operators, where no
    gradient is asked for and nobody traces the program (a compiler fuses better than this)."""
    if not x.is_cuda or torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export():
        return False
    return is_compiled_for_cuda()


def epilogue_(
    x: Tensor, bias: Tensor, negative_slope: float, *, before: Tensor | None = None, after: Tensor | None = None
) -> Tensor:
    """``LeakyReLU(x + bias + before) + after``, in place.

    Args:
        x: [B, C, n] or [B, C, H, W]; float64, float32, float16 or bfloat16; on a GPU.
        bias: [C], of the type of `x`, or float32 beside a half type.
        negative_slope: of the activation; 1: there is none.
        before, after: of the shape of `x`, or None.

    Returns:
        `x`.
    """
    dense = x.is_contiguous() or (x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last))
    if not dense or not (bias.dtype == x.dtype or (bias.dtype == torch.float32 and x.dtype.itemsize == 2)):
        x.add_(bias.view(-1, *(1,) * (x.dim() - 2)))
        x = x if before is None else x.add_(before)
        F.leaky_relu(x, negative_slope, inplace=True)
        return x if after is None else x.add_(after)
    torch.ops.ifan_plugin.epilogue_(x, bias.contiguous(), _like(before, x), _like(after, x), negative_slope)
    return x


def _like(other: Tensor | None, x: Tensor) -> Tensor | None:
    """`other` in the type and memory layout of `x`; what a dimension of size 1 has for a stride means nothing."""
    if other is None:
        return None
    pairs = zip(x.shape, x.stride(), other.stride(), strict=True)
    if other.dtype == x.dtype and all(size == 1 or one == two for size, one, two in pairs):
        return other
    return torch.empty_like(x).copy_(other)


@contextlib.contextmanager
def products_as_convolutions(x: Tensor) -> Iterator[None]:
    """Matrix products on a GPU in the precision that PyTorch gives convolutions there (TF32, unless
    ``torch.backends.cudnn`` says otherwise): for a 1x1 convolution that is computed as a product, without gradients.

    PyTorch knows that precision for the whole process alone, so other threads' products have it for the moment that
    starting this one takes.
    """
    matmul = torch.backends.cuda.matmul
    if cast(Any, torch.backends.cudnn).conv.fp32_precision != "tf32" or x.dtype != torch.float32:
        yield
        return
    with _precision_lock:
        kept = matmul.fp32_precision
        if kept == "tf32":
            yield
            return
        matmul.fp32_precision = "tf32"
        try:
            yield
        finally:
            matmul.fp32_precision = kept
