"""The options of an evaluation, ``val: protocol``, ``labels``, ``tile``: checked, and carried into data and metrics."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ifan_plugin.common.errors import UserError
from ifan_plugin.data.labels import check_labels, read_labels
from ifan_plugin.data.layouts import LAYOUTS
from ifan_plugin.inference.run import checked_tile
from ifan_plugin.metrics.protocols import BETTER, PROTOCOLS, Protocol
from ifan_plugin.options.schema import nearest

USUAL_METRICS = ("psnr", "ssim", "mae")
_BETTER = {**BETTER, "niqe": "lower", "calculate_niqe": "lower"}


def check(options: dict[str, Any], where: str) -> None:
    """Check what the option file asks of validation; set what the protocol determines and the file leaves open.

    The sections ``datasets`` and ``val`` must have been checked against their own schemas.

    Raises:
        UserError: data sets or metrics that contradict the protocol, a label file that can't be used.
    """
    val = options.get("val")
    if not val:
        return
    val["tile"] = checked_tile(val.get("tile"), f"{where}: val: tile")
    for key in ("error_map", "kernels"):
        if val.get(key) and not val.get("contact_sheet"):
            raise UserError(f"{where}: val: {key}: is a picture in the contact sheet; set contact_sheet to 1 or more")
    for metric in (val.get("metrics") or {}).values():
        if metric["type"] in _BETTER:  # the host takes all for better the higher they are
            metric.setdefault("better", _BETTER[metric["type"]])
    compared = {
        key: dataset
        for key, dataset in options["datasets"].items()
        if dataset.get("phase") != "train" and _may_have_truth(dataset)
    }
    if val.get("protocol") is not None:
        _apply(PROTOCOLS[val["protocol"]], val, compared, where)
    if val.get("labels") is not None:
        val["labels"] = _check_labels(val["labels"], compared, f"{where}: val: labels")


def _may_have_truth(dataset: Mapping[str, Any]) -> bool:
    layout = LAYOUTS.get(dataset.get("layout", ""))
    without = layout is not None and not any("target" in folders for folders in layout.folders.values())
    return dataset.get("gt", "auto") != "none" and not without


def _apply(protocol: Protocol, val: dict[str, Any], compared: Mapping[str, dict[str, Any]], where: str) -> None:
    from basicsr.utils.registry import DATASET_REGISTRY, METRIC_REGISTRY

    if val.get("metrics") is None:
        val["metrics"] = {name: {"type": name, "better": protocol.better[name]} for name in USUAL_METRICS}
    for name, metric in val["metrics"].items():
        if "img2" in inspect.signature(METRIC_REGISTRY.get(metric["type"])).parameters:
            kind = protocol.check_metric(metric, f"{where}: val: metrics: {name}")
            metric.setdefault("better", BETTER[kind])
    for key, dataset in compared.items():
        place = f"{where}: datasets: {key}"
        # A set of the host's, or somebody else's, reads 8 bits as a rule; validation crops and resizes what it gives.
        if "crop_multiple" in getattr(DATASET_REGISTRY.get(dataset["type"]), "OPTIONS", ()):
            protocol.fill(dataset, place)
        elif 8 not in protocol.bit_depths:
            raise UserError(
                f"{place}: type: protocol '{protocol.name}' reads {protocol.bit_depths[0]} bits, which "
                f"{dataset['type']} doesn't promise; valid: DualPixelDataset"
            )


def _check_labels(given: Any, compared: Mapping[str, dict[str, Any]], where: str) -> dict[str, str]:
    """Data set name -> label file, every one read and compared with the scenes there are."""
    names = [dataset["name"] for dataset in compared.values()]
    if isinstance(given, str):
        if len(names) != 1:
            raise UserError(
                f"{where}: with {len(names)} data sets with ground truth it must be a mapping of data set name to file"
            )
        given = {names[0]: given}
    found = {}
    for name, path in given.items():
        if name not in names:
            raise UserError(f"{where}: unknown data set '{name}'; {nearest(str(name), names)}")
        if not isinstance(path, str):
            raise UserError(f"{where}: {name}: must be a file's name, not {path!r}")
        path = found[name] = str(Path(path).expanduser())
        dataset = next(dataset for dataset in compared.values() if dataset["name"] == name)
        used, known = (_scenes(dataset, f"{where}: {name}", every) for every in (False, True))
        check_labels(read_labels(path), path, name, used, known)
    return found


def _scenes(dataset: Mapping[str, Any], where: str, every: bool) -> list[str]:
    """The keys of a data set's scenes, without reading a picture; ``every``: those beyond ``max_images``, too."""
    from basicsr.utils.registry import DATASET_REGISTRY

    dataset_class = DATASET_REGISTRY.get(dataset["type"])
    if "max_images" not in getattr(dataset_class, "OPTIONS", ()):
        raise UserError(f"{where}: {dataset['type']} doesn't say which scenes it has; valid: DualPixelDataset")
    opened = dataset_class({**dataset, "check": "none"} | ({"max_images": None} if every else {}))
    return [scene.key for scene in opened.scenes]
