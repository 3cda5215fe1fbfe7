"""One LMDB in the making: written aside, continued after a kill, put in place only when it is whole.

Work goes on in ``.X.lmdb.partial`` beside ``X.lmdb``. It holds what the finished database does, and ``journal.txt``: a
line a picture, ``crc32 height width key``, added once the picture is committed. What the journal doesn't list is made
again, so a kill between the two costs a few pictures and nothing else. Nearly every value is written once: there is
nothing worth compacting in the end.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from ifan_plugin.common.errors import UserError
from ifan_plugin.common.files import from_json, written_aside
from ifan_plugin.data.lmdb.read import CHECKSUMS, DATA, META_INFO, LmdbInfo, meta_line

PLAN, JOURNAL = "plan.json", "journal.txt"
COMMIT_BYTES = 32 * 2**20  # what a kill may cost, and what waits in memory for each database
FIRST_MAP_BYTES = 2**30  # address space, not disk space; doubled when it is full


class Picture(NamedTuple):
    """One picture as it is stored. ``checksum``: crc32 of ``value``."""

    key: str
    value: bytes
    height: int
    width: int
    checksum: int


class WriteError(Exception):
    """The database can't be written: the disk is full, or failing. What was committed before is safe."""


class DatabaseWriter:
    """Writes ``path`` (``X.lmdb``).

    Args:
        path: the database to be; its folder must exist.
        facts: what decides its content; work done on other facts is thrown away.

    Attributes:
        done: keys committed, by this process and those before it.
    """

    def __init__(self, path: Path, facts: dict) -> None:
        self.path = path
        self.partial = path.with_name(f".{path.name}.partial")
        self._pending: list[Picture] = []
        self._pending_bytes = 0
        self._lines: dict[str, tuple[int, int, int]] = {}  # key -> height, width, checksum
        self._environment: Any = None  # LMDB's, while it is open
        try:
            with _telling(self.path.parent):
                if not self._continue(facts):
                    self._start(facts)
        except WriteError:
            self.close()
            raise

    @property
    def done(self) -> set[str]:
        return set(self._lines)

    @property
    def bytes(self) -> int:
        """Size of the data file."""
        folder = self.partial if self.partial.exists() else self.path
        return (folder / DATA).stat().st_size

    def put(self, picture: Picture) -> None:
        """Take a picture; it is on the disk after the next :meth:`commit`, which happens every ``COMMIT_BYTES``.

        Raises:
            WriteError: from the commit.
        """
        self._pending.append(picture)
        self._pending_bytes += len(picture.value)
        if self._pending_bytes >= COMMIT_BYTES:
            self.commit()

    def commit(self) -> None:
        """Write what waits. Raises :class:`WriteError`; then all of it counts as not written."""
        pending, self._pending = self._pending, []
        size, self._pending_bytes = self._pending_bytes, 0
        if not pending:
            return
        with _telling(self.path.parent):
            while not self._try_to_write(pending):
                self._environment.set_mapsize(2 * (self._environment.info()["map_size"] + size))
            lines = [f"{p.checksum:08x} {p.height} {p.width} {p.key}\n" for p in pending]
            with open(self.partial / JOURNAL, "a", encoding="utf-8") as journal:
                journal.write("".join(lines))
        self._lines.update((p.key, (p.height, p.width, p.checksum)) for p in pending)

    def finish(self, info: LmdbInfo, keys: Sequence[str], last: int | str) -> None:
        """Make the database whole, still aside: count, write the lists, flush all to the disk.

        Args:
            info: for ``info.json``.
            keys: of all pictures, in order.
            last: for ``meta_info.txt``, see :func:`ifan_plugin.data.lmdb.read.meta_line`.

        Raises:
            WriteError: the disk is full or failing.
        """
        if (self.partial / META_INFO).exists():  # a run before this one came so far
            return
        stored = self._environment.stat()["entries"]
        if set(keys) != self.done or stored != len(keys):
            raise RuntimeError(
                f"{self.partial}: {stored} pictures stored, {len(self.done)} listed, {len(keys)} planned"
            )
        with _telling(self.path.parent):
            self._environment.sync(True)
            sums = "".join(f"{self._lines[key][2]:08x} {key}\n" for key in keys)
            (self.partial / CHECKSUMS).write_text(sums, encoding="utf-8")
            info.write(self.partial)
            for name in (CHECKSUMS, "info.json", PLAN):
                _flush(self.partial / name)
            with written_aside(self.partial / META_INFO) as file:
                file.write("".join(meta_line(key, *self._lines[key][:2], last) for key in keys).encode())

    def publish(self) -> None:
        """Put the finished database in its place; an older one goes only now.

        Raises:
            WriteError: the folder can't be changed.
        """
        old = _old(self.path)
        self.close()
        with _telling(self.path.parent):
            if os.path.lexists(self.path):
                _remove(old)
                self.path.rename(old)
            self.partial.rename(self.path)
            _flush(self.path.parent)
            (self.path / JOURNAL).unlink(missing_ok=True)
            _remove(old)

    def close(self) -> None:
        """Let go of the files; what waits in memory is dropped, what is committed stays."""
        if self._environment is not None:
            self._environment.close()
            self._environment = None

    def _try_to_write(self, pictures: list[Picture]) -> bool:
        """One transaction; ``False`` where the map is too small for it."""
        import lmdb

        try:
            with self._environment.begin(write=True) as transaction:
                for picture in pictures:
                    transaction.put(picture.key.encode(), picture.value)
        except lmdb.MapFullError:
            return False
        return True

    def _continue(self, facts: dict) -> bool:
        """Take up the work of a run before this one; ``False`` where there is none to be used."""
        import lmdb

        if read_facts(self.partial) != _as_read(facts) or not (self.partial / DATA).exists():
            return False
        lines = {}
        try:
            # A last line without its end was being written when the run was killed.
            for line in (self.partial / JOURNAL).read_text(encoding="utf-8").split("\n")[:-1]:
                checksum, height, width, key = line.split(" ", 3)
                lines[key] = (int(height), int(width), int(checksum, 16))
            self._open()
            needed = (self._environment.info()["last_pgno"] + 1) * self._environment.stat()["psize"]
            if needed > (self.partial / DATA).stat().st_size:  # truncated: touching its end would kill us
                self.close()
                return False
            with self._environment.begin(buffers=True) as transaction:
                self._lines = {key: line for key, line in lines.items() if transaction.get(key.encode()) is not None}
        except (lmdb.Error, ValueError, FileNotFoundError):  # damaged, by a power cut say: begin anew
            self.close()
            return False
        with written_aside(self.partial / JOURNAL) as file:
            rows = (f"{checksum:08x} {h} {w} {key}\n" for key, (h, w, checksum) in self._lines.items())
            file.write("".join(rows).encode())
        return True

    def _start(self, facts: dict) -> None:
        _remove(self.partial)
        self.partial.mkdir()
        (self.partial / JOURNAL).touch()
        self._open()
        with written_aside(self.partial / PLAN) as file:  # last: without it the folder is not taken up again
            file.write(json.dumps(facts, indent=1).encode() + b"\n")

    def _open(self) -> None:
        import lmdb

        # Without its file of locks, which it maps into memory: on a full disk the first touch would kill the process. A
        # folder is one run's anyhow (common.locks).
        self._environment = lmdb.open(str(self.partial), map_size=FIRST_MAP_BYTES, mode=0o644, lock=False)


@contextmanager
def _telling(folder: Path) -> Iterator[None]:
    """Turn what LMDB and the system say of a failed write below ``folder`` into :class:`WriteError`."""
    import lmdb

    try:
        yield
    except (lmdb.Error, OSError, UserError) as told:
        error = told.__cause__ if isinstance(told, UserError) else told  # of what is written aside
        if not isinstance(error, lmdb.Error | OSError):
            raise
        # On a full disk LMDB may meet a short write, which it calls an input/output error.
        full = isinstance(error, lmdb.DiskError) or getattr(error, "errno", None) == errno.ENOSPC
        if full or shutil.disk_usage(folder).free < COMMIT_BYTES:
            raise WriteError("no space left on the disk") from error
        raise WriteError(" ".join(str(getattr(error, "strerror", None) or error).split())) from error


def remove_old(path: Path) -> None:
    """Remove the database that another took the place of, which a run that was killed just then has left."""
    if is_whole(path):
        _remove(_old(path))


def _old(path: Path) -> Path:
    return path.with_name(f".{path.name}.old")


def read_facts(folder: Path) -> dict | None:
    """The facts that a database, finished or not, was made from; ``None`` where it doesn't say."""
    try:
        facts = from_json((folder / PLAN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return facts if isinstance(facts, dict) else None


def is_whole(folder: Path) -> bool:
    """Whether a finished database is there, all of its length (what is in it is for ``verify`` to tell)."""
    return (folder / META_INFO).is_file() and (folder / DATA).is_file() and (folder / DATA).stat().st_size > 0


def _as_read(facts: dict) -> dict:
    return json.loads(json.dumps(facts))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Force a file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
