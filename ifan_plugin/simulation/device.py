"""The simulator in PyTorch, on the CPU or a GPU, for the training loop: sharp patches in, left, right and centre out.

What needs a look at the whole picture (where it is cut, what lies behind the edges of near things) comes from
:func:`prepare`, in a data loader's worker; everything that costs time is here. The result is that of
:func:`ifan_plugin.simulation.simulator.simulate_dual_pixel` to 1e-4. No gradients are kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor

from ifan_plugin.simulation import sensor_torch
from ifan_plugin.simulation.layers import boundaries, reveal
from ifan_plugin.simulation.optics import Optics, colour_cocs, view_kernels
from ifan_plugin.simulation.sensor import LightAndSensor

_TINY = 1e-6
FFT_SIZE = 17  # kernels as large as this and larger are applied by Fourier transform: eight times faster on a CPU


def prepare(
    sharp: np.ndarray,
    coc: np.ndarray,
    optics: Optics,
    light: LightAndSensor,
    *,
    field: tuple[float, float],
    reach: int,
    context: int,
    layer_step: float,
    seed: int,
) -> dict[str, Tensor]:
    """One sample as it travels to the device; all samples of one ``reach`` and patch size have equal shapes.

    Args:
        sharp: float32 [H, W, 3], coded, with ``context`` px around the patch.
        coc: float32 [H, W], signed circle of confusion, px.
        optics, light: what it is seen through.
        field: where in the picture the patch lies; its blur is the same all over it.
        reach: px around the patch that blur into it; at least ``optics.reach`` of the largest circle of confusion.
        context: at least ``reach``; with 5 reaches what is invented behind near objects is the whole picture's.
        layer_step: as for the simulator.
        seed: of the noise.

    Returns:
        ``sharp`` [3, H', W'], ``coc`` [H', W'], ``behind`` [3, H', W'] (coded), ``behind_coc`` [H', W'] (NaN: nothing)
        with H' and W' the patch's plus 2 reaches, and what was drawn: ``optics``, ``light``, ``field``, ``layer_step``,
        ``noise_seed``. float32, but for the seed.
    """
    keep = context - reach
    inner = np.s_[keep : sharp.shape[0] - keep, keep : sharp.shape[1] - keep]
    hidden = reveal(sharp, coc * np.float32(0.5), 2 * reach)

    def planes(picture: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(picture[inner].transpose(2, 0, 1), dtype=np.float32))

    return {
        "sharp": planes(sharp),
        "coc": torch.from_numpy(np.ascontiguousarray(coc[inner])),
        "behind": planes(hidden.colour),
        "behind_coc": torch.from_numpy(np.ascontiguousarray(2 * hidden.radius[inner])),
        "optics": torch.tensor(optics.as_tuple(), dtype=torch.float64),
        "light": torch.tensor(light.as_tuple(), dtype=torch.float64),
        "field": torch.tensor(field, dtype=torch.float64),
        "layer_step": torch.tensor(layer_step, dtype=torch.float64),
        "noise_seed": torch.tensor(seed, dtype=torch.int64),
    }


@torch.no_grad()
def simulate_batch(samples: Mapping[str, Tensor], reach: int, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """What a dual-pixel camera sees of a batch.

    Args:
        samples: what :func:`prepare` gives, each with a batch dimension in front.
        reach: as given to :func:`prepare`.
        device: where to work; what was drawn is best left on the CPU, the pictures are moved.

    Returns:
        ``left``, ``right``, ``center``, ``target`` [B, 3, H, W] and ``coc`` [B, 1, H, W]; float32 on ``device``.
        Values in [0, 1], coded; each sample depends on itself alone.
    """
    drawn = {key: samples[key].cpu() for key in ("optics", "light", "field", "layer_step", "noise_seed")}
    pictures = {key: samples[key].to(device, non_blocking=True) for key in ("sharp", "coc", "behind", "behind_coc")}
    height, width = (side - 2 * reach for side in pictures["coc"].shape[-2:])
    inside = np.s_[..., reach : reach + height, reach : reach + width]
    results: dict[str, list[Tensor]] = {"left": [], "right": [], "center": []}
    for index in range(len(pictures["coc"])):
        one = {key: value[index] for key, value in (pictures | drawn).items()}
        for role, picture in _simulate(one, inside).items():
            results[role].append(picture)
    made = {role: torch.stack(values) for role, values in results.items()}
    return made | {
        "target": pictures["sharp"][inside].contiguous(),
        "coc": pictures["coc"][inside][:, None].contiguous(),
    }


def _simulate(sample: Mapping[str, Tensor], inside: tuple[Any, ...]) -> dict[str, Tensor]:
    optics = Optics(*sample["optics"].tolist())
    light = LightAndSensor.from_tuple(sample["light"].tolist())
    linear, behind = (
        light.radiance(torch, sample[key].movedim(0, -1)).movedim(-1, 0) for key in ("sharp", "behind")
    )  # fmt: skip
    views = torch.stack(_composite(linear, sample["coc"], behind, sample["behind_coc"], optics, sample, inside))
    views = sensor_torch.moved(views, light.shift_x, light.shift_y)
    generator = torch.Generator(views.device).manual_seed(int(sample["noise_seed"]))

    def normal(shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=generator, device=views.device)

    views = light.read_out(torch, views, normal)
    if light.mosaic:
        views = sensor_torch.mosaicked(views)
    views = views.clamp(0, 1)
    coded = light.develop(torch, torch.cat([views, views.mean(0, keepdim=True)]))
    if light.jpeg:
        coded = sensor_torch.jpeg(coded, light.jpeg)
    return dict(zip(("left", "right", "center"), coded))


def _composite(
    linear: Tensor,
    coc: Tensor,
    behind: Tensor,
    behind_coc: Tensor,
    optics: Optics,
    sample: Mapping[str, Any],
    inside: tuple[Any, ...],
) -> list[Tensor]:
    """As :func:`ifan_plugin.simulation.simulator._composite`: layers over one another, nearest first; linear light."""
    field = sample["field"].tolist()
    known = torch.isfinite(behind_coc)
    lowest, highest = torch.stack([
        torch.minimum(coc.min(), torch.where(known, behind_coc, 0).min()),
        torch.maximum(coc.max(), torch.where(known, behind_coc, 0).max()),
    ]).tolist()  # fmt: skip
    edges, middles = boundaries(float(sample["layer_step"]), max(abs(lowest), abs(highest)) / 2)
    bounds = torch.from_numpy(edges).to(coc.device)
    labels = torch.bucketize(coc / 2, bounds)
    behind_labels = torch.where(known, torch.bucketize(torch.where(known, behind_coc, 0) / 2, bounds), -1)
    counts = torch.bincount(labels.flatten(), minlength=len(middles))
    counts += torch.bincount(behind_labels[known], minlength=len(middles))
    present = counts.nonzero()[:, 0].tolist()
    channels = 3 if optics.chromatic else 1
    views, covers = (linear.new_zeros(2, count, *coc.shape) for count in (3, channels))
    kernels = _kernels(optics, [float(middles[layer]) * 2 for layer in present], field, linear.device)
    for layer, kernel in zip(present, kernels):
        seen, hidden = labels == layer, behind_labels == layer
        half = kernel.shape[-1] // 2
        matte = seen | hidden
        box = _bounding_box(matte, half) if linear.device.type == "cpu" else np.s_[:, :]
        seen, matte = seen[box], matte[box].to(linear.dtype)
        place = (..., *box)
        picture = torch.where(seen, linear[place], behind[place]) * matte
        blurred = _blur(torch.cat([matte.expand(channels, *matte.shape), picture]), kernel)
        alpha, picture = blurred[:, :channels], blurred[:, channels:]
        before = covers[place]
        after = (before + alpha).clamp(max=1)
        views[place] += (after - before) / alpha.clamp(min=_TINY) * picture
        covers[place] = after
    result = views[inside] / covers[inside].clamp(min=_TINY)
    return [view * gain for view, gain in zip(result, optics.gains(field))]


def _kernels(optics: Optics, cocs: list[float], field: list[float], device: torch.device) -> list[Tensor]:
    """Of each circle of confusion: [2, 1 or 3, k, k], left and right, as the simulator's."""
    made = []
    for coc in cocs:
        values = torch.tensor([coc], dtype=torch.float64)
        if optics.chromatic:
            values = colour_cocs(torch, optics, values)[0]
        sides = view_kernels(torch, optics, values, field, optics.reach(coc, field))
        made.append(torch.stack(sides).float().to(device, non_blocking=True))
    return made


def _blur(planes: Tensor, kernel: Tensor) -> Tensor:
    """Convolution of [C, H, W] with the kernels [2, 1 or 3, k, k] of two views: [2, C, H, W]."""
    count, height, width = planes.shape
    size = kernel.shape[-1]
    times = count // kernel.shape[1]  # mattes first, then colours, in the same order
    if size >= FFT_SIZE:
        shape = [_fast_length(side + size - 1) for side in (height, width)]
        spectrum = torch.fft.rfft2(planes, s=shape) * torch.fft.rfft2(kernel, s=shape).repeat(1, times, 1, 1)
        start = size // 2
        return torch.fft.irfft2(spectrum, s=shape)[..., start : start + height, start : start + width]
    weight = kernel.repeat(1, times, 1, 1).flip(-2, -1).reshape(2 * count, 1, size, size)
    return functional.conv2d(planes.repeat(2, 1, 1)[None], weight, padding=size // 2, groups=2 * count)[0].reshape(
        2, count, height, width
    )


def _fast_length(length: int) -> int:
    """The next length that has no prime factor above 5, for which Fourier transforms are several times faster."""
    while True:
        rest = length
        for factor in (2, 3, 5):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return length
        length += 1


def _bounding_box(mask: Tensor, margin: int) -> tuple[slice, slice]:
    slices = []
    for axis in (1, 0):
        where = mask.any(axis).nonzero()[:, 0]
        slices.append(slice(max(int(where[0]) - margin, 0), int(where[-1]) + margin + 1))
    return slices[0], slices[1]
