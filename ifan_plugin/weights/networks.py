"""A network for restoring pictures, from a checkpoint or an architecture's name, on a device."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ifan_plugin import zoo
from ifan_plugin.archs import IFAN, KPAC, ConvIR, DMENetDeconvolution, DPDNet, GKMNet
from ifan_plugin.common import foreign
from ifan_plugin.common.errors import UserError
from ifan_plugin.common.files import expanded
from ifan_plugin.host.importing import BasicSRMissingError
from ifan_plugin.host.registry import load_plugins
from ifan_plugin.options.schema import check_call
from ifan_plugin.weights import building, conversion, official, runner_files
from ifan_plugin.weights.runner_files import is_runner_file

VIEWS_BY_CHANNELS = {3: ("center",), 6: ("left", "right"), 9: ("center", "left", "right")}
"""Channels of a network's input -> the views stacked into it, unless its options name others."""

_SIGNATURES: dict[str, type[nn.Module]] = {
    "blocks.0.shared.weight": KPAC,
    "predictor.memory.gates.weight": GKMNet,
    "shallow.0.0.0.weight": ConvIR,
    "map_network.to_map.weight": DMENetDeconvolution,
}
"""A parameter's name that no other network has -> the network; their checkpoints record the hyper-parameters."""


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
        param_key: which of the checkpoint's sets of parameters it has.
        blur_unit: None: the map that it filters by is a disparity. A number: it is the size of the blur, without its
            sign, in units of so many pixels of the blur's diameter at full size.
        program: what restores pictures in the place of `net` (:mod:`ifan_plugin.export.runtimes`); None: `net` itself.
    """

    net: nn.Module
    views: tuple[str, ...]
    name: str
    path: Path | None
    description: str
    param_key: str = "params"
    blur_unit: float | None = None
    program: nn.Module | None = None

    @property
    def place(self) -> str:
        """Where pictures are computed, in words: ``cuda:0``, ``cpu by torch``, ``cpu by openvino 2026.4.1``."""
        by = "torch" if self.program is None else self.program.name
        return f"{self.device} by {by}" if self.device.type == "cpu" else str(self.device)

    @property
    def device(self) -> torch.device:
        """Where its parameters are; the CPU where it has none."""
        return next((parameter.device for parameter in self.net.parameters()), torch.device("cpu"))


def load_network(
    weights: str | Path | None,
    arch: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    param_key: str | None = None,
    device: str | torch.device = "auto",
) -> Network:
    """A network with its weights.

    Args:
        weights: a checkpoint: of ours, the IFAN authors', safetensors, or with `arch` None anything that the package
            spandrel detects; or the name of a network that ships with the package (:mod:`ifan_plugin.zoo`). None: an
            architecture without weights (``DefocusDeconvolution``), by `arch`; without one, the default network that
            ships with the package, which was trained on simulated blur.
        arch: what a benchmark's option file may name as ``type`` (IFAN, DPDNet, DefocusDeconvolution, SpandrelNet, any
            architecture of BasicSR or a plug-in). None: what the checkpoint is.
        arguments: the architecture's arguments where the checkpoint leaves them open; those that it says must agree.
            An IFAN file in our names that doesn't say ``isotropic`` is taken for separable, one in the authors' names
            for isotropic; both for 3 taps.
        param_key: which of the checkpoint's sets of parameters, ``params`` (the last) or ``params_ema`` (averaged);
            None: the averaged ones where it has them.
        device: as in :func:`pick_device`.

    Raises:
        UserError: a file that is missing, no checkpoint or of no known architecture; arguments that it contradicts or
            the architecture doesn't have; neither weights nor an architecture that does without; a device that isn't
            there.
    """
    chosen = pick_device(device)
    arguments = dict(arguments or {})
    if weights is None and arch is None:
        weights = zoo.DEFAULT
        if zoo.find(weights) is None:
            raise UserError("weights: give a checkpoint, or an architecture that needs none (DefocusDeconvolution)")
    place = None if weights is None else zoo.located(str(weights))
    ships = None if place is None or isinstance(place, str) else zoo.find(str(weights))
    path = None if place is None else ships.path if ships else expanded(place, "weights")
    if path is not None and not path.exists():
        raise UserError(f"{path}: no such file; {zoo.LOOKED}")
    if arch == "IFAN" and path is not None:
        net, told = _ifan(path, param_key, arguments)
    elif arch is not None:
        net, told = _named(arch, path, param_key, arguments)
    elif path is not None:
        net, told = _detected(path, param_key, arguments)
    else:
        raise UserError("weights: give a checkpoint, or an architecture that needs none (DefocusDeconvolution)")
    name = str(getattr(net, "hyper_parameters", {}).get("architecture", type(net).__name__))
    views = views_of(net, name, str(path or name))
    description = told if path is None else f"{told}; {path.name}"
    if ships is not None and ships.summary:
        description = f"{description} ({ships.summary})"
    content = None if path is None else _content(path)
    key = "params" if content is None else foreign.choose(content, param_key) or "params"
    unit = None if path is None or content is None else foreign.blur_unit(content, path)
    return Network(net.eval().requires_grad_(False).to(chosen), views, name, path, description, key, unit)


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


def _content(path: Path) -> Mapping[str, Any]:
    content = foreign.load(path)
    return runner_files.as_ours(content, runner_files.GENERATOR, path) if is_runner_file(content) else content


def _detected(path: Path, param_key: str | None, arguments: dict[str, Any]) -> tuple[nn.Module, str]:
    """What a checkpoint's own keys say: a network of ours, else whatever spandrel knows."""
    content = foreign.load(path)
    if is_runner_file(content):
        return _ifan(path, param_key, arguments)
    params = content.get(foreign.choose(content, param_key) or "params")
    if not isinstance(params, Mapping):
        there = [key for key in foreign.PARAM_KEYS if isinstance(content.get(key), Mapping)]
        if there:
            raise UserError(f"{path}: has no '{param_key}'; valid: --param-key {there[0]}")
        params = content
    names = {str(key).removeprefix("module.") for key in params} if isinstance(params, Mapping) else set()
    if official.is_official(content) or "feature_extractor.level1.0.0.weight" in names:
        return _ifan(path, param_key, arguments)
    if {"encoder.0.0.weight", "bottleneck.2.weight", "to_image.2.weight"} <= names:
        tensors = foreign.named_tensors(params, path)
        first = tensors["encoder.0.0.weight"].shape
        if len(first) != 4:
            raise UserError(f"{path}: no DPDNet checkpoint: encoder.0.0.weight is {list(first)}")
        return _ours(DPDNet, {"in_channels": first[1], "width": first[0]}, path, content, tensors, arguments)
    for name, network_class in _SIGNATURES.items():
        if name in names:
            return _ours(network_class, {}, path, content, foreign.named_tensors(params, path), arguments)
    try:
        net, told = _named("SpandrelNet", path, param_key, arguments)
    except UserError as error:
        raise UserError(f"{error}; name its architecture (arch) if it is one of BasicSR's or a plug-in's") from error
    return net, told


def _ifan(path: Path, param_key: str | None, arguments: dict[str, Any]) -> tuple[nn.Module, str]:
    check_call(IFAN, arguments, f"{path}: arguments of IFAN", may_lack=True)
    weights = conversion.read_weights(path, param_key, arguments.get("taps", 3), isotropic=arguments.get("isotropic"))
    official.check_kwargs(arguments, weights.hyper_parameters, path)
    net = IFAN(**{**weights.hyper_parameters, **arguments})
    net.load_state_dict(weights.params)
    return net, weights.described()


def _ours(
    network_class: type[nn.Module],
    shown: Mapping[str, Any],
    path: Path,
    content: Mapping[str, Any],
    params: Mapping[str, Tensor],
    arguments: dict[str, Any],
) -> tuple[nn.Module, str]:
    """A network that this package trains, by the hyper-parameters that its checkpoint records, or its shapes show."""
    name, said = network_class.__name__, content.get("hyper_parameters")
    found = {**shown, **(said if isinstance(said, Mapping) else {})}
    check_call(network_class, {**found, **arguments}, f"{path}: arguments of {name}")
    official.check_kwargs(arguments, found, path)
    # Without memory first: a width that the file says wrongly would take minutes to be drawn at random.
    wrong = foreign.misfit(
        building.build_on_meta(network_class, {**found, **arguments}, str(path)).state_dict(), params
    )
    if wrong is not None:
        raise UserError(f"{path}: no {name} checkpoint: {wrong}")
    net = network_class(**{**found, **arguments})
    foreign.fill(net, params, f"{path}: no {name} checkpoint")
    return net, _described(name, net)


def _named(arch: str, path: Path | None, param_key: str | None, arguments: dict[str, Any]) -> tuple[nn.Module, str]:
    """An architecture out of the host's registry, as a benchmark builds it."""
    try:
        load_plugins(None, "arch")
    except BasicSRMissingError as error:
        raise UserError(f"arch: {arch}: {error}") from error
    if arch == "SpandrelNet" and path is not None and param_key == "params":
        # Files of an architecture's authors have no sets of parameters.
        param_key = "params" if isinstance(foreign.load(path).get("params"), Mapping) else None
    net = building.build(arch, arguments, None if path is None else str(path), param_key, f"model {arch}")
    if building.has_random_weights(path, net):
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


def views_of(net: nn.Module, name: str, where: str, asked: Sequence[str] | None = None) -> tuple[str, ...]:
    """The views stacked into a network's input.

    Args:
        net: its attribute ``in_channels`` says how many channels it takes; 3 where it has none.
        name: the architecture's, for messages.
        where: what begins a message.
        asked: the views that options name; None: those that usually make so many channels.

    Raises:
        UserError: no number of views makes the network's channels, or those asked for make others.
    """
    channels = getattr(net, "in_channels", 3)
    if asked is not None:
        if 3 * len(asked) != channels:
            raise UserError(
                f"{where}: views: {', '.join(asked)} make {3 * len(asked)} channels; {name} takes {channels}"
            )
        return tuple(asked)
    if channels not in VIEWS_BY_CHANNELS:
        raise UserError(f"{where}: {name} takes {channels} channels; valid: 3, 6 or 9 (views of RGB)")
    return VIEWS_BY_CHANNELS[channels]
