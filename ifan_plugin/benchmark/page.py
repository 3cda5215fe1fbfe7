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

from ifan_plugin.benchmark import report as reporting
from ifan_plugin.benchmark.cells import is_finite
from ifan_plugin.benchmark.plots import Point, scatter
from ifan_plugin.data.image_io import read_image
from ifan_plugin.visual import ERROR_SCALE
from ifan_plugin.visual import error_map as coloured_error

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
                _pictures(report, out),
                _published(report),
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
        f"{len(report['rows'])} models on {escape(', '.join(report['datasets']))}; protocol "
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
    best = {}
    for field, _, _, _, dataset in found:
        rated = [reporting.value_of(row, field, dataset) for row in report["rows"] if not row["random_weights"]]
        values = [value for value in rated if value is not None]
        if dataset is not None and len(values) > 1:
            best[field, dataset] = max(values) if reporting.METRICS[field][2] else min(values)
    rows = []
    for row in report["rows"]:
        cells = [_row_head(row["name"], _origin(row))]
        for field, _, style, divisor, dataset in found:
            value = reporting.value_of(row, field, dataset)
            text = reporting.shown(value, style, divisor)
            is_best = value is not None and not row["random_weights"] and value == best.get((field, dataset))
            cells.append(_number_cell(value, f"<strong>{text}</strong>" if is_best else text))
        cells.append(f'<td class="text">{escape("; ".join(map(_shortened, reporting.remarks(row))))}</td>')
        rows.append(f"<tr>{''.join(cells)}</tr>")
    heads = [_sort_head(title) for _, title, *_ in found]
    return (
        "<section><h2>Measured</h2><p>Click a column's title to sort by it. The best figure is bold; networks with "
        "random weights aren't rated.</p>"
        + _table(
            "Measured figures",
            f"<tr>{head}<td></td></tr>"
            f"<tr>{_sort_head('Model', text=True)}{''.join(heads)}<th scope='col' class='text'>Remarks</th></tr>",
            rows,
        )
        + "</section>"
    )


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
    sets = ("DPDD", "RealDOF")
    metrics = reporting.METRICS
    head = '<th colspan="2"></th>' + "".join(
        f'<th class="group" colspan="{len(metrics)}" scope="colgroup">{name} (published)</th>' for name in sets
    )
    heads = [_sort_head("Method", text=True), _sort_head("Input", text=True)]
    heads += [_sort_head(metrics[metric][0]) for _ in sets for metric in metrics]
    rows = []
    for row in found["rows"]:
        cells = [_row_head(row["method"], "published"), f'<td class="text short">{escape(row["input"])}</td>']
        for name in sets:
            for metric in metrics:
                value = row[name][metric]
                low = value[0] if isinstance(value, list) else value
                cells.append(_number_cell(low, reporting.published_value(value, metric)))
        source = escape(row["source"]) + (f"<br><em>{escape(row['note'])}</em>" if row["note"] else "")
        rows.append(f"<tr>{''.join(cells)}<td class='text'>{source}</td></tr>")
    table = _table(
        found["title"],
        f"<tr>{head}<td></td></tr><tr>{''.join(heads)}<th scope='col' class='text'>Source</th></tr>",
        rows,
    )
    return (
        f'<section class="published"><h2>{escape(found["title"])}</h2><p>{escape(found["note"])}</p>{table}</section>'
    )


def _table(label: str, head: str, rows: Iterable[str]) -> str:
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}"><table class="sortable">'
        f'<caption class="hidden">{escape(label)}</caption><thead>{head}</thead><tbody>{"".join(rows)}</tbody>'
        "</table></div>"
    )


def _sort_head(title: str, text: bool = False) -> str:
    kind = ' class="text"' if text else ""
    return f'<th scope="col" aria-sort="none"{kind}><button type="button">{escape(title)}</button></th>'


def _row_head(name: str, more: str) -> str:
    small = f"<small>{escape(more)}</small>" if more else ""
    return f'<th scope="row" class="text" data-value="{escape(name)}">{escape(name)}{small}</th>'


def _number_cell(value: float | None, text: str) -> str:
    return f'<td data-value="{"" if value is None else repr(value)}">{text}</td>'


def _conditions(report: Mapping[str, Any]) -> str:
    items = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in reporting.conditions(report))
    return f"<section><h2>What the figures hold for</h2><dl>{items}</dl></section>"


# --- plots --------------------------------------------------------------------------------------------------------


def _plots(report: Mapping[str, Any]) -> str:
    if "psnr" not in report["metrics"]:
        return ""
    size = f"{report['profile']['width']}x{report['profile']['height']}" if report["profile"] else ""
    axes = [("products", 1e9, f"MACs at {size} (G)", "MACs"), ("latency_s", 1, f"latency at {size} (s)", "latency")]
    figures = []
    for dataset in report["datasets"]:
        psnr = {row["name"]: reporting.value_of(row, "psnr", dataset) for row in report["rows"]}
        blurred = [(r["name"], psnr[r["name"]]) for r in report["rows"] if r["type"] == "blurred input"]
        odd = [row["name"] for row in report["rows"] if dataset in row["quality"] and psnr[row["name"]] is None]
        line = blurred[0] if blurred and blurred[0][1] is not None else None
        for field, divisor, title, short in axes:
            measured = [
                row for row in report["rows"] if psnr[row["name"]] is not None and row["type"] != "blurred input"
            ]
            points = [
                Point(row["name"], row[field] / divisor, psnr[row["name"]], hollow=row["random_weights"])
                for row in measured
                if row[field] is not None
            ]
            if not points:
                continue
            missing = [row["name"] for row in measured if row[field] is None]
            note = f" Not shown, since its {short} can't be told: {', '.join(missing)}." if missing else ""
            if odd:
                note += f" Not shown, since its PSNR isn't a finite number: {', '.join(odd)}."
            if any(point.hollow for point in points):
                note = f" Rings: networks with random weights.{note}"
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
    legend = (
        f'<div class="legend" hidden><span>0</span><img alt="colours of the error map, from dark to bright" '
        f'src="{_legend()}"><span>{ERROR_SCALE:g} or more</span> absolute difference from the sharp picture, mean of '
        "RGB in [0, 1]</div>"
    )
    controls = (
        '<div class="controls"><button type="button" data-do="in" aria-label="zoom in">+</button>'
        '<button type="button" data-do="out" aria-label="zoom out">−</button>'
        '<button type="button" data-do="reset">Reset</button>'
        '<label><input type="checkbox" data-do="error"> error maps</label>'
        '<output aria-live="polite">1.0×</output></div>'
    )
    return (
        "<section><h2>Pictures side by side</h2><p>Zoom with the wheel, two fingers, the buttons or + and −; move by "
        "dragging or with the arrow keys: all pictures of a scene follow. Shown is the part that blur changed most.</p>"
        + "".join(f'<div class="viewer">{title}{controls}{legend}{tiles}</div>' for title, tiles in groups)
        + "</section>"
    )


def _group(
    report: Mapping[str, Any], cells: Path, dataset: str, key: str, name: str, references: str
) -> tuple[str, str] | None:
    blurred, sharp = _read(cells / references / "blurred" / name), _read(cells / references / "sharp" / name)
    if blurred is None or sharp is None:
        return None
    listed: list[tuple[str, np.ndarray, float | None]] = []
    for row in report["rows"]:
        quality = row["quality"].get(dataset)
        picture = _read(cells / quality["key"] / name) if quality else None
        if picture is not None and picture.shape == sharp.shape:
            psnr = next((image.get("psnr") for image in quality["images"] if image["image"] == key), None)
            listed.append((row["name"], picture, psnr))
    if not any(row["type"] == "blurred input" and dataset in row["quality"] for row in report["rows"]):
        listed.insert(0, ("blurred input", blurred, None))
    height, width = sharp.shape[:2]
    tiles = []
    for label, picture, psnr in [*listed, ("sharp", sharp, None)]:
        what = f"{label}, {psnr:.2f} dB" if is_finite(psnr) else label
        is_sharp = picture is sharp
        error = "" if is_sharp else (
            f'<img class="error" alt="{escape(f"error map of {label}")}" src="{_jpeg(error_map(picture, sharp))}" '
            'draggable="false" hidden>'
        )  # fmt: skip
        tiles.append(
            f'<figure><div class="view" tabindex="0" role="group" aria-label="{escape(f"{what}; zoom and move")}" '
            f'style="aspect-ratio:{width}/{height}"><img class="picture" alt="{escape(what)}" width="{width}" '
            f'height="{height}" src="{_jpeg(picture)}" draggable="false">{error}</div>'
            f"<figcaption>{escape(what)}</figcaption></figure>"
        )
    return f"<h3>{escape(dataset)}: {escape(key)}</h3>", f'<div class="tiles">{"".join(tiles)}</div>'


def error_map(picture: np.ndarray, sharp: np.ndarray) -> np.ndarray:
    """:func:`ifan_plugin.visual.error_map` as float RGB [H, W, 3] in [0, 1]; its arguments as there."""
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
    return f"data:image/jpeg;base64,{base64.b64encode(encoded).decode()}"
