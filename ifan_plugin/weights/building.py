"""A network of any registered architecture, built and filled from a checkpoint of any kind that is known here."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ifan_plugin import zoo
from ifan_plugin.archs.ifan_arch import IFAN
from ifan_plugin.common import foreign, machine
from ifan_plugin.common.errors import UserError
from ifan_plugin.host.option_check import registered
from ifan_plugin.options.schema import check_call
from ifan_plugin.weights import official, runner_files


def build(
    architecture: str,
    arguments: Mapping[str, Any],
    path: str | None,
    param_key: str | None,
    where: str,
    seed: int = 0,
) -> nn.Module:
    """A network on the CPU, in evaluation mode, its weights loaded.

    Args:
        architecture: its name in BasicSR's registry, into which plug-ins must have been loaded.
        arguments: its hyper-parameters; of IFAN the checkpoint says those left open.
        path: a checkpoint; None: random weights, drawn from ``seed``.
        param_key: which set of parameters; None: the averaged ones where the file has them.
        where: names the network in messages.

    Raises:
        UserError: an unknown architecture or argument, or a checkpoint that is missing or doesn't fit.
    """
    from basicsr.utils.registry import ARCH_REGISTRY

    network_class = registered(ARCH_REGISTRY, architecture, f"{where}: type")
    parameters = inspect.signature(network_class).parameters
    arguments = dict(arguments)
    # Some architectures are built of the checkpoint itself (SpandrelNet): they get the file.
    reads_itself = "path" in parameters
    if reads_itself and path is not None:
        given = {"path": path, "param_key": param_key}
        arguments |= {key: value for key, value in given.items() if key in parameters}
    if path is not None and not Path(path).is_file():
        raise UserError(f"{where}: path: {zoo.not_found(path)}")
    if architecture == "IFAN":
        check_call(network_class, arguments, where)
        if path is not None:
            fill_from_checkpoint(arguments, path, param_key)
        build_on_meta(IFAN, arguments, f"{where}: network_g")
    check_call(network_class, arguments, where)
    torch.manual_seed(seed)
    try:
        net: nn.Module = network_class(**arguments)
    except (ValueError, TypeError, AssertionError) as error:  # other people's classes check late
        raise UserError(f"{where}: {' '.join(str(error).split()) or type(error).__name__}") from error
    if path is not None and not reads_itself:
        taps = getattr(net, "hyper_parameters", {}).get("taps", 3)
        params = read_params(path, param_key, reblurring=False, taps=taps, names=net.state_dict().keys())
        foreign.fill(net, params, f"{where}: {path} doesn't fit this {architecture}")
    return net.eval().requires_grad_(False)


def has_random_weights(path: str | Path | None, net: nn.Module) -> bool:
    """Whether nothing was loaded into a network that has weights: its results say nothing of the architecture."""
    return path is None and any(True for _ in net.parameters())


def build_on_meta(network_class: type[nn.Module], options: Mapping[str, Any], where: str) -> Any:
    """Build without memory: shows whether the hyper-parameters are possible, and the network's sizes.

    Raises:
        UserError: they aren't, or this machine's memory is too small for the parameters.
    """
    try:
        with torch.device("meta"):
            net = network_class(**{key: value for key, value in options.items() if key != "type"})
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:  # torch's own of sizes beyond 64 bits
        raise UserError(f"{where}: {str(error).splitlines()[0]}") from None
    needed, there = sum(p.numel() * p.element_size() for p in net.parameters()), machine.memory_size()
    if there is not None and needed > there:
        raise UserError(
            f"{where}: its parameters take {needed / 1e9:,.0f} GB, and this machine has {there / 1e9:,.0f} GB; "
            "valid: a smaller width, num_steps or taps"
        )
    return net


def read_params(
    path: str, param_key: str | None, *, reblurring: bool, taps: int = 3, names: Collection[str] = ()
) -> dict[str, Tensor]:
    """The parameters in a checkpoint, under our names.

    Args:
        path: a file of any kind (:mod:`ifan_plugin.common.foreign`).
        param_key: ``params`` or ``params_ema``; None: the averaged ones where it has them.
        reblurring: those of the reblurring network, where the file has both.
        taps: matters for the authors' files.
        names: the network's parameters', where they are known.
    """
    content = read_content(path, reblurring=reblurring, names=names)
    if official.is_official(content):
        theirs = official.from_official(content, taps=taps, reblur=reblurring, path=path)
        params = theirs.reblur_params if reblurring else theirs.params
        if params is None:
            raise UserError(f"{path}: has no reblurring network")
        return params
    sets = [key for key in foreign.PARAM_KEYS if isinstance(content.get(key), Mapping)]
    param_key = foreign.choose(content, param_key)
    if param_key == foreign.AVERAGED and foreign.LAST in sets and param_key not in sets:
        param_key = foreign.LAST  # as the host does
    if sets and param_key not in content:
        raise UserError(f"{path}: has no '{param_key}'; valid: param_key: {' or '.join(sets)}")
    params = content if param_key is None else content.get(param_key, content)
    return foreign.named_tensors(params, path)


def read_content(path: str, *, reblurring: bool = False, names: Collection[str] = ()) -> dict[str, Any]:
    """A checkpoint's content in our form; with the authors' keys flat."""
    content = foreign.load(path, names)
    if not runner_files.is_runner_file(content):
        return content
    network = runner_files.REBLUR if reblurring else runner_files.GENERATOR
    return foreign.tidied(runner_files.as_ours(content, network, path), path, names)


def fill_from_checkpoint(network: dict[str, Any], path: str, param_key: str | None = None) -> None:
    """Check an IFAN's options against the checkpoint it starts from; add to them what they leave open.

    Args:
        network: arguments of IFAN, and ``type`` perhaps; changed in place.

    Raises:
        UserError: hyper-parameters that the checkpoint contradicts, or no checkpoint of IFAN.
    """
    given = {key: value for key, value in network.items() if key != "type"}
    content = read_content(path)
    if official.is_official(content):
        known = {"taps": given.get("taps", 3), "isotropic": given.get("isotropic", True)}
        inferred = official.from_official(content, **known, reblur=False, path=path).arch_kwargs
    elif isinstance(content.get("hyper_parameters"), dict):
        inferred = content["hyper_parameters"]
        others = [key for key in inferred if key not in inspect.signature(IFAN).parameters]
        if others:
            raise UserError(f"{path}: hyper_parameters: unknown key '{others[0]}': this isn't a checkpoint of IFAN")
        check_call(IFAN, inferred, f"{path}: hyper_parameters")
    else:
        params = read_params(path, param_key, reblurring=False)
        inferred = official.infer_ifan_kwargs(params, given.get("taps", 3), path)
    official.check_kwargs(given, inferred, path)
    network.update(inferred | given)
