"""Where a data set's pictures come from, as its options say: a layout, folders of one's own, several sets in one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ifan_plugin.common.errors import UserError
from ifan_plugin.data.layouts import VIEWS
from ifan_plugin.data.pixel4 import PIXEL4, Pixel4Source
from ifan_plugin.data.several import SeveralSources
from ifan_plugin.data.sources import SOURCE_LAYOUTS, SPLITS, FolderSource, PictureSource, default_split, open_source
from ifan_plugin.options.schema import Option, check_mapping, nearest

LAYOUT_NAMES = (*SOURCE_LAYOUTS, PIXEL4)

_MORE = {
    "dataroot": Option(str, is_folder=True, help="folder of the data set"),
    "layout": Option(str, "dpdd", choices=LAYOUT_NAMES, help="how folders and files are arranged"),
    "split": Option(str, None, choices=SPLITS, help="which part; the phase's own"),
    "folders": Option(dict, None, help="in place of a layout"),
    "weight": Option(int, 1, minimum=1, help="how often a scene comes in an epoch"),
}


def check_sets(options: dict[str, Any], where: str) -> None:
    """Check ``folders``, ``weight`` and ``more``, and decide each set's split, in place.

    Args:
        options: a data set's, checked by its own schema, with ``phase``.
        where: names the place in messages.

    Raises:
        UserError: a value that doesn't fit.
    """
    more = [check_mapping(each, _MORE, f"{where}: more: {index}") for index, each in enumerate(options["more"] or [])]
    if options["folders"] and options["coc"]:
        raise UserError(f"{where}: folders: can't be had with coc: true; leave one of them out")
    for index, each in enumerate([options, *more]):
        place = where if index == 0 else f"{where}: more: {index - 1}"
        if each["weight"] > 1 and (options["phase"] != "train" or not more):
            why = "is for training" if options["phase"] != "train" else "says nothing of one set alone; give more"
            raise UserError(f"{place}: weight: {why}")
        _check_folders(each, place)
        if each["split"] is None and each["folders"] is None and each["layout"] != PIXEL4:
            each["split"] = default_split(each["dataroot"], each["layout"], options["phase"])
    options["more"] = more


def _check_folders(options: Mapping[str, Any], where: str) -> None:
    roles = (*VIEWS, "target")
    for role, folder in (options["folders"] or {}).items():
        if role not in roles:
            raise UserError(f"{where}: folders: unknown key '{role}'; {nearest(str(role), roles)}")
        if not isinstance(folder, str):
            raise UserError(f"{where}: folders: {role}: must be a folder's name, not {folder!r}")


def open_sets(options: Mapping[str, Any]) -> PictureSource:
    """The pictures that checked options name.

    Raises:
        UserError: what the folders or databases lack, or sets that don't fit together.
    """
    sets = [options, *options["more"]]
    sources = [_source(each, options) for each in sets]
    return sources[0] if len(sources) == 1 else SeveralSources(sources, [each["weight"] for each in sets])


def _source(each: Mapping[str, Any], options: Mapping[str, Any]) -> PictureSource:
    views = [*options["views"], *options["aux_views"]]
    asked = options["gt"], options["bit_depth"], options["max_images"]
    if each["folders"] is not None:
        return FolderSource(
            each["dataroot"], "folders", each["split"] or "test", views, *asked, options["pairing"],
            options["white_level"], each["folders"],
        )  # fmt: skip
    if each["layout"] == PIXEL4:
        return Pixel4Source(each["dataroot"], views, *asked)
    return open_source(
        each["dataroot"], each["layout"], each["split"], views, *asked, options["pairing"], options["white_level"]
    )
