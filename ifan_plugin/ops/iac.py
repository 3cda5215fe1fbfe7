"""Iterative adaptive convolution (IAC), the operator that makes IFAN special: function, module, backends."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ifan_plugin.ops import reference

logger = logging.getLogger("ifan_plugin")


class _Backend(NamedTuple):
    """One implementation of the operator."""

    run: Callable[..., Tensor] | None
    device_type: str | None  # the kind of device it serves; None: every kind
    reason: str | None  # why it can't be used; None: it can


_NOT_COMPILED = "not compiled in this build of ifan_plugin (only the PyTorch reference is)"

# Fastest first: the first usable one that serves the tensors' device is taken.
_BACKENDS: dict[str, _Backend] = {
    "cuda": _Backend(run=None, device_type="cuda", reason=_NOT_COMPILED),
    "cpu": _Backend(run=None, device_type="cpu", reason=_NOT_COMPILED),
    "reference": _Backend(run=reference.iac, device_type=None, reason=None),
}

_fallback_told = False


def available_backends() -> dict[str, str | None]:
    """Each backend's name with None where it can be used, or the reason (one line) why it can't."""
    return {name: backend.reason for name, backend in _BACKENDS.items()}


def active_backend(device: torch.device | str) -> str:
    """Name of the backend that `iac` takes for tensors on `device` unless told otherwise."""
    return next(name for name in _BACKENDS if _why_not(name, torch.device(device)) is None)


def iac(
    x: Tensor,
    filters: Tensor,
    num_steps: int,
    taps: int = 3,
    negative_slope: float = 0.1,
    act_last: bool = True,
    isotropic: bool = False,
    backend: str | None = None,
) -> Tensor:
    """Iterative adaptive convolution: `num_steps` separable filters, another one for each pixel and channel.

    Equivalent to `ifan_plugin.ops.reference.iac`, whose docstring has the equations and the order of the
    channels. Under autocast, x is cast to the dtype of `filters`, much the larger tensor. Where the device's
    compiled backend can't be used, the reference runs instead and one line in the log "ifan_plugin" says why,
    once a process.

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
    if isinstance(x, Tensor) and isinstance(filters, Tensor) and _casts(x, filters):
        x = x.to(filters.dtype)
    reference.check_arguments(x, filters, num_steps, taps, negative_slope)
    run = _pick(backend, x.device)
    return run(x, filters, num_steps, taps, negative_slope, act_last, isotropic)


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


def _casts(x: Tensor, filters: Tensor) -> bool:
    """Autocast is on and the dtypes differ, both being ones that the operator knows."""
    if x.dtype == filters.dtype or not {x.dtype, filters.dtype} <= set(reference.FLOATING):
        return False
    device_type = x.device.type
    return torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type)


def _why_not(name: str, device: torch.device) -> str | None:
    """Reason why this backend can't serve tensors on `device`, or None."""
    backend = _BACKENDS[name]
    if backend.device_type not in (None, device.type):
        return f"serves {backend.device_type} tensors, these are on {device.type}"
    return backend.reason


def _pick(name: str | None, device: torch.device) -> Callable[..., Tensor]:
    """The function of the backend asked for, or of the active one."""
    if name is None:
        name = active_backend(device)
        if name == "reference":
            _tell_fallback(device)
    elif name not in _BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(_BACKENDS)}, got {name!r}")
    else:
        reason = _why_not(name, device)
        if reason is not None:
            raise RuntimeError(f"IAC backend {name!r} can't be used: {reason}")
    return _BACKENDS[name].run


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
