"""The option files that ship with the package: found by name, listed by what their headers say.

In a checkout they are the files of `options/`; a wheel carries them as `ifan_plugin/recipes/`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from ifan_plugin.common.errors import UserError
from ifan_plugin.options.schema import nearest

MODELINE = "# yaml-language-server: $schema="
"""Begins an option file's first line, which points editors at the file's JSON Schema."""

ENDINGS = (".yml", ".py")
_FIELD = re.compile(r"^# ([A-Z][a-z ]+):\s+(.+)$")


class Recipe(NamedTuple):
    """One shipped option file and what its header says; a field that the header lacks is empty."""

    path: Path
    command: str
    what: str
    reproduces: str
    hardware: str
    time: str

    @property
    def line(self) -> str:
        """What it reproduces, on what hardware, how long: one line."""
        reproduces = _first(self.reproduces) or _first(self.what)
        hardware = _first(self.hardware) if self.time else self.hardware  # where no time is given, hardware tells it
        return "; ".join(part.rstrip(".") for part in (reproduces, hardware, _first(self.time)) if part)


def folder() -> Path:
    """Where the shipped option files are.

    Raises:
        UserError: they are missing: neither a wheel nor a whole checkout.
    """
    package = Path(__file__).resolve().parents[1]
    for place in (package / "recipes", package.parent / "options"):
        if (place / "train_IFAN_DPDD.yml").is_file():
            return place
    raise UserError(f"the shipped option files are missing from {package}; install ifan_plugin again")


def paths() -> dict[str, Path]:
    """File name -> path of every shipped option file: training, then test, benchmark and mmengine's."""
    root = folder()
    found = [path for path in root.rglob("*") if path.suffix in ENDINGS and "__pycache__" not in path.parts]
    return {path.name: path for path in sorted(found, key=_place)}


def names() -> list[str]:
    """What `-opt` and `basicsr recipes copy` take: the file names, with their folder where two share one."""
    return list(paths())


def find(name: str) -> Path | None:
    """The shipped option file called `name`: `train_IFAN_DPDD.yml`, also without its ending or below `options/`."""
    asked = Path(name)
    if asked.is_absolute() or asked.parts[:1] in (("..",), ("~",)):
        return None
    parts = asked.parts[1:] if asked.parts[:1] == ("options",) else asked.parts
    return next((path for path in paths().values() if _is_called(path, "/".join(parts))), None)


def option_path(text: str) -> str:
    """For command lines: `text` where a file of that path exists, else the path of the shipped file of that name.

    What is neither comes back as it is; reading it then says so.
    """
    if Path(text).exists():
        return text
    found = find(text)
    return text if found is None else str(found)


def get(name: str) -> Path:
    """:func:`find`, or :class:`UserError` with the nearest name."""
    found = find(name)
    if found is None:
        raise UserError(f"no recipe '{name}'; {nearest(name, names())} (basicsr recipes lists them)")
    return found


def describe(path: Path) -> Recipe:
    """Read an option file's header: its first line, and the fields Reproduces, Hardware and How long."""
    fields: dict[str, str] = {}
    current = "what"
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if line.startswith(MODELINE):
            continue
        found = _FIELD.match(line)
        if found:
            current = found[1]
            fields[current] = found[2]
        elif line.strip() == "#":
            current = ""
        elif current:
            fields[current] = f"{fields.get(current, '')} {line.lstrip('# ')}".strip()
    return Recipe(
        path,
        _command(path),
        fields.get("what", ""),
        fields.get("Reproduces", fields.get("Shows", "")),
        fields.get("Hardware", ""),
        fields.get("How long", ""),
    )


def _place(path: Path) -> tuple[int, str]:
    order = ("options", "recipes", "test", "benchmark", "mm")
    return (order.index(path.parent.name) if path.parent.name in order else len(order), path.name)


def _is_called(path: Path, name: str) -> bool:
    below = path.relative_to(folder())
    return name in (path.name, path.stem, str(below), str(below.with_suffix("")))


def _command(path: Path) -> str:
    kind = {"test": "basicsr test -opt", "benchmark": "basicsr benchmark -opt", "mm": "python -m ifan_plugin.mm train"}
    return f"{kind.get(path.parent.name, 'basicsr train -opt')} {path.name}"


def _first(text: str) -> str:
    """The first sentence, or what stands before a semicolon or a colon; what is in parentheses stays whole."""
    for found in re.finditer(r"[.;:](?=\s|$)", text):
        before = text[: found.start()]
        if before.count("(") == before.count(")"):
            return before
    return text
