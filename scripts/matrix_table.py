"""The table of tested versions: docs/matrix.json keeps it, docs/matrix.md shows it. scripts/matrix.sh calls this."""

import argparse
import json
import platform
import sys
import time
import xml.etree.ElementTree as ElementTree
from importlib import metadata
from pathlib import Path

PACKAGES = ("torch", "torchvision", "numpy", "opencv-python", "basicsr", "mmengine")


def main() -> int:
    """Add a row, or say by the exit status whether a row has passed on a commit."""
    parser = argparse.ArgumentParser(description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    has = actions.add_parser("has", help="exit status 0 where the row has passed on the commit")
    add = actions.add_parser("add", help="add a row from pytest's JUnit file, with this Python's versions")
    for one in (has, add):
        one.add_argument("row")
        one.add_argument("--folder", type=Path, default=Path("docs"))
    has.add_argument("commit")
    add.add_argument("--commit", required=True)
    add.add_argument("--junit", type=Path, required=True)
    add.add_argument("--seconds", type=int, required=True, help="of the whole row, installation included")
    arguments = parser.parse_args()
    file = arguments.folder / "matrix.json"
    rows = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if arguments.action == "has":
        row = rows.get(arguments.row, {})
        return 0 if row.get("commit") == arguments.commit and not row["failed"] else 1
    if not arguments.junit.is_file():
        sys.stderr.write(f"matrix: {arguments.row}: the tests didn't run; see the log\n")
        return 1
    rows[arguments.row] = measured(arguments)
    file.write_text(json.dumps(dict(sorted(rows.items())), indent=1) + "\n", encoding="utf-8")
    (arguments.folder / "matrix.md").write_text(table(rows), encoding="utf-8")
    return 1 if rows[arguments.row]["failed"] else 0


def measured(arguments: argparse.Namespace) -> dict:
    """One row: when, on what, with which result."""
    suites = ElementTree.parse(arguments.junit).getroot().iter("testsuite")
    counts = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
    seconds = 0.0
    for suite in suites:
        counts = {key: value + int(suite.get(key, 0)) for key, value in counts.items()}
        seconds += float(suite.get("time", 0))
    failed = counts["failures"] + counts["errors"]
    return {
        "date": time.strftime("%Y-%m-%d"),
        "commit": arguments.commit,
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in PACKAGES},
        "passed": counts["tests"] - failed - counts["skipped"],
        "failed": failed,
        "skipped": counts["skipped"],
        "test_seconds": round(seconds),
        "seconds": arguments.seconds,
        "machine": f"{platform.system()} {platform.machine()}",
    }


def table(rows: dict) -> str:
    """Markdown."""
    lines = [
        "# Versions that were run",
        "",
        "The default tests after a set-up from nothing (`scripts/matrix.sh`), one row an environment.",
        "",
        f"| row | Python | {' | '.join(PACKAGES)} | passed | failed | skipped | tests, s | date | commit | remark |",
        f"|---|---|{'---|' * len(PACKAGES)}---|---|---|---|---|---|---|",
    ]
    for name, row in sorted(rows.items()):
        cells = [name, row["python"], *(row["versions"][package] for package in PACKAGES)]
        cells += [
            row["passed"],
            row["failed"],
            row["skipped"],
            row["test_seconds"],
            row["date"],
            row["commit"][:9],
            row.get("remark", ""),
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
