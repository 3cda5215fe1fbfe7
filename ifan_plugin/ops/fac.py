"""Filter-adaptive convolution (FAC): one 2-D filter for each pixel and channel, in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ifan_plugin.ops.reference import check_tensor


def fac_filter_channels(channels: int, taps: int, *, bias: bool = False) -> int:
    """Channels of the `filters` tensor: each channel has taps * taps weights and, with `bias`, one bias."""
    return channels * (taps * taps + bias)


def fac(x: Tensor, filters: Tensor, taps: int, bias: Tensor | None = None) -> Tensor:
    """Filter-adaptive convolution: another taps x taps filter for each pixel and channel.

    With k = taps and p = (k - 1) / 2,

        out[c](y, x) = b[c](y, x) + sum_{j, i} f[c, j*k + i](y, x) * in[c](y + j - p, x + i - p)

    where rows and columns are replicated past the edge. Equivalent to `unfold`:

        patches = F.unfold(F.pad(x, [p] * 4, mode="replicate"), k).view(B, C, k * k, H, W)
        out = (patches * filters.view(B, C, k * k, H, W)).sum(2) + bias

    but without the patches, which are k * k times as large as x: the taps are added one by one, so that the
    memory taken beside x and `filters` is that of three tensors like x (with gradients: also that of `filters`).
    Source: Zhou et al., Spatio-Temporal Filter Adaptive Network for Video Deblurring, ICCV 2019, the FAC layer.

    Args:
        x: features, [B, C, H, W], float64, float32, float16 or bfloat16; B may be 0.
        filters: [B, C*k*k, H, W], x's dtype and device; channel c*k*k + j*k + i is tap (row j, column i) of c.
        taps: k, odd.
        bias: b, [B, C, H, W], or None; not in the layer's source, and what IFAN's filter predictor gives.

    Returns:
        [B, C, H, W], x's dtype. Half types are computed in float32 and rounded once, at the end.

    Raises:
        TypeError: not tensors, not of one floating dtype, or taps not an int.
        ValueError: sizes, devices or taps that don't fit.
    """
    _check_arguments(x, filters, taps, bias)
    height, width = x.shape[2:]
    radius = taps // 2
    compute = torch.promote_types(x.dtype, torch.float32)
    padded = _replicate(_replicate(x.to(compute), radius, 2), radius, 3)
    # Unbound at once, not sliced tap by tap: each slice's gradient would be a tensor of the filters' size.
    by_tap = filters.unflatten(1, (x.shape[1], taps * taps)).unbind(2)
    total: Tensor | None = None if bias is None else bias.to(compute)
    for tap, weights in enumerate(by_tap):
        row, column = divmod(tap, taps)
        shifted = padded.narrow(2, row, height).narrow(3, column, width)
        weights = weights.to(compute)
        total = weights * shifted if total is None else torch.addcmul(total, weights, shifted)
    assert total is not None  # there is one tap at least
    return total.to(x.dtype)


class FAC(nn.Module):
    """`fac` as a module without parameters of its own, with an optional bias and activation.

    Args:
        taps: k, odd.
        bias: `filters` has C more channels at its end, the biases.
        negative_slope: of a LeakyReLU on the result; None: no activation, as in the layer's source.
    """

    def __init__(self, taps: int = 11, *, bias: bool = False, negative_slope: float | None = None) -> None:
        super().__init__()
        _check_taps(taps)
        self.taps, self.bias, self.negative_slope = taps, bias, negative_slope

    def forward(self, x: Tensor, filters: Tensor) -> Tensor:
        """Filter `x` [B, C, H, W] with `filters` [B, C*(taps*taps + bias), H, W]; errors as in `fac`."""
        bias = None
        if self.bias and isinstance(filters, Tensor) and filters.dim() == 4 and isinstance(x, Tensor) and x.dim() == 4:
            channels = x.shape[1]
            if filters.shape[1] != fac_filter_channels(channels, self.taps, bias=True):
                raise ValueError(
                    f"filters must have {fac_filter_channels(channels, self.taps, bias=True)} channels for {channels} "
                    f"of x, taps={self.taps} and a bias (C * (taps * taps + 1)), got {filters.shape[1]}"
                )
            filters, bias = filters.split([filters.shape[1] - channels, channels], 1)
        out = fac(x, filters, self.taps, bias)
        return out if self.negative_slope is None else F.leaky_relu(out, self.negative_slope)

    def extra_repr(self) -> str:
        return f"taps={self.taps}, bias={self.bias}, negative_slope={self.negative_slope}"


def _replicate(image: Tensor, radius: int, dim: int) -> Tensor:
    """Joined by hand: the gradient of PyTorch's replicate padding isn't deterministic on CUDA."""
    first, last = image.narrow(dim, 0, 1), image.narrow(dim, image.shape[dim] - 1, 1)
    return torch.cat([*[first] * radius, image, *[last] * radius], dim) if radius else image


def _check_taps(taps: int) -> None:
    if isinstance(taps, bool) or not isinstance(taps, int):
        raise TypeError(f"taps must be an int, got {taps!r}")
    if taps < 1 or taps % 2 == 0:
        raise ValueError(f"taps must be odd and positive, got {taps}")


def _check_arguments(x: Tensor, filters: Tensor, taps: int, bias: Tensor | None) -> None:
    _check_taps(taps)
    tensors = {"x": x, "filters": filters} | ({} if bias is None else {"bias": bias})
    for name, tensor in tensors.items():
        check_tensor(name, tensor)
        if tensor.dtype != x.dtype:
            raise TypeError(f"x and {name} must have one dtype, got {x.dtype} and {tensor.dtype}")
        if tensor.device != x.device:
            raise ValueError(f"x and {name} must be on one device, got {x.device} and {tensor.device}")
    if x.dim() != 4 or 0 in x.shape[1:]:
        raise ValueError(f"x must be [B, C, H, W] with at least one channel, row and column, got {list(x.shape)}")
    batch, channels, height, width = x.shape
    expected = [batch, fac_filter_channels(channels, taps), height, width]
    if list(filters.shape) != expected:
        raise ValueError(
            f"filters must be {expected} for x {list(x.shape)} and taps={taps} (channels: C * taps * taps), "
            f"got {list(filters.shape)}"
        )
    if bias is not None and bias.shape != x.shape:
        raise ValueError(f"bias must be {list(x.shape)}, as x, got {list(bias.shape)}")
