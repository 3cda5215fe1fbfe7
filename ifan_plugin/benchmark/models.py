"""A row's network, built and loaded; a column's test set, opened with the views that the network takes."""

from __future__ import annotations

import copy
import hashlib
from pathlib import Path
from typing import Any

from torch import nn

from ifan_plugin.benchmark.options import Model
from ifan_plugin.common.errors import UserError
from ifan_plugin.host.option_check import check_datasets, registered
from ifan_plugin.metrics.protocols import Protocol
from ifan_plugin.weights import building, networks


def build(model: Model, seed: int = 0) -> nn.Module:
    """The network of a row, as :func:`ifan_plugin.weights.building.build` makes it."""
    return building.build(model.type, model.arguments, model.path, model.param_key, f"model {model.name}", seed)


def views_of(model: Model, net: nn.Module | None) -> tuple[str, ...]:
    """The views stacked into a row's input: the centre view where there is no network."""
    return ("center",) if net is None else networks.views_of(net, model.type, f"model {model.name}", model.views)


def open_dataset(options: dict[str, Any], views: tuple[str, ...], protocol: Protocol) -> Any:
    """A test set with the given views, read as the protocol says.

    Raises:
        UserError: options or folders that are wrong or against the protocol.
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
    checked: dict[str, Any] = {"datasets": {"test": options}, "scale": 1, "manual_seed": 0}
    check_datasets(checked, where, is_train=False)
    dataset = dataset_class(checked["datasets"]["test"])
    if not len(dataset):
        raise UserError(f"{where}: is empty")
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
