"""Whether an LMDB is what its lists say, to the last pixel."""

from __future__ import annotations

import os
import sys
import zlib
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from tqdm import tqdm

from ifan_plugin.data.lmdb import CHECKSUMS, DATA, INFO, LmdbPictures
from ifan_plugin.data.lmdb_work import executor
from ifan_plugin.errors import UserError
from ifan_plugin.machine import usable_cores

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
        return f"{self.path}: {self.pictures} pictures, {self.about}: all well"


def verify(paths: Sequence[str | os.PathLike], workers: int | None = None, progress: bool = False) -> list[Verdict]:
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
    opened = {path: pictures for path, verdict in verdicts.items() if (pictures := _lists(verdict)) is not None}
    _read_all(opened, verdicts, workers or usable_cores(), progress)
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


def _lists(verdict: Verdict) -> LmdbPictures | None:
    """Compare the database's lists with its keys; ``None`` where pictures can't be looked at."""
    try:
        pictures = LmdbPictures(verdict.path)
        pictures.check()
    except UserError as error:
        verdict.faults.append(str(error))
        return None
    verdict.pictures = len(pictures)
    sizes = {(entry.height, entry.width) for entry in pictures.entries}
    size = "x".join(map(str, sizes.pop())) if len(sizes) == 1 else f"{len(sizes)} sizes"
    verdict.about = f"{pictures.info.encoding}, {pictures.info.bit_depth} bits, {size}"
    if not (verdict.path / INFO).exists():
        verdict.about += ", made by BasicSR"
    sums = _checksums(verdict.path)
    if sums is None:
        verdict.about += ", no checksums to compare"
    elif sums.keys() != {entry.key for entry in pictures.entries}:
        verdict.faults.append(f"{verdict.path / CHECKSUMS}: its keys aren't those of the database; make it again")
        return None
    return pictures


@lru_cache(maxsize=64)
def _checksums(folder: Path) -> dict[str, str] | None:
    """Key -> crc32 as eight hexadecimal digits; ``None`` where there are none."""
    path = folder / CHECKSUMS
    if not path.exists():
        return None
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    return {key: checksum for checksum, _, key in (line.partition(" ") for line in lines if line)}


@lru_cache(maxsize=64)
def _pictures(path: Path) -> LmdbPictures:
    """The database, opened once a process."""
    return LmdbPictures(path)


def _read_all(opened: dict[Path, LmdbPictures], verdicts: dict[Path, Verdict], workers: int, progress: bool) -> None:
    chunks = [
        (path, [entry.key for entry in pictures.entries[start : start + _CHUNK]])
        for path, pictures in opened.items() for start in range(0, len(pictures), _CHUNK)
    ]  # fmt: skip
    bar = tqdm(
        total=sum(map(len, opened.values())), desc="verify", unit="picture", mininterval=0.5, file=sys.stderr,
        disable=not progress,
    )  # fmt: skip
    _checksums.cache_clear()  # files may have changed since another call in this process
    _pictures.cache_clear()
    with bar, executor(max(1, min(workers, len(chunks)))) as pool:
        try:
            for (path, keys), faults in zip(chunks, pool.map(_faults_of, *zip(*chunks)) if chunks else ()):
                verdicts[path].faults += faults
                bar.update(len(keys))
        except BrokenProcessPool as error:
            raise UserError(
                f"{', '.join(map(str, opened))}: a process crashed while reading; one of them is damaged, make it again"
            ) from error
    _pictures.cache_clear()
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
        where = next((f"'{a.key}' ({a.height}x{a.width}) stands where {first.path.name} has '{b.key}' "
                      f"({b.height}x{b.width})" for a, b in pairs if a != b), None)  # fmt: skip
        where = where or f"{len(pictures)} pictures, {first.path.name} has {len(first)}"
        verdicts[pictures.path].faults.append(f"{pictures.path}: keys or sizes differ from another role's: {where}")
