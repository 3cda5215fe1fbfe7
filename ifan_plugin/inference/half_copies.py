"""Copies of networks in a half type, kept from picture to picture.

Autocast casts all weights anew for each picture, which takes longer than the network itself on a fast GPU.
"""

from __future__ import annotations

import threading
from copy import deepcopy
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

_copies: WeakKeyDictionary[nn.Module, dict[torch.dtype, tuple[Any, nn.Module]]] = WeakKeyDictionary()
_lock = threading.Lock()
_HOOKS = (
    "_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called",
    "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs",
)  # fmt: skip
_NOT_COPIED = (*_HOOKS, "_measured_by_ifan_plugin")  # the latter: what a run measured of the network


def serve(network: nn.Module, device: torch.device) -> bool:
    """Whether a copy is worth it, and computes what autocast does but for the picture's own rounding."""
    return device.type == "cuda" and bool(getattr(network, "half_precision", False))


def of(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """`network` in evaluation mode with all its parameters in `dtype`, without its hooks.

    Made once, and again where a parameter was changed in place, replaced or moved since (what is written through
    ``parameter.data`` leaves no trace). Lives as long as `network`.
    """
    with _lock:
        stamp = [
            (id(each), each.device, each.data_ptr(), 0 if each.is_inference() else each._version)
            for each in (*network.parameters(), *network.buffers())
        ]
        held = _copies.setdefault(network, {})
        if dtype not in held or held[dtype][0] != stamp:
            # What stands in the memo is taken for copied: hooks may hold what can't be, and belong to the original.
            memo: dict[int, Any] = {}
            for module in network.modules():
                for name in _NOT_COPIED:
                    if name in module.__dict__:
                        memo[id(module.__dict__[name])] = type(module.__dict__[name])()
            held[dtype] = stamp, deepcopy(network, memo).eval().to(dtype)
        return held[dtype][1]
