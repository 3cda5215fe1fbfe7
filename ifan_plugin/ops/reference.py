"""IAC in plain PyTorch: the specification the compiled kernels are tested against, and the fallback."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

FLOATING = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def filter_channels(channels: int, num_steps: int, taps: int = 3) -> int:
    """Channels of the `filters` tensor: each step and channel has 2 * taps weights and a bias."""
    return num_steps * channels * (2 * taps + 1)


def iac(
    x: Tensor,
    filters: Tensor,
    num_steps: int,
    taps: int = 3,
    negative_slope: float = 0.1,
    *,
    act_last: bool = True,
    isotropic: bool = False,
) -> Tensor:
    """Iterative adaptive convolution: `num_steps` separable filters, another one for each pixel and channel.

    With e_0 = x, N = num_steps, k = taps and p = (k - 1) / 2, step i computes

        t(y, x)       = sum_j v_i[c, j](y, x) * e_i(y + j - p, x)      rows replicated past the edge
        u(y, x)       = sum_j h_i[c, j](y, x) * t(y, x + j - p)        columns of t replicated past the edge
        e_{i+1}(y, x) = LeakyReLU(u(y, x) + b_i[c](y, x))

    and e_N is the result. Source: Lee et al., Iterative Filter Adaptive Network for Single Image Defocus
    Deblurring, CVPR 2021 (arXiv 2108.13610), the section on the IAC layer.

    Args:
        x: features, [B, C, H, W]; B may be 0.
        filters: [B, N*C*(2k+1), H, W]. Channels, in this order: for each step i, v_i (at c*k + j), then h_i
            (at C*k + c*k + j), 2*C*k channels a step; after all the steps, the biases b_i (at i*C + c).
        num_steps: N.
        taps: k, odd.
        negative_slope: of the LeakyReLU.
        act_last: whether the last step has its activation too.
        isotropic: apply v_i in both directions and ignore h_i, as the released checkpoints were trained.

    Returns:
        [B, C, H, W], x's dtype. Half types are computed in float32 and rounded once, at the end.

    Raises:
        TypeError: not tensors, not of one floating dtype, or num_steps or taps not an int.
        ValueError: sizes, devices or parameters that don't fit.
    """
    check_arguments(x, filters, num_steps, taps, negative_slope)
    channels = x.shape[1]
    # Split at once, not narrowed piece by piece: each narrow's gradient would be a tensor of the filters' size.
    pieces = filters.split([channels * taps] * (2 * num_steps) + [channels] * num_steps, 1)
    # Step by step: a cast of all the filters at once would double the largest tensor of the network.
    compute = torch.promote_types(x.dtype, torch.float32)

    out = x.to(compute)
    for step in range(num_steps):
        vertical = pieces[2 * step]
        horizontal = vertical if isotropic else pieces[2 * step + 1]
        out = _step(out, vertical, horizontal, pieces[2 * num_steps + step], taps)
        if act_last or step < num_steps - 1:
            out = F.leaky_relu(out, negative_slope)
    return out.to(x.dtype)


def iac_step(
    x: Tensor,
    step_filters: Tensor,
    bias: Tensor,
    taps: int = 3,
    negative_slope: float = 0.1,
    *,
    act: bool = True,
    isotropic: bool = False,
) -> Tensor:
    """One step of `iac`, for networks that predict and apply the filters step by step.

    Half types are rounded after each step here, not only at the end.

    Args:
        x: features, [B, C, H, W]; B may be 0.
        step_filters: [B, 2*C*k, H, W]; v_i (at c*k + j), then h_i (at C*k + c*k + j).
        bias: b_i, [B, C, H, W].
        taps: k, odd.
        negative_slope: of the LeakyReLU.
        act: whether the step has its activation.
        isotropic: apply v_i in both directions and ignore h_i.

    Returns:
        [B, C, H, W], x's dtype.

    Raises:
        TypeError: not tensors, not of one floating dtype, or taps not an int.
        ValueError: sizes, devices or parameters that don't fit.
    """
    check_step_arguments(x, step_filters, bias, taps, negative_slope)
    direction = x.shape[1] * taps
    vertical = step_filters.narrow(1, 0, direction)
    horizontal = vertical if isotropic else step_filters.narrow(1, direction, direction)
    out = _step(x.to(torch.promote_types(x.dtype, torch.float32)), vertical, horizontal, bias, taps)
    return (F.leaky_relu(out, negative_slope) if act else out).to(x.dtype)


def check_arguments(x: Tensor, filters: Tensor, num_steps: int, taps: int, negative_slope: float) -> None:
    """Raise what `iac` documents if its arguments don't fit together. Shared by all backends."""
    _check_types({"x": x, "filters": filters}, {"num_steps": num_steps, "taps": taps})
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps}")
    _check_parameters(taps, negative_slope)
    _check_images({"x": x, "filters": filters})
    batch, channels, height, width = x.shape
    expected = [batch, filter_channels(channels, num_steps, taps), height, width]
    if list(filters.shape) != expected:
        raise ValueError(
            f"filters must be {expected} for x {list(x.shape)}, num_steps={num_steps} and taps={taps} "
            f"(channels: num_steps * C * (2 * taps + 1)), got {list(filters.shape)}"
        )


def check_step_arguments(x: Tensor, step_filters: Tensor, bias: Tensor, taps: int, negative_slope: float) -> None:
    """Raise what `iac_step` documents if its arguments don't fit together. Shared by all backends."""
    tensors = {"x": x, "step_filters": step_filters, "bias": bias}
    _check_types(tensors, {"taps": taps})
    _check_parameters(taps, negative_slope)
    _check_images(tensors)
    batch, channels, height, width = x.shape
    expected = [batch, 2 * channels * taps, height, width]
    if list(step_filters.shape) != expected:
        raise ValueError(
            f"step_filters must be {expected} for x {list(x.shape)} and taps={taps} (channels: 2 * C * taps), "
            f"got {list(step_filters.shape)}"
        )
    if bias.shape != x.shape:
        raise ValueError(f"bias must be {list(x.shape)}, as x, got {list(bias.shape)}")


def check_tensor(name: str, tensor: object) -> None:
    """Raise TypeError unless it is a dense tensor of a type that the operators know. Shared with `fac`."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(tensor).__name__}")
    if tensor.is_nested or tensor.layout is not torch.strided:
        kind = "nested" if tensor.is_nested else str(tensor.layout).removeprefix("torch.")
        raise TypeError(f"{name} must be a dense tensor (layout strided), got a {kind} one: call its to_dense() before")
    if tensor.dtype not in FLOATING:
        raise TypeError(f"{name} must be float64, float32, float16 or bfloat16, got {tensor.dtype}")


def _check_types(tensors: dict[str, Tensor], integers: dict[str, int]) -> None:
    for name, tensor in tensors.items():
        check_tensor(name, tensor)
    for name, number in integers.items():
        if isinstance(number, bool) or not isinstance(number, int):
            raise TypeError(f"{name} must be an int, got {number!r}")
    x = tensors["x"]
    for name, tensor in tensors.items():
        if tensor.dtype != x.dtype:
            raise TypeError(f"x and {name} must have one dtype, got {x.dtype} and {tensor.dtype}")
        if tensor.device != x.device:
            raise ValueError(f"x and {name} must be on one device, got {x.device} and {tensor.device}")


def _check_parameters(taps: int, negative_slope: float) -> None:
    if taps < 1 or taps % 2 == 0:
        raise ValueError(f"taps must be odd and positive, got {taps}")
    if isinstance(negative_slope, bool) or not isinstance(negative_slope, (int, float)):
        raise TypeError(f"negative_slope must be a number, got {negative_slope!r}")
    if not 0 <= negative_slope < math.inf:  # NaN neither
        raise ValueError(f"negative_slope must be finite and not negative, got {negative_slope}")


def _check_images(tensors: dict[str, Tensor]) -> None:
    if any(tensor.dim() != 4 for tensor in tensors.values()):
        shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in tensors.items())
        raise ValueError(f"{' and '.join(tensors)} must be [B, C, H, W], got {shapes}")
    x = tensors["x"]
    if 0 in x.shape[1:]:
        raise ValueError(f"x must have at least one channel, row and column, got {list(x.shape)}")


def _step(image: Tensor, vertical: Tensor, horizontal: Tensor, bias: Tensor, taps: int) -> Tensor:
    """u + b of one step, in the image's dtype."""
    out = _filter_along(image, vertical.to(image.dtype), taps, dim=2)
    return _filter_along(out, horizontal.to(image.dtype), taps, dim=3) + bias.to(image.dtype)


def _filter_along(image: Tensor, weights: Tensor, taps: int, dim: int) -> Tensor:
    """Each pixel's own 1-D filter along `dim`; image [B, C, H, W], weights [B, C*k, H, W]."""
    size = image.shape[dim]
    by_tap = weights.unflatten(1, (image.shape[1], taps)).unbind(2)
    # Joined by hand: the gradient of PyTorch's replicate padding isn't deterministic on CUDA.
    before = [image.narrow(dim, 0, 1)] * (taps // 2)
    after = [image.narrow(dim, size - 1, 1)] * (taps // 2)
    padded = torch.cat([*before, image, *after], dim) if before else image

    total: Tensor = by_tap[0] * padded.narrow(dim, 0, size)
    for tap in range(1, taps):
        total = torch.addcmul(total, by_tap[tap], padded.narrow(dim, tap, size))
    return total
