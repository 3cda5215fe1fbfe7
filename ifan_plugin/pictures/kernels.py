"""What a filter-predicting network does at one place: the effective deblurring kernel, through all its steps.

The kernel at a place is the row of the filtering layer's Jacobian that belongs to it: the derivative of the deblurred
features there with respect to the features before the layer,

    K[c](dy, dx) = d out[c](row, column) / d in[c](row + dy, column + dx),

at 1/8 size. IAC and FAC work on each channel alone, so there is one kernel a channel and none between channels. It is
what the output is made of (weights of the inputs around the place), not how one input spreads: with filters that
differ from pixel to pixel these are two things.

How the parts that aren't linear are treated: each LeakyReLU counts with its slope at the features that really went in,
1 where its argument is positive and ``negative_slope`` elsewhere. Every step's bias drops out, but for what it does to
those signs. The kernel is therefore exact as long as no activation changes its sign:

    out(place) = sum K(dy, dx) * in(place + (dy, dx)) + constant,

and the best linear description else. Past the picture's edge the layer repeats the edge, so that those weights are
counted at the edge; the kernel is 0 outside the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ifan_plugin.archs.ifan_arch import IFAN
from ifan_plugin.common.errors import UserError
from ifan_plugin.ops import fac as fac_layer
from ifan_plugin.ops import reference

SCALE = 8
"""Pixels of the picture a pixel of the features."""

_CHANNELS_AT_ONCE = 16  # bounds the memory: all filters of a large network's window would be a gigabyte


@dataclass(frozen=True)
class EffectiveKernel:
    """The kernel at one place.

    Attributes:
        weights: float32 [S, S]; ``weights[S // 2 + dy, S // 2 + dx]`` is K(dy, dx), dy and dx in pixels at 1/8 size.
        row, column: the place, in pixels at 1/8 size.
        channel: the features' channel, or None: the mean of all channels' kernels.
    """

    weights: np.ndarray
    row: int
    column: int
    channel: int | None

    @property
    def radius(self) -> int:
        """How far it reaches, in pixels at 1/8 size."""
        return self.weights.shape[0] // 2

    @property
    def total(self) -> float:
        """Sum of the weights: what the layer does to a flat area."""
        return float(self.weights.sum())


def iac_kernel(
    x: Tensor,
    filters: Tensor,
    row: int,
    column: int,
    num_steps: int,
    taps: int = 3,
    negative_slope: float = 0.1,
    *,
    act_last: bool = True,
    isotropic: bool = False,
) -> Tensor:
    """The effective kernels of :func:`ifan_plugin.ops.iac` at one place; what they are says this module's docstring.

    Args:
        x, filters, num_steps, taps, negative_slope, act_last, isotropic: as in ``iac``: x [B, C, H, W], filters
            [B, num_steps*C*(2*taps+1), H, W].
        row, column: the place, from 0.

    Returns:
        [B, C, S, S] with S = 2 * num_steps * (taps // 2) + 1, in x's dtype or float32 where that is a half type.

    Raises:
        IndexError: the place is outside x.
        TypeError, ValueError: arguments that ``iac`` refuses.
    """
    reference.check_arguments(x, filters, num_steps, taps, negative_slope)

    def layer(part: Tensor, weights: Tensor) -> Tensor:
        return reference.iac(part, weights, num_steps, taps, negative_slope, act_last=act_last, isotropic=isotropic)

    return _kernel(layer, x, filters, row, column, num_steps * (taps // 2))


def fac_kernel(
    x: Tensor,
    filters: Tensor,
    row: int,
    column: int,
    taps: int,
    *,
    bias: bool = False,
    negative_slope: float | None = None,
) -> Tensor:
    """The effective kernels of :class:`ifan_plugin.ops.fac.FAC` at one place: its filters by the activation's slope.

    Args:
        x: [B, C, H, W]. filters: [B, C*(taps*taps + bias), H, W]. taps, bias, negative_slope: as in ``FAC``.
        row, column: the place, from 0.

    Returns:
        [B, C, taps, taps]; dtype and errors as in :func:`iac_kernel`.
    """
    return _kernel(fac_layer.FAC(taps, bias=bias, negative_slope=negative_slope), x, filters, row, column, taps // 2)


def _kernel(layer, x: Tensor, filters: Tensor, row: int, column: int, radius: int) -> Tensor:
    """d layer(x, filters)[..., row, column] / dx in a window of ``radius`` around the place."""
    height, width = x.shape[2:]
    if not (0 <= row < height and 0 <= column < width):
        raise IndexError(f"the place must be within {height} rows and {width} columns, got ({row}, {column})")
    # Nothing farther away is reached, and a window's own edges are at the picture's or at the end of the reach.
    top, left = max(row - radius, 0), max(column - radius, 0)
    bottom, right = min(row + radius + 1, height), min(column + radius + 1, width)
    compute = torch.promote_types(x.dtype, torch.float32)
    with torch.inference_mode(False), torch.enable_grad():
        part = x[..., top:bottom, left:right].detach().to(compute, copy=True).requires_grad_()
        weights = filters[..., top:bottom, left:right].detach().to(compute, copy=True)
        out = layer(part, weights)[..., row - top, column - left]
        (gradient,) = torch.autograd.grad(out.sum(), part)
    before_y, before_x = top - (row - radius), left - (column - radius)
    after_y, after_x = row + radius + 1 - bottom, column + radius + 1 - right
    return F.pad(gradient, (before_x, after_x, before_y, after_y))


class FilterInspector:
    """Effective kernels and disparity that an :class:`IFAN` predicts for one picture.

    The encoders run once, here; a kernel then takes the filters of its window alone. Beside the network it keeps the
    features and the filter predictor's embedding at 1/8 size, 8 * width floats a pixel there.

    Args:
        network: an IFAN with filters (of IAC or FAC), in any mode; it is used in evaluation mode and put back.
        lq: its input, [1, 3 or 9, H, W] in [0, 1], on the network's device.

    Attributes:
        rows, columns: size of the maps, ceil(H/8) and ceil(W/8).
        channels: of the features, 4 * width.
        reach: how far a kernel reaches, in pixels at 1/8 size.
        disparity: float32 [rows, columns] in pixels at 1/8 size; None where the network estimates none.

    Raises:
        UserError: a network that predicts no filters.
        ValueError: an ``lq`` that the network doesn't take, or several pictures.
    """

    scale = SCALE

    def __init__(self, network: nn.Module, lq: Tensor) -> None:
        why_not = no_filters(network)
        if why_not:
            raise UserError(why_not)
        if lq.dim() == 4 and lq.shape[0] != 1:
            raise ValueError(f"one picture at a time, got lq {list(lq.shape)}")
        network = self._network = cast(IFAN, network)
        was_training = network.training
        network.eval()
        try:
            with torch.no_grad():
                padded = network._padded(lq)
                self._features = network.feature_extractor(padded[:, :3])[-1]
                blur_features, disparity = network._blur_features(padded)
                self._embedding = network.filter_predictor.embed(blur_features, disparity)
        finally:
            network.train(was_training)
        self.disparity = None if disparity is None else disparity[0, 0].float().cpu().numpy()
        self.channels, self.rows, self.columns = self._features.shape[1:]
        options = network.hyper_parameters
        taps = options["fac_taps"] if self.is_fac else options["taps"]
        self.reach = taps // 2 if self.is_fac else options["num_steps"] * (taps // 2)

    @property
    def is_fac(self) -> bool:
        """Whether the layer is FAC, one 2-D filter, instead of IAC."""
        return hasattr(self._network, "fac")

    def place(self, x: float, y: float) -> tuple[int, int]:
        """(row, column) at 1/8 size of a pixel of the picture, column ``x`` and row ``y``; the nearest one within."""
        row, column = int(y) // SCALE, int(x) // SCALE
        return min(max(row, 0), self.rows - 1), min(max(column, 0), self.columns - 1)

    def kernel(self, row: int, column: int, channel: int | None = None) -> EffectiveKernel:
        """The kernel at a place; ``channel`` None: the mean of all channels' kernels.

        Raises:
            IndexError: a place or channel that isn't there.
        """
        if channel is None:
            total = sum(
                self._part(row, column, first, min(_CHANNELS_AT_ONCE, self.channels - first)).sum(0)
                for first in range(0, self.channels, _CHANNELS_AT_ONCE)
            )
            weights = total / self.channels
        elif 0 <= channel < self.channels:
            weights = self._part(row, column, channel, 1)[0]
        else:
            raise IndexError(f"the channel must be 0 to {self.channels - 1}, got {channel}")
        return EffectiveKernel(weights.float().cpu().numpy(), row, column, channel)

    def grid(self, count: int, channel: int | None = None) -> list[list[EffectiveKernel]]:
        """Kernels at ``count`` x ``count`` places spread evenly over the picture, row by row."""
        rows, columns = _spread(self.rows, count), _spread(self.columns, count)
        return [[self.kernel(row, column, channel) for column in columns] for row in rows]

    def _part(self, row: int, column: int, first: int, count: int) -> Tensor:
        """Kernels [count, S, S] of some channels, their filters made for the window alone."""
        if not (0 <= row < self.rows and 0 <= column < self.columns):
            raise IndexError(f"the place must be within {self.rows} x {self.columns}, got ({row}, {column})")
        window = (
            ...,
            slice(max(row - self.reach, 0), row + self.reach + 1),
            slice(max(column - self.reach, 0), column + self.reach + 1),
        )
        place = (min(row, self.reach), min(column, self.reach))
        features = self._features[:, first : first + count][window]
        to_filters = self._network.filter_predictor.to_filters
        rows = self._filter_rows(first, count, to_filters.weight.device)
        with torch.no_grad():
            filters = F.conv2d(self._embedding[window], to_filters.weight[rows], to_filters.bias[rows])
        if self.is_fac:
            fac = self._network.fac
            return fac_kernel(features, filters, *place, fac.taps, bias=fac.bias, negative_slope=fac.negative_slope)[0]
        layer = self._network.iac
        act_last, isotropic = layer.act_last, layer.isotropic
        return iac_kernel(
            features, filters, *place, layer.num_steps, layer.taps, layer.negative_slope, act_last=act_last,
            isotropic=isotropic,
        )[0]  # fmt: skip

    def _filter_rows(self, first: int, count: int, device: torch.device) -> Tensor:
        """Which rows of ``to_filters`` make the filters of some channels, in the layers' own order."""
        chosen = slice(first, first + count)
        if self.is_fac:
            area = self._network.fac.taps**2
            weights = torch.arange(self.channels * area, device=device).view(self.channels, area)
            bias = torch.arange(self.channels, device=device) + self.channels * area
            return torch.cat([weights[chosen].flatten(), bias[chosen]])
        steps, taps = self._network.iac.num_steps, self._network.iac.taps
        size = steps * 2 * self.channels * taps
        weights = torch.arange(size, device=device).view(2 * steps, self.channels, taps)
        bias = torch.arange(steps * self.channels, device=device).view(steps, self.channels) + size
        return torch.cat([weights[:, chosen].flatten(), bias[:, chosen].flatten()])


def no_filters(network: nn.Module) -> str | None:
    """Why there is nothing to inspect in a network, in one line; None for an IFAN with filters."""
    if not isinstance(network, IFAN):
        return f"{type(network).__name__} predicts no filters, so there are no kernels to look at; valid: IFAN"
    if not network.use_filters:
        return "this IFAN has use_filters: false, so there are no kernels to look at; valid: one with filters"
    return None


def neighbourhood(picture: np.ndarray, kernel: EffectiveKernel, outside: Sequence[int] = (190, 190, 190)) -> np.ndarray:
    """The part of a picture that a kernel reaches over: the local blur, to be laid beside it.

    Args:
        picture: uint8 [H, W, 3] at full size.
        kernel: from :meth:`FilterInspector.kernel` of that picture.
        outside: the colour of what is outside the picture.

    Returns:
        uint8 [8*S, 8*S, 3]; the 8 x 8 pixels in its middle are the place itself.
    """
    side = SCALE * kernel.weights.shape[0]
    found = np.empty((side, side, 3), np.uint8)
    found[...] = outside
    top, left = SCALE * (kernel.row - kernel.radius), SCALE * (kernel.column - kernel.radius)
    height, width = picture.shape[:2]
    rows, columns = slice(max(top, 0), min(top + side, height)), slice(max(left, 0), min(left + side, width))
    found[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = picture[rows, columns]
    return found


def _spread(size: int, count: int) -> list[int]:
    """``count`` places in the middles of as many equal parts."""
    return [int((number + 0.5) * size / count) for number in range(count)]
