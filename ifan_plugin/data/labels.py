"""Labels of scenes, such as DPDD's 37 indoor and 39 outdoor ones: read from a text file, checked against a data set."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Collection, Hashable, Mapping
from pathlib import Path

from ifan_plugin.common.errors import UserError
from ifan_plugin.images.image_io import PICTURE_SUFFIXES
from ifan_plugin.images.pairing import same_name
from ifan_plugin.options.schema import nearest

HEADER = ("scene", "label")
"""A first line with these names is passed over."""


def read_labels(path: str | Path) -> dict[str, str]:
    """Scene -> label, from lines ``scene,label``.

    A scene is the stem of its centre view's file (``1P0A0917``; its ending may stand there, too), a label any text
    (``indoor``, ``outdoor``). Empty lines and those that begin with ``#`` are passed over; a field with a comma in it
    stands in double quotes. The file is UTF-8.

    Raises:
        UserError: the file can't be read, a line isn't of that form, a scene stands there twice, or none does.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: file not found; valid: a text file with a line 'scene,label' a scene") from None
    except OSError as error:
        raise UserError(f"{path}: can't be read: {error.strerror or error}") from error
    except UnicodeDecodeError:
        raise UserError(f"{path}: isn't UTF-8 text; valid: a text file with a line 'scene,label' a scene") from None
    labels: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            fields = [field.strip() for field in next(csv.reader([line], skipinitialspace=True))]
        except csv.Error:  # a NUL, or a field without end
            fields = []
        if len(fields) != 2 or not all(fields):
            raise UserError(f"{path}: line {number}: must be 'scene,label', such as '1P0A0917,indoor', not {line!r}")
        scene, label = fields
        if not labels and (scene.lower(), label.lower()) == HEADER:
            continue
        if Path(scene).suffix.lower() in PICTURE_SUFFIXES:
            scene = Path(scene).stem
        if scene in labels:
            raise UserError(f"{path}: line {number}: scene '{scene}' has a label already, '{labels[scene]}'")
        labels[scene] = label
    if not labels:
        raise UserError(f"{path}: has no labels; valid: a line 'scene,label' a scene, such as '1P0A0917,indoor'")
    return labels


def labels_of(labels: Mapping[str, str], scenes: Collection[str]) -> dict[str, str]:
    """Scene -> label, for the scenes that have one: by its name, or whatever its case, Unicode form and padding of
    numbers, where that leaves one."""
    loosely: dict[Hashable, list[str]] = {}
    for name in labels:
        loosely.setdefault(same_name(name), []).append(name)
    crowd = Counter(map(same_name, scenes))
    found = {}
    for scene in scenes:
        alike = loosely.get(same_name(scene), [])
        if scene in labels:
            found[scene] = labels[scene]
        elif len(alike) == 1 and crowd[same_name(scene)] == 1:
            found[scene] = labels[alike[0]]
    return found


def check_labels(
    labels: Mapping[str, str], path: str | Path, name: str, used: Collection[str], known: Collection[str]
) -> None:
    """Check that every scene has a label, and every label a scene.

    Args:
        labels: from :func:`read_labels`.
        path: the file, for messages.
        name: the data set's name, for messages.
        used: the scenes that will be measured.
        known: all scenes of the data set.

    Raises:
        UserError: a scene that the data set hasn't, or one without a label.
    """
    loosely = {same_name(scene) for scene in known}
    unknown = [scene for scene in labels if scene not in known and same_name(scene) not in loosely]
    if unknown:
        hint = nearest(unknown[0], sorted(known)[:200])
        raise UserError(f"{path}: data set '{name}' has no scene '{unknown[0]}'{_more(unknown)}; {hint}")
    have = labels_of(labels, known)
    without = [scene for scene in used if scene not in have]
    if without:
        raise UserError(f"{path}: has no label for scene '{without[0]}'{_more(without)} of data set '{name}'")


def _more(scenes: Collection[str]) -> str:
    return f" (and {len(scenes) - 1} more)" if len(scenes) > 1 else ""
