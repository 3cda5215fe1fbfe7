"""Pictures in LMDB: the format that is shared with BasicSR, our additions to it, and reading.

A database is a folder ``X.lmdb``:

- ``data.mdb``: LMDB's own. Key: the scene's (or patch's) name; value: the picture.
- ``meta_info.txt``: BasicSR's list, one line a picture in order, ``key.png (h,w,c) compression``. Written last:
  a folder without it is not a whole database.
- ``info.json``: what we add (:class:`LmdbInfo`); absent in databases made by BasicSR.
- ``checksums.txt``: one line a picture, ``crc32 (8 hexadecimal digits) key``.

Encodings: ``png`` (BasicSR's: a PNG file's bytes) and ``raw`` (rows of RGB samples, uint8 or little-endian uint16,
uncompressed, so that a crop copies only its rows).

A data set is a folder with one database a role: ``DIR/{split}/{center,left,right,target}.lmdb``.
"""

from __future__ import annotations

import json
import os
import re
import weakref
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np

from ifan_plugin.common.errors import UserError
from ifan_plugin.common.files import from_json
from ifan_plugin.images.image_io import Region, decode_pixels, header_of_bytes

META_INFO, INFO, CHECKSUMS, DATA = "meta_info.txt", "info.json", "checksums.txt", "data.mdb"
ENCODINGS = ("png", "raw")
_LINE = re.compile(r"(?P<key>.+)\.\w+ \((?P<height>\d{1,9}),(?P<width>\d{1,9}),(?P<channels>\d)\) (?P<last>\S+)")

_LEADS_OUT = re.compile(r"^([/\\]|\w:)|(^|[/\\])\.\.([/\\]|$)|\0")


@dataclass(frozen=True)
class LmdbInfo:
    """What ``info.json`` says.

    Args:
        encoding: ``png`` or ``raw``.
        bit_depth: 8 or 16, as stored.
        count: number of pictures.
        layout, split, role: where they came from; ``role`` is ``center``, ``left``, ``right`` or ``target``.
        quarter_turns: as in :class:`ifan_plugin.data.layouts.Layout`; the stored pictures are not turned.
        patch: ``None`` for whole pictures, else how they were cut: ``size``, ``stride``, ``drop``.
    """

    encoding: str = "png"
    bit_depth: int = 8
    count: int = 0
    layout: str = "folder"
    split: str = "test"
    role: str = "center"
    quarter_turns: int = 0
    patch: dict | None = None

    def write(self, folder: Path) -> None:
        (folder / INFO).write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")


class Entry(NamedTuple):
    """One line of ``meta_info.txt``."""

    key: str
    height: int
    width: int


def meta_line(key: str, height: int, width: int, last: int | str) -> str:
    """A line of ``meta_info.txt``; ``last`` is the PNG compression level, or ``raw``."""
    return f"{key}.png ({height},{width},3) {last}\n"


def safe_key(name: str) -> str:
    """``name`` as a key: BasicSR takes what stands before a line's first dot, so keys have no dots (or newlines)."""
    return re.sub(r"[.\r\n]", "_", name)


class LmdbPictures:
    """The pictures of one database, read-only. May be sent to other processes, forked or spawned: each opens it anew.

    Args:
        path: the folder ``X.lmdb``.

    Attributes:
        path: the folder.
        info: :class:`LmdbInfo`; for BasicSR's databases what can be told from them.
        entries: list of :class:`Entry`, in the database's order.

    Raises:
        UserError: the folder is missing, not whole, damaged, or of a newer kind.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        self.entries = _read_meta_info(self.path)
        self._by_key = {entry.key: entry for entry in self.entries}
        self._open: _Open | None = None
        self.info = self._read_info()

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, key: str) -> bool:
        return key in self._by_key

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_open": None}

    def size(self, key: str) -> tuple[int, int]:
        """(height, width) of one picture as ``meta_info.txt`` has it.

        Raises:
            UserError: no such key.
        """
        entry = self._entry(key)
        return entry.height, entry.width

    def check(self) -> None:
        """Compare the keys of the database with those of its list, without touching the pictures.

        Raises:
            UserError: the first thing that is wrong: a damaged file, a key too few or too many.
        """
        import lmdb

        try:
            keys = self._begin().transaction.cursor().iternext(keys=True, values=False)
            stored = {bytes(key).decode(errors="replace") for key in keys}
        except lmdb.Error as error:
            raise self._damaged(error) from error
        finally:
            self.close()
        for entry in self.entries:
            if entry.key not in stored:
                raise UserError(self._lacks(entry.key))
        if len(stored) != len(self.entries):
            raise UserError(f"{self.path}: the database has '{min(stored - self._by_key.keys())}', {META_INFO} doesn't")

    def value(self, key: str) -> memoryview:
        """The stored bytes, in the database's memory map: valid while it is open.

        Raises:
            UserError: no such key, or a damaged database.
        """
        import lmdb

        opened = self._begin()
        value = opened.values.get(key)
        if value is None:
            try:
                value = opened.transaction.get(key.encode())
            except lmdb.Error as error:
                raise self._damaged(error) from error
            if value is None:
                raise UserError(self._lacks(key))
            opened.values[key] = value
        return value

    def read(self, key: str, region: Region | None = None) -> np.ndarray:
        """One picture or a part of it as stored: uint8 or uint16 [h, w, 3], RGB.

        Raises:
            UserError: no such key, or its value isn't what the database's lists say.
        """
        entry = self._entry(key)
        value = self.value(key)
        if self.info.encoding == "raw":
            if len(value) != entry.height * entry.width * 3 * self._raw_dtype.itemsize:
                raise UserError(f"{self.name(key)}: has {len(value)} bytes, not those of {entry.width}x{entry.height}")
            pixels = np.frombuffer(value, self._raw_dtype).reshape(entry.height, entry.width, 3)
        else:
            pixels = decode_pixels(bytes(value), self.name(key))
            if pixels.shape[:2] != (entry.height, entry.width):
                size = f"{pixels.shape[1]}x{pixels.shape[0]}"
                raise UserError(
                    f"{self.name(key)}: size {size} differs from {entry.width}x{entry.height} in {META_INFO}"
                )
        if region is not None:
            top, left, height, width = region
            pixels = pixels[top : top + height, left : left + width]
        return np.array(pixels)  # a copy: the memory map is read-only and may be closed

    def name(self, key: str) -> str:
        """How messages call one picture."""
        return f"{self.path}: {key}"

    def close(self) -> None:
        """Let go of the database; the next read opens it again."""
        self._open = None

    def _begin(self) -> _Open:
        """What this process has open."""
        if self._open is None or self._open.process != os.getpid():  # not opened yet, or before this process forked
            self._open = _Open.of(self.path)
        return self._open

    @property
    def _raw_dtype(self) -> np.dtype:
        return np.dtype("u1" if self.info.bit_depth == 8 else "<u2")

    def _entry(self, key: str) -> Entry:
        entry = self._by_key.get(key)
        if entry is None:
            raise UserError(f"{self.path}: has no picture '{key}'")
        return entry

    def _lacks(self, key: str) -> str:
        return f"{self.path}: {META_INFO} lists '{key}', but the database has no such key; make it again"

    def _damaged(self, error: Exception) -> UserError:
        return UserError(f"{self.path / DATA}: can't be read: {error}; make the database again")

    def _read_info(self) -> LmdbInfo:
        path = self.path / INFO
        if not path.exists():  # BasicSR's own
            header = header_of_bytes(bytes(self.value(self.entries[0].key)), self.name(self.entries[0].key))
            self.close()
            return LmdbInfo(bit_depth=header.bit_depth, count=len(self.entries))
        try:
            values = from_json(path.read_text(encoding="utf-8"))
            info = LmdbInfo(**values)
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{path}: can't be understood: {error}; make the database again") from error
        if any(type(getattr(info, name)) is not int for name in ("bit_depth", "count", "quarter_turns")):
            raise UserError(
                f"{path}: bit_depth, count and quarter_turns must be whole numbers; make the database again"
            )
        if info.encoding not in ENCODINGS or info.bit_depth not in (8, 16):
            raise UserError(f"{path}: encoding {info.encoding}, {info.bit_depth} bits is not known to this version")
        if info.count != len(self.entries):
            raise UserError(f"{path}: counts {info.count} pictures, {META_INFO} has {len(self.entries)}; make it again")
        return info


class _Open:
    """A database that this process has open. LMDB allows each one once, so its readers share it."""

    _all: ClassVar[weakref.WeakValueDictionary[tuple[int, str], _Open]] = weakref.WeakValueDictionary()

    def __init__(self, path: Path) -> None:
        import lmdb

        self.process = os.getpid()
        # Handing out a value, the binding touches each of its pages. Asked once a picture, a crop of a raw one
        # touches its rows alone from then on.
        self.values: dict[str, memoryview] = {}
        try:
            # Read-ahead, since what is read of a picture lies together: without it a cold cache is 10 times slower.
            self._environment = environment = lmdb.open(str(path), readonly=True, lock=False, meminit=False)
            try:
                # LMDB maps pages that a truncated file doesn't have: touching one would kill the process.
                size = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
                if size > (path / DATA).stat().st_size:
                    raise UserError(f"{path / DATA}: is truncated; make the database again")
                self.transaction = environment.begin(buffers=True)
                # Whatever else still refers to it, a cursor in a traceback say: once this is gone, it is closed.
                weakref.finalize(self, environment.close).atexit = False
            except BaseException:
                environment.close()  # else this process could never open it again, not even for the same message
                raise
        except lmdb.Error as error:
            raise UserError(f"{path / DATA}: can't be opened: {error}; make the database again") from error

    @classmethod
    def forget_parents(cls) -> None:
        """In a process just forked: close what the parent has open, which LMDB wouldn't let us open again."""
        for found in list(cls._all.values()):
            found.transaction.abort()
            found._environment.close()

    @classmethod
    def of(cls, path: Path) -> _Open:
        place = os.getpid(), os.path.realpath(path)
        found = cls._all.get(place)
        if found is None:
            found = cls._all[place] = cls(path)
        return found


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_Open.forget_parents)


def _read_meta_info(folder: Path) -> list[Entry]:
    if not folder.is_dir():
        raise UserError(f"{folder}: folder not found; give an LMDB folder, as 'basicsr lmdb create' makes")
    path = folder / META_INFO
    if not path.is_file() or not (folder / DATA).is_file():
        missing = META_INFO if not path.is_file() else DATA
        raise UserError(f"{folder}: not a whole LMDB, {missing} is missing; make it with 'basicsr lmdb create'")
    try:
        lines = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: can't be read as a list of pictures: {error}; make the database again") from error
    if lines == [""]:
        raise UserError(f"{path}: lists no pictures")
    entries = []
    for number, line in enumerate(lines, 1):
        match = _LINE.fullmatch(line.strip())
        if not match or match["channels"] != "3":
            raise UserError(f"{path}: line {number} is not 'key.png (height,width,3) compression'")
        if _LEADS_OUT.search(match["key"]):  # keys become names of files when results are written
            raise UserError(f"{path}: line {number}: the key '{match['key']}' can't be a file's name below a folder")
        entries.append(Entry(match["key"], int(match["height"]), int(match["width"])))
    if len({entry.key for entry in entries}) != len(entries):
        raise UserError(f"{path}: lists a key twice")
    return entries
