"""The compiled operators `torch.ops.ifan_plugin.*`: loading, fake kernels, gradients, autocast.

Schemas stand in csrc/pytorch/iac.cpp. The public functions, in `ifan_plugin.ops.iac`, prepare what the operators
demand: contiguous x, filters whose batch items are contiguous, one dtype, one device.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor

NAMESPACE = "ifan_plugin"


def load() -> dict[str, str | None]:
    """Load the extension modules. Each device type with None where its operators can be used, or one line why not."""
    reasons = {"cpu": _load("_C")}
    if reasons["cpu"] is None:
        _register()
        # Apart, because it can't be loaded where torch has no CUDA.
        reasons["cuda"] = _load("_C_cuda")
    else:
        reasons["cuda"] = reasons["cpu"]
    return reasons


def compiled_iac(
    x: Tensor,
    filters: Tensor,
    num_steps: int,
    taps: int,
    negative_slope: float,
    *,
    act_last: bool,
    isotropic: bool,
) -> Tensor:
    """`reference.iac`'s arguments and result, by the compiled operator."""
    # The steps' inputs, N - 1 times the size of x, are kept only where a gradient may be asked for.
    save_steps = torch.is_grad_enabled() and (x.requires_grad or filters.requires_grad)
    y: Tensor
    y, _ = torch.ops.ifan_plugin.iac(
        x.contiguous(), _contiguous_items(filters), num_steps, taps, negative_slope, act_last, isotropic, save_steps
    )
    return y


def compiled_iac_step(
    x: Tensor, step_filters: Tensor, bias: Tensor, taps: int, negative_slope: float, *, act: bool, isotropic: bool
) -> Tensor:
    """`reference.iac_step`'s arguments and result, by the compiled operator, which has no gradient."""
    y: Tensor = torch.ops.ifan_plugin.iac_step(
        x.contiguous(), _contiguous_items(step_filters), _contiguous_items(bias), taps, negative_slope, act, isotropic
    )
    return y


def _load(name: str) -> str | None:
    """Load `ifan_plugin.<name>`, which registers operators. None, or one line why it can't be used."""
    module = f"{NAMESPACE}.{name}"
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return f"not compiled in this build of {NAMESPACE} ({module} doesn't exist)"
    try:
        torch.ops.load_library(spec.origin)
    except (OSError, RuntimeError) as error:
        words = " ".join(str(error).split())
        return f"{module} can't be loaded: {words}"
    return None


def _contiguous_items(tensor: Tensor) -> Tensor:
    """The tensor itself where each batch item is contiguous (a slice along the channels, say), else a copy."""
    if tensor.is_contiguous() or (tensor.shape[0] and tensor[0].is_contiguous()):
        return tensor
    return tensor.contiguous()


@functools.cache
def _register() -> None:
    """What the schemas lack. Once: torch 2.10 refuses a second time."""
    torch.library.register_fake(f"{NAMESPACE}::iac", _iac_fake)
    torch.library.register_fake(f"{NAMESPACE}::iac_backward", _backward_fake)
    torch.library.register_fake(f"{NAMESPACE}::iac_step", _step_fake)
    torch.library.register_fake(f"{NAMESPACE}::epilogue_", _epilogue_fake)

    torch.library.register_autograd(f"{NAMESPACE}::iac", _backward, setup_context=_setup_context)
    # Without formulas of their own these would give no gradient in silence.
    torch.library.register_autograd(f"{NAMESPACE}::iac_backward", _no_double_backward)
    torch.library.register_autograd(f"{NAMESPACE}::iac_step", _no_step_backward)

    for key in ("AutocastCPU", "AutocastCUDA"):
        _autocast_library.impl("iac", _autocast_rule(key), key)
        _autocast_library.impl("iac_step", _autocast_step_rule(key), key)


# Holds its registrations as long as it lives.
_autocast_library = torch.library.Library(NAMESPACE, "FRAGMENT")


def _iac_fake(
    x: Tensor,
    filters: Tensor,
    num_steps: int,
    taps: int,
    negative_slope: float,
    act_last: bool,
    isotropic: bool,
    save_steps: bool,
) -> tuple[Tensor, Tensor]:
    steps = x.new_empty((num_steps - 1 if save_steps else 0, *x.shape), dtype=_accumulator(x))
    return x.new_empty(x.shape), steps


def _backward_fake(grad: Tensor, x: Tensor, filters: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), filters.new_empty(filters.shape)


def _step_fake(x: Tensor, *_: Any) -> Tensor:
    return x.new_empty(x.shape)


def _epilogue_fake(*_: Any) -> None:  # in place
    return None


def _accumulator(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, filters, *ctx.options, save_steps = inputs
    y, steps = output
    ctx.usable = save_steps
    ctx.mark_non_differentiable(steps)
    ctx.set_materialize_grads(False)  # zeros the size of `steps` otherwise
    ctx.save_for_backward(x, filters, y, steps)


def _backward(ctx: Any, grad_y: Tensor | None, grad_steps: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad_y is None:
        return (None,) * 8
    if not ctx.usable:
        raise RuntimeError("ifan_plugin::iac was called with save_steps=False, so it has no gradient")
    x, filters, y, steps = ctx.saved_tensors
    grads = torch.ops.ifan_plugin.iac_backward(grad_y.contiguous(), x, filters, y, steps, *ctx.options)
    return (*grads, *(None,) * 6)


def _no_double_backward(ctx: Any, *grads: Tensor | None) -> NoReturn:
    raise RuntimeError("the compiled IAC has no second derivative: use iac(..., backend='reference')")


def _no_step_backward(ctx: Any, *grads: Tensor | None) -> NoReturn:
    raise RuntimeError("the compiled iac_step has no gradient: use iac_step(..., backend='reference')")


def _autocast_rule(key: str) -> Callable[..., Any]:
    """As the public functions do: x is cast to the dtype of the filters, much the larger tensor."""
    keys = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, key))

    def rule(x: Tensor, filters: Tensor, *options: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(keys):
            return torch.ops.ifan_plugin.iac(x.to(filters.dtype), filters, *options)

    return rule


def _autocast_step_rule(key: str) -> Callable[..., Any]:
    keys = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, key))

    def rule(x: Tensor, step_filters: Tensor, bias: Tensor, *options: Any) -> Any:
        dtype = step_filters.dtype
        with torch._C._ExcludeDispatchKeyGuard(keys):
            return torch.ops.ifan_plugin.iac_step(x.to(dtype), step_filters, bias.to(dtype), *options)

    return rule
