"""How data sets lie in folders, and the scenes found there: paired as :mod:`ifan_plugin.images.pairing` tells."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from ifan_plugin.common.errors import UserError
from ifan_plugin.images.image_io import PICTURE_SUFFIXES
from ifan_plugin.images.pairing import Folder, pair
from ifan_plugin.options.schema import nearest

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
        shifted: the sharp picture's number is one off the blurred one's, throughout a split.
        nested: a scene has a folder of its own: ``blurred``: its blurred pictures, several of them, and its one sharp
            picture is called like that folder; ``cameras``: a folder each camera, with all pictures by aperture.
    """

    folders: Mapping[str, Mapping[str, str]]
    quarter_turns: int = 0
    shifted: bool = False
    nested: Literal["", "blurred", "cameras"] = ""

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
    "dpdd": Layout({split: _dpdd(split) for split in ("train", "val", "test")}, shifted=True),
    "restormer": Layout({split: _restormer(split) for split in ("train", "val", "test")}, shifted=True),
    "realdof": Layout({"test": {"center": "source", "target": "target"}}, shifted=True),
    # Portrait photos: turned so that the disparity between the views lies along the rows, as in DPDD.
    "pixeldp": Layout(
        {"test": {"center": "test_c/source", "left": "test_l/source", "right": "test_r/source"}},
        quarter_turns=1,
    ),
    # AIFNet's light-field data: 20 blurred pictures of other focus and aperture to each sharp one.
    "lfdof": Layout(
        {
            "train": {"center": "train_data/input", "target": "train_data/ground_truth"},
            "test": {"center": "test_data/input", "target": "test_data/ground_truth"},
        },
        nested="blurred",
    ),
    # DID-ANet's, whose lists name these folders (and `filtered` for its defocus maps).
    "ded": Layout({"test": {"center": "image", "target": "sharp"}}),
    # JDRL's, whose training pictures come cut into patches. Its pairs aren't aligned.
    "sdd": Layout(
        {
            "train": {"center": "train_patches/blur", "target": "train_patches/gt"},
            "test": {"center": "test/blur", "target": "test/gt"},
        }
    ),
    # Two cameras on one scene, each at several apertures.
    "dp5k": Layout(
        {
            split: dict.fromkeys(("center", "left", "right", "target"), folder)
            for split, folder in (("train", "train"), ("val", "valid"), ("test", "test"))
        },
        nested="cameras",
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
    pairing: str = "auto",
) -> list[Scene]:
    """:func:`paired_scenes` without the rule."""
    return paired_scenes(root, layout, split, views, target, pairing)[0]


def paired_scenes(
    root: str | os.PathLike,
    layout: str | Layout,
    split: str,
    views: Sequence[str],
    target: str = "auto",
    pairing: str = "auto",
    ask: str = "pairing: order",
) -> tuple[list[Scene], str]:
    """The scenes of one split, in sorted order of their file names, and by which rule pictures were paired.

    Pictures pair by what their names say (:func:`ifan_plugin.images.pairing.pair`). In DPDD the stems of one scene
    differ (``1P0A0917`` is the blurred picture of the sharp ``1P0A0916``): there they pair by order, if all differ so.

    Args:
        root: the data set's folder.
        layout: a key of :data:`LAYOUTS`, or one of one's own.
        split: one of the layout's splits.
        views: the views wanted, of :data:`VIEWS`; all of them must be there.
        target: ``auto``: sharp pictures if their folder exists; ``required``; ``none``: left aside.
        pairing: ``auto``, or ``order``: the n-th picture of each folder is the n-th scene's, whatever it is called.
        ask: how pairing by order is asked for where this is called from, for messages.

    Returns:
        scenes whose paths are set for ``views`` and, where there is ground truth, ``target``; and the rule, empty where
        there is one folder.

    Raises:
        UserError: an unknown layout, split or view, a missing or empty folder, folders with unequal numbers
            of pictures, a file name that isn't text, two pictures whose results would get the same name, or pairs that
            can't be told.
    """
    name, facts = (layout, LAYOUTS.get(layout)) if isinstance(layout, str) else ("folders", layout)
    if facts is None:
        raise UserError(f"unknown layout '{layout}'; {nearest(name, LAYOUTS)}")
    folders = _role_folders(Path(root).expanduser(), name, facts, split, views, target)
    if facts.nested == "blurred":
        return _nested_scenes(folders), "by the folders' names" if "target" in folders else ""
    if facts.nested == "cameras":
        return _camera_scenes(folders), "by the files' names"
    return pair_folders(folders, pairing, shifted=facts.shifted, ask=ask)


def _nested_scenes(folders: Mapping[str, Path]) -> list[Scene]:
    """A scene a blurred picture, with the sharp one called like its folder; see :class:`Layout`."""
    sharp = {} if "target" not in folders else {path.stem: path for path in _pictures(folders["target"])}
    inside = sorted(path for path in folders["center"].iterdir() if path.is_dir() and not path.name.startswith("."))
    if not inside:
        raise UserError(f"{folders['center']}: has no folders; its layout keeps each scene's blurred pictures in one")
    scenes = []
    for folder in inside:
        if sharp and folder.name not in sharp:
            raise UserError(f"{folder}: has no sharp picture '{folder.name}' in {folders['target']}")
        for path in _pictures(folder):
            key = path.stem if path.stem.startswith(folder.name) else f"{folder.name}_{path.stem}"
            scenes.append(Scene(key, center=path, target=sharp.get(folder.name)))
    return scenes


def _camera_scenes(folders: Mapping[str, Path]) -> list[Scene]:
    """A scene each camera and aperture: ``SCENE/cam0/FN_1.8_{c,l,r}.png``, with the sharp ``FN_22.png`` beside them."""
    root = next(iter(folders.values()))
    views = {role: role[0] for role in folders if role != "target"}
    first = next(iter(views.values()))
    scenes = []
    for path in sorted(root.glob(f"*/cam[0-9]/FN_*_{first}.png")):
        aperture = path.stem.removeprefix("FN_").removesuffix(f"_{first}")
        if aperture == "22":
            continue
        paths = {role: path.with_name(f"FN_{aperture}_{letter}.png") for role, letter in views.items()}
        if "target" in folders:
            paths["target"] = path.with_name("FN_22.png")
        for role, wanted in paths.items():
            if not wanted.is_file():
                raise UserError(
                    f"{wanted}: not found, though {path.name} lies there; it is that scene's {role} picture"
                )
        scenes.append(Scene(f"{path.parents[1].name}_{path.parent.name}_f{aperture}", **paths))
    if not scenes:
        raise UserError(f"{root}: no pictures found; valid: SCENE/cam0/FN_1.8_{first}.png, as the data set has them")
    return scenes


def pair_folders(
    folders: Mapping[str, Path], pairing: str = "auto", *, shifted: bool = False, ask: str = "pairing: order"
) -> tuple[list[Scene], str]:
    """The scenes in folders given by role (views first), and the rule; arguments as in :func:`paired_scenes`.

    Raises:
        UserError: as :func:`paired_scenes`, for an empty folder, unequal numbers and names.
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
    # The names that decide come first; what is asked of one folder is asked of each other one.
    order = [named_by, *(role for role in folders if role != named_by)]
    sides = [Folder(folders[role], [path.name for path in files[role]]) for role in order]
    rows, rule = pair(sides, pairing, shifted=shifted, ask=ask)
    scenes = [
        Scene(key, **{role: folders[role] / name for role, name in zip(order, row)}) for key, row in zip(keys, rows)
    ]
    return scenes, rule


def _role_folders(
    root: Path, layout: str, facts: Layout, split: str, views: Iterable[str], target: str
) -> dict[str, Path]:
    """Folders of the wanted roles, views in the order given, all known to exist."""
    if not root.is_dir():
        raise UserError(f"{root}: folder not found; give the folder of a data set in layout '{layout}'")
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
        telling = name != layout and facts.nested != "cameras"  # whose train and test lie in other layouts, too
        if telling and any(folder != root and folder.is_dir() for folder in centers):
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
        "each folder needs one picture a scene"
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
    start, digits = re.findall(r"\A(.*?)(\d*)\Z", stem, re.DOTALL)[0]
    return start, int(digits) if digits else None
