"""A network for restoring pictures, from a checkpoint or an architecture's name, on a device."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ifan_plugin import checkpoints, conversion
from ifan_plugin.archs.dpdnet_arch import DPDNet
from ifan_plugin.archs.ifan_arch import IFAN
from ifan_plugin.errors import UserError
from ifan_plugin.files import expanded
from ifan_plugin.options import check_call
from ifan_plugin.runner_files import is_runner_file

VIEWS_BY_CHANNELS = {3: ("center",), 6: ("left", "right"), 9: ("center", "left", "right")}
"""Channels of a network's input -> the views stacked into it, unless its options name others."""


@dataclass(frozen=True)
class Network:
    """A network that is ready to restore pictures.

    Args:
        net: ``forward(lq) -> restored``, in evaluation mode, on its device, its parameters without gradients.
        views: the views stacked into its input, of 3 channels each: ``("center",)``, ``("left", "right")`` or
            ``("center", "left", "right")``.
        name: the architecture's, such as ``IFAN``.
        path: its checkpoint; None where it has none.
        description: one line for logs and pages: architecture, hyper-parameters, number of parameters, file.
    """

    net: nn.Module
    views: tuple[str, ...]
    name: str
    path: Path | None
    description: str

    @property
    def device(self) -> torch.device:
        """Where its parameters are; the CPU where it has none."""
        return next((parameter.device for parameter in self.net.parameters()), torch.device("cpu"))


def load_network(
    weights: str | Path | None,
    arch: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    param_key: str = "params",
    device: str | torch.device = "auto",
) -> Network:
    """A network with its weights.

    Args:
        weights: a checkpoint: of ours, the IFAN authors', safetensors, or with `arch` None anything that the package
            spandrel detects. None: an architecture without weights (``DefocusDeconvolution``), by `arch`.
        arch: what a benchmark's option file may name as ``type`` (IFAN, DPDNet, DefocusDeconvolution, SpandrelNet, any
            architecture of BasicSR or a plug-in). None: what the checkpoint is.
        arguments: the architecture's arguments where the checkpoint leaves them open; those that it says must agree.
            An IFAN file in our names that doesn't say ``isotropic`` is taken for separable, one in the authors' names
            for isotropic; both for 3 taps.
        param_key: which of the checkpoint's sets of parameters, ``params`` or ``params_ema``.
        device: as in :func:`pick_device`.

    Raises:
        UserError: a file that is missing, no checkpoint or of no known architecture; arguments that it contradicts or
            the architecture doesn't have; neither weights nor an architecture that does without; a device that isn't
            there.
    """
    chosen = pick_device(device)
    arguments = dict(arguments or {})
    path = None if weights is None else expanded(weights, "weights")
    if arch is None and path is None:
        raise UserError("weights: give a checkpoint, or an architecture that needs none (DefocusDeconvolution)")
    if arch == "IFAN" and path is not None:
        net, told = _ifan(path, param_key, arguments)
    elif arch is None:
        net, told = _detected(path, param_key, arguments)
    else:
        net, told = _named(arch, path, param_key, arguments)
    name = net.hyper_parameters["architecture"] if type(net).__name__ == "SpandrelNet" else type(net).__name__
    views = _views(net, name, path)
    description = told if path is None else f"{told}; {path.name}"
    return Network(net.eval().requires_grad_(False).to(chosen), views, name, path, description)


def pick_device(name: str | torch.device = "auto") -> torch.device:
    """A device by its name.

    Args:
        name: ``auto`` (CUDA, else Apple's MPS, else the CPU), ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.

    Raises:
        UserError: unknown, or not on this machine; the message names those there are.
    """
    name = str(name)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    there = (["cuda"] if count else []) + [f"cuda:{index}" for index in range(count)]
    there += (["mps"] if torch.backends.mps.is_available() else []) + ["cpu"]
    if name == "auto":
        return torch.device(there[0])
    if name not in there:
        known = name in ("cuda", "mps") or re.fullmatch(r"cuda:\d+", name)
        wrong = f"{name} isn't on this machine" if known else f"unknown '{name}'"
        raise UserError(f"device: {wrong}; there are: auto, {', '.join(there)}")
    return torch.device(name)


def _detected(path: Path, param_key: str, arguments: dict[str, Any]) -> tuple[nn.Module, str]:
    """What a checkpoint's own keys say: IFAN or DPDNet of ours, else whatever spandrel knows."""
    content = checkpoints.load_file(path)
    if is_runner_file(content):
        return _ifan(path, param_key, arguments)
    params = content.get(param_key)
    if not isinstance(params, Mapping):
        if isinstance(content.get("params"), Mapping):
            raise UserError(f"{path}: has no '{param_key}'; valid: --param-key params")
        params = content.get("params", content)
    names = {str(key).removeprefix("module.") for key in params} if isinstance(params, Mapping) else set()
    if checkpoints.is_official(content) or "feature_extractor.level1.0.0.weight" in names:
        return _ifan(path, param_key, arguments)
    if {"encoder.0.0.weight", "bottleneck.2.weight", "to_image.2.weight"} <= names:
        return _dpdnet(path, content, params, arguments)
    try:
        net, told = _named("SpandrelNet", path, param_key, arguments)
    except UserError as error:
        raise UserError(f"{error}; name its architecture (arch) if it is one of BasicSR's or a plug-in's") from error
    return net, told


def _ifan(path: Path, param_key: str, arguments: dict[str, Any]) -> tuple[nn.Module, str]:
    check_call(IFAN, arguments, f"{path}: arguments of IFAN", may_lack=True)
    weights = conversion.read_weights(path, param_key, arguments.get("taps", 3), arguments.get("isotropic"))
    checkpoints.check_kwargs(arguments, weights.hyper_parameters, path)
    net = IFAN(**{**weights.hyper_parameters, **arguments})
    net.load_state_dict(weights.params)
    return net, weights.described()


def _dpdnet(
    path: Path, content: Mapping[str, Any], params: Mapping[str, Tensor], arguments: dict[str, Any]
) -> tuple[nn.Module, str]:
    params = {key.removeprefix("module."): value for key, value in params.items()}
    said = content.get("hyper_parameters")
    width, in_channels = params["encoder.0.0.weight"].shape[:2]
    found = {"in_channels": in_channels, "width": width, **(said if isinstance(said, Mapping) else {})}
    check_call(DPDNet, {**found, **arguments}, f"{path}: arguments of DPDNet")
    checkpoints.check_kwargs(arguments, found, path)
    try:
        net = DPDNet(**{**found, **arguments})
        net.load_state_dict(params)
    except (ValueError, RuntimeError) as error:
        raise UserError(f"{path}: no DPDNet checkpoint: {' '.join(str(error).split())[:200]}") from error
    return net, _described("DPDNet", net)


def _named(arch: str, path: Path | None, param_key: str, arguments: dict[str, Any]) -> tuple[nn.Module, str]:
    """An architecture out of the host's registry, as a benchmark builds it."""
    try:
        from ifan_plugin import plugins

        plugins.load_plugins(None, "arch")
        from ifan_plugin.benchmark import models
        from ifan_plugin.benchmark.options import Model
    except ImportError as error:
        raise UserError(f"arch: {arch} needs BasicSR: pip install basicsr ({error})") from error
    if arch == "SpandrelNet" and path is not None and param_key == "params":
        # Files of an architecture's authors have no sets of parameters.
        chosen = "params" if isinstance(checkpoints.load_file(path).get("params"), Mapping) else None
    else:
        chosen = param_key
    model = Model(arch, arch, None if path is None else str(path), chosen, None, arguments)
    net = models.build(model)
    if models.has_random_weights(model, net):
        raise UserError(f"weights: {arch} needs a checkpoint; without one works DefocusDeconvolution")
    return net, _described(arch, net)


def _described(arch: str, net: nn.Module) -> str:
    """One line: the architecture, its hyper-parameters and their number."""
    facts = dict(getattr(net, "hyper_parameters", {}))
    if arch == "SpandrelNet":
        arch, facts = f"{facts['architecture']} (spandrel)", dict(facts["arguments"])
    shown = ", ".join(f"{key} {str(value).lower()}" for key, value in facts.items())
    count = sum(parameter.numel() for parameter in net.parameters())
    return f"{arch}{f': {shown}' if shown else ''}; {count:,} parameters" if count else f"{arch}: {shown}"


def _views(net: nn.Module, name: str, path: Path | None) -> tuple[str, ...]:
    channels = getattr(net, "in_channels", 3)
    if channels not in VIEWS_BY_CHANNELS:
        raise UserError(f"{path or name}: {name} takes {channels} channels; valid: 3, 6 or 9 (views of RGB)")
    return VIEWS_BY_CHANNELS[channels]
