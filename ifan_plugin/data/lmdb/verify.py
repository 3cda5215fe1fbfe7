"""Whether an LMDB is what its lists say, to the last pixel."""

from __future__ import annotations

import os
import sys
import zlib
from collections.abc import Sequence
from concurrent.futures import Executor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from tqdm import tqdm

from ifan_plugin.common.errors import UserError
from ifan_plugin.common.machine import usable_cores
from ifan_plugin.common.words import counted
from ifan_plugin.data.lmdb.read import CHECKSUMS, DATA, INFO, LmdbPictures
from ifan_plugin.data.lmdb.work import executor

_CHUNK = 16  # pictures a job
_SHOWN = 5  # faults of one kind that are named


@dataclass
class Verdict:
    """What :func:`verify` found of one database.

    Attributes:
        path: the folder.
        pictures: how many there are.
        about: what kind of database it is, for people.
        faults: one line each, at most a handful; empty where all is well.
    """

    path: Path
    pictures: int = 0
    about: str = ""
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        if self.faults:
            return "\n".join(self.faults)
        return f"{self.path}: {counted(self.pictures, 'picture')}, {self.about}: all well"


def verify(paths: Sequence[str | os.PathLike], workers: int | None = None, *, progress: bool = False) -> list[Verdict]:
    """Check databases: keys against ``meta_info.txt``, counts, checksums, every picture decoded, its size and depth.

    Args:
        paths: databases ``X.lmdb``, made here or by BasicSR, or folders of them, one or two levels down. The
            databases of one folder that was given as such must have the same keys in the same order, and pictures
            of equal sizes.
        workers: processes; 1 works in this one; ``None``: all cores this process may use.
        progress: show a bar with rate and time left on stderr.

    Returns:
        one verdict a database, in order.

    Raises:
        UserError: a path where there is no database.
    """
    if workers is not None and workers < 1:
        raise UserError(f"workers is {workers}; it must be at least 1")
    groups = [_databases(Path(path).expanduser()) for path in paths]
    verdicts = {path: Verdict(path) for group in groups for path in group}
    _checksums.cache_clear()  # files may have changed since another call in this process
    _pictures.cache_clear()
    with executor(workers or usable_cores()) as pool:
        try:
            opened = _open_all(pool, verdicts)
            _read_all(pool, opened, verdicts, progress)
        except BrokenProcessPool as error:  # LMDB trusts its pages
            raise UserError(
                f"{', '.join(map(str, verdicts))}: a process crashed while reading; one of them is damaged, make it "
                "again"
            ) from error
    _pictures.cache_clear()
    for group in groups:
        _compare([opened[path] for path in group if path in opened], verdicts)
    return list(verdicts.values())


def _databases(path: Path) -> list[Path]:
    """The databases that ``path`` stands for."""
    if path.suffix == ".lmdb" or (path / DATA).exists():
        return [path]
    if not path.is_dir():
        raise UserError(f"{path}: folder not found; give an LMDB folder, or a folder of them")
    found = sorted([*path.glob("*.lmdb"), *path.glob("*/*.lmdb")])
    if not found:
        raise UserError(f"{path}: no LMDB found; valid: a folder X.lmdb, or one that holds such folders")
    return found


def _open_all(pool: Executor, verdicts: dict[Path, Verdict]) -> dict[Path, LmdbPictures]:
    """The databases whose pictures can be looked at."""
    opened = {}
    for path, (verdict, pictures) in zip(verdicts, pool.map(_lists, verdicts.values())):
        verdicts[path] = verdict
        if pictures is not None:
            opened[path] = pictures
    return opened


def _lists(verdict: Verdict) -> tuple[Verdict, LmdbPictures | None]:
    """Compare a database's lists with its keys; runs in a worker. ``None``: its pictures can't be looked at."""
    try:
        pictures = LmdbPictures(verdict.path)
        pictures.check()
        sums = _checksums(verdict.path)
    except UserError as error:
        verdict.faults.append(str(error))
        return verdict, None
    verdict.pictures = len(pictures)
    sizes = {(entry.width, entry.height) for entry in pictures.entries}
    size = "x".join(map(str, sizes.pop())) if len(sizes) == 1 else f"{len(sizes)} sizes"
    verdict.about = f"{pictures.info.encoding}, {pictures.info.bit_depth} bits, {size}"
    if not (verdict.path / INFO).exists():
        verdict.about += ", made by BasicSR"
    if sums is None:
        verdict.about += ", no checksums to compare"
    elif sums.keys() != {entry.key for entry in pictures.entries}:
        verdict.faults.append(f"{verdict.path / CHECKSUMS}: its keys aren't those of the database; make it again")
        return verdict, None
    return verdict, pictures


@lru_cache(maxsize=64)
def _checksums(folder: Path) -> dict[str, str] | None:
    """Key -> crc32 as eight hexadecimal digits; ``None`` where there are none."""
    path = folder / CHECKSUMS
    if not path.exists():
        return None
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError as error:
        raise UserError(f"{path}: can't be read: {error.strerror or error}; make the database again") from error
    return {key: checksum for checksum, _, key in (line.partition(" ") for line in lines if line)}


@lru_cache(maxsize=64)
def _pictures(path: Path) -> LmdbPictures:
    """The database, opened once a process."""
    return LmdbPictures(path)


def _read_all(pool: Executor, opened: dict[Path, LmdbPictures], verdicts: dict[Path, Verdict], progress: bool) -> None:
    chunks = [
        (path, [entry.key for entry in pictures.entries[start : start + _CHUNK]])
        for path, pictures in opened.items() for start in range(0, len(pictures), _CHUNK)
    ]  # fmt: skip
    bar = tqdm(
        total=sum(map(len, opened.values())), desc="verify", unit="picture", mininterval=0.5, file=sys.stderr,
        disable=not progress,
    )  # fmt: skip
    with bar:
        for (path, keys), faults in zip(chunks, pool.map(_faults_of, *zip(*chunks)) if chunks else ()):
            verdicts[path].faults += faults
            bar.update(len(keys))
    for verdict in verdicts.values():
        if len(verdict.faults) > _SHOWN:
            rest = len(verdict.faults) - _SHOWN
            verdict.faults[_SHOWN:] = [f"{verdict.path}: and {rest} more such pictures"]


def _faults_of(path: Path, keys: list[str]) -> list[str]:
    """What is wrong with some of a database's pictures; runs in a worker."""
    pictures, sums = _pictures(path), _checksums(path)
    faults = []
    for key in keys:
        try:
            if sums is not None and f"{zlib.crc32(pictures.value(key)):08x}" != sums[key]:
                faults.append(f"{pictures.name(key)}: differs from its checksum; make the database again")
                continue
            depth = 8 * pictures.read(key).dtype.itemsize
        except UserError as error:
            faults.append(str(error))
            continue
        if depth != pictures.info.bit_depth:
            faults.append(f"{pictures.name(key)}: has {depth} bits, the database {pictures.info.bit_depth}")
    return faults


def _compare(group: list[LmdbPictures], verdicts: dict[Path, Verdict]) -> None:
    """The databases of one split must hold the same scenes."""
    firsts: dict[Path, LmdbPictures] = {}
    for pictures in group:
        first = firsts.setdefault(pictures.path.parent, pictures)
        if pictures.entries == first.entries:
            continue
        pairs = zip(pictures.entries, first.entries)
        where = next((f"'{a.key}' ({a.width}x{a.height}) stands where {first.path.name} has '{b.key}' "
                      f"({b.width}x{b.height})" for a, b in pairs if a != b), None)  # fmt: skip
        where = where or f"{counted(len(pictures), 'picture')}, {first.path.name} has {len(first)}"
        verdicts[pictures.path].faults.append(f"{pictures.path}: keys or sizes differ from another role's: {where}")
