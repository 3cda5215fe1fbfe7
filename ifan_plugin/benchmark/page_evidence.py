"""The page's sections on what the figures are worth: pairs of models, several seeds, where each row comes from."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ifan_plugin.benchmark import compare, provenance
from ifan_plugin.benchmark import report as reporting
from ifan_plugin.benchmark.cells import is_finite
from ifan_plugin.benchmark.plots import Point, scatter


def comparisons(report: Mapping[str, Any]) -> str:
    """Pairs of models, scene by scene, with a line on each for PSNR; empty where there are none."""
    if not report["comparisons"]:
        return ""
    first = report["metrics"][0]
    said = [compare.verdict(pair) for pair in report["comparisons"] if pair["metric"] == first]
    lines = "".join(f"<li>{escape(line)}</li>" for line in said[:12])
    return (
        f"<section><h2>Pairs of models, scene by scene</h2><ul>{lines}</ul><p>{escape(reporting.COMPARED)}</p>"
        f"{_plain('Pairs of models', *reporting.comparison_table(report), texts=4)}</section>"
    )


def groups(report: Mapping[str, Any]) -> str:
    """Mean and deviation of recipes that were trained with several seeds; empty where there are none."""
    if not report["groups"]:
        return ""
    heads, rows, _ = reporting.group_table(report)
    return f"<section><h2>Several seeds</h2>{_plain('Several seeds', heads, rows)}</section>"


def origins(report: Mapping[str, Any]) -> str:
    """Protocol, bit depth, code version and checksums of each row; empty where nothing was measured."""
    rows = provenance.rows(report)
    if not rows:
        return ""
    about = "Data: SHA-256 of the scenes' names and of input and sharp picture as they were read."
    table = _plain("What each row comes from", provenance.COLUMNS, rows, texts=len(provenance.COLUMNS))
    return f"<section><h2>What each row comes from</h2><p>{about}</p>{table}</section>"


def measured_points(
    report: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], psnr: Mapping[str, float], dataset: str, field: str
) -> list[tuple[str, float, float, float]]:
    """Name, cost, PSNR and its deviation: a row each, but one for those that are one recipe with several seeds."""
    found, done = [], set()
    for row in rows:
        if row[field] is None:
            continue
        group = next((each for each in report["groups"] if row["name"] in each["rows"]), None)
        spread = None if group is None else group["quality"].get(dataset, {}).get("psnr")
        if group is None or spread is None:
            found.append((row["name"], row[field], psnr[row["name"]], 0.0))
        elif group["group"] not in done:
            done.add(group["group"])
            found.append((group["group"], row[field], *spread))
    return found


def published_plots(published: Mapping[str, Any]) -> str:
    """PSNR on DPDD over parameters and MACs, as published; a bar where sources differ."""
    figures = []
    for fact, title in (("parameters", "parameters (M)"), ("macs_256", "MACs for 256x256 (G)")):
        points = []
        for row in published["rows"]:
            psnr, cost = row["DPDD"]["psnr"], row[fact]
            if psnr is None or not is_finite(cost):
                continue
            values = psnr if isinstance(psnr, list) else [psnr]
            points.append(Point(row["method"], cost, statistics.mean(values), True, (max(values) - min(values)) / 2))
        if len(points) > 1:
            svg = scatter(points, title, "PSNR (dB)", f"Published PSNR on DPDD over {title}")
            caption = f"Published, not measured here: PSNR on DPDD over {title}; rings, as against what was measured."
            figures.append(f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>")
    return f'<div class="plots">{"".join(figures)}</div>' if figures else ""


def _plain(label: str, heads: Sequence[str], rows: Sequence[Sequence[str]], texts: int = 1) -> str:
    """A table whose first ``texts`` columns are text, and the others figures."""
    kinds = [' class="text short"' if index < texts else "" for index in range(len(heads))]
    head = "".join(f'<th scope="col"{kind}>{escape(title)}</th>' for title, kind in zip(heads, kinds))
    body = "".join(
        f'<tr><th scope="row" class="text">{escape(row[0])}</th>'
        f"{''.join(f'<td{kind}>{escape(cell)}</td>' for cell, kind in zip(row[1:], kinds[1:]))}</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}"><table>'
        f'<caption class="hidden">{escape(label)}</caption><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )
