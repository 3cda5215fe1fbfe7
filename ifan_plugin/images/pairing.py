"""Which pictures of several folders belong together: one rule for all data sets, told by what the names say.

Names are compared from the strictest to the loosest way; the first in which every name of one folder has exactly one
partner in the other counts: equal names; equal but for case and Unicode form; equal numbers, whatever their padding
(``7`` and ``0007``); equal but for what all names of a folder begin or end with (``_blur``, ``gt_``, ``x2``); equal but
for the words of a role (``scene_blur_1``, ``scene_sharp_1``). Where names agree in part only, nothing looser is tried.

Order alone decides where a layout says how its names differ (in DPDD one number is higher, or lower, by one
throughout), or where it is asked for. All else is refused, with the first pair that can't be told.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import NamedTuple

from ifan_plugin.common.errors import UserError

HOW = ("auto", "order")
"""What ``pairing`` may be: by the names, or by order whatever they say."""

_ROLE_WORDS = {
    "aif", "blur", "blurred", "blurry", "c", "center", "centre", "coc", "deblurred", "defocus", "defocused", "depth",
    "disp", "disparity", "focus", "gt", "hq", "hr", "in", "input", "inputs", "l", "left", "lq", "lr", "out", "r",
    "right", "sharp", "source", "src", "target", "targets", "view",
}  # fmt: skip
_COPY = re.compile(r"(.+?)(?: ?\(\d+\)| - copy(?: ?\(\d+\))?| copy(?: \d+)?| ?\(copy(?: \d+)?\))", re.IGNORECASE)
_SIDE = re.compile(r"[_\-. ][lrc]$")
_NUMBER = re.compile(r"([0-9]+)")

Key = Hashable


class Folder(NamedTuple):
    """One role's files: what messages call the folder, and the names of the files in it."""

    where: str | os.PathLike
    names: Sequence[str]


class Pairing(NamedTuple):
    """What :func:`pair` found.

    rows: for each name of the first folder, in the order given, one name a folder. rule: how they were found, for
    people: what follows "paired".
    """

    rows: list[tuple[str, ...]]
    rule: str


class _Way(NamedTuple):
    """One way to compare names: what it makes of both folders' stems, and how it is called."""

    keys: tuple[Sequence[Key], Sequence[Key]]
    rule: str


def pair(
    folders: Sequence[Folder], how: str = "auto", *, shifted: bool = False, ask: str = "pairing: order"
) -> Pairing:
    """Find each file's partners in the other folders.

    Args:
        folders: at least one; the names of each without paths, with their endings, which don't matter.
        how: one of :data:`HOW`. ``order``: the n-th of each belongs to the n-th of the others, numbers in the names
            by their value.
        shifted: names may differ as DPDD's do: by one in one number, in the same direction throughout.
        ask: how the reader asks for pairing by order, for messages.

    Raises:
        UserError: unequal numbers of files, two files of a folder that can't be told apart, or names from which the
            pairs can't be told: the first that is doubtful, and what to do.
    """
    first, *others = folders
    _require_apart(first)
    rows = [[name] for name in first.names]
    rules: dict[str, list[str]] = {}
    for other in others:
        _require_apart(other)
        if len(other.names) != len(first.names):
            raise UserError(
                f"unequal numbers of files: {first.where} has {len(first.names)}, {other.where} has "
                f"{len(other.names)}{_first_alone(first, other)}"
            )
        partner, rule = _pair_two(first, other, how, shifted, ask)
        rules.setdefault(rule, []).append(os.path.join(*Path(other.where).parts[-2:]))
        for row in rows:
            row.append(partner[row[0]])
    told = [rule if len(rules) == 1 else f"{' and '.join(who)} {rule}" for rule, who in rules.items()]
    return Pairing([tuple(row) for row in rows], "; ".join(told))


def partners(wanted: Sequence[str], folder: Folder, mark: str = "") -> dict[str, str]:
    """For each stem the file in ``folder`` of that name, or of that name with ``mark`` at its end (``_L``).

    Names are compared as :func:`pair` does, but for what is common to a folder's names: there may be other files.

    Args:
        wanted: stems, or paths of sub-folders with stems at their ends (``a/b``).
        folder: names may be such paths, too.
        mark: what may follow the stem.

    Returns:
        Stem -> name; stems without a partner are left out.

    Raises:
        UserError: two files that could be one stem's.
    """
    found: dict[str, str] = {}
    asked: dict[str, str] = {}
    for make in (str, _folded, _numbers):
        by_key: dict[Key, list[str]] = {}
        for name in folder.names:
            by_key.setdefault(make(_stem(name)), []).append(name)
        for stem in wanted:
            if stem in found:
                continue
            keys = dict.fromkeys([make(stem), make(stem + mark)])
            there = [name for key in keys for name in by_key.get(key, ())]
            if len(there) > 1:
                raise UserError(
                    f"{folder.where}: both {there[0]} and {there[1]} could be the picture for {stem}; keep one of them"
                )
            if there:
                other = asked.setdefault(there[0], stem)
                if other != stem:
                    path = os.path.join(folder.where, there[0])
                    raise UserError(f"{path}: could be the picture for {other} and for {stem}; rename one")
                found[stem] = there[0]
    return found


def same_name(name: str) -> Key:
    """Equal for names that differ by case, Unicode form and padding of numbers alone."""
    return _numbers(name)


def in_order(names: Sequence[str]) -> list[str]:
    """Names as people count them: ``frame_9`` before ``frame_10``."""
    return sorted(names, key=_order)


def _pair_two(first: Folder, other: Folder, how: str, shifted: bool, ask: str) -> tuple[dict[str, str], str]:
    ordered = list(zip(in_order(first.names), in_order(other.names)))
    if how == "order":
        return dict(ordered), "by order, as asked for"
    stems = [_stem(name) for name in first.names], [_stem(name) for name in other.names]
    strict = [
        _Way(stems, "by equal names"),
        _way(_folded, stems, "by names, whatever their case and Unicode form"),
        _way(_numbers, stems, "by names, whatever the padding of their numbers"),
    ]
    for way in strict:
        if _is_one_to_one(way):
            return _partner(first, other, way), way.rule
    if shifted:
        shift = _shift(ordered)
        if shift is not None:
            return dict(ordered), f"by order: {shift}"
    if not set(strict[-1].keys[0]) & set(strict[-1].keys[1]):
        looser = _without_ends(*stems), _one_in_the_other(*stems), _way(_without_roles, stems, _BY_ROLES)
        for way in (each for each in looser if each is not None):
            if _is_one_to_one(way):
                return _partner(first, other, way), way.rule
    raise UserError(_doubtful(first, other, ordered, strict[-1], ask))


def _way(make: Callable[[str], Key], stems: tuple[list[str], list[str]], rule: str) -> _Way:
    first, other = ([make(stem) for stem in side] for side in stems)
    return _Way((first, other), rule)


def _is_one_to_one(way: _Way) -> bool:
    one, two = map(set, way.keys)
    return len(one) == len(way.keys[0]) and one == two


def _partner(first: Folder, other: Folder, way: _Way) -> dict[str, str]:
    by_key = dict(zip(way.keys[1], other.names))
    return {name: by_key[key] for name, key in zip(first.names, way.keys[0])}


# --- what names say ------------------------------------------------------------------------------------------------


def _stem(name: str) -> str:
    return os.path.splitext(name)[0]


def _folded(stem: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", stem).casefold()).strip()


def _numbers(stem: str) -> tuple[str | int, ...]:
    """The folded stem with its numbers as numbers."""
    return tuple(int(part) if part.isdigit() else part for part in _NUMBER.split(_folded(stem)) if part)


def _order(name: str) -> tuple:
    """Sorts numbers before text, and both among themselves."""
    parts = [(0, part, "") if isinstance(part, int) else (1, 0, part) for part in _numbers(_stem(name))]
    return parts, name


_BY_ROLES = "by names, without the words for what they show"


def _without_roles(stem: str) -> tuple[str | int, ...]:
    words = re.findall(r"[0-9]+|[^\W\d_]+", _folded(stem))
    return tuple(int(word) if word.isdigit() else word for word in words if word not in _ROLE_WORDS)


def _without_ends(one: list[str], two: list[str]) -> _Way | None:
    """Without what all names of a folder begin and end with; None where that would be the whole name, or a number
    that tells scenes apart in the other folder."""
    if len(one) < 2:
        return None
    sides = [[_folded(stem) for stem in side] for side in (one, two)]
    ends = [_common_ends(side) for side in sides]
    numbers = [{len(_NUMBER.findall(stem)) for stem in side} for side in sides]
    alike = numbers[0] == numbers[1] and len(numbers[0]) == 1
    if alike and len({len(_NUMBER.findall(start)) for start, _ in ends}) > 1:
        return None
    keys = [
        [_numbers(re.sub(r"[\W_]+", "_", stem[len(start) : len(stem) - len(end)]).strip("_")) for stem in side]
        for side, (start, end) in zip(sides, ends)
    ]
    shown = [text for pair_of_ends in zip(*ends) if len(set(pair_of_ends)) > 1 for text in pair_of_ends if text]
    without = " and ".join(f"'{text}'" for text in shown)
    return _Way((keys[0], keys[1]), f"by names, without {without}" if without else "by what differs in the names")


def _common_start(texts: list[str]) -> str:
    least, most = min(texts), max(texts)
    differing = (place for place, (a, b) in enumerate(zip(least, most)) if a != b)
    return least[: next(differing, len(least))]


def _common_ends(stems: list[str]) -> tuple[str, str]:
    """What all begin and end with, without cutting a number in two."""
    start = _common_start(stems)
    while start and start[-1].isdigit() and any(stem[len(start) : len(start) + 1].isdigit() for stem in stems):
        start = start[:-1]
    rests = [stem[len(start) :][::-1] for stem in stems]
    end = _common_start(rests)
    while end and end[-1].isdigit() and any(rest[len(end) : len(end) + 1].isdigit() for rest in rests):
        end = end[:-1]
    return start, end[::-1]


def _one_in_the_other(one: list[str], two: list[str]) -> _Way | None:
    """A single pair of which one name begins or ends with the other: ``photo`` and ``photo_blur``."""
    if len(one) != 1:
        return None
    short, long = sorted((_folded(one[0]), _folded(two[0])), key=len)
    rest = long.removeprefix(short) if long.startswith(short) else long.removesuffix(short)
    fits = len(rest) < len(long) and not (rest[:1] if long.startswith(short) else rest[-1:]).isalnum()
    return _Way(([short], [short]), "by names, one of which holds the other") if fits else None


def _shift(ordered: list[tuple[str, str]]) -> str | None:
    """How names differ, if all differ by one in the same number; None else."""
    seen = set()
    for pair_of_names in ordered:
        one, two = (_numbers(_SIDE.sub("", _folded(_stem(name)))) for name in pair_of_names)
        differing = [place for place, (a, b) in enumerate(zip(one, two)) if a != b]
        if len(one) != len(two) or len(differing) != 1:
            return None
        a, b = one[differing[0]], two[differing[0]]
        if not (isinstance(a, int) and isinstance(b, int)) or abs(b - a) != 1:
            return None
        seen.add((differing[0], b - a))
    return f"a number in the names differs by {seen.pop()[1]:+d} throughout, as in DPDD" if len(seen) == 1 else None


# --- what is refused -----------------------------------------------------------------------------------------------


def _require_apart(folder: Folder) -> None:
    taken: dict[str, str] = {}
    for name in folder.names:
        other = taken.setdefault(_stem(name), name)
        if other != name:
            raise UserError(f"{Path(folder.where) / name}: {other} has the same stem; keep one of them")


def _first_alone(first: Folder, other: Folder) -> str:
    """The first file without a partner, where most have one."""
    keys = [{_numbers(_stem(name)): name for name in in_order(folder.names)} for folder in (first, other)]
    if not keys[0].keys() & keys[1].keys():
        return ""
    for mine, theirs, folder in ((keys[0], keys[1], first), (keys[1], keys[0], other)):
        alone = next((name for key, name in mine.items() if key not in theirs), None)
        if alone is not None:
            return f"; without a partner: {Path(folder.where) / alone}{_maybe_copy(alone, folder)}"
    return ""


def _doubtful(first: Folder, other: Folder, ordered: list[tuple[str, str]], way: _Way, ask: str) -> str:
    for folder, keys in zip((first, other), way.keys):
        seen: dict[Key, str] = {}
        for name, key in zip(folder.names, keys):
            twin = seen.setdefault(key, name)
            if twin != name:
                return (
                    f"{Path(folder.where) / twin} and {name} differ by case or by the padding of a number alone, and "
                    f"their partners in {other.where if folder is first else first.where} can't be told; rename one"
                )
    partial = set(way.keys[0]) & set(way.keys[1])
    one, two = next(((a, b) for a, b in ordered if _numbers(_stem(a)) != _numbers(_stem(b))), ordered[0])
    why = "other names agree, these don't" if partial else "their names have nothing in common that tells pairs"
    hint = _maybe_copy(one, first) or _maybe_copy(two, other)
    return (
        f"{Path(first.where) / one} and {Path(other.where) / two}: by order they would be a pair, by name they aren't "
        f"({why}){hint}; give partners equal names, or equal numbers in them, or set {ask} if both "
        "folders pair by order"
    )


def _maybe_copy(name: str, folder: Folder) -> str:
    found = _COPY.fullmatch(_stem(name))
    stems = {_stem(each) for each in folder.names}
    if not found or found[1] not in stems:
        return ""
    return f"; {name} looks like a copy of {found[1]} that a browser or file manager made: remove it"
