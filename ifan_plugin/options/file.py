"""BasicSR's YAML option files: read without running code, overridden from the command line."""

from __future__ import annotations

import datetime
import re
from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import Any

import yaml

from ifan_plugin.common.errors import UserError
from ifan_plugin.options.basicsr import TOP_KEYS
from ifan_plugin.options.kinds import refuse_python
from ifan_plugin.options.schema import nearest

_MOST_VALUES, _DEEPEST = 100_000, 50
"""Values of one file, those that its anchors repeat among them, and how deep they may lie in one another."""
_TOO_DEEP = f"nested more than {_DEEPEST} deep"
_NO_OPTION = ("set", "omap", "pairs", "binary")
_LARGEST = 2**64


class _SafeLoader(yaml.SafeLoader):
    """PyYAML's safe loader that also refuses a key given twice and reads ``1e-4`` as the number it is.

    What PyYAML raises as it comes (``!!int x``: ValueError) is a YAML error here, with its line.
    """

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._depth += 1
        if self._depth > _DEEPEST:  # at once: reading on takes PyYAML a time that grows with the square
            mark: Any = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, _TOO_DEEP, mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def get_single_data(self) -> Any:
        node = self.get_single_node()
        if node is None:
            return None
        _require_small(node, {}, ())
        return self.construct_document(node)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep=deep)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError):
            raise _invalid(
                f"{_shown(node)} isn't what its tag {_tag(node)} says; text goes into quotes", node
            ) from None
        if isinstance(value, int) and abs(value) >= _LARGEST:
            raise _invalid("an integer of more than 64 bits", node)
        return value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        if not isinstance(node, yaml.MappingNode):
            raise _invalid(f"{_shown(node)} isn't a mapping", node)
        for key_node, _ in node.value:  # before `<<: *other` is merged in, whose keys may be given again
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise _invalid("a key must be a plain value", key_node)
            if key in seen:
                raise _invalid(f"'{key}' is given twice", key_node)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


_SafeLoader.yaml_constructors = {
    tag: build
    for tag, build in yaml.SafeLoader.yaml_constructors.items()
    if tag is None or tag.rpartition(":")[2] not in _NO_OPTION
}
_SafeLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\d[\d_]*\.?[\d_]*|\.\d[\d_]*)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def _invalid(problem: str, node: yaml.Node) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


def _tag(node: yaml.Node) -> str:
    return str(node.tag).replace("tag:yaml.org,2002:", "!!")


def _shown(node: yaml.Node) -> str:
    if not isinstance(node, yaml.ScalarNode):
        return "what stands here"
    return repr(node.value) if len(node.value) <= 40 else f"{node.value[:39]!r}…"


def _require_small(node: yaml.Node, sizes: dict[yaml.Node, int], above: tuple[yaml.Node, ...]) -> int:
    """The number of values that a node stands for, each anchor counted wherever it is repeated; before they are made.

    Raises:
        yaml.YAMLError: too many, too deep, or one that holds itself.
    """
    if node in above:
        raise _invalid("an anchor holds itself", node)
    if len(above) > _DEEPEST:
        raise _invalid(_TOO_DEEP, node)
    if node not in sizes:
        inside = [each for pair in node.value for each in pair] if isinstance(node, yaml.MappingNode) else node.value
        members = [] if isinstance(node, yaml.ScalarNode) else inside
        sizes[node] = 1 + sum(_require_small(member, sizes, (*above, node)) for member in members)
    if sizes[node] > _MOST_VALUES:
        raise _invalid(f"more than {_MOST_VALUES:,} values, those that anchors repeat among them", node)
    return sizes[node]


def read(path: str | Path) -> dict[str, Any]:
    """Read an option file. YAML tags that would make Python objects are refused: reading never runs code.

    Raises:
        UserError: no such file, not text, not YAML (names the line), or not a mapping.
    """
    path = Path(path)
    refuse_python(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"option file not found: {path} (`basicsr recipes` lists those that ship)") from None
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


def given_value(text: str, where: str, key: str, current: Any = None) -> Any:
    """A value of a command line, which is text where the option is: nothing of it is cut or turned into another kind.

    Numbers, true and false, lists and mappings are YAML's; so is what stands in quotes, as the text in them. For an
    option that is text (by its name, or because it has been so far) ``x #2``, ``2024_11_26``, ``on``, ``12:30:00``,
    ``[raw]/x`` and ``@x`` are as they stand.

    Args:
        text: what stands behind the ``=``.
        where: names the entry in messages.
        key: the option's name.
        current: its value so far; None: not known.

    Raises:
        UserError: neither valid YAML nor an option that is text, or a comment behind a value: how to quote is said.
    """
    text = text.strip()
    if text.lower() in ("", "none", "null", "~"):
        return None
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return parse_value(text, where)
    if is_text(key) and not isinstance(current, dict):
        return text
    hint = f"; if it is text, put it into quotes: {key}='\"{text}\"'"
    try:
        value = parse_value(text, where)
    except UserError as error:
        if isinstance(current, str):
            return text
        raise UserError(f"{error}{hint}") from None
    if isinstance(value, str) and value == text:
        return value
    if isinstance(current, str) and not isinstance(value, (list, dict)) and not _PLAIN.fullmatch(text):
        return text
    if isinstance(value, (str, datetime.date)) and not text.startswith(("!", "&", "|", ">")):
        return text  # cut at a '#', or a date, which no option is
    if re.search(r"(^|\s)#", text) and not isinstance(value, (list, dict)):
        raise UserError(f"{where}: what stands behind '#' would be a comment{hint}")
    return value


def is_text(key: str) -> bool:
    """Whether an option is always text, whatever it looks like: names, folders, files."""
    return _IS_TEXT.fullmatch(key) is not None


_IS_TEXT = re.compile(
    r"name|type|model_type|suffix|root|layout|split|path|architecture|protocol|resume_state|filename|param_key\w*|"
    r"pretrain_\w+|dataroot\w*|meta_info\w*|work_dir|load_from|out_dir|phase"
)
_PLAIN = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?|true|false", re.IGNORECASE)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def override(options: dict[str, Any], entries: list[str], known: Iterable[str] = TOP_KEYS) -> None:
    """Apply ``--force_yml`` entries ``a:b=c`` in place, values read by :func:`given_value`; nothing is executed.

    The last key may be new, the ones before it not; a number picks an item of a list. ``known``: keys that may be
    new at the top.

    Raises:
        UserError: an entry of another form, or a path that isn't in the options.
    """
    for entry in entries:
        path, equals, text = entry.partition("=")
        names = [name.strip() for name in path.split(":")]
        where = f"--force_yml {entry}"
        if not equals or not all(names):
            raise UserError(f"{where}: must have the form key:subkey=value")
        text = text.strip()
        place: Any = options
        for depth, name in enumerate(names):
            key: str | int = name
            last = depth == len(names) - 1
            if isinstance(place, list):
                if not name.isdigit() or int(name) >= len(place):
                    raise UserError(f"{where}: '{name}' must be an index from 0 to {len(place) - 1}")
                key = int(name)
            elif not isinstance(place, dict):
                raise UserError(f"{where}: '{':'.join(names[:depth])}' has no keys")
            elif not last and name not in place:
                raise UserError(f"{where}: no key '{name}'; {nearest(name, place)}")
            elif last and name not in place and depth == 0 and name not in known:
                raise UserError(f"{where}: unknown key '{name}'; {nearest(name, {*known, *place})}")
            if last:
                current = place.get(key) if isinstance(place, dict) else place[int(key)]
                place[key] = given_value(text, where, name, current)
            elif place[key] is None:
                place[key] = {}
            place = place[key]
