"""How data sets lie in folders, and the scenes found there: paired by sorted order, never by name."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ifan_plugin.data.image_io import PICTURE_SUFFIXES
from ifan_plugin.errors import UserError
from ifan_plugin.options import nearest

VIEWS = ("center", "left", "right")
"""Views a camera may deliver; ``target``, the sharp picture, is none of them."""


class Scene(NamedTuple):
    """One scene's pictures. ``key``, the stem of the centre (or first) view's file, names its results."""

    key: str
    center: Path | None = None
    left: Path | None = None
    right: Path | None = None
    target: Path | None = None


@dataclass(frozen=True)
class Layout:
    """One way of laying out a data set.

    Args:
        folders: split -> role (``center``, ``left``, ``right``, ``target``) -> folder, relative to the root.
            A data set that isn't divided has the one split ``test``.
        quarter_turns: how often its pictures are turned 90 degrees counter-clockwise before they are used.
    """

    folders: Mapping[str, Mapping[str, str]]
    quarter_turns: int = 0

    def split_for(self, phase: str) -> str:
        """The split used in ``phase`` (train, val, test) unless told: its namesake, else the only one."""
        return phase if phase in self.folders else list(self.folders)[-1]


def _dpdd(split: str) -> dict[str, str]:
    return {
        "center": f"{split}_c/source", "left": f"{split}_l/source", "right": f"{split}_r/source",
        "target": f"{split}_c/target",
    }  # fmt: skip


def _restormer(split: str) -> dict[str, str]:
    cut = "" if split == "test" else "_crops"  # train and val are cut into patches beforehand
    names = {"center": "inputC", "left": "inputL", "right": "inputR", "target": "target"}
    return {role: f"{split}/DPDD/{name}{cut}" for role, name in names.items()}


LAYOUTS: dict[str, Layout] = {
    "dpdd": Layout({split: _dpdd(split) for split in ("train", "val", "test")}),
    "restormer": Layout({split: _restormer(split) for split in ("train", "val", "test")}),
    "realdof": Layout({"test": {"center": "source", "target": "target"}}),
    # Portrait photos: turned so that the disparity between the views lies along the rows, as in DPDD.
    "pixeldp": Layout(
        {"test": {"center": "test_c/source", "left": "test_l/source", "right": "test_r/source"}},
        quarter_turns=1,
    ),
    "cuhk": Layout({"test": {"center": "."}}),
    "folder": Layout({"test": {"center": "."}}),
}
"""Layout name -> :class:`Layout`; one without ``target`` has no ground truth."""


def find_scenes(
    root: str | os.PathLike,
    layout: str,
    split: str,
    views: Sequence[str],
    target: str = "auto",
) -> list[Scene]:
    """The scenes of one split, in sorted order of their file names.

    The n-th picture of each folder belongs to the n-th scene, whatever it is called: in DPDD the stems of one
    scene differ (``1P0A0917`` is the blurred picture of the sharp ``1P0A0916``).

    Args:
        root: the data set's folder.
        layout: a key of :data:`LAYOUTS`.
        split: one of the layout's splits.
        views: the views wanted, of :data:`VIEWS`; all of them must be there.
        target: ``auto``: sharp pictures if their folder exists; ``required``; ``none``: left aside.

    Returns:
        scenes whose paths are set for ``views`` and, where there is ground truth, ``target``.

    Raises:
        UserError: an unknown layout, split or view, a missing or empty folder, folders with unequal numbers
            of pictures, a file name that isn't text, or two pictures whose results would get the same name.
    """
    return pair_folders(_role_folders(Path(root).expanduser(), layout, split, views, target))


def pair_folders(folders: Mapping[str, Path]) -> list[Scene]:
    """The scenes in folders given by role (views first), paired by sorted order.

    Raises:
        UserError: as :func:`find_scenes`, for an empty folder, unequal numbers and names.
    """
    files = {role: _pictures(folder) for role, folder in folders.items()}
    first = next(iter(folders))
    for role in folders:
        if len(files[role]) != len(files[first]):
            raise UserError(_unequal(folders[first], files[first], folders[role], files[role]))
    named_by = "center" if "center" in folders else first
    keys = [_key(path, named_by) for path in files[named_by]]
    taken: dict[str, Path] = {}
    for key, path in zip(keys, files[named_by]):
        if key in taken:
            raise UserError(f"{path}: its results would overwrite those of {taken[key].name}; rename one of the two")
        taken[key] = path
    return [Scene(key, **dict(zip(files, paths))) for key, *paths in zip(keys, *files.values())]


def _role_folders(root: Path, layout: str, split: str, views: Iterable[str], target: str) -> dict[str, Path]:
    """Folders of the wanted roles, views in the order given, all known to exist."""
    if layout not in LAYOUTS:
        raise UserError(f"unknown layout '{layout}'; {nearest(layout, LAYOUTS)}")
    if not root.is_dir():
        raise UserError(f"{root}: folder not found; give the folder of a data set in layout '{layout}'")
    facts = LAYOUTS[layout]
    if split not in facts.folders:
        raise UserError(f"layout '{layout}' has no split '{split}'; {nearest(split, facts.folders)}")
    names = facts.folders[split]
    wanted = list(dict.fromkeys(views))
    if not wanted:
        raise UserError("no views asked for; give at least one of " + ", ".join(VIEWS))
    for view in wanted:
        if view not in VIEWS:
            raise UserError(f"unknown view '{view}'; {nearest(view, VIEWS)}")
        if view not in names:
            has = ", ".join(role for role in names if role != "target")
            raise UserError(f"layout '{layout}' has no view '{view}'; it has: {has}")
    if target == "required" and "target" not in names:
        raise UserError(f"layout '{layout}' has no sharp pictures, but ground truth is required; valid with gt: none")
    if target == "required" or (target == "auto" and "target" in names and (root / names["target"]).is_dir()):
        wanted.append("target")
    folders = {role: root / names[role] for role in wanted}
    for role, folder in folders.items():
        if not folder.is_dir():
            what = "sharp pictures" if role == "target" else f"the {role} view"
            raise UserError(f"{folder}: folder not found (layout '{layout}', {what}){_other_layout(root, layout)}")
    return folders


def _other_layout(root: Path, layout: str) -> str:
    """A hint where the root looks like another layout than the one asked for."""
    for name, facts in LAYOUTS.items():
        centers = [root / folders["center"] for folders in facts.folders.values()]
        if name != layout and any(folder != root and folder.is_dir() for folder in centers):
            return f"; {root} looks like layout '{name}'"
    if any(root.glob("*/*.lmdb")):
        return f"; {root} looks like layout 'lmdb'"
    return ""


def _pictures(folder: Path) -> list[Path]:
    """The picture files of one folder, sorted by name, without hidden files and files of other kinds."""
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if entry.is_file() and _is_picture(entry.name))
    except OSError as error:
        raise UserError(f"{folder}: can't be read: {error.strerror or error}") from error
    if not names:
        raise UserError(f"{folder}: no pictures found; valid: files ending in {', '.join(sorted(PICTURE_SUFFIXES))}")
    for name in names:
        try:
            name.encode("utf-8")
        except UnicodeEncodeError:
            raise UserError(f"{folder}: file name {name!a} isn't valid UTF-8; rename the file") from None
    return [folder / name for name in names]


def _is_picture(name: str) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in PICTURE_SUFFIXES


def _key(path: Path, role: str) -> str:
    """The scene's stem; DPDD's ``_L`` and ``_R`` go, so that results of all inputs are named alike."""
    return path.stem.removesuffix({"left": "_L", "right": "_R"}.get(role, "")) or path.stem


def _unequal(folder_a: Path, files_a: list[Path], folder_b: Path, files_b: list[Path]) -> str:
    """The message for two folders of unequal counts, with the first place where they part, if it shows."""
    message = (
        f"unequal numbers of pictures: {folder_a} has {len(files_a)}, {folder_b} has {len(files_b)}; "
        "scenes pair by sorted order, so each folder needs one picture a scene"
    )
    stems_a, stems_b = ([re.sub(r"_[LRC]$", "", path.stem) for path in files] for files in (files_a, files_b))
    if 2 * len({*stems_a} & {*stems_b}) > min(len(stems_a), len(stems_b)):  # scenes are named alike here
        for stems, files, others in ((stems_a, files_a, {*stems_b}), (stems_b, files_b, {*stems_a})):
            alone = [path for stem, path in zip(stems, files) if stem not in others]
            if alone:
                return f"{message}; without a partner: {alone[0]}"
    for path_a, path_b, a, b in zip(files_a, files_b, stems_a, stems_b):
        if not _may_be_neighbours(a, b):
            return f"{message}; the first that don't match: {path_a.name} and {path_b.name}"
    longer = max(files_a, files_b, key=len)
    return f"{message}; without a partner: {longer[min(len(files_a), len(files_b))]}"


def _may_be_neighbours(a: str, b: str) -> bool:
    """Whether two stems are alike but for a camera's shot number, which in DPDD differs by one."""
    (start_a, number_a), (start_b, number_b) = _split_number(a), _split_number(b)
    if number_a is None or number_b is None:
        return a == b
    return start_a == start_b and abs(number_a - number_b) <= 1


def _split_number(stem: str) -> tuple[str, int | None]:
    start, digits = re.fullmatch(r"(.*?)(\d*)", stem, re.DOTALL).groups()
    return start, int(digits) if digits else None
