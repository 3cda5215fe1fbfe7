"""What an LMDB is to hold: scenes, keys and sizes, known and checked before any picture is decoded."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ifan_plugin.data.image_io import Region, decode_pixels, read_header, require_rgb
from ifan_plugin.data.layouts import LAYOUTS, VIEWS, Scene, find_scenes, pair_folders
from ifan_plugin.data.lmdb import LmdbInfo, safe_key
from ifan_plugin.data.patches import CenterCrop, Cut, Patches
from ifan_plugin.errors import UserError
from ifan_plugin.options import nearest

FOLDERS = "folders"
"""The layout of people without one: a folder a role, wherever it is."""

SPLITS = ("train", "val", "test")
MAX_KEY_BYTES = 511  # LMDB's limit, as it is built everywhere
_ENDS = {".png": b"\0\0\0\0IEND\xaeB`\x82", ".jpg": b"\xff\xd9", ".jpeg": b"\xff\xd9"}


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
    """

    layout: str
    root: Path | None = None
    folders: Mapping[str, Path] | None = None
    views: Sequence[str] | None = None
    encoding: str = "png"
    bit_depth: int | None = None
    cut: Cut = None
    compression: int = 1

    def splits(self) -> list[str]:
        """The splits whose folders are there (or, where none is, the first one, to be complained about)."""
        if self.layout == FOLDERS:
            return ["train"]
        names = self._layout().folders
        there = [split for split in names if self._views_there(split)]
        return there or list(names)[:1]

    def scenes(self, split: str) -> list[Scene]:
        """The scenes of one split. Raises :class:`UserError` as :func:`ifan_plugin.data.layouts.find_scenes`."""
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
            return pair_folders(folders)
        self._layout()
        if self.root is None:
            raise UserError(f"layout '{self.layout}': give the data set's folder (root)")
        views = self.views
        if views is None:
            views = self._views_there(split) or [role for role in self._roles(split) if role in VIEWS]
        return find_scenes(self.root, self.layout, split, views)

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
    """

    source: Source
    split: str
    files: dict[str, list[Path]]
    keys: list[tuple[str, ...]]
    sizes: list[tuple[int, int]]
    bit_depth: int
    chosen_on: str | None

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
        UserError: see :func:`ifan_plugin.data.lmdb_create.create`.
    """
    scenes = source.scenes(split)
    roles = [role for role in (*VIEWS, "target") if getattr(scenes[0], role) is not None]
    bit_depth = source.bit_depth
    sizes = []
    first_depth = None
    for scene in scenes:
        size = None
        for role in roles:
            path = getattr(scene, role)
            header = read_header(path)
            require_rgb(header, path, bit_depth)
            _require_end(path)
            first_depth = first_depth or header.bit_depth
            if bit_depth is None and header.bit_depth != first_depth:
                raise UserError(
                    f"{path}: picture has {header.bit_depth} bits a channel, others of {split} have {first_depth}; "
                    "valid: one bit depth for all, or bit depth 8, which takes both"
                )
            if size is not None and size != header[:2]:
                raise UserError(
                    f"{path}: size {header.height}x{header.width} differs from {size[0]}x{size[1]} of "
                    f"{getattr(scene, roles[0])}; a scene's pictures must be equally large"
                )
            size = header[:2]
        if source.cut is not None and min(size) < source.cut.size:
            raise UserError(
                f"{getattr(scene, roles[0])}: size {size[0]}x{size[1]} is smaller than a patch of {source.cut.size}"
            )
        sizes.append(size)
    counts = [source.cut.count(*size) if isinstance(source.cut, Patches) else 0 for size in sizes]
    chosen = isinstance(source.cut, Patches) and any(
        kept < len(source.cut.grid(*size)) for kept, size in zip(counts, sizes)
    )
    return SplitPlan(
        source=source,
        split=split,
        files={role: [getattr(scene, role) for scene in scenes] for role in roles},
        keys=keys_of(scenes, counts),
        sizes=sizes,
        bit_depth=bit_depth or first_depth,
        chosen_on=("target" if "target" in roles else roles[0]) if chosen else None,
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
