"""A benchmark's report: one mapping, and its texts as CSV and Markdown."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime, timezone
from importlib import metadata, resources
from typing import Any

from ifan_plugin import __version__
from ifan_plugin.benchmark import compare, provenance
from ifan_plugin.benchmark.cells import NONE, is_finite, number
from ifan_plugin.benchmark.options import Benchmark
from ifan_plugin.benchmark.quality import NO_REFERENCE
from ifan_plugin.benchmark.run import machine
from ifan_plugin.common.words import counted

METRICS = {  # name -> title, format, whether more is better
    "psnr": ("PSNR (dB)", ".2f", True),
    "ssim": ("SSIM", ".4f", True),
    "mae": ("MAE", ".4f", False),
    "lpips": ("LPIPS", ".3f", False),
    "niqe": ("NIQE", ".2f", False),
    "sharpness": ("Sharpness", ".3f", True),
}

PUBLISHED = ("psnr", "ssim", "mae", "lpips")
"""The metrics that papers give."""

PUBLISHED_SETS = ("DPDD", "RealDOF", "LFDOF")
"""The test sets that they give them for."""

PUBLISHED_FACTS = {"bits": ("Bits read", "g"), "parameters": ("Parameters (M)", ".2f"), "macs_256": ("MACs (G)", ".1f")}
"""What else they say: field -> title, format."""

MORE_IS_BETTER = ("megapixels_per_s",)
"""Of the costs; the others are better the lower they are."""

COSTS = {  # field of a row -> title, divisor, format
    "parameters": ("Parameters (M)", 1e6, ".3f"),
    "products": ("MACs (G)", 1e9, ".2f"),
    "paper_count": ("MACs as the paper counts (G)", 1e9, ".2f"),
    "latency_s": ("Latency (s)", 1, ".3f"),
    "cpu_s": ("CPU time (s)", 1, ".3f"),
    "peak_memory_bytes": ("Peak memory (MiB)", 2**20, ".0f"),
    "megapixels_per_s": ("Throughput (MP/s)", 1, ".2f"),
}


def make_report(benchmark: Benchmark, found: Mapping[str, Any]) -> dict[str, Any]:
    """Put what :func:`ifan_plugin.benchmark.run.run` found in rows.

    Returns:
        ``name``, ``protocol``, ``metrics``, ``date`` (UTC), ``machine``, ``versions``, ``device``, ``profile``,
        ``datasets``, ``rows`` (one a model: costs, ``quality`` by data set, ``errors``), ``failures`` (one line each),
        ``notes``, ``comparisons`` and ``groups`` (:mod:`ifan_plugin.benchmark.compare`), and ``published`` where the
        options ask for it.
    """
    rows, failures, notes = [], [], dict.fromkeys(found["notes"])
    for dataset, facts in found["references"].items():
        if "error" in facts:  # a test set that fails does so in every row: said once
            failures.append({"model": None, "cells": [dataset], "error": facts["error"]})
    for model in benchmark.models:
        row: dict[str, Any] = {
            "name": model.name, "type": model.type, "arguments": model.arguments, "checkpoint": model.path,
            "group": model.group, "random_weights": False, **dict.fromkeys(COSTS), "quality": {}, "errors": [],
        }  # fmt: skip
        cells = dict(found["quality"].get(model.name, {}))
        if model.name in found["profile"]:
            cells["time and memory"] = found["profile"][model.name]
        for name, cell in cells.items():
            row["random_weights"] = row["random_weights"] or cell.get("random_weights", False)
            row |= {field: cell[field] for field in (*COSTS, "runs") if cell.get(field) is not None}
            if cell["status"] != "done":
                said = {"cells": [name], "status": cell["status"], "error": cell["error"]}
                _add(row["errors"], said)
                if cell["status"] == "failed" and "error" not in found["references"].get(name, {}):
                    _add(failures, {"model": model.name, "cells": [name], "error": cell["error"]})
                continue
            if "mean" in cell:
                facts = {key: cell.get(key) for key in ("bit_depth", "code", "data", "checkpoint")}
                row["quality"][name] = {
                    "mean": cell["mean"], "images": cell["images"], "key": cell["key"], "provenance": facts,
                }  # fmt: skip
                notes |= {f"{metric} is left out: {why}": None for metric, why in cell["unavailable"].items()}
        if not model.has_network:
            row["parameters"] = None
        rows.append(row)
    report: dict[str, Any] = {
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
        "without_truth": [name for name, facts in found["references"].items() if not facts.get("truth", True)],
        "rows": rows, "failures": failures, "notes": list(notes),
    }  # fmt: skip
    sets = {name: {m: METRICS[m][2] for m in metrics_of(report, name)} for name in report["datasets"]}
    rated = {name: wanted for name, wanted in sets.items() if name not in report["without_truth"]}
    report["comparisons"] = compare.comparisons(rows, rated)
    report["groups"] = compare.repeated(rows, list(sets))
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
    for name in (
        "basicsr",
        "torch",
        "numpy",
        "scikit-image",
        "opencv-python",
        "lpips",
        "spandrel",
        "spandrel_extra_arches",
    ):
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


def metrics_of(report: Mapping[str, Any], dataset: str) -> list[str]:
    """What is measured on a test set; without sharp pictures: no-reference metrics."""
    return list(NO_REFERENCE if dataset in report.get("without_truth", ()) else report["metrics"])


def columns(report: Mapping[str, Any]) -> list[tuple[str, str, str, float, str | None]]:
    """The table's numeric columns: (field, title, format, divisor, data set or None), as far as any row has one."""
    found = []
    for dataset in report["datasets"]:
        for metric in metrics_of(report, dataset):
            title, style, _ = METRICS[metric]
            found.append((metric, title, style, 1.0, dataset))
    for field, (title, divisor, style) in COSTS.items():
        if any(row[field] is not None for row in report["rows"]):
            found.append((field, title, style, divisor, None))
    return found


def value_of(row: Mapping[str, Any], field: str, dataset: str | None) -> float | None:
    """A cell of the table; None where there is none, none that is finite, or quality that random weights make."""
    if dataset is not None and row["random_weights"]:
        return None
    value = row[field] if dataset is None else row["quality"].get(dataset, {}).get("mean", {}).get(field)
    return value if is_finite(value) else None


def remarks(row: Mapping[str, Any]) -> list[str]:
    """What must be said beside a row's figures."""
    said = ["random weights: no quality is shown"] if row["random_weights"] else []
    for dataset, quality in row["quality"].items():
        odd = [metric for metric, value in quality["mean"].items() if not is_finite(value)]
        said += [f"{dataset}: {', '.join(odd)}: not a finite number"] if odd else []
    return said + [f"{', '.join(error['cells'])}: {error['status']}: {error['error']}" for error in row["errors"]]


def conditions(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Protocol, machine, versions, date: what the figures hold for."""
    hardware, profile = report["machine"], report["profile"]
    memory = f"{hardware['memory_bytes'] / 2**30:.0f} GiB memory" if hardware["memory_bytes"] else ""
    parts = [
        hardware["processor"],
        f"{hardware['cores']} cores, {counted(hardware['threads'], 'thread')}",
        memory,
        hardware["gpu"],
        hardware["system"],
    ]
    found = [
        ("Protocol", f"{report['protocol']} (quality figures are comparable within this protocol only)"),
        ("Test sets", ", ".join(f"{n} ({_counted(c)})" for n, c in report["datasets"].items())),
        ("Device", report["device"]),
        ("Machine", ", ".join(part for part in parts if part)),
        ("Versions", ", ".join(f"{name} {version}" for name, version in report["versions"].items())),
        ("Date", report["date"]),
    ]
    if report.get("without_truth"):
        found.insert(2, (
            "Without sharp pictures",
            f"{', '.join(report['without_truth'])}: NIQE (lower is better) and sharpness, the gradients' energy "
            "(higher is sharper), compare with no truth: noise and ringing can fool both; look at the pictures",
        ))  # fmt: skip
    if profile:
        found.insert(len(found) - 3, (
            "Costs",
            f"for one picture of {profile['width']}x{profile['height']}, batch 1; latency: median of warm runs (up to "
            f"{profile['runs']}; one that takes longer than {profile['max_seconds']:g} s runs once), device "
            "synchronised; CPU time: what all cores computed for it, whatever else the machine did; memory beyond "
            "weights and input; MACs: products of convolutions, linear layers and matrix products, IAC's own left out; "
            "as the paper counts: one more per bias and activation",
        ))  # fmt: skip
    return found


def _counted(pictures: int | None) -> str:
    return counted(pictures, "picture") if pictures else "unusable"


def as_csv(report: Mapping[str, Any]) -> str:
    """A line a model, published ones in lines of their own; numbers in full."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    found = columns(report)
    heads = [f"{dataset}: {field}" if dataset else field for field, _, _, _, dataset in found]
    writer.writerow(["kind", "model", "type", "protocol", *heads, "remarks", "source"])
    for row in report["rows"]:
        figures = [value_of(row, field, dataset) for field, _, _, _, dataset in found]
        values = ["" if value is None else value for value in figures]
        said = "; ".join(remarks(row))
        writer.writerow(["measured", row["name"], row["type"], report["protocol"], *values, said, ""])
    published_rows = report.get("published", {}).get("rows", [])
    if published_rows:
        text.write("\n")
        heads = [f"{dataset}: {metric}" for dataset in PUBLISHED_SETS for metric in PUBLISHED]
        writer.writerow(["kind", "method", "input", *heads, *PUBLISHED_FACTS, "note", "source"])
    for row in published_rows:
        values = [*(row[d][m] for d in PUBLISHED_SETS for m in PUBLISHED), *(row[fact] for fact in PUBLISHED_FACTS)]
        texts = ["" if value is None else shown(value, "g").replace(NONE, "-") for value in values]
        writer.writerow(["published", row["method"], row["input"], *texts, row["note"], row["source"]])
    return text.getvalue()


def scenes_csv(report: Mapping[str, Any]) -> str:
    """A line for each scene and metric, a column for each model: what the paired tests compare."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    rows = [row for row in report["rows"] if not row["random_weights"]]
    writer.writerow(["test set", "scene", "metric", *(row["name"] for row in rows)])
    for dataset in report["datasets"]:
        figures = [
            {image["image"]: image for image in row["quality"].get(dataset, {}).get("images", ())} for row in rows
        ]
        for scene in {key: None for each in figures for key in each}:
            for metric in metrics_of(report, dataset):
                values = [each.get(scene, {}).get(metric) for each in figures]
                writer.writerow([dataset, scene, metric, *("" if value is None else value for value in values)])
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
    if report["groups"]:
        lines += ["", "## Several seeds", "", *_table(*group_table(report))]
    if report["comparisons"]:
        lines += ["", "## Pairs of models, scene by scene", "", COMPARED, ""]
        lines += _table(*comparison_table(report), 5, text_columns=4)
    come_from = provenance.rows(report)
    if come_from:
        lines += ["", "## What each row comes from", "", *_table(list(provenance.COLUMNS), come_from, 0)]
    if "published" in report:
        heads, rows = published_table(report["published"])
        more = [[row["note"], row["source"]] for row in report["published"]["rows"]]
        rows = [[*row, *others] for row, others in zip(rows, more)]
        lines += ["", f"## {report['published']['title']}", "", report["published"]["note"], ""]
        lines += _table([*heads, "Note", "Source"], rows, len(heads) - 2, text_columns=2)
    return "\n".join(lines) + "\n"


COMPARED = (
    "Better: on how many scenes the first model is. Difference: the scenes' mean, with its 95 % confidence (Student's t"
    "). p: Wilcoxon's signed-rank test, corrected for the number of pairs by Holm's method; from 0.05 on the "
    "difference may be chance. Of fewer than six scenes the test can't tell."
)


def comparison_table(report: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Titles and rows: each pair of models on each test set."""
    rows = []
    for pair in report["comparisons"]:
        title, style, _ = METRICS[pair["metric"]]
        low, high = pair["interval"] or (None, None)
        rows.append([
            pair["first"], pair["second"], pair["dataset"], title, f"{pair['better']} of {pair['scenes']}",
            number(pair["difference"], f"+{style}"), number(low, f"+{style}"), number(high, f"+{style}"),
            number(pair["holm"], ".2g"),
        ])  # fmt: skip
    heads = ["First", "Second", "Test set", "Metric", "Better", "Difference", "from", "to", "p"]
    return heads, rows


def group_table(report: Mapping[str, Any]) -> tuple[list[str], list[list[str]], int]:
    """Titles, rows and number of numeric columns: mean and deviation of rows that are one recipe."""
    columns = [(dataset, metric) for dataset in report["datasets"] for metric in metrics_of(report, dataset)]
    rows = []
    for group in report["groups"]:
        found = [group["quality"].get(dataset, {}).get(metric) for dataset, metric in columns]
        styles = [METRICS[metric][1] for _, metric in columns]
        texts = [NONE if each is None else f"{each[0]:{s}} ± {each[1]:{s}}" for each, s in zip(found, styles)]
        rows.append([f"{group['group']} ({len(group['rows'])} seeds)", *texts])
    return ["Recipe", *(f"{dataset}: {METRICS[metric][0]}" for dataset, metric in columns)], rows, len(columns)


def published_columns(published: Mapping[str, Any]) -> list[tuple[str | None, str, str]]:
    """The columns that any row has: (test set or None, field, title)."""
    found: list[tuple[str | None, str, str]] = [
        (dataset, metric, METRICS[metric][0])
        for dataset in PUBLISHED_SETS
        for metric in PUBLISHED
        if any(row[dataset][metric] is not None for row in published["rows"])
    ]
    facts = ((None, fact, title) for fact, (title, _) in PUBLISHED_FACTS.items())
    return found + [each for each in facts if any(row[each[1]] is not None for row in published["rows"])]


def published_text(row: Mapping[str, Any], dataset: str | None, field: str) -> str:
    """A cell of the published table."""
    return published_value(row[dataset][field], field) if dataset else shown(row[field], PUBLISHED_FACTS[field][1])


def published_table(published: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Titles and rows, without note and source."""
    columns = published_columns(published)
    heads = ["Method", "Input", *(f"{dataset}: {title}" if dataset else title for dataset, _, title in columns)]
    rows = [
        [row["method"], row["input"], *(published_text(row, dataset, field) for dataset, field, _ in columns)]
        for row in published["rows"]
    ]
    return heads, rows


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
