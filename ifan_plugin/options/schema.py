"""What an option may be: small schemas that check a YAML mapping before anything is built from it."""

from __future__ import annotations

import datetime
import difflib
import inspect
import math
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ifan_plugin.common.errors import UserError

REQUIRED = object()
"""Marks an option without a default."""


@dataclass(frozen=True)
class Option:
    """One key of an option mapping.

    Args:
        kind: accepted Python type or types, as YAML gives them; an ``int`` is accepted where ``float`` is.
        default: used when the key is absent; ``REQUIRED`` where it may not be absent.
        choices: the values allowed, if they are few.
        minimum, maximum: inclusive bounds of a number, or of each number of a list.
        is_folder: the value must be an existing folder.
        items: type of each item where the value is a list.
        optional: ``None`` (YAML ``~``) is accepted and means "not given".
        help: what it does, in a few words; editors and docs/options.md show it.
    """

    kind: type | tuple[type, ...]
    default: Any = REQUIRED
    choices: tuple[Any, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    is_folder: bool = False
    items: type | tuple[type, ...] | None = None
    optional: bool = False
    help: str = ""


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for a misspelt name: the nearest known one, else the whole list of what is valid."""
    known = sorted(str(k) for k in known)
    close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.6)
    if not close:  # difflib is case-sensitive; people often aren't
        lower = {k.lower(): k for k in known}
        close = [lower[m] for m in difflib.get_close_matches(str(name).lower(), lower, n=1, cutoff=0.6)]
    if close:
        return f"did you mean '{close[0]}'?"
    shown = ", ".join(known[:20]) + (", …" if len(known) > 20 else "")
    return f"valid: {shown}" if known else "nothing is valid here"


def check_mapping(mapping: Any, schema: Mapping[str, Option], where: str, known: Iterable[str] = ()) -> dict[str, Any]:
    """Check ``mapping`` against ``schema``; return a new dict with the defaults filled in.

    Args:
        mapping: what the YAML file holds at this place.
        schema: option name -> :class:`Option`.
        where: names the place in messages, e.g. ``train.yml: datasets: train``.
        known: further keys that are allowed and not checked here.

    Raises:
        UserError: an unknown or missing key, or a value of the wrong type or range.
    """
    if not isinstance(mapping, Mapping):
        raise UserError(f"{where}: must be a mapping of options, not {_describe(mapping)}")
    known = set(known)
    for key in mapping:
        if key not in schema and key not in known:
            raise UserError(f"{where}: unknown key '{key}'; {nearest(key, {*schema, *known})}")
    result = dict(mapping)
    for key, option in schema.items():
        if key in mapping:
            check_value(mapping[key], option, f"{where}: {key}")
        elif option.default is REQUIRED:
            raise UserError(f"{where}: '{key}' is missing ({_kind_name(option.kind)})")
        else:
            result[key] = option.default
    return result


def check_value(value: Any, option: Option, where: str) -> None:
    """Check one value. Raises :class:`UserError` that names ``where`` and what would be valid."""
    if value is None and (option.optional or option.default is None):
        return
    if not _is_a(value, option.kind):
        raise UserError(
            f"{where}: must be {_kind_name(option.kind)}, not {_describe(value)}{_quotes(value, option.kind)}"
        )
    if option.choices and not isinstance(value, (list, tuple)) and value not in option.choices:
        listed = ", ".join(str(c).lower() if isinstance(c, bool) else repr(c) for c in option.choices)  # as in YAML
        raise UserError(f"{where}: must be one of {listed}, not {value!r}; {nearest(value, option.choices)}")
    members = value if isinstance(value, (list, tuple)) else [value]
    for member in members:
        if isinstance(value, (list, tuple)):
            if option.items is not None and not _is_a(member, option.items):
                raise UserError(f"{where}: each item must be {_kind_name(option.items)}, not {_describe(member)}")
            if option.choices and member not in option.choices:
                raise UserError(f"{where}: unknown item {member!r}; {nearest(member, option.choices)}")
        if _is_a(member, (int, float)):
            _check_number(member, option, where)
    if option.is_folder and not Path(value).expanduser().is_dir():
        raise UserError(f"{where}: folder not found: {value}")


def _check_number(number: float, option: Option, where: str) -> None:
    if not -math.inf < number < math.inf:  # NaN neither
        raise UserError(f"{where}: must be finite, not {number}")
    if option.minimum is not None and not number >= option.minimum:
        raise UserError(f"{where}: must be at least {option.minimum}, not {number}")
    if option.maximum is not None and not number <= option.maximum:
        raise UserError(f"{where}: must be at most {option.maximum}, not {number}")


def check_call(
    function: Callable[..., Any], arguments: Mapping[str, Any], where: str, skip: int = 0, *, may_lack: bool = False
) -> None:
    """Check keyword arguments against a signature: unknown and missing names, and types where annotated.

    Args:
        function: the class or function that will get ``arguments`` by keyword.
        arguments: what the option file holds, without its ``type``.
        where: names the place in messages.
        skip: how many leading parameters are given by the caller, not by the file.
        may_lack: a missing name is no error, since somebody fills it in later.

    Raises:
        UserError: a name that ``function`` doesn't take, one that is missing, or a value of another type.
    """
    parameters = list(inspect.signature(function).parameters.values())[skip:]
    named = {p.name: p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    for key in arguments:
        if key not in named and not takes_any:
            raise UserError(f"{where}: unknown key '{key}'; {nearest(key, named)}")
    for name, parameter in named.items():
        if parameter.default is parameter.empty and name not in arguments and not may_lack:
            raise UserError(f"{where}: '{name}' is missing")
    try:
        hints = typing.get_type_hints(function.__init__ if inspect.isclass(function) else function)
    except (NameError, TypeError):  # other people's annotations may name things that aren't there at run time
        hints = {}
    for key, value in arguments.items():
        kinds = _plain_types(hints.get(key))
        if kinds and not (value is None and type(None) in kinds) and not _is_a(value, kinds):
            shown = tuple(k for k in kinds if k is not type(None))
            raise UserError(
                f"{where}: {key}: must be {_kind_name(shown)}, not {_describe(value)}{_quotes(value, shown)}"
            )


def options_of(thing: Any, skip: Iterable[str] = ()) -> dict[str, Option]:
    """What a class or function takes from an option file: its own ``OPTIONS``, else its keyword arguments.

    Args:
        thing: the class or function.
        skip: parameters that aren't the option file's to give.

    Returns:
        Name -> :class:`Option`, the kinds from annotations (``object`` where there is no plain one), the help from the
        docstring's ``Args:``.
    """
    declared: dict[str, Option] | None = getattr(thing, "OPTIONS", None)
    if declared is not None:
        return dict(declared)
    try:
        hints = typing.get_type_hints(thing.__init__ if inspect.isclass(thing) else thing)
    except (NameError, TypeError):
        hints = {}
    told = argument_help(thing)
    found = {}
    for name, parameter in inspect.signature(thing).parameters.items():
        if name in skip or parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            continue
        kinds = _option_kinds(hints.get(name))
        default = REQUIRED if parameter.default is parameter.empty else parameter.default
        plain = tuple(kind for kind in kinds if kind is not type(None)) or (object,)
        found[name] = Option(plain, default, optional=type(None) in kinds, help=told.get(name, ""))
    return found


def argument_help(thing: Any) -> dict[str, str]:
    """Parameter -> what the docstring's ``Args:`` says of it, on one line."""
    lines = (inspect.getdoc(thing) or "").splitlines()
    if "Args:" not in lines:
        return {}
    told: dict[str, str] = {}
    names: list[str] = []
    for line in lines[lines.index("Args:") + 1 :]:
        if line and not line.startswith("    "):
            break
        start = re.match(r"    (\*{0,2}\w+(?:, \w+)*): (.*)", line)
        if start:
            names = start[1].split(", ")
            told |= dict.fromkeys(names, start[2])
        elif names and line.strip():
            told |= {name: f"{told[name]} {line.strip()}" for name in names}
    return told


def _option_kinds(hint: Any) -> tuple[type, ...]:
    """The types that YAML can give of an annotation; empty where none is plain."""
    members = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    origins = [typing.get_origin(member) or member for member in members]
    plain = (bool, int, float, str, list, dict, type(None))
    return tuple(origins) if all(origin in plain for origin in origins) else ()


def _plain_types(hint: Any) -> tuple[type, ...]:
    """The YAML-checkable types of an annotation; empty where it can't be checked."""
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    plain = (bool, int, float, str, type(None))
    return tuple(options) if hint is not None and all(o in plain for o in options) else ()


def _is_a(value: Any, kind: type | tuple[type, ...]) -> bool:
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if isinstance(value, bool):  # a bool is an int to Python, and a mistake to people
        return bool in kinds
    return isinstance(value, kinds) or (float in kinds and isinstance(value, int))


def _kind_name(kind: type | tuple[type, ...]) -> str:
    names = {
        bool: "true or false", int: "an integer", float: "a number", str: "a string", list: "a list", dict: "a mapping",
    }  # fmt: skip
    kinds = kind if isinstance(kind, tuple) else (kind,)
    return " or ".join(dict.fromkeys(names.get(k, k.__name__) for k in kinds))


def _quotes(value: Any, kind: type | tuple[type, ...]) -> str:
    """How to say that a number, a date or ``on`` is text."""
    is_text = str in (kind if isinstance(kind, tuple) else (kind,))
    plain = isinstance(value, (bool, int, float, datetime.date))
    return "; text that YAML takes for something else goes into quotes" if is_text and plain else ""


def _describe(value: Any) -> str:
    if value is None:
        return "nothing"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
