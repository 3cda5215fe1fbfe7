"""Files' names as people give them, and writing so that a reader, or a killed run, never meets half of a file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from ifan_plugin.errors import UserError

_UMASK = os.umask(0)  # it can only be read by setting it: once, before there are threads
os.umask(_UMASK)
_MARK = ".aside."
_MAX_NAME = 255  # bytes, of most file systems
_RANDOM = 8  # characters that tempfile adds


def expanded(path: str | os.PathLike, where: str) -> Path:
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


@contextmanager
def written_aside(path: str | Path, durable: bool = True) -> Iterator[IO[bytes]]:
    """A binary file that takes the place of ``path`` when the block ends well; else it vanishes.

    Args:
        path: the file; its folder must exist.
        durable: flush to the disk before and after the change of place, so that it outlives a power cut.

    Raises what the block raises, and ``OSError``.
    """
    path = Path(path)
    name = path.name
    while len(os.fsencode(f".{name}{_MARK}")) + _RANDOM > _MAX_NAME:
        name = name[:-1]
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{name}{_MARK}", delete=False) as file:
        temporary = Path(file.name)
        try:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
            temporary.chmod(0o666 & ~_UMASK)  # temporary files are private, this one is to be like any other
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    if not durable:
        return
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def remove_remains(folder: str | Path) -> None:
    """Delete what killed processes left half-written in ``folder``. Nobody may be writing there."""
    for remains in Path(folder).glob(f".*{_MARK}*"):
        remains.unlink(missing_ok=True)


def save_atomically(value: Any, path: str | Path) -> None:
    """``torch.save`` so that ``path`` holds either its old content or all of the new.

    Raises:
        UserError: the disk is full, the folder is gone or read-only. The old file is untouched.
    """
    import torch  # here, since worker processes that only read and write pictures do without

    try:
        with written_aside(path) as file:
            torch.save(value, file)
    except (OSError, RuntimeError) as error:  # torch's zip writer turns a full disk into a RuntimeError
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: couldn't be saved, the run stops here: {reason}") from error
