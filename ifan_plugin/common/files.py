"""Files' names as people give them, and writing so that a reader, or a killed run, never meets half of a file."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from ifan_plugin.common.errors import UserError

_UMASK = os.umask(0)  # it can only be read by setting it: once, before there are threads
os.umask(_UMASK)
_MARK = ".aside."
_MAX_NAME = 255  # bytes, of most file systems
_RANDOM = 8  # characters that tempfile adds


def expanded(path: str | os.PathLike[str], where: str) -> Path:
    """A path given by a person, with ``~`` and ``~name`` as the home folders they stand for.

    Args:
        path: what was given; a name that begins with ``~`` is taken as it is where it is there, or is given as ``./~``
            in a string.
        where: the argument or key it was given for, for the message.

    Raises:
        UserError: an empty path, or nobody's home folder.
    """
    text = os.fspath(path)
    if not text:
        raise UserError(f"{where}: is empty; give the name of a file or a folder")
    found = Path(os.path.expanduser(text))  # not Path's, to which ./~name is ~name
    if not found.parts or not found.parts[0].startswith("~"):
        return found
    if text.startswith("~") and not os.path.lexists(text):
        raise UserError(
            f"{where} {text}: no home folder is known for {found.parts[0]}; a name that begins with ~ is given as "
            f"./{text}"
        )
    return found.absolute()  # so that nobody expands it later


def from_json(text: str) -> Any:
    """What JSON says. Raises ValueError where it isn't JSON, or nests so deeply that Python's reader gives up."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("not JSON that can be read: nested too deeply") from None


NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
"""A full disk, a used-up quota, a read-only file system, a limit to a file's size: writing meets these alone."""


def reason(error: OSError) -> str:
    """Why the system refused, in its own words: no space left, read-only, permission denied."""
    return " ".join(str(error.strerror or error).split())


@contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Within the block ``path`` is written to: the system's errors (disk full, quota, read-only, no permission) end in
    one line that names it.

    Raises:
        UserError: with the ``OSError`` as its ``__cause__``.
    """
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: can't be written: {reason(error)}") from error


@contextmanager
def writing_below(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Within the block others write below ``folder``: an error of a full disk that names no file names it."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_ROOM and error.filename is None:
            error.filename = os.fspath(folder)
        raise


def make_folder(path: str | os.PathLike[str]) -> None:
    """Make a folder, and those above it, where it isn't there. Raises :class:`UserError` where that can't be."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path}: the folder can't be made: {reason(error)}") from error


class _Raw(io.FileIO):
    """An open file that remembers the error with which writing failed first.

    Those who write through it tell it in words of their own: torch as a RuntimeError, Pillow as "encoder error -2".
    """

    failure: OSError | None = None

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.failure = self.failure or error
            raise


class _File(io.BufferedWriter):
    """Without a descriptor to others, who would write past :class:`_Raw`."""

    def fileno(self) -> int:
        raise io.UnsupportedOperation("fileno")


@contextmanager
def written_aside(path: str | os.PathLike[str], *, durable: bool = True) -> Iterator[IO[bytes]]:
    """A binary file that takes the place of ``path`` when the block ends well; else it vanishes.

    What killed processes left half-written in the folder is removed the first time that this process writes there.

    Args:
        path: the file; its folder must exist.
        durable: flush to the disk before and after the change of place, so that it outlives a power cut.

    Raises:
        UserError: it can't be written; the old file is untouched, and the system's error is the ``__cause__``. What
            else the block raises is raised.
    """
    path = Path(path)
    if path.parent not in _swept:
        _swept.add(path.parent)
        remove_remains(path.parent)
    name = path.name
    while len(os.fsencode(f".{name}{_MARK}")) + _RANDOM > _MAX_NAME:
        name = name[:-1]
    with writing(path):
        raw, temporary = _claimed(path.parent, f".{name}{_MARK}")
    try:
        with _File(raw) as file:
            yield file
            with writing(path):
                file.flush()
                if durable:
                    os.fsync(raw.fileno())
                temporary.chmod(0o666 & ~_UMASK)  # temporary files are private, this one is to be like any other
                os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        refused = error if isinstance(error, OSError) and error.errno in NO_ROOM else raw.failure
        if refused is None or isinstance(error, UserError) or not isinstance(error, Exception):
            raise
        raise UserError(f"{path}: can't be written: {reason(refused)}") from refused
    if durable:
        with writing(path):
            _flush(path.parent)


def _flush(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_swept: set[Path] = set()
"""Folders that this process has written to, and looked through for remains before."""


def _claimed(folder: Path, prefix: str) -> tuple[_Raw, Path]:
    """A new file that is locked as long as it is open, by which others see that its process lives."""
    while True:
        descriptor, name = tempfile.mkstemp(dir=folder, prefix=prefix)
        raw = _Raw(descriptor, "wb")
        raw.name = name
        if _locked(descriptor) and os.path.exists(name):  # between both steps somebody may have swept it away
            return raw, Path(name)
        raw.close()


def _locked(descriptor: int) -> bool:
    """Lock an open file unless somebody has it locked. Where there are no locks, all count as got."""
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def remove_remains(folder: str | Path) -> None:
    """Delete what killed processes left half-written in ``folder``; what living ones are writing stays."""
    for remains in Path(folder).glob(f".*{_MARK}*"):
        try:
            with remains.open("rb") as file:
                if _locked(file.fileno()):
                    remains.unlink(missing_ok=True)
        except OSError:  # somebody else's, or gone by now: in nobody's way
            continue


@contextmanager
def temporary_folder(prefix: str, parent: Path | None = None) -> Iterator[Path]:
    """A folder that goes with the block, or, where this process is killed, when somebody makes the next of that prefix.

    Args:
        prefix: its name begins so.
        parent: where it is made; None: the system's folder for temporary files.

    Raises:
        OSError: ``parent`` can't be written.
    """
    parent = parent or Path(tempfile.gettempdir())
    for remains in parent.glob(f"{prefix}*/.lock"):
        try:
            with remains.open("rb") as file:
                if _locked(file.fileno()):  # its process lives no longer
                    shutil.rmtree(remains.parent, ignore_errors=True)
        except OSError:  # another user's, or gone by now
            continue
    with (
        tempfile.TemporaryDirectory(prefix=prefix, dir=parent, ignore_cleanup_errors=True) as folder,
        Path(folder, ".lock").open("wb") as lock,
    ):
        _locked(lock.fileno())
        yield Path(folder)


def save_atomically(value: Any, path: str | Path) -> None:
    """``torch.save`` so that ``path`` holds either its old content or all of the new.

    Raises:
        UserError: as :func:`written_aside`.
    """
    import torch  # here, since worker processes that only read and write pictures do without

    with written_aside(path) as file:
        torch.save(value, file)
