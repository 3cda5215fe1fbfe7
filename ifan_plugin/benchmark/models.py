"""A row's network, built and loaded; a column's test set, opened with the views that the network eats."""

from __future__ import annotations

import copy
import hashlib
import inspect
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ifan_plugin.benchmark.options import Model
from ifan_plugin.errors import UserError
from ifan_plugin.inference.networks import VIEWS_BY_CHANNELS
from ifan_plugin.metrics.protocols import Protocol
from ifan_plugin.models import ifan_options
from ifan_plugin.option_check import check_datasets, registered
from ifan_plugin.options import check_call


def build(model: Model, seed: int = 0) -> nn.Module:
    """The network of a row on the CPU, in evaluation mode, its weights loaded; random ones are drawn from ``seed``.

    Raises:
        UserError: an unknown architecture or argument, or a checkpoint that is missing or doesn't fit.
    """
    from basicsr.utils.registry import ARCH_REGISTRY

    where = f"model {model.name}"
    network_class = registered(ARCH_REGISTRY, model.type, f"{where}: type")
    parameters = inspect.signature(network_class).parameters
    arguments = dict(model.arguments)
    # Some architectures are built of the checkpoint itself (SpandrelNet): they get the file.
    reads_itself = "path" in parameters
    if reads_itself and model.path is not None:
        arguments |= {key: getattr(model, key) for key in ("path", "param_key") if key in parameters}
    if model.path is not None and not Path(model.path).is_file():
        raise UserError(f"{where}: path: file not found: {model.path}")
    if model.type == "IFAN":
        network = {"type": "IFAN", **arguments}
        path = {} if model.path is None else {"pretrain_network_g": model.path, "param_key_g": _param_key(model)}
        check_call(network_class, arguments, where)
        ifan_options.check({"network_g": network, "datasets": {}, "path": path}, where, is_train=False)
        arguments = {key: value for key, value in network.items() if key != "type"}
    check_call(network_class, arguments, where)
    torch.manual_seed(seed)
    try:
        net = network_class(**arguments)
    except (ValueError, TypeError, AssertionError) as error:  # other people's classes check late
        raise UserError(f"{where}: {' '.join(str(error).split()) or type(error).__name__}") from error
    if model.path is not None and not reads_itself:
        _load(net, model, where)
    return net.eval().requires_grad_(False)


def _param_key(model: Model) -> str:
    return model.param_key or "params"


def _load(net: nn.Module, model: Model, where: str) -> None:
    assert model.path is not None
    taps = getattr(net, "hyper_parameters", {}).get("taps", 3)
    params = ifan_options.read_params(model.path, _param_key(model), reblurring=False, taps=taps)
    try:
        net.load_state_dict(params)
    except RuntimeError as error:
        lines = [" ".join(line.split()) for line in str(error).splitlines()[1:]]
        more = f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""
        raise UserError(f"{where}: {model.path} doesn't fit this {model.type}: {lines[0][:200]}{more}") from None


def has_random_weights(model: Model, net: nn.Module) -> bool:
    """Whether nothing was loaded into a network that has weights: its figures say nothing of the architecture."""
    return model.path is None and any(True for _ in net.parameters())


def views_of(model: Model, net: nn.Module | None) -> tuple[str, ...]:
    """The views stacked into the network's input.

    Raises:
        UserError: no number of views makes the network's channels, or those given make others.
    """
    if net is None:
        return ("center",)
    channels = getattr(net, "in_channels", 3)
    if model.views is not None:
        if 3 * len(model.views) != channels:
            raise UserError(
                f"model {model.name}: views: {', '.join(model.views)} make {3 * len(model.views)} channels; "
                f"{model.type} takes {channels}"
            )
        return model.views
    if channels not in VIEWS_BY_CHANNELS:
        raise UserError(f"model {model.name}: {model.type} takes {channels} channels; valid: 3, 6 or 9 (views of RGB)")
    return VIEWS_BY_CHANNELS[channels]


def open_dataset(options: dict[str, Any], views: tuple[str, ...], protocol: Protocol) -> Any:
    """A test set with the given views, read as the protocol says.

    Raises:
        UserError: options or folders that are wrong or against the protocol, or no sharp pictures to compare with.
    """
    from basicsr.utils.registry import DATASET_REGISTRY

    where = f"data set {options['name']}"
    dataset_class = registered(DATASET_REGISTRY, options["type"], f"{where}: type")
    options = copy.deepcopy(options)  # the host's data sets pop keys out of io_backend
    if "views" in getattr(dataset_class, "OPTIONS", ()):
        options["views"] = list(views)
        protocol.fill(options, where)
    elif views != ("center",):
        raise UserError(f"{where}: {options['type']} has the blurred picture alone, not {', '.join(views)}")
    checked = {"datasets": {"test": options}, "scale": 1, "manual_seed": 0}
    check_datasets(checked, where, is_train=False)
    dataset = dataset_class(checked["datasets"]["test"])
    if not len(dataset):
        raise UserError(f"{where}: is empty")
    if "gt" not in dataset[0]:
        raise UserError(f"{where}: has no sharp pictures, and the metrics compare with them")
    return dataset


def file_digest(path: str | None) -> str | None:
    """SHA-256 of a file; None where there is none."""
    if path is None or not Path(path).is_file():
        return None
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(file)


def _digest(file: Any) -> str:  # Python 3.10 has no hashlib.file_digest
    digest = hashlib.sha256()
    while block := file.read(2**20):
        digest.update(block)
    return digest.hexdigest()
