"""Figures of restored pictures: means, the means of labelled groups, and tables as text, CSV and JSON.

A record is a picture's ``{"image": name, "restored": {metric: figure}, "blurred": {metric: figure}}``, with a ``label``
where its scene has one.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ifan_plugin.common.files import make_folder, written_aside

METRIC_FORMAT = {"psnr": ".3f"}
SIDES = ("restored", "blurred")

Record = dict[str, Any]
Means = dict[str, dict[str, float]]


def shown(metric: str, value: float, sign: str = "") -> str:
    """A figure as text; ``sign`` as in format strings."""
    return format(value, sign + METRIC_FORMAT.get(metric, ".4f"))


def gain(metric: str, before: float, after: float, better: str = "higher") -> str:
    """By how much a figure is better than before, as text: positive is better, whichever way the metric counts."""
    return shown(metric, after - before if better == "higher" else before - after, "+")


def means_of(records: Sequence[Record]) -> Means:
    """``restored`` and ``blurred`` -> metric -> mean over the pictures that have it."""
    return {side: _means([record[side] for record in records]) for side in SIDES}


def groups_of(records: Sequence[Record]) -> dict[str, dict[str, Any]]:
    """Label -> ``count`` and the means of its pictures, labels in alphabetical order; empty without labels."""
    labels = sorted({record["label"] for record in records if "label" in record})
    found = {label: [record for record in records if record.get("label") == label] for label in labels}
    return {label: {"count": len(members), **means_of(members)} for label, members in found.items()}


def table(records: Sequence[Record], means: Means) -> list[str]:
    """A line a picture, a group and for the mean; ``blurred -> restored`` where the blurred input was measured too."""
    rows = [(record["image"], record) for record in records]
    rows += [(f"mean of {group['count']} {label}", group) for label, group in groups_of(records).items()]
    rows.append(("mean", means))
    width = max(len(name) for name, _ in rows)
    lines = [f"\t   {'picture':<{width}}  " + "  ".join(f"{metric:>20}" for metric in means["restored"])]
    for name, figures in rows:
        cells = []
        for metric in means["restored"]:
            values = [
                shown(metric, figures[side][metric]) for side in ("blurred", "restored") if metric in figures[side]
            ]
            cells.append(f"{' -> '.join(values):>20}")
        lines.append(f"\t   {name:<{width}}  " + "  ".join(cells))
    return lines


def write_tables(
    folder: Path, name: str, protocol: str, facts: dict[str, Any], records: Sequence[Record], means: Means
) -> None:
    """Write ``metrics.csv``, a line a picture, and ``metrics.json``, which also has the means; both name the protocol.

    Args:
        folder: made where it isn't there.
        name: the data set's.
        protocol: its name, or ``custom``, or ``no-reference``.
        facts: what else a reader needs to know, such as how the pictures were read.
        records, means: from :func:`means_of`.
    """
    make_folder(folder)
    columns = [(side, metric) for side in ("blurred", "restored") for metric in means[side]]
    labelled = any("label" in record for record in records)
    text = io.StringIO()
    writer = csv.writer(text)
    head = ["image", "protocol", *(["label"] if labelled else [])]
    writer.writerow([*head, *(f"{side}_{metric}" for side, metric in columns)])
    for record in records:
        start = [record["image"], protocol, *([record.get("label", "")] if labelled else [])]
        writer.writerow([*start, *(record[side].get(metric, "") for side, metric in columns)])
    _write(folder / "metrics.csv", text.getvalue())

    content = {"dataset": name, "protocol": protocol, **facts, "count": len(records), "mean": means}
    if labelled:
        content["groups"] = groups_of(records)
    keys = ("image", "label", *reversed(SIDES))
    content["images"] = [{key: record[key] for key in keys if key in record} for record in records]
    _write(folder / "metrics.json", json.dumps(_without_infinity(content), indent=2, allow_nan=False) + "\n")


def _write(path: Path, text: str) -> None:
    with written_aside(path, durable=False) as file:
        file.write(text.encode())


def _means(values: Sequence[dict[str, float]]) -> dict[str, float]:
    names = {name: None for each in values for name in each}
    return {
        name: math.fsum(v[name] for v in values if name in v) / len([v for v in values if name in v]) for name in names
    }


def _without_infinity(value: Any) -> Any:
    """JSON has no infinity (the PSNR of equal pictures): null stands for it."""
    if isinstance(value, dict):
        return {key: _without_infinity(member) for key, member in value.items()}
    if isinstance(value, list):
        return [_without_infinity(member) for member in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
