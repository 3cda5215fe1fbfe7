"""Processes that train together: how they leave one another, and what is said when one is lost."""

from __future__ import annotations

import gc
import os
import socket
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ifan_plugin.common.errors import UserError

_LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Timed out waiting", "timed out")
"""What gloo and the store say when the other side is gone; NCCL says it in a watchdog's words, with "timed out"."""

_SETTLED = 5.0  # seconds in which a killed process is gone for the others to see


class Rank(NamedTuple):
    """Where a rank runs."""

    rank: int
    host: str
    pid: int

    def __str__(self) -> str:
        return f"rank {self.rank} (process {self.pid} on {self.host})"


class _Group:
    members: tuple[Rank, ...] = ()


def meet() -> None:
    """Let every rank know where the others run. All ranks call it once the process group is there."""
    mine = Rank(torch.distributed.get_rank(), socket.gethostname(), os.getpid())
    found: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(found, tuple(mine))
    _Group.members = tuple(Rank(*each) for each in found)


@contextmanager
def left_together(resume: str) -> Iterator[None]:
    """Within the block a process group may be started; behind it there is none, and no thread of one.

    A model in DDP holds the group, and a model is freed when the collector finds it: as late as when the interpreter
    ends. gloo's threads run on until then, and one that frees a tensor while Python ends is killed in the middle of
    C++, which ends the process with "terminate called without an active exception". So here all ranks wait for one
    another when all went well, the model goes first and the group last.

    Args:
        resume: the flag by which a run goes on, for the message.

    Raises:
        UserError: instead of the exception with which another rank's end shows itself.
    """
    try:
        yield
    except BaseException as error:
        _forget_variables(error)
        lost = _lost_rank(error) if _is_of_a_lost_rank(error) else None
        _leave()
        if lost is None:
            raise
        raise UserError(
            f"{lost} is lost: it was killed or failed (its own last lines say why), so this rank ends, too; start all "
            f"of them again with {resume}, as many as before or fewer, to go on from the newest checkpoint"
        ) from None
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
    _leave()


def _leave() -> None:
    gc.collect()  # the model first: the group's last reference must be the one that is dropped without Python's lock
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    _Group.members = ()


def _forget_variables(error: BaseException | None) -> None:
    """Empty the frames that an exception came through: their variables hold the model."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _is_of_a_lost_rank(error: BaseException) -> bool:
    if not _Group.members or not isinstance(error, RuntimeError):  # torch's DistBackendError and DistNetworkError, too
        return False
    return any(words in str(error) for words in _LOST)


def _lost_rank(error: BaseException) -> str:
    """Which rank is no more, as far as this one can see."""
    me = torch.distributed.get_rank() if torch.distributed.is_initialized() else -1
    others = [each for each in _Group.members if each.rank != me]
    here = [each for each in others if each.host == socket.gethostname()]
    end = time.monotonic() + _SETTLED
    while time.monotonic() < end:
        gone = [each for each in here if not _is_alive(each.pid)]
        if gone or not here:
            break
        time.sleep(0.1)
    else:
        gone = []
    if gone:
        return " and ".join(map(str, gone))
    elsewhere = [each for each in others if each not in here] or others
    which = "" if len(elsewhere) == 1 else "one of "
    return f"{which}{', '.join(map(str, elsewhere))} ({' '.join(str(error).split())[:120]})"


def _is_alive(pid: int) -> bool:
    """Whether a process of this machine runs; one that has ended and that nobody has asked for does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state not in ("Z", "X")
