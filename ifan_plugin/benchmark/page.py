"""The report as one HTML page that needs nothing else: tables, plots, and pictures side by side."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ifan_plugin.benchmark import page_evidence
from ifan_plugin.benchmark import report as reporting
from ifan_plugin.benchmark.cells import is_finite
from ifan_plugin.benchmark.plots import Point, scatter
from ifan_plugin.common.words import counted
from ifan_plugin.images.image_io import read_image
from ifan_plugin.pictures.visual import ERROR_SCALE
from ifan_plugin.pictures.visual import error_map as coloured_error

_JPEG = [cv2.IMWRITE_JPEG_QUALITY, 93, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]


def html_page(report: Mapping[str, Any], out: Path) -> str:
    """The page. All text that comes from outside is escaped.

    Args:
        report: as :func:`ifan_plugin.benchmark.report.make_report` gives it.
        out: the benchmark's folder, whose ``cells`` hold the pictures.
    """
    parts = {
        "title": escape(f"Benchmark {report['name']}"),
        "css": _asset("page.css"),
        "js": _asset("page.js"),
        "body": "\n".join(
            [
                f"<h1>Benchmark: {escape(report['name'])}</h1>",
                f'<p class="lead">{_lead(report)}</p>',
                _failures(report),
                _measured(report),
                _plots(report),
                page_evidence.groups(report),
                page_evidence.comparisons(report),
                _pictures(report, out),
                _published(report),
                page_evidence.origins(report),
                _conditions(report),
            ]
        ),
    }
    page = _asset("page.html")
    before, *rest = page.split("{{")
    pieces = [before]  # replaced in one go: what is filled in may hold braces itself
    for piece in rest:
        name, after = piece.split("}}", 1)
        pieces += [parts[name], after]
    return "".join(pieces)


def _asset(name: str) -> str:
    return (resources.files("ifan_plugin.benchmark") / name).read_text(encoding="utf-8")


def _lead(report: Mapping[str, Any]) -> str:
    hardware = report["machine"]
    device = (
        hardware["gpu"] if report["device"] == "cuda" else f"{hardware['cores']} CPU cores ({hardware['processor']})"
    )
    return (
        f"{counted(len(report['rows']), 'model')} on {escape(', '.join(report['datasets']))}; protocol "
        f"<strong>{escape(report['protocol'])}</strong>; measured {escape(report['date'])} on {escape(device)}"
    )


def _failures(report: Mapping[str, Any]) -> str:
    if not report["failures"] and not report["notes"]:
        return ""
    lines = [line.removeprefix("failed: ") for line in reporting.failure_lines(report)]
    items = "".join(f"<li>{escape(line)}</li>" for line in [*lines, *report["notes"]])
    return f'<section class="warning" aria-label="What failed"><h2>Not everything ran</h2><ul>{items}</ul></section>'


# --- tables -------------------------------------------------------------------------------------------------------


def _measured(report: Mapping[str, Any]) -> str:
    found = reporting.columns(report)
    groups = [*report["datasets"], None]
    spans = [(name, sum(1 for column in found if column[4] == name)) for name in groups]
    head = "<th></th>" + "".join(
        f'<th class="group" colspan="{span}" scope="colgroup">{escape(name) if name else "cost"}</th>'
        for name, span in spans
        if span
    )
    best: dict[tuple[str, str | None], float] = {}
    bars: dict[tuple[str, str | None], tuple[float, float]] = {}
    for field, _, _, _, dataset in found:
        found_values = [reporting.value_of(row, field, dataset) for row in report["rows"]]
        values = [value for value in found_values if value is not None]
        if dataset is not None and len(values) > 1 and field not in reporting.NO_REFERENCE:
            best[field, dataset] = max(values) if reporting.METRICS[field][2] else min(values)
        if len(set(values)) > 1:
            bars[field, dataset] = min(values), max(values)
    rows = []
    for row in report["rows"]:
        cells = [_row_head(row["name"], _origin(row))]
        for field, _, style, divisor, dataset in found:
            value = reporting.value_of(row, field, dataset)
            text = reporting.shown(value, style, divisor)
            is_best = value is not None and not row["random_weights"] and value == best.get((field, dataset))
            bar = None
            if value is not None and (field, dataset) in bars and not (dataset and row["random_weights"]):
                bar = _bar(value, *bars[field, dataset], from_zero=dataset is None)
            cells.append(_number_cell(value, f"<strong>{text}</strong>" if is_best else text, bar))
        cells.append(f'<td class="text">{escape("; ".join(map(_shortened, reporting.remarks(row))))}</td>')
        rows.append(f"<tr>{''.join(cells)}</tr>")
    heads = [_sort_head(title, more=_more_is_better(field)) for field, title, *_ in found]
    return (
        "<section><h2>Measured</h2><p>Click a column's title to sort by it, the best first. The best figure is bold; "
        "of networks with random weights only the cost is shown, and figures without a sharp picture aren't rated. The "
        "line below a figure shows where it lies between the column's smallest and largest, for costs from zero on.</p>"
        + _table(
            "Measured figures",
            f"<tr>{head}<td></td></tr>"
            f"<tr>{_sort_head('Model', text=True)}{''.join(heads)}<th scope='col' class='text'>Remarks</th></tr>",
            rows,
        )
        + "</section>"
    )


def _more_is_better(field: str) -> bool:
    return reporting.METRICS[field][2] if field in reporting.METRICS else field in reporting.MORE_IS_BETTER


def _bar(value: float, low: float, high: float, from_zero: bool) -> float:
    """How far a figure lies between the smallest and the largest of its column, 0 to 1."""
    low = 0 if from_zero else low
    return min(max((value - low) / (high - low), 0), 1)


def _shortened(remark: str) -> str:
    """A remark that fits a cell; what failed is told in full at the top of the page."""
    return remark if len(remark) <= 110 else f"{remark[:100].rstrip()} … (in full above)"


def _origin(row: Mapping[str, Any]) -> str:
    checkpoint = Path(row["checkpoint"]).name if row["checkpoint"] else ""
    return ", ".join(part for part in (row["type"], checkpoint) if part and part != row["name"])


def _published(report: Mapping[str, Any]) -> str:
    if "published" not in report:
        return ""
    found = report["published"]
    columns = reporting.published_columns(found)
    spans = [(name, sum(1 for column in columns if column[0] == name)) for name in (*reporting.PUBLISHED_SETS, None)]
    head = '<th colspan="2"></th>' + "".join(
        f'<th class="group" colspan="{span}" scope="colgroup">{f"{name} (published)" if name else "as published"}</th>'
        for name, span in spans
        if span
    )
    heads = [_sort_head("Method", text=True), _sort_head("Input", text=True)]
    heads += [_sort_head(title, more=_more_is_better(field)) for _, field, title in columns]
    rows = []
    for row in found["rows"]:
        cells = [_row_head(row["method"], "published"), f'<td class="text short">{escape(row["input"])}</td>']
        for name, field, _ in columns:
            value = row[name][field] if name else row[field]
            low = value[0] if isinstance(value, list) else value
            cells.append(_number_cell(low, reporting.published_text(row, name, field)))
        source = escape(row["source"]) + (f"<br><em>{escape(row['note'])}</em>" if row["note"] else "")
        rows.append(f"<tr>{''.join(cells)}<td class='text'>{source}</td></tr>")
    table = _table(
        found["title"],
        f"<tr>{head}<td></td></tr><tr>{''.join(heads)}<th scope='col' class='text'>Source</th></tr>",
        rows,
    )
    return (
        f'<section class="published"><h2>{escape(found["title"])}</h2><p>{escape(found["note"])}</p>{table}'
        f"{page_evidence.published_plots(found)}</section>"
    )


def _table(label: str, head: str, rows: Iterable[str]) -> str:
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}"><table class="sortable">'
        f'<caption class="hidden">{escape(label)}</caption><thead>{head}</thead><tbody>{"".join(rows)}</tbody>'
        "</table></div>"
    )


def _sort_head(title: str, text: bool = False, more: bool = False) -> str:
    """A column's title. ``text``: sorted as text; ``more``: of numbers, larger ones are better and come first."""
    kind = ' class="text"' if text else f' data-better="{"higher" if more else "lower"}"'
    return f'<th scope="col" aria-sort="none"{kind}><button type="button">{escape(title)}</button></th>'


def _row_head(name: str, more: str) -> str:
    small = f"<small>{escape(more)}</small>" if more else ""
    return f'<th scope="row" class="text" data-value="{escape(name)}">{escape(name)}{small}</th>'


def _number_cell(value: float | None, text: str, bar: float | None = None) -> str:
    drawn = "" if bar is None else f' class="bar" style="--bar:{bar:.3f}"'
    return f'<td{drawn} data-value="{"" if value is None else repr(value)}">{text}</td>'


def _conditions(report: Mapping[str, Any]) -> str:
    items = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in reporting.conditions(report))
    return f"<section><h2>What the figures hold for</h2><dl>{items}</dl></section>"


# --- plots --------------------------------------------------------------------------------------------------------


def _plots(report: Mapping[str, Any]) -> str:
    if "psnr" not in report["metrics"]:
        return ""
    size = f"{report['profile']['width']}x{report['profile']['height']}" if report["profile"] else ""
    axes = [
        ("products", 1e9, f"MACs at {size} (G)", "MACs"),
        ("latency_s", 1, f"latency at {size} (s)", "latency"),
        ("parameters", 1e6, "parameters (M)", "number of parameters"),
    ]
    figures = []
    random = [row["name"] for row in report["rows"] if row["random_weights"]]
    for dataset in report["datasets"]:
        if "psnr" not in reporting.metrics_of(report, dataset):
            continue
        found = {row["name"]: reporting.value_of(row, "psnr", dataset) for row in report["rows"]}
        psnr = {name: value for name, value in found.items() if value is not None}
        blurred = [row["name"] for row in report["rows"] if row["type"] == "blurred input"][:1]
        rated = [row["name"] for row in report["rows"] if dataset in row["quality"] and not row["random_weights"]]
        odd = [name for name in rated if name not in psnr]
        line = next(((name, psnr[name]) for name in blurred if name in psnr), None)
        for field, divisor, title, short in axes:
            measured = [
                row
                for row in report["rows"]
                if row["name"] in psnr and row["type"] != "blurred input" and not row["random_weights"]
            ]
            points = [
                Point(name, cost / divisor, value, spread=spread)
                for name, cost, value, spread in page_evidence.measured_points(report, measured, psnr, dataset, field)
                if cost > 0
            ]
            if not points:
                continue
            missing = [row["name"] for row in measured if row[field] is None]
            note = f" Not shown, since its {short} can't be told: {', '.join(missing)}." if missing else ""
            if odd:
                note += f" Not shown, since its PSNR isn't a finite number: {', '.join(odd)}."
            if random:
                note += f" Left out, since their weights are random: {', '.join(random)}."
            caption = f"{dataset}: PSNR over {short}; up and to the left is better.{note}"
            svg = scatter(points, title, "PSNR (dB)", f"PSNR over {short} on {dataset}", line)
            figures.append(f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>")
    if not figures:
        return ""
    return f'<section><h2>Quality over cost</h2><div class="plots">{"".join(figures)}</div></section>'


# --- pictures -----------------------------------------------------------------------------------------------------


def _pictures(report: Mapping[str, Any], out: Path) -> str:
    groups = []
    for dataset, shown in report.get("shown", {}).items():
        for key, name in shown["pictures"].items():
            group = _group(report, out / "cells", dataset, key, name, shown["folder"])
            if group:
                groups.append(group)
    if not groups:
        return ""
    random = [escape(row["name"]) for row in report["rows"] if row["random_weights"]]
    left_out = f" Left out, since their weights are random: {', '.join(random)}." if random else ""
    legend = (
        f'<div class="legend" hidden><span>0</span><img alt="colours of the error map, from dark to bright" '
        f'src="{_legend()}"><span>{ERROR_SCALE:g} or more</span> absolute difference from the sharp picture, mean of '
        "RGB in [0, 1]</div>"
    )
    errors = '<label><input type="checkbox" data-do="error"> error maps</label>'
    controls = (
        '<div class="controls"><button type="button" data-do="in" aria-label="zoom in">+</button>'
        '<button type="button" data-do="out" aria-label="zoom out">−</button>'
        '<button type="button" data-do="reset">Reset</button>'
        "{errors}"
        '<output aria-live="polite">1.0×</output></div>'
    )
    return (
        "<section><h2>Pictures side by side</h2><p>Zoom with the wheel, two fingers, the buttons or + and −; move by "
        "dragging or with the arrow keys: all pictures of a scene follow. Shown is the part that blur changed most, or "
        f"without a sharp picture the one with most detail.{left_out}</p>"
        + "".join(
            f'<div class="viewer">{title}{controls.replace("{errors}", errors if compared else "")}'
            f"{legend if compared else ''}{tiles}</div>"
            for title, tiles, compared in groups
        )
        + "</section>"
    )


def _group(
    report: Mapping[str, Any], cells: Path, dataset: str, key: str, name: str, references: str
) -> tuple[str, str, bool] | None:
    """Title, pictures, and whether they are compared with a sharp one."""
    blurred, sharp = _read(cells / references / "blurred" / name), _read(cells / references / "sharp" / name)
    without = dataset in report.get("without_truth", ())
    if blurred is None or (sharp is None and not without):
        return None
    listed: list[tuple[str, np.ndarray, str]] = []
    for row in report["rows"]:
        quality = row["quality"].get(dataset)
        picture = _read(cells / quality["key"] / name) if quality and not row["random_weights"] else None
        if picture is not None and picture.shape == blurred.shape:
            image: dict[str, Any] = next((image for image in quality["images"] if image["image"] == key), {})
            listed.append((row["name"], picture, _figures(image, without)))
    if not any(row["type"] == "blurred input" and dataset in row["quality"] for row in report["rows"]):
        listed.insert(0, ("blurred input", blurred, ""))
    height, width = blurred.shape[:2]
    tiles = []
    for label, picture, figures in [*listed, *([] if sharp is None else [("ground truth", sharp, "")])]:
        what = f"{label}{figures}"
        error = "" if sharp is None or picture is sharp else (
            f'<img class="error" alt="{escape(f"error map of {label}")}" src="{_jpeg(error_map(picture, sharp))}" '
            'draggable="false" hidden>'
        )  # fmt: skip
        tiles.append(
            f'<figure><div class="view" tabindex="0" role="group" aria-label="{escape(f"{what}; zoom and move")}" '
            f'style="aspect-ratio:{width}/{height}"><img class="picture" alt="{escape(what)}" width="{width}" '
            f'height="{height}" src="{_jpeg(picture)}" draggable="false">{error}</div>'
            f"<figcaption>{escape(what)}</figcaption></figure>"
        )
    return f"<h3>{escape(dataset)}: {escape(key)}</h3>", f'<div class="tiles">{"".join(tiles)}</div>', sharp is not None


def _figures(image: Mapping[str, Any], without_truth: bool) -> str:
    """What stands beside a picture's name."""
    if without_truth:
        found = [(reporting.METRICS[name][0], image.get(name)) for name in reporting.NO_REFERENCE]
        return "".join(f", {title} {value:.2f}" for title, value in found if is_finite(value))
    return f", {image['psnr']:.2f} dB" if is_finite(image.get("psnr")) else ""


def error_map(picture: np.ndarray, sharp: np.ndarray) -> np.ndarray:
    """:func:`ifan_plugin.pictures.visual.error_map` as float RGB [H, W, 3] in [0, 1]; its arguments as there."""
    return coloured_error(picture, sharp).astype(np.float32) / 255


def _legend() -> str:
    ramp = np.tile(np.linspace(0, ERROR_SCALE, 128, dtype=np.float32)[None, :, None], (10, 1, 3))
    return _jpeg(error_map(ramp, np.zeros_like(ramp)))


def _read(path: Path) -> np.ndarray | None:
    return read_image(path) if path.is_file() else None


def _jpeg(picture: np.ndarray) -> str:
    pixels = np.ascontiguousarray(np.round(picture * 255).astype(np.uint8)[..., ::-1])
    done, encoded = cv2.imencode(".jpg", pixels, _JPEG)
    assert done
    return f"data:image/jpeg;base64,{base64.b64encode(encoded.tobytes()).decode()}"
