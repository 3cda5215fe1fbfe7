"""A benchmark's report as files: JSON, CSV, Markdown, LaTeX and a page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ifan_plugin.benchmark.cells import write_json
from ifan_plugin.benchmark.latex import latex
from ifan_plugin.benchmark.page import html_page
from ifan_plugin.benchmark.report import as_csv, markdown, scenes_csv
from ifan_plugin.common.files import written_aside


def write_reports(report: Mapping[str, Any], out: Path) -> dict[str, Path]:
    """Write ``report.md``, ``.json``, ``.csv``, ``.tex`` and ``.html``, and ``scenes.csv``. Returns their paths."""
    paths = {kind: out / f"report.{kind}" for kind in ("md", "json", "csv", "tex", "html")}
    paths["scenes"] = out / "scenes.csv"
    write_json(paths["json"], report)
    texts = {
        "md": markdown(report), "csv": as_csv(report), "tex": latex(report), "scenes": scenes_csv(report),
        "html": html_page(report, out),
    }  # fmt: skip
    for kind, text in texts.items():
        with written_aside(paths[kind], durable=False) as file:
            file.write(text.encode("utf-8"))
    return paths
