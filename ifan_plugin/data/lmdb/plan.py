"""What an LMDB is to hold: scenes, keys and sizes, known and checked before any picture is decoded."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

from ifan_plugin.common.errors import UserError
from ifan_plugin.data.layouts import LAYOUTS, VIEWS, Scene, pair_folders, paired_scenes
from ifan_plugin.data.lmdb.patches import CenterCrop, Cut, Patches
from ifan_plugin.data.lmdb.read import LmdbInfo, safe_key
from ifan_plugin.images.image_io import (
    Region,
    decode_pixels,
    has_alpha,
    read_header,
    require_opaque,
    require_rgb,
)  # fmt: skip
from ifan_plugin.options.schema import nearest

FOLDERS = "folders"
"""The layout of people without one: a folder a role, wherever it is."""

SPLITS = ("train", "val", "test")
_ASK = "--pairing order"
MAX_KEY_BYTES = 511  # LMDB's limit, as it is built everywhere
_JPEG_END = b"\xff\xd9"
_ENDS = {".png": b"\0\0\0\0IEND\xaeB`\x82"} | dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif"), _JPEG_END)


@dataclass(frozen=True)
class Source:
    """Where pictures come from and how they are stored.

    Args:
        layout: a key of :data:`ifan_plugin.data.layouts.LAYOUTS`, or ``folders``.
        root: the data set's folder; for ``folders`` ``None``.
        folders: for ``folders``: role -> folder, views first.
        views: the views wanted; ``None``: all that are there.
        encoding: ``png`` or ``raw``.
        bit_depth: 8, 16, or ``None``: that of the files, which then must be the same for all of a split.
        cut: how pictures are cut; ``None``: not at all.
        compression: PNG compression level, 0 to 9.
        pairing: how pictures of one scene are found, ``auto`` or ``order``.
    """

    layout: str
    root: Path | None = None
    folders: Mapping[str, Path] | None = None
    views: Sequence[str] | None = None
    encoding: str = "png"
    bit_depth: int | None = None
    cut: Cut = None
    compression: int = 1
    pairing: str = "auto"

    def splits(self) -> list[str]:
        """The splits whose folders are there (or, where none is, the first one, to be complained about)."""
        if self.layout == FOLDERS:
            return ["train"]
        names = self._layout().folders
        there = [split for split in names if self._views_there(split)]
        return there or list(names)[:1]

    def scenes(self, split: str) -> tuple[list[Scene], str]:
        """The scenes of one split, and by which rule pictures were paired.

        Raises :class:`UserError` as :func:`ifan_plugin.data.layouts.paired_scenes`.
        """
        if self.layout == FOLDERS:
            if split not in SPLITS:
                raise UserError(f"unknown split '{split}'; {nearest(split, SPLITS)}")
            given = dict(self.folders or {})
            folders = {role: Path(given.pop(role)).expanduser() for role in (*VIEWS, "target") if given.get(role)}
            if given:
                raise UserError(f"unknown role '{next(iter(given))}'; {nearest(next(iter(given)), (*VIEWS, 'target'))}")
            if not set(folders) & set(VIEWS):
                raise UserError(f"layout '{FOLDERS}': give the folder of at least one view: {', '.join(VIEWS)}")
            for role, folder in folders.items():
                if not folder.is_dir():
                    raise UserError(f"{folder}: folder not found ({role})")
            return pair_folders(folders, self.pairing, ask=_ASK)
        self._layout()
        if self.root is None:
            raise UserError(f"layout '{self.layout}': give the data set's folder (root)")
        views = self.views
        if views is None:
            views = self._views_there(split) or [role for role in self._roles(split) if role in VIEWS]
        return paired_scenes(self.root, self.layout, split, views, pairing=self.pairing, ask=_ASK)

    def _layout(self):
        if self.layout not in LAYOUTS:
            raise UserError(f"unknown layout '{self.layout}'; {nearest(self.layout, [*LAYOUTS, FOLDERS])}")
        return LAYOUTS[self.layout]

    def _roles(self, split: str) -> Mapping[str, str]:
        folders = self._layout().folders
        if split not in folders:
            raise UserError(f"layout '{self.layout}' has no split '{split}'; {nearest(split, folders)}")
        return folders[split]

    def _views_there(self, split: str) -> list[str]:
        root = Path(self.root or "").expanduser()
        return [role for role, name in self._roles(split).items() if role in VIEWS and (root / name).is_dir()]


@dataclass(frozen=True)
class SplitPlan:
    """All databases of one split.

    Attributes:
        files: role -> its pictures, in the scenes' order.
        keys: for each scene the keys of what is cut from it (one where nothing is).
        sizes: for each scene (height, width) of its pictures.
        chosen_on: role whose detail decides which patches are kept; ``None`` where all are.
        pairing: by which rule pictures were paired; empty where there is one role.
    """

    source: Source
    split: str
    files: dict[str, list[Path]]
    keys: list[tuple[str, ...]]
    sizes: list[tuple[int, int]]
    bit_depth: int
    chosen_on: str | None
    pairing: str = ""

    def info(self, role: str) -> LmdbInfo:
        """What the database's ``info.json`` is to say."""
        layout = self.source.layout
        return LmdbInfo(
            encoding=self.source.encoding,
            bit_depth=self.bit_depth,
            count=sum(map(len, self.keys)),
            layout="folder" if layout == FOLDERS else layout,
            split=self.split,
            role=role,
            quarter_turns=LAYOUTS[layout].quarter_turns if layout in LAYOUTS else 0,
            patch=_describe_cut(self.source.cut),
        )

    def facts(self, role: str) -> dict:
        """What decides the database's content: one made from equal facts needn't be made again."""
        deciding = [self.files[role]] + ([self.files[self.chosen_on]] if self.chosen_on else [])
        sources = [
            (path.name, status.st_size, status.st_mtime_ns)
            for files in deciding for path, status in zip(files, map(os.stat, files))
        ]  # fmt: skip
        info = asdict(self.info(role))
        compression = self.source.compression if self.source.encoding == "png" else None
        extra = {"compression": compression, "chosen_on": self.chosen_on}
        return info | extra | {"keys": _digest(self.keys), "sources": _digest(sources)}

    def fixed_regions(self, scene: int) -> tuple[Region, ...] | None:
        """What is cut from a scene where that is known without looking at it; whole pictures are one region."""
        height, width = self.sizes[scene]
        cut = self.source.cut
        if cut is None:
            return (Region(0, 0, height, width),)
        if isinstance(cut, CenterCrop):
            return (cut.region(height, width),)
        return None if self.chosen_on else tuple(cut.grid(height, width))

    def raw_bytes(self) -> int:
        """Bytes of one role's pictures, uncompressed."""
        pixels = (
            height * width if self.source.cut is None else len(keys) * self.source.cut.size**2
            for (height, width), keys in zip(self.sizes, self.keys)
        )
        return sum(pixels) * 3 * self.bit_depth // 8


def plan_split(source: Source, split: str) -> SplitPlan:
    """Find one split's scenes and check all that file names, headers and ends can tell.

    Raises:
        UserError: see :func:`ifan_plugin.data.lmdb.create.create`.
    """
    scenes, pairing = source.scenes(split)
    roles = [role for role in (*VIEWS, "target") if getattr(scenes[0], role) is not None]
    bit_depth = source.bit_depth
    sizes: list[tuple[int, int]] = []
    with_alpha: list[Path] = []
    first_depth: int | None = None
    for scene in scenes:
        size: tuple[int, int] | None = None
        for role in roles:
            path = getattr(scene, role)
            header = read_header(path)
            require_rgb(header, path, bit_depth)
            if has_alpha(header):
                with_alpha.append(path)
            else:
                _require_end(path)
            first_depth = first_depth or header.bit_depth
            if bit_depth is None and header.bit_depth != first_depth:
                raise UserError(
                    f"{path}: picture has {header.bit_depth} bits a channel, others of {split} have {first_depth}; "
                    "valid: one bit depth for all, or bit depth 8, which takes both"
                )
            if size is not None and size != header[:2]:
                raise UserError(
                    f"{path}: size {header.width}x{header.height} differs from {size[1]}x{size[0]} of "
                    f"{getattr(scene, roles[0])}; a scene's pictures must be equally large"
                )
            size = header[:2]
        assert size is not None  # a scene has a picture at least
        if source.cut is not None and min(size) < source.cut.size:
            raise UserError(
                f"{getattr(scene, roles[0])}: size {size[1]}x{size[0]} is smaller than a patch of {source.cut.size}"
            )
        sizes.append(size)
    require_opaque(with_alpha)
    cut = source.cut
    counts = [cut.count(*size) if isinstance(cut, Patches) else 0 for size in sizes]
    chosen = isinstance(cut, Patches) and any(kept < len(cut.grid(*size)) for kept, size in zip(counts, sizes))
    return SplitPlan(
        source=source,
        split=split,
        files={role: [getattr(scene, role) for scene in scenes] for role in roles},
        keys=keys_of(scenes, counts),
        sizes=sizes,
        bit_depth=bit_depth or cast(int, first_depth),
        chosen_on=("target" if "target" in roles else roles[0]) if chosen else None,
        pairing=pairing,
    )


def keys_of(scenes: Sequence[Scene], counts: Sequence[int]) -> list[tuple[str, ...]]:
    """The keys of each scene's pictures: its own name, or with a ``count`` above 0 ``NAME_0001``, ``NAME_0002``, …

    Raises:
        UserError: a key that LMDB or BasicSR's list can't hold, or that two scenes share.
    """
    keys = []
    taken: dict[str, str] = {}
    for scene, count in zip(scenes, counts):
        name = safe_key(scene.key)
        if name in taken:
            raise UserError(f"'{scene.key}' and '{taken[name]}' would both be stored as '{name}'; rename one of them")
        taken[name] = scene.key
        if name != name.strip() or len(name.splitlines()) != 1:
            raise UserError(f"{scene.key!r}: a name with blanks at its ends or line breaks can't be a key; rename it")
        keys.append(tuple(f"{name}_{number:04d}" for number in range(1, count + 1)) if count else (name,))
        length = len(keys[-1][-1].encode())
        if length > MAX_KEY_BYTES:
            raise UserError(f"{scene.key}: as a key it has {length} bytes; LMDB takes {MAX_KEY_BYTES}; rename it")
    return keys


def _require_end(path: Path) -> None:
    """Refuse a truncated PNG or JPEG without reading it whole, unless its last bytes look odd."""
    end = _ENDS.get(path.suffix.lower(), b"")
    try:
        with open(path, "rb") as file:
            file.seek(-min(len(end), os.fstat(file.fileno()).st_size), os.SEEK_END)
            if file.read() == end:
                return
        decode_pixels(path.read_bytes(), path)
    except OSError as error:
        raise UserError(f"{path}: can't be read: {error.strerror or error}") from error


def _describe_cut(cut: Cut) -> dict | None:
    if isinstance(cut, CenterCrop):
        return {"size": cut.size, "crop": "center"}
    return asdict(cut) if cut else None


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
