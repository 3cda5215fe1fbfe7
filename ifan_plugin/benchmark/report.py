"""A benchmark's report: one mapping, written as JSON, CSV, Markdown and a page."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime, timezone
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from ifan_plugin import __version__
from ifan_plugin.benchmark.cells import NONE, is_finite, number, write_json
from ifan_plugin.benchmark.options import Benchmark
from ifan_plugin.benchmark.run import machine
from ifan_plugin.files import written_aside

METRICS = {  # name -> title, format, whether more is better
    "psnr": ("PSNR (dB)", ".2f", True),
    "ssim": ("SSIM", ".4f", True),
    "mae": ("MAE", ".4f", False),
    "lpips": ("LPIPS", ".3f", False),
}

COSTS = {  # field of a row -> title, divisor, format
    "parameters": ("Parameters (M)", 1e6, ".3f"),
    "products": ("MACs (G)", 1e9, ".2f"),
    "paper_count": ("MACs as the paper counts (G)", 1e9, ".2f"),
    "latency_s": ("Latency (s)", 1, ".3f"),
    "peak_memory_bytes": ("Peak memory (MiB)", 2**20, ".0f"),
    "megapixels_per_s": ("Throughput (MP/s)", 1, ".2f"),
}


def make_report(benchmark: Benchmark, found: Mapping[str, Any]) -> dict[str, Any]:
    """Put what :func:`ifan_plugin.benchmark.run.run` found in rows.

    Returns:
        ``name``, ``protocol``, ``metrics``, ``date`` (UTC), ``machine``, ``versions``, ``device``, ``profile``,
        ``datasets``, ``rows`` (one a model: costs, ``quality`` by data set, ``errors``), ``failures`` (one line each),
        ``notes``, and ``published`` where the options ask for it.
    """
    rows, failures, notes = [], [], dict.fromkeys(found["notes"])
    for dataset, facts in found["references"].items():
        if "error" in facts:  # a test set that fails does so in every row: said once
            failures.append({"model": None, "cells": [dataset], "error": facts["error"]})
    for model in benchmark.models:
        row: dict[str, Any] = {
            "name": model.name, "type": model.type, "arguments": model.arguments, "checkpoint": model.path,
            "random_weights": False, **dict.fromkeys(COSTS), "quality": {}, "errors": [],
        }  # fmt: skip
        cells = dict(found["quality"].get(model.name, {}))
        if model.name in found["profile"]:
            cells["time and memory"] = found["profile"][model.name]
        for name, cell in cells.items():
            if cell["status"] != "done":
                said = {"cells": [name], "status": cell["status"], "error": cell["error"]}
                _add(row["errors"], said)
                if cell["status"] == "failed" and "error" not in found["references"].get(name, {}):
                    _add(failures, {"model": model.name, "cells": [name], "error": cell["error"]})
                continue
            row["random_weights"] = row["random_weights"] or cell.get("random_weights", False)
            row |= {field: cell[field] for field in (*COSTS, "runs") if cell.get(field) is not None}
            if "mean" in cell:
                row["quality"][name] = {"mean": cell["mean"], "images": cell["images"], "key": cell["key"]}
                notes |= {f"{metric} is left out: {why}": None for metric, why in cell["unavailable"].items()}
        if model.is_blurred:
            row["parameters"] = None
        rows.append(row)
    report = {
        "name": benchmark.name, "protocol": benchmark.protocol, "metrics": list(benchmark.metrics),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"), "machine": machine(),
        "versions": versions(), "device": benchmark.device,
        "profile": None if benchmark.profile is None else asdict(benchmark.profile),
        "datasets": {
            options["name"]: found["references"][options["name"]].get("pictures") for options in benchmark.datasets
        },
        "shown": {
            name: {"folder": facts["folder"], "pictures": facts["shown"]}
            for name, facts in found["references"].items()
            if "error" not in facts
        },
        "rows": rows, "failures": failures, "notes": list(notes),
    }  # fmt: skip
    if benchmark.published:
        report["published"] = published()
    return report


def _add(errors: list[dict[str, Any]], new: dict[str, Any]) -> None:
    """Add an error, or its cells to one that says the same."""
    for error in errors:
        if {**error, "cells": None} == {**new, "cells": None}:
            error["cells"] += new["cells"]
            return
    errors.append(new)


def published() -> dict[str, Any]:
    """The figures that papers give, each row with its source."""
    return json.loads((resources.files("ifan_plugin.benchmark") / "published.json").read_text(encoding="utf-8"))


def versions() -> dict[str, str]:
    """Of the packages that make the figures; those that aren't installed are left out."""
    found = {"ifan_plugin": __version__}
    for name in ("basicsr", "torch", "numpy", "scikit-image", "opencv-python", "lpips", "spandrel"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def shown(value: Any, style: str, divisor: float = 1) -> str:
    """A number for people; a range where sources differ; – where there is none, or none that is finite."""
    if isinstance(value, list):
        return "–".join(shown(each, style, divisor) for each in value)
    return "0" if value == 0 else number(value / divisor if is_finite(value) else None, style)


def published_value(value: Any, metric: str) -> str:
    """A published figure with as many digits as it was published with."""
    if isinstance(value, float) and metric != "psnr":
        return f"{value:.4f}".removesuffix("0")
    return shown(value, ".2f" if metric == "psnr" else ".3f")


def columns(report: Mapping[str, Any]) -> list[tuple[str, str, str, float, str | None]]:
    """The table's numeric columns: (field, title, format, divisor, data set or None), as far as any row has one."""
    found = []
    for dataset in report["datasets"]:
        for metric in report["metrics"]:
            title, style, _ = METRICS[metric]
            found.append((metric, title, style, 1.0, dataset))
    for field, (title, divisor, style) in COSTS.items():
        if any(row[field] is not None for row in report["rows"]):
            found.append((field, title, style, divisor, None))
    return found


def value_of(row: Mapping[str, Any], field: str, dataset: str | None) -> float | None:
    """A cell of the table; None where there is none, or none that is finite."""
    value = row[field] if dataset is None else row["quality"].get(dataset, {}).get("mean", {}).get(field)
    return value if is_finite(value) else None


def remarks(row: Mapping[str, Any]) -> list[str]:
    """What must be said beside a row's figures."""
    said = ["random weights: its quality says nothing"] if row["random_weights"] else []
    for dataset, quality in row["quality"].items():
        odd = [metric for metric, value in quality["mean"].items() if not is_finite(value)]
        said += [f"{dataset}: {', '.join(odd)}: not a finite number"] if odd else []
    return said + [f"{', '.join(error['cells'])}: {error['status']}: {error['error']}" for error in row["errors"]]


def conditions(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Protocol, machine, versions, date: what the figures hold for."""
    hardware, profile = report["machine"], report["profile"]
    memory = f"{hardware['memory_bytes'] / 2**30:.0f} GiB memory" if hardware["memory_bytes"] else ""
    parts = [hardware["processor"], f"{hardware['cores']} cores used", memory, hardware["gpu"], hardware["system"]]
    found = [
        ("Protocol", f"{report['protocol']} (quality figures are comparable within this protocol only)"),
        ("Test sets", ", ".join(f"{n} ({c or 'unusable'} pictures)" for n, c in report["datasets"].items())),
        ("Device", report["device"]),
        ("Machine", ", ".join(part for part in parts if part)),
        ("Versions", ", ".join(f"{name} {version}" for name, version in report["versions"].items())),
        ("Date", report["date"]),
    ]
    if profile:
        found.insert(3, (
            "Costs",
            f"for one picture of {profile['width']}x{profile['height']}, batch 1; latency: median of warm runs (up to "
            f"{profile['runs']}), device synchronised; memory beyond weights and input; MACs: products of "
            "convolutions, linear layers and matrix products, IAC's own left out; as the paper counts: one more per "
            "bias and activation",
        ))  # fmt: skip
    return found


def write_reports(report: Mapping[str, Any], out: Path) -> dict[str, Path]:
    """Write ``report.md``, ``.json``, ``.csv`` and ``.html``. Returns their paths."""
    from ifan_plugin.benchmark.page import html_page

    paths = {kind: out / f"report.{kind}" for kind in ("md", "json", "csv", "html")}
    write_json(paths["json"], report)
    for kind, text in (("md", markdown(report)), ("csv", as_csv(report)), ("html", html_page(report, out))):
        with written_aside(paths[kind], durable=False) as file:
            file.write(text.encode("utf-8"))
    return paths


def as_csv(report: Mapping[str, Any]) -> str:
    """A line a model, published ones in lines of their own; numbers in full."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    found = columns(report)
    heads = [f"{dataset}: {field}" if dataset else field for field, _, _, _, dataset in found]
    writer.writerow(["kind", "model", "type", "protocol", *heads, "remarks", "source"])
    for row in report["rows"]:
        values = [value_of(row, field, dataset) for field, _, _, _, dataset in found]
        values = ["" if value is None else value for value in values]
        said = "; ".join(remarks(row))
        writer.writerow(["measured", row["name"], row["type"], report["protocol"], *values, said, ""])
    published_rows = report.get("published", {}).get("rows", [])
    if published_rows:
        text.write("\n")
        heads = [f"{dataset}: {metric}" for dataset in ("DPDD", "RealDOF") for metric in METRICS]
        writer.writerow(["kind", "method", "input", *heads, "note", "source"])
    for row in published_rows:
        values = [shown(row[d][m], "g").replace(NONE, "-") for d in ("DPDD", "RealDOF") for m in METRICS]
        values = ["" if value == "-" else value for value in values]
        writer.writerow(["published", row["method"], row["input"], *values, row["note"], row["source"]])
    return text.getvalue()


def markdown(report: Mapping[str, Any]) -> str:
    """Tables for a README."""
    found = columns(report)
    lines = [f"# {_md(report['name'])}", ""]
    lines += [f"- **{key}**: {_md(value)}" for key, value in conditions(report)]
    heads = [f"{dataset}: {title}" if dataset else title for _, title, _, _, dataset in found]
    lines += ["", "## Measured", "", *_table(["Model", *heads, "Remarks"], [
        [row["name"], *(shown(value_of(row, f, d), s, v) for f, _, s, v, d in found), "; ".join(remarks(row))]
        for row in report["rows"]
    ], len(found))]  # fmt: skip
    if report["failures"]:
        lines += ["", "## Failed", ""]
        lines += [f"- {_md(_who(failure))}: {_md(failure['error'])}" for failure in report["failures"]]
    lines += [f"\n{_md(note)}" for note in report["notes"]]
    if "published" in report:
        rows = [
            [row["method"], row["input"], *(
                published_value(row[d][m], m) for d in ("DPDD", "RealDOF") for m in METRICS
            ), row["note"], row["source"]]
            for row in report["published"]["rows"]
        ]  # fmt: skip
        heads = [f"{dataset}: {METRICS[metric][0]}" for dataset in ("DPDD", "RealDOF") for metric in METRICS]
        lines += ["", f"## {report['published']['title']}", "", report["published"]["note"], ""]
        lines += _table(["Method", "Input", *heads, "Note", "Source"], rows, len(heads), text_columns=2)
    return "\n".join(lines) + "\n"


def _who(failure: Mapping[str, Any]) -> str:
    return f"{failure['model'] or 'all models'} ({', '.join(failure['cells'])})"


def failure_lines(report: Mapping[str, Any]) -> list[str]:
    """A line for each cell that failed."""
    return [f"failed: {_who(failure)}: {failure['error']}" for failure in report["failures"]]


def _table(heads: list[str], rows: list[list[str]], numbers: int, text_columns: int = 1) -> list[str]:
    ruler = ["---"] * text_columns + ["---:"] * numbers + ["---"] * (len(heads) - text_columns - numbers)
    head, *body = (f"| {' | '.join(map(_md, cells))} |" for cells in [heads, *rows])
    return [head, f"|{'|'.join(ruler)}|", *body]


def _md(text: str) -> str:
    """Text that Markdown takes as it is: neither columns nor tags nor emphasis of its own."""
    text = " ".join(text.split()).replace("\\", "\\\\").replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for mark in "|*`[]":
        text = text.replace(mark, f"\\{mark}")
    return text
