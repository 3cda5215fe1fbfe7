"""JSON Schema (draft 7) of option mappings, as editors read it: completion, help, red underlines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ifan_plugin.options.schema import REQUIRED, Option

DRAFT = "http://json-schema.org/draft-07/schema#"
Schema = dict[str, Any]

_NAMES = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}


def value_schema(option: Option) -> Schema:
    """What one key's value may be."""
    kinds = option.kind if isinstance(option.kind, tuple) else (option.kind,)
    schema: Schema = {} if object in kinds else {"type": [_NAMES[kind] for kind in kinds]}
    bounds = {"minimum": option.minimum, "maximum": option.maximum}
    bounds = {key: bound for key, bound in bounds.items() if bound is not None}
    choices = list(option.choices)
    if list in kinds:
        items: Schema = dict(bounds)
        if option.items is not None:
            members = option.items if isinstance(option.items, tuple) else (option.items,)
            items["type"] = [_NAMES[member] for member in members]
        if choices:
            items["enum"] = choices
        schema["items"] = _plain(items)
    if list not in kinds or len(kinds) > 1:
        schema |= bounds
        if choices:
            schema["enum"] = choices
    if option.optional or option.default is None:
        for key in ("type", "enum"):
            if key in schema:
                schema[key] = [*schema[key], "null" if key == "type" else None]
    if option.default is not REQUIRED and option.default is not None:
        schema["default"] = list(option.default) if isinstance(option.default, tuple) else option.default
    if option.help:
        schema["description"] = option.help
    return _plain(schema)


def mapping_schema(keys: Mapping[str, Option], *, closed: bool = True, required: bool = True) -> Schema:
    """A mapping of such keys.

    Args:
        keys: name -> what its value may be.
        closed: no other keys are valid.
        required: keys without a default must be there.
    """
    schema: Schema = {"type": "object", "properties": {name: value_schema(option) for name, option in keys.items()}}
    needed = [name for name, option in keys.items() if option.default is REQUIRED]
    if needed and required:
        schema["required"] = needed
    if closed:
        schema["additionalProperties"] = False
    return schema


def by_type(types: Mapping[str, Mapping[str, Option]], common: Mapping[str, Option]) -> Schema:
    """A mapping whose ``type`` decides what else is in it; of a type that isn't known here everything is valid.

    Args:
        types: a type's name -> its own keys.
        common: the keys beside them, whatever the type; ``type`` needn't be among them.
    """
    properties = {name: value_schema(option) for name, option in common.items()}
    properties["type"] = {"type": "string", "anyOf": [{"enum": list(types)}, {"minLength": 1}]}
    cases = []
    for name, keys in types.items():
        own = {key: value_schema(option) for key, option in keys.items()}
        cases.append({
            "if": {"properties": {"type": {"const": name}}, "required": ["type"]},
            "then": {"properties": own, "propertyNames": {"enum": sorted({"type", *common, *own})}},
        })  # fmt: skip
    needed = [name for name, option in common.items() if option.default is REQUIRED and name != "type"]
    return {"type": "object", "properties": properties, "required": ["type", *needed], "allOf": cases}


def only_for(key: str, value: str, names: Iterable[str], patterns: Iterable[str] = ()) -> Schema:
    """Keys beyond ``names`` and the regular expressions ``patterns`` are wrong where ``key`` has this value."""
    allowed: list[Schema] = [{"enum": sorted(names)}, *({"pattern": pattern} for pattern in patterns)]
    condition = {"properties": {key: {"const": value}}, "required": [key]}
    return {"if": condition, "then": {"propertyNames": {"anyOf": allowed}}}


def _plain(schema: Schema) -> Schema:
    """A list of one type as the type itself."""
    kind = schema.get("type")
    return schema | {"type": kind[0]} if isinstance(kind, list) and len(kind) == 1 else schema
