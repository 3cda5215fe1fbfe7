"""Iterative adaptive convolution (IAC), the operator that makes IFAN special: function, module, backends."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ifan_plugin.ops import _library, reference

logger = logging.getLogger("ifan_plugin")


class _Backend(NamedTuple):
    """One implementation of the operator."""

    run: Callable[..., Tensor] | None
    device_type: str | None  # the kind of device it serves; None: every kind
    reason: str | None  # why it can't be used; None: it can
    step: Callable[..., Tensor] | None = None  # the same for `iac_step`


def _compiled(device_type: str) -> _Backend:
    return _Backend(_library.compiled_iac, device_type, _LOADED[device_type], _library.compiled_iac_step)


_LOADED = _library.load()

# Fastest first: the first usable one that serves the tensors' device is taken.
_BACKENDS: dict[str, _Backend] = {
    "cuda": _compiled("cuda"),
    "cpu": _compiled("cpu"),
    "reference": _Backend(run=reference.iac, device_type=None, reason=None, step=reference.iac_step),
}

_fallback_told = False


def available_backends() -> dict[str, str | None]:
    """Each backend's name with None where it can be used, or the reason (one line) why it can't."""
    reasons = {name: backend.reason for name, backend in _BACKENDS.items()}
    if reasons["cuda"] is None and not torch.cuda.is_available():
        reasons["cuda"] = "compiled and loaded, but torch finds no CUDA device"
    return reasons


def is_compiled_for_cuda() -> bool:
    """Whether the CUDA operators are compiled and loaded, whatever devices there are."""
    return _BACKENDS["cuda"].reason is None


def active_backend(device: torch.device | str) -> str:
    """Name of the backend that `iac` takes for tensors on `device` unless told otherwise."""
    return next(name for name in _BACKENDS if _why_not(name, torch.device(device)) is None)


def iac(
    x: Tensor,
    filters: Tensor,
    num_steps: int,
    taps: int = 3,
    negative_slope: float = 0.1,
    *,
    act_last: bool = True,
    isotropic: bool = False,
    backend: str | None = None,
) -> Tensor:
    """Iterative adaptive convolution: `num_steps` separable filters, another one for each pixel and channel.

    Equivalent to `ifan_plugin.ops.reference.iac`, whose docstring has the equations and the order of the
    channels. Under autocast, x is cast to the dtype of `filters`, much the larger tensor. Where the device's
    compiled backend can't be used, the reference runs instead and one line in the log "ifan_plugin" says why,
    once a process. The compiled backends have no second derivative: it raises, and the reference has it. During
    an ONNX export the reference is taken, which consists of standard operators. `filters` may be a slice along
    the channels of a larger tensor: it is read in place.

    Args:
        x: features, [B, C, H, W], float64, float32, float16 or bfloat16; B may be 0.
        filters: [B, num_steps*C*(2*taps+1), H, W], x's dtype and device.
        num_steps: N in the paper.
        taps: filter length k, odd.
        negative_slope: of the LeakyReLU after each step.
        act_last: whether the last step has its activation too.
        isotropic: apply the vertical filters in both directions, as the released checkpoints were trained.
        backend: a name from `available_backends()`; None: the fastest usable one.

    Returns:
        [B, C, H, W], dtype and device of `filters`.

    Raises:
        TypeError, ValueError: arguments that don't fit together; a backend that doesn't exist.
        RuntimeError: the backend asked for can't be used, with the reason.

    Source: Lee et al., CVPR 2021 (arXiv 2108.13610), the section on the IAC layer.
    """
    x = _cast_like(x, filters)
    reference.check_arguments(x, filters, num_steps, taps, negative_slope)
    run = _pick(backend, x.device).run
    assert run is not None  # usable backends have both
    return run(x, filters, num_steps, taps, negative_slope, act_last=act_last, isotropic=isotropic)


def iac_step(
    x: Tensor,
    step_filters: Tensor,
    bias: Tensor,
    taps: int = 3,
    negative_slope: float = 0.1,
    *,
    act: bool = True,
    isotropic: bool = False,
    backend: str | None = None,
) -> Tensor:
    """One step of `iac`, for inference that predicts and applies the filters step by step and never holds them all.

    Equivalent to `ifan_plugin.ops.reference.iac_step`. The compiled backends have no gradient for it: where one is
    asked for (a tensor requires it and gradients are on), the reference runs unless a backend is named, whose
    backward then raises. Autocast, ONNX export and strided filters as in `iac`.

    Args:
        x: features, [B, C, H, W], float64, float32, float16 or bfloat16; B may be 0.
        step_filters: [B, 2*C*taps, H, W], the vertical filters, then the horizontal ones; x's dtype and device.
        bias: [B, C, H, W].
        taps: filter length k, odd.
        negative_slope: of the LeakyReLU after the step.
        act: whether there is one.
        isotropic: apply the vertical filters in both directions.
        backend: a name from `available_backends()`; None: the fastest usable one.

    Returns:
        [B, C, H, W], dtype and device of `step_filters`.

    Raises:
        TypeError, ValueError: arguments that don't fit together; a backend that doesn't exist.
        RuntimeError: the backend asked for can't be used, with the reason.
    """
    x, bias = _cast_like(x, step_filters), _cast_like(bias, step_filters)
    reference.check_step_arguments(x, step_filters, bias, taps, negative_slope)
    if backend is None and torch.is_grad_enabled() and any(t.requires_grad for t in (x, step_filters, bias)):
        backend = "reference"
    run = _pick(backend, x.device).step
    assert run is not None  # usable backends have both
    return run(x, step_filters, bias, taps, negative_slope, act=act, isotropic=isotropic)


class IAC(nn.Module):
    """`iac` as a module without parameters of its own: `forward(x, filters)`, shapes as there.

    Args:
        num_steps: N in the paper.
        taps: filter length k, odd.
        negative_slope: of the LeakyReLU after each step.
        act_last: whether the last step has its activation too.
        isotropic: apply the vertical filters in both directions, as the released checkpoints were trained.
        backend: a name from `available_backends()`; None: the fastest usable one.
    """

    def __init__(
        self,
        num_steps: int = 17,
        taps: int = 3,
        negative_slope: float = 0.1,
        *,
        act_last: bool = True,
        isotropic: bool = False,
        backend: str | None = None,
    ) -> None:
        super().__init__()
        self.num_steps = num_steps
        self.taps = taps
        self.negative_slope = negative_slope
        self.act_last = act_last
        self.isotropic = isotropic
        self.backend = backend

    def forward(self, x: Tensor, filters: Tensor) -> Tensor:
        return iac(
            x,
            filters,
            self.num_steps,
            taps=self.taps,
            negative_slope=self.negative_slope,
            act_last=self.act_last,
            isotropic=self.isotropic,
            backend=self.backend,
        )

    def extra_repr(self) -> str:
        names = ("num_steps", "taps", "negative_slope", "act_last", "isotropic", "backend")
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names)


def _cast_like(x: Tensor, filters: Tensor) -> Tensor:
    """x in the dtype of the filters where autocast is on and both dtypes are ones that the operator knows."""
    if not (isinstance(x, Tensor) and isinstance(filters, Tensor)) or x.dtype == filters.dtype:
        return x
    if not {x.dtype, filters.dtype} <= set(reference.FLOATING):
        return x
    device_type = x.device.type
    casts = torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type)
    return x.to(filters.dtype) if casts else x


def _why_not(name: str, device: torch.device) -> str | None:
    """Reason why this backend can't serve tensors on `device`, or None."""
    backend = _BACKENDS[name]
    if backend.device_type not in (None, device.type):
        return f"serves {backend.device_type} tensors, these are on {device.type}"
    return backend.reason


def _pick(name: str | None, device: torch.device) -> _Backend:
    """The backend asked for, or the active one."""
    if name is None and torch.onnx.is_in_onnx_export():
        name = "reference"
    elif name is None:
        name = active_backend(device)
        if name == "reference":
            _tell_fallback(device)
    elif name not in _BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(_BACKENDS)}, got {name!r}")
    else:
        reason = _why_not(name, device)
        if reason is not None:
            raise RuntimeError(f"IAC backend {name!r} can't be used: {reason}")
    return _BACKENDS[name]


def _tell_fallback(device: torch.device) -> None:
    """One line in the log, once a process (and not from inside a graph that is being compiled)."""
    global _fallback_told
    if _fallback_told or torch.compiler.is_compiling():
        return
    _fallback_told = True
    if device.type in _BACKENDS:
        reason = f"backend {device.type!r} {_BACKENDS[device.type].reason}"
    else:
        reason = f"no compiled backend serves {device.type!r} tensors"
    logger.warning("IAC runs on its PyTorch reference, several times slower: %s.", reason)
