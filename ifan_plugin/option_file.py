"""BasicSR's YAML option files: read without running code, overridden from the command line."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import Any

import yaml

from ifan_plugin.errors import UserError
from ifan_plugin.option_check import TOP_KEYS
from ifan_plugin.options import nearest


class _SafeLoader(yaml.SafeLoader):
    """PyYAML's safe loader that also refuses a key given twice and reads ``1e-4`` as the number it is."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:  # before `<<: *other` is merged in, whose keys may be given again
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a plain value", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"'{key}' is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


_SafeLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\d[\d_]*\.?[\d_]*|\.\d[\d_]*)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def read(path: str | Path) -> dict[str, Any]:
    """Read an option file. YAML tags that would make Python objects are refused: reading never runs code.

    Raises:
        UserError: no such file, not text, not YAML (names the line), or not a mapping.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"option file not found: {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: can't be read as an option file: {_one_line(error)}") from None
    options = parse_value(text, str(path))
    if not isinstance(options, dict):
        raise UserError(f"{path}: must be a YAML mapping of options (name: …, model_type: …)")
    return options


def read_with_overrides(path: str | Path, entries: list[str]) -> dict[str, Any]:
    """:func:`read`, then :func:`override`."""
    options = read(path)
    override(options, entries)
    return options


def parse_value(text: str, where: str) -> Any:
    """Safe YAML: a value, or a whole file's mapping. ``where`` names it in messages.

    Raises:
        UserError: not valid YAML.
    """
    try:
        return yaml.load(text, Loader=_SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}:" if mark else ""
        problem = getattr(error, "problem", None) or _one_line(error)
        raise UserError(f"{where}:{line} not valid YAML here: {problem}") from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def override(options: dict[str, Any], entries: list[str], known: Iterable[str] = TOP_KEYS) -> None:
    """Apply ``--force_yml`` entries ``a:b=c`` in place. Values are read as safe YAML; nothing is executed.

    The last key may be new, the ones before it not; a number picks an item of a list. ``known``: keys that may be
    new at the top.

    Raises:
        UserError: an entry of another form, or a path that isn't in the options.
    """
    for entry in entries:
        keys, equals, text = entry.partition("=")
        names = [key.strip() for key in keys.split(":")]
        where = f"--force_yml {entry}"
        if not equals or not all(names):
            raise UserError(f"{where}: must have the form key:subkey=value")
        text = text.strip()
        value = None if text.lower() == "none" else parse_value(text, where)
        place: Any = options
        for depth, name in enumerate(names):
            last = depth == len(names) - 1
            if isinstance(place, list):
                if not name.isdigit() or int(name) >= len(place):
                    raise UserError(f"{where}: '{name}' must be an index from 0 to {len(place) - 1}")
                name = int(name)
            elif not isinstance(place, dict):
                raise UserError(f"{where}: '{':'.join(names[:depth])}' has no keys")
            elif not last and name not in place:
                raise UserError(f"{where}: no key '{name}'; {nearest(name, place)}")
            elif last and name not in place and depth == 0 and name not in known:
                raise UserError(f"{where}: unknown key '{name}'; {nearest(name, {*known, *place})}")
            if last:
                place[name] = value
            elif place[name] is None:
                place[name] = {}
            place = place[name]
