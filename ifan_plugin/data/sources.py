"""Where a data set's pictures come from: folders of files, or LMDB. Both give the same samples, bit for bit."""

from __future__ import annotations

import contextlib
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ifan_plugin.common.errors import UserError
from ifan_plugin.data.layouts import LAYOUTS, VIEWS, Layout, Scene, paired_scenes
from ifan_plugin.data.lmdb.read import LmdbPictures
from ifan_plugin.images.image_io import Region, has_alpha, read_header, read_pixels, require_opaque, require_rgb
from ifan_plugin.images.white_level import note_on, scaled

LMDB = "lmdb"
"""The layout of data sets in LMDB: ``DIR/{split}/{center,left,right,target}.lmdb``."""
SOURCE_LAYOUTS = (*LAYOUTS, LMDB)
SPLITS = ("train", "val", "test")


class PictureSource(ABC):
    """Pictures of scenes, all scenes with the same roles. May be sent to other processes, forked or spawned.

    Attributes:
        scenes: list of :class:`ifan_plugin.data.layouts.Scene`; paths in an LMDB are of the form
            ``center.lmdb/KEY.png``: no files, but they name results as files' paths do.
        roles: the views asked for, in that order, then ``target`` where there is ground truth.
        quarter_turns: how often a stored picture is turned 90 degrees counter-clockwise when it is read.
        bit_depth: 8 or 16, what the pictures are good for at the least.
        pairing: the rule by which the pictures of several folders were paired, for people; empty for one folder.
        white_level: what is white in 16-bit pictures; None: 65535.
    """

    scenes: list[Scene]
    roles: tuple[str, ...]
    quarter_turns: int
    bit_depth: int
    pairing: str
    white_level: int | None

    @abstractmethod
    def name(self, index: int, role: str) -> str:
        """How messages call one picture."""

    @abstractmethod
    def stored_size(self, index: int, role: str) -> tuple[int, int]:
        """(height, width) of one picture as it is stored, from its header or list; known from then on.

        Raises:
            UserError: no such picture, or one that can't be used (8 bits where 16 are needed, say).
        """

    @abstractmethod
    def check(self) -> None:
        """What can be told of the whole without reading pictures.

        Raises:
            UserError: the first thing that is wrong.
        """

    @abstractmethod
    def _read_stored(self, index: int, role: str, region: Region | None) -> np.ndarray: ...

    def note(self) -> str | None:
        """What a look at a few pictures from all over the set tells of it, in one line."""
        if self.white_level is not None:
            return None
        count = len(self.scenes)
        chosen = sorted({0, count // 2, count - 1})
        pictures = (
            self._read_stored(index, role, None) for index in chosen for role in (self.roles[0], self.roles[-1])
        )
        with contextlib.suppress(UserError):  # who reads a damaged picture says so
            return note_on(pictures, os.path.dirname(self.name(0, self.roles[0])), "white_level: {}")
        return None

    def size(self, index: int, role: str) -> tuple[int, int]:
        """(height, width) of one picture as :meth:`read` gives it. Raises as :meth:`stored_size`."""
        size = self.stored_size(index, role)
        return size[::-1] if self.quarter_turns % 2 else size

    def read(self, index: int, role: str, region: Region | None = None) -> np.ndarray:
        """One picture, or ``region`` of it (counted after turning): uint8 or uint16 [H, W, 3], RGB, as stored.

        Raises:
            UserError: the picture is missing, damaged, or not what its header or list says.
        """
        if not self.quarter_turns:
            return self._read_stored(index, role, region)
        if region is not None:
            region = turned_back(region, self.quarter_turns, self.stored_size(index, role))
        return np.rot90(self._read_stored(index, role, region), self.quarter_turns)


class FolderSource(PictureSource):
    """Files in the folders of one of :data:`ifan_plugin.data.layouts.LAYOUTS`.

    Args: as :func:`open_source`.

    Raises:
        UserError: as :func:`ifan_plugin.data.layouts.find_scenes`.
    """

    def __init__(
        self,
        root: str | os.PathLike,
        layout: str,
        split: str,
        views: Sequence[str],
        target: str = "auto",
        bit_depth: int = 8,
        max_images: int | None = None,
        pairing: str = "auto",
        white_level: int | None = None,
        folders: Mapping[str, str] | None = None,
    ) -> None:
        self.white_level = white_level
        own = None if folders is None else Layout({split: folders})
        scenes, self.pairing = paired_scenes(root, own or layout, split, views, target, pairing)
        self.scenes = scenes[:max_images]
        has_target = self.scenes[0].target is not None
        self.roles = (*dict.fromkeys(views), *(["target"] if has_target else []))
        self.quarter_turns = (own or LAYOUTS[layout]).quarter_turns
        self.bit_depth = bit_depth
        self._sizes: dict[tuple[int, str], tuple[int, int]] = {}
        self._with_alpha: list[Path] = []

    def name(self, index: int, role: str) -> str:
        return str(self._path(index, role))

    def stored_size(self, index: int, role: str) -> tuple[int, int]:
        place = int(index), role
        if place not in self._sizes:
            path = self._path(index, role)
            header = read_header(path)
            require_rgb(header, path, self.bit_depth)
            if has_alpha(header):
                self._with_alpha.append(path)
            self._sizes[place] = (header.height, header.width)
        return self._sizes[place]

    def check(self) -> None:
        for index in range(len(self.scenes)):
            for role in self.roles:
                self.stored_size(index, role)
        require_opaque(self._with_alpha)

    def _read_stored(self, index: int, role: str, region: Region | None) -> np.ndarray:
        path = self._path(index, role)
        pixels = scaled(read_pixels(path, self.bit_depth), self.white_level)
        known = self._sizes.get((int(index), role), pixels.shape[:2])
        if pixels.shape[:2] != known:
            size = f"{pixels.shape[1]}x{pixels.shape[0]}"
            raise UserError(f"{path}: size {size} differs from its header's {known[1]}x{known[0]}; was it replaced?")
        return pixels if region is None else _part(pixels, region)

    def _path(self, index: int, role: str) -> Path:
        return getattr(self.scenes[index], role)


class LmdbSource(PictureSource):
    """One LMDB a role, as ``basicsr lmdb create`` makes them: ``root/split/ROLE.lmdb``.

    Args: as :func:`open_source`.

    Raises:
        UserError: a folder is missing or not a whole LMDB; roles with unequal keys or turns; too few bits.
    """

    def __init__(
        self,
        root: str | os.PathLike,
        split: str,
        views: Sequence[str],
        target: str = "auto",
        bit_depth: int = 8,
        max_images: int | None = None,
        white_level: int | None = None,
    ) -> None:
        self.white_level = white_level
        folder = _split_folder(Path(root).expanduser(), split)
        wanted = tuple(dict.fromkeys(views))
        if target == "required" or (target == "auto" and (folder / "target.lmdb").is_dir()):
            wanted = (*wanted, "target")
        self._pictures = {role: LmdbPictures(_role_folder(folder, role)) for role in wanted}
        self.roles = wanted
        self.pairing = "by the keys of the databases" if len(wanted) > 1 else ""
        self.bit_depth = bit_depth
        _require_equal(self._pictures, bit_depth)
        first = self._pictures[wanted[0]]
        self.quarter_turns = first.info.quarter_turns % 4
        self._keys = [entry.key for entry in first.entries][:max_images]
        self.scenes = [
            Scene(key, **{role: pictures.path / f"{key}.png" for role, pictures in self._pictures.items()})
            for key in self._keys
        ]

    def name(self, index: int, role: str) -> str:
        return self._pictures[role].name(self._keys[index])

    def stored_size(self, index: int, role: str) -> tuple[int, int]:
        return self._pictures[role].size(self._keys[index])

    def check(self) -> None:
        for pictures in self._pictures.values():
            pictures.check()

    def _read_stored(self, index: int, role: str, region: Region | None) -> np.ndarray:
        pixels = scaled(self._pictures[role].read(self._keys[index], region), self.white_level)
        if self.bit_depth == 16 and pixels.dtype != np.uint16:
            raise UserError(_too_few_bits(self.name(index, role)))
        return pixels


def open_source(
    root: str | os.PathLike,
    layout: str,
    split: str,
    views: Sequence[str],
    target: str = "auto",
    bit_depth: int = 8,
    max_images: int | None = None,
    pairing: str = "auto",
    white_level: int | None = None,
) -> PictureSource:
    """The pictures of one split.

    Args:
        root: the data set's folder.
        layout: one of :data:`SOURCE_LAYOUTS`.
        split: ``train``, ``val`` or ``test``.
        views: the views wanted, of ``center``, ``left``, ``right``.
        target: ``auto``: sharp pictures if there are any; ``required``; ``none``: left aside.
        bit_depth: 8 or 16: what is asked of the pictures.
        max_images: keep the first scenes only.
        pairing: as in :func:`ifan_plugin.data.layouts.paired_scenes`; databases were paired when they were made.
        white_level: the value of 16-bit pictures that is white, where it isn't 65535: they are scaled.

    Raises:
        UserError: what the folders or databases lack.
    """
    if layout == LMDB:
        return LmdbSource(root, split, views, target, bit_depth, max_images, white_level)
    return FolderSource(root, layout, split, views, target, bit_depth, max_images, pairing, white_level)


def default_split(root: str | os.PathLike, layout: str, phase: str) -> str:
    """The split used in ``phase`` (train, val, test) unless told: its namesake, else the only one there is."""
    if layout != LMDB:
        return LAYOUTS[layout].split_for(phase)
    there = _splits_in(Path(root).expanduser())
    return there[0] if len(there) == 1 else phase


def turned_back(region: Region, quarter_turns: int, size: tuple[int, int]) -> Region:
    """Where ``region`` of a picture turned counter-clockwise lies in the picture before.

    Args:
        region: in ``np.rot90(picture, quarter_turns)``.
        quarter_turns: 0 or more.
        size: (height, width) of the picture before it was turned.
    """
    for turn in reversed(range(quarter_turns)):
        # Row i of a picture after one turn was column width - 1 - i before it.
        width = size[1] if turn % 2 == 0 else size[0]
        top, left, rows, columns = region
        region = Region(left, width - top - rows, columns, rows)
    return region


def _part(pixels: np.ndarray, region: Region) -> np.ndarray:
    return pixels[region.top : region.top + region.height, region.left : region.left + region.width]


def _splits_in(root: Path) -> list[str]:
    return [split for split in SPLITS if any(root.glob(f"{split}/*.lmdb"))]


def _split_folder(root: Path, split: str) -> Path:
    folder = root / split
    if not folder.is_dir():
        there = ", ".join(_splits_in(root))
        hint = f"there are: {there}" if there else "'basicsr lmdb create' makes a folder a split with ROLE.lmdb in it"
        raise UserError(f"{folder}: folder not found (layout '{LMDB}', split {split}); {hint}")
    return folder


def _role_folder(folder: Path, role: str) -> Path:
    path = folder / f"{role}.lmdb"
    if not path.is_dir():
        what = "sharp pictures" if role == "target" else f"the {role} view"
        there = ", ".join(name for name in (*VIEWS, "target") if (folder / f"{name}.lmdb").is_dir())
        raise UserError(f"{path}: folder not found (layout '{LMDB}', {what}); there are: {there or 'none'}")
    return path


def _require_equal(roles: dict[str, LmdbPictures], bit_depth: int) -> None:
    """The databases of one split must hold the same scenes, turned alike, and enough bits."""
    first, *others = roles.values()
    for pictures in (first, *others):
        if bit_depth == 16 and pictures.info.bit_depth != 16:
            raise UserError(_too_few_bits(str(pictures.path)))
    for other in others:
        for one, two in ((first, other), (other, first)):
            missing = next((entry.key for entry in one.entries if entry.key not in two), None)
            if missing is not None:
                raise UserError(
                    f"{two.path}: has no picture '{missing}', but {one.path.name} has; "
                    "the databases of a split need the same keys"
                )
        if other.info.quarter_turns % 4 != first.info.quarter_turns % 4:
            raise UserError(
                f"{other.path}: its pictures are turned {other.info.quarter_turns} times, those of "
                f"{first.path.name} {first.info.quarter_turns} times; make both from one layout"
            )


def _too_few_bits(name: str) -> str:
    return f"{name}: holds 8 bits a channel, but bit_depth is 16; valid: an LMDB of 16-bit pictures, or bit_depth: 8"
