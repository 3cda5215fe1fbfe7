"""Draw the charts of docs/performance.md from the committed measurements in docs/benchmarks, as SVG in docs/charts.

A chart has one panel for each size, and a bar for each contestant. Nothing is measured here.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
FROM, TO = ROOT / "docs" / "benchmarks", ROOT / "docs" / "charts"
WIDTH, LEFT, BAR, GAP = 480, 12, 16, 8
OURS, OTHER, INK = "#00796b", "#90a4ae", "#263238"
STYLE = f"text{{font:14px sans-serif;fill:{INK}}} .title{{font-weight:bold}} .panel{{font-style:italic}}"


@dataclass(frozen=True)
class Bar:
    """One contestant: what it is called, its figure, and whether it is this package's."""

    label: str
    value: float
    ours: bool


def main() -> int:
    """Write every chart."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0],
        epilog="example:\n  python scripts/draw_charts.py",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=TO, metavar="FOLDER", help="where (default: docs/charts)")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for name, drawn in charts().items():
        (out / name).write_text(drawn, encoding="utf-8")
        print(f"written to {out / name}")
    return 0


def charts() -> dict[str, str]:
    """File name -> SVG."""
    network = [("restore_cpu", "restore", "picture"), ("train_cpu", "train", "training step, 8 patches of")]
    drawn = {
        "network_time.svg": whole_network("Seconds, lower is better", network, lambda row: row["median"], "{:.1f} s"),
        "network_memory.svg": whole_network(
            "Peak memory, MiB, lower is better", network, lambda row: row["peak"] / 2**20, "{:,.0f}"
        ),
    }
    for name, wanted in (("iac_forward.svg", "forward"), ("iac_backward.svg", "forward+backward")):
        drawn[name] = operator(f"IAC, {wanted}: milliseconds, lower is better", wanted)
    for name, wanted in (("gpu_forward.svg", "forward"), ("gpu_backward.svg", "forward+backward")):
        drawn[name] = operator_on_gpu(f"IAC on an H100, {wanted}: ms, lower is better", wanted)
    drawn["loading.svg"] = loading("Samples a second with the paper's augmentation, higher is better")
    return drawn


def read(name: str) -> dict:
    return json.loads((FROM / f"{name}.json").read_text(encoding="utf-8"))


def whole_network(title: str, files: list[tuple[str, str, str]], value: Callable[[dict], float], form: str) -> str:
    panels = {}
    for name, wanted, what in files:
        for row in read(name)["rows"]:
            if row["pass"] == wanted:
                bar = Bar(row["contestant"], value(row), row["contestant"] == "ours")
                panels.setdefault(f"{what} {row['size']}", []).append(bar)
    return draw(title, panels, form)


def operator(title: str, wanted: str) -> str:
    panels: dict[str, list[Bar]] = {}
    for row in read("iac_cpu")["rows"]:
        if row["pass"] == wanted and "median" in row:
            bar = Bar(row["contestant"], row["median"] * 1e3, row["contestant"] == "compiled")
            panels.setdefault(f"{row['size']} (B x C x H x W), {row['dtype']}", []).append(bar)
    return draw(title, panels, "{:,.0f} ms")


def operator_on_gpu(title: str, wanted: str) -> str:
    """Of the check's report, whose cells are texts."""
    (stage,) = (stage for stage in read("gpu_h100")["stages"] if stage["stage"] == "iac")
    panels: dict[str, list[Bar]] = {}
    for size, dtype, which, form, milliseconds, *_ in stage["tables"][0]["rows"]:
        if which == wanted and dtype != "bfloat16":  # as fast as float16
            bar = Bar(f"{form}, {dtype}", float(milliseconds), form == "compiled")
            panels.setdefault(f"{size} (B x C x H x W)", []).append(bar)
    ordered = {size: sorted(bars, key=lambda bar: bar.value) for size, bars in panels.items()}
    return draw(title, ordered, "{:,.2f} ms")


def loading(title: str) -> str:
    names = {
        "host": "BasicSR's PairedImageDataset, PNG, plain crop",
        "folders": "PNG folders",
        "png": "whole PNG in LMDB",
        "patches": "512 patches as PNG in LMDB",
        "raw": "raw LMDB",
    }
    bars = []
    for row in read("data")["rows"]:
        host = row["contestant"] == "host"
        if row["mode"] == "warm" and (row["augment"] == "paper" or host):
            pictures = 4  # the file's seconds are of a picture, and samples are counted as having four
            bars.append(Bar(names[row["contestant"]], 1 / (median(row["seconds"]) * pictures), not host))
    return draw(title, {"one worker, page cache warm": bars}, "{:,.1f}")


def draw(title: str, panels: dict[str, list[Bar]], form: str) -> str:
    """The SVG: each panel's bars have that panel's own scale, which is a linear one from zero."""
    parts, y = [], 34
    for name, bars in panels.items():
        parts.append(f'<text class="panel" x="{LEFT}" y="{y + 12}">{escape(name)}</text>')
        y += 22
        most = max(bar.value for bar in bars)
        for bar in bars:
            long = max(2.0, bar.value / most * (WIDTH - LEFT - 100))
            colour = OURS if bar.ours else OTHER
            parts += [
                f'<text x="{LEFT}" y="{y + 12}">{escape(bar.label)}</text>',
                f'<rect x="{LEFT}" y="{y + 17}" width="{long:.1f}" height="{BAR}" fill="{colour}"/>',
                f'<text x="{LEFT + long + 6:.1f}" y="{y + BAR + 14}">{escape(form.format(bar.value))}</text>',
            ]
            y += 17 + BAR + GAP
        y += 10
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" role="img" aria-label="{escape(title)}">'
    ground = f'<rect width="{WIDTH}" height="{y}" rx="6" fill="#ffffff"/>'
    text = f'<text class="title" x="{LEFT}" y="22">{escape(title)}</text>'
    return "\n".join([head, f"<style>{STYLE}</style>", ground, text, *parts, "</svg>", ""])


if __name__ == "__main__":
    sys.exit(main())
