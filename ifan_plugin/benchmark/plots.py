"""Scatter plots as inline SVG, coloured by the page's style."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

WIDTH, HEIGHT = 450, 340
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 16, 56
_CHARACTER = 8.4  # width of a character of 14 px, about


class Point(NamedTuple):
    """A named value pair; ``x`` > 0."""

    name: str
    x: float
    y: float
    hollow: bool = False  # drawn as a ring
    spread: float = 0.0  # half the length of a bar through it, in y


class _Box(NamedTuple):
    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: _Box) -> float:
        """Area in common."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(width, 0) * max(height, 0)


def scatter(
    points: Sequence[Point], x_title: str, y_title: str, label: str, line: tuple[str, float] | None = None
) -> str:
    """A scatter plot with logarithmic x.

    Args:
        points: what is drawn; one at least.
        x_title, y_title: with their units.
        label: what the plot shows, for those who can't see it; the points are read out after it.
        line: name and y of a horizontal line to compare with.

    Returns:
        An ``<svg>`` element; all text in it is escaped.
    """
    low, high = _decades(min(p.x for p in points), max(p.x for p in points))
    values = [p.y + sign * p.spread for p in points for sign in (-1, 1)] + ([line[1]] if line else [])
    ticks = nice_ticks(min(values), max(values))
    bottom, top = ticks[0], ticks[-1]

    def at_x(value: float) -> float:
        return _LEFT + (math.log10(value) - low) / (high - low) * (WIDTH - _LEFT - _RIGHT)

    def at_y(value: float) -> float:
        return HEIGHT - _BOTTOM - (value - bottom) / (top - bottom) * (HEIGHT - _TOP - _BOTTOM)

    floor = HEIGHT - _BOTTOM
    read_out = "; ".join(f"{p.name}: {p.x:.4g}, {p.y:.4g}" for p in points)
    parts = [
        f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(f"{label}. {read_out}")}">'
    ]
    for tick in log_ticks(low, high):
        x = at_x(tick)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{floor}"/>')
        parts.append(f'<text x="{x:.1f}" y="{floor + 18}" text-anchor="middle">{_number(tick)}</text>')
    digits = max(0, -math.floor(math.log10(ticks[1] - ticks[0]) + 1e-9))
    for tick in ticks:
        y = at_y(tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 5:.1f}" text-anchor="end">{tick:.{digits}f}</text>')
    parts.append(f'<path class="axis" d="M{_LEFT} {_TOP}V{floor}H{WIDTH - _RIGHT}"/>')
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 10}" text-anchor="middle">{escape(x_title)} (logarithmic)</text>')
    half = (_TOP + floor) / 2
    parts.append(f'<text transform="translate(16 {half}) rotate(-90)" text-anchor="middle">{escape(y_title)}</text>')
    places = [(at_x(p.x), at_y(p.y)) for p in points]
    taken = [_Box(x - 6, y - 6, x + 6, y + 6) for x, y in places]
    if line:
        y = at_y(line[1])
        parts.append(f'<line class="compare" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        taken.append(_Box(_LEFT, y - 2, WIDTH - _RIGHT, y + 2))
        parts.append(_placed(line[0], WIDTH - _RIGHT - 8 - len(line[0]) * _CHARACTER, y, taken, "muted"))
    for point, (x, y) in zip(points, places):
        title = escape(f"{point.name}: {point.x:.4g}, {point.y:.4g}")
        ring = ' class="ring"' if point.hollow else ""
        if point.spread:
            title += f" ± {point.spread:.2g}"
            low_y, high_y = at_y(point.y - point.spread), at_y(point.y + point.spread)
            ends = "".join(f"M{x - 4:.1f} {end:.1f}h8" for end in (low_y, high_y))
            parts.append(f'<path class="axis" d="M{x:.1f} {low_y:.1f}V{high_y:.1f}{ends}"/>')
        parts.append(f'<circle{ring} cx="{x:.1f}" cy="{y:.1f}" r="5"><title>{title}</title></circle>')
        parts.append(_placed(point.name, x, y, taken, "name"))
    return "".join([*parts, "</svg>"])


def _placed(name: str, x: float, y: float, taken: list[_Box], kind: str) -> str:
    """A label beside (x, y), where it hides least of what is there already; long names are cut."""
    text = name if len(name) <= 28 else name[:27] + "…"
    width = len(text) * _CHARACTER
    best: tuple[float, _Box] | None = None
    for rank, (dx, dy) in enumerate(
        [(9, 5), (-9 - width, 5), (-width / 2, -10), (-width / 2, 22), (9, -10), (9, 22), (-9 - width, -10),
         (-9 - width, 22), (9, 40), (9, -28), (-width / 2, 40), (-width / 2, -28)]
    ):  # fmt: skip
        left = min(max(x + dx, _LEFT + 3), WIDTH - _RIGHT - width)
        box = _Box(left, y + dy - 12, left + width, y + dy + 3)
        outside = max(_TOP - box.top, 0) + max(box.bottom - (HEIGHT - _BOTTOM), 0)
        cost = sum(box.overlap(other) for other in taken) + 1000 * outside + rank
        if best is None or cost < best[0]:
            best = (cost, box)
    assert best is not None
    taken.append(best[1])
    return f'<text class="{kind}" x="{best[1].left:.1f}" y="{best[1].bottom - 3:.1f}">{escape(text)}</text>'


def _decades(smallest: float, largest: float) -> tuple[float, float]:
    """The axis in powers of ten: the values with a margin, a third of a decade at least."""
    low, high = math.log10(smallest), math.log10(largest)
    margin = max(0.08 * (high - low), 0.15)
    return low - margin, high + margin


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers between 10**low and 10**high: powers of ten, with multiples of them where there is room."""
    for multiples in ((1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9), (1, 2, 5), (1, 3), (1,)):
        ticks = [
            m * 10.0**decade
            for decade in range(math.floor(low), math.ceil(high) + 1)
            for m in multiples
            if low <= math.log10(m) + decade <= high
        ]
        if len(ticks) <= 6:
            break
    return ticks or [10 ** ((low + high) / 2)]


def nice_ticks(smallest: float, largest: float, count: int = 5) -> list[float]:
    """Evenly spaced round numbers that enclose the values."""
    span = max(largest - smallest, 1e-3)
    rough = span * 1.1 / count
    power = 10 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough)
    if step / power == 2.5:  # two digits would be needed for one tick in two
        step = 2 * power if rough <= 2 * power else 5 * power
    first = math.floor((smallest - 0.05 * span) / step)
    last = math.ceil((largest + 0.05 * span) / step)
    return [step * n for n in range(first, last + 1)]


def _number(value: float) -> str:
    return f"{value:.10g}" if 0.001 <= value < 1e5 else f"{value:.1e}"
