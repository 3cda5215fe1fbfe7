"""The report's tables in LaTeX (booktabs), for a paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ifan_plugin.benchmark import report as reporting

_SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--", "±": r"$\pm$",
}  # fmt: skip


def latex(report: Mapping[str, Any]) -> str:
    """Measured and published figures, each a ``tabular`` of its own; needs the package booktabs."""
    found = reporting.columns(report)
    heads = [f"{dataset}: {title}" if dataset else title for _, title, _, _, dataset in found]
    rows = [
        [_name(row), *(reporting.shown(reporting.value_of(row, f, d), s, v) for f, _, s, v, d in found)]
        for row in report["rows"]
    ]
    said = "; ".join(f"{key}: {value}" for key, value in reporting.conditions(report))
    parts = [f"% {_one_line(report['name'])}: measured. {_one_line(said)}", *_tabular(["Model", *heads], rows)]
    if report["comparisons"]:
        head, body = reporting.comparison_table(report)
        parts += ["", "% Pairs of models, scene by scene", *_tabular(head, body, text_columns=4)]
    if "published" in report:
        head, body = reporting.published_table(report["published"])
        parts += ["", f"% {_one_line(report['published']['title'])}", *_tabular(head, body, text_columns=2)]
    return "\n".join(parts) + "\n"


def _name(row: Mapping[str, Any]) -> str:
    return f"{row['name']} (random weights)" if row["random_weights"] else row["name"]


def _tabular(heads: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int = 1) -> list[str]:
    columns = "l" * text_columns + "r" * (len(heads) - text_columns)
    body = [" & ".join(map(escaped, row)) + r" \\" for row in rows]
    return [
        rf"\begin{{tabular}}{{{columns}}}", r"\toprule", " & ".join(map(escaped, heads)) + r" \\", r"\midrule", *body,
        r"\bottomrule", r"\end{tabular}",
    ]  # fmt: skip


def escaped(text: str) -> str:
    """Text that LaTeX takes as it is."""
    return "".join(_SPECIAL.get(letter, letter) for letter in _one_line(text))


def _one_line(text: str) -> str:
    return " ".join(text.split())
