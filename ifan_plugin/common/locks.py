"""A run's folder is one run's: a lock that goes with its process, however that ends."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from ifan_plugin.common.errors import UserError


@contextlib.contextmanager
def only_run(lock: Path, what: str) -> Iterator[None]:
    """Hold a lock for the length of the block.

    The system takes it away when the process ends, even if it is killed; what is left of the file isn't in the way.
    Processes that this one starts don't hold it. Within one process a second lock isn't refused. Where there are no
    such locks (Windows) nothing is locked.

    Args:
        lock: the file; its folder is made. It is removed at the end.
        what: begins the message: what is in use.

    Raises:
        UserError: another process holds it, or the file can't be written.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        while True:
            file = lock.open("a+b")
            try:
                # lockf's, not flock's: those would live on in forked workers of a killed run.
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                file.seek(0)
                who = " ".join(file.read(200).decode(errors="replace").split())
                file.close()
                raise UserError(f"{what} is in use by another run{f' ({who})' if who else ''}") from None
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), lock.stat()):
                    break
            file.close()  # its last holder has removed it in between
    except OSError as error:
        raise UserError(f"{lock.parent}: can't be written: {error.strerror or error}") from error
    with file:
        started = time.strftime("%Y-%m-%d %H:%M")
        with contextlib.suppress(OSError):  # on a full disk it is a lock without a name
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), f"process {os.getpid()} on {socket.gethostname()}, since {started}".encode())
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)
