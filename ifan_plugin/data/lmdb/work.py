"""Decode, cut and encode pictures in parallel, and hand them to the databases' writers."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import zlib
from collections import deque
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple, cast

import cv2
import numpy as np
from tqdm import tqdm

from ifan_plugin.common.errors import UserError
from ifan_plugin.data.lmdb.patches import Cut, Patches
from ifan_plugin.data.lmdb.plan import SplitPlan
from ifan_plugin.data.lmdb.writer import DatabaseWriter, Picture, WriteError
from ifan_plugin.images.image_io import Region, decode_pixels


class Job(NamedTuple):
    """One source picture. ``regions``: what is cut from it, ``None``: to be chosen on it; no ``keys``: only that."""

    scene: int
    role: str
    path: Path
    size: tuple[int, int]
    keys: tuple[str, ...]
    regions: tuple[Region, ...] | None
    bit_depth: int
    encoding: str
    compression: int
    cut: Cut


class Result(NamedTuple):
    """A job's regions, and the pictures cut from them."""

    regions: tuple[Region, ...]
    pictures: list[Picture]


def work(plan: SplitPlan, writers: Mapping[str, DatabaseWriter], workers: int, *, progress: bool) -> int:
    """Make and commit all that the writers don't have yet. Returns the number of source pictures worked on.

    In memory wait, at most, the results of ``window`` jobs and what each writer collects for one commit.

    Raises:
        UserError: a picture that can't be used, or a worker that was killed. What is done by then is kept.
        WriteError: from the writers.
    """
    ready, followers = _jobs(plan, writers)
    total = len(plan.keys) * len(writers)
    count = sum(bool(job.keys) for job in ready) + sum(map(len, followers.values()))
    workers = max(1, min(workers, count))
    window = 1 if workers == 1 else workers + max(2, workers // 2)  # some wait, so that none is idle during a commit
    running: dict[Future, Job] = {}
    bar = tqdm(
        total=total, initial=total - count, desc=plan.split, unit="picture", mininterval=0.5, file=sys.stderr,
        disable=not progress,
    )  # fmt: skip
    with bar, executor(workers) as pool:
        try:
            while ready or running:
                while ready and len(running) < window:
                    job = ready.popleft()
                    running[pool.submit(prepare, job)] = job
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    job = running.pop(future)
                    result = future.result()
                    for picture in result.pictures:
                        writers[job.role].put(picture)
                    ready.extendleft(other._replace(regions=result.regions) for other in followers.pop(job.scene, ()))
                    bar.update(bool(job.keys))
                    del future, result  # pictures are large: not one longer than needed
        except BaseException as error:
            pool.shutdown(wait=False, cancel_futures=True)
            if not isinstance(error, WriteError):
                for writer in writers.values():
                    writer.commit()
            if isinstance(error, BrokenProcessPool):
                raise UserError(
                    "a worker process was killed, perhaps for want of memory; run the same command again with fewer "
                    "workers, it goes on from here"
                ) from error
            raise
    for writer in writers.values():
        writer.commit()
    return count


def prepare(job: Job) -> Result:
    """Do one job; runs in a worker. Raises :class:`UserError` that names the file."""
    try:
        data = job.path.read_bytes()
    except OSError as error:
        raise UserError(f"{job.path}: can't be read: {error.strerror or error}") from error
    pixels = decode_pixels(data, job.path, job.bit_depth)
    if pixels.shape[:2] != tuple(job.size):
        raise UserError(f"{job.path}: was changed while it was being prepared; run the same command again")
    if job.bit_depth == 8 and pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)
    regions = tuple(cast(Patches, job.cut).choose(pixels)) if job.regions is None else job.regions
    pictures = []
    for key, (top, left, height, width) in zip(job.keys, regions):
        value = encode(pixels[top : top + height, left : left + width], job.encoding, job.compression)
        pictures.append(Picture(key, value, height, width, zlib.crc32(value)))
    return Result(regions, pictures)


def encode(pixels: np.ndarray, encoding: str, compression: int = 1) -> bytes:
    """A database's value. ``png``: the very bytes that BasicSR would store; ``raw``: rows, 16 bits little-endian.

    Args:
        pixels: uint8 or uint16 [H, W, 3], RGB.
    """
    if encoding == "raw":
        return pixels.astype("<u2" if pixels.dtype == np.uint16 else np.uint8, copy=False).tobytes()
    done, value = cv2.imencode(
        ".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, compression]
    )
    if not done:
        raise RuntimeError(f"OpenCV could not encode a picture of size {pixels.shape[1]}x{pixels.shape[0]}")
    return value.tobytes()


def _jobs(plan: SplitPlan, writers: Mapping[str, DatabaseWriter]) -> tuple[deque[Job], dict[int, list[Job]]]:
    """Jobs that can start, and those that wait for the regions chosen by another of their scene."""
    done = {role: writer.done for role, writer in writers.items()}
    ready: deque[Job] = deque()
    followers: dict[int, list[Job]] = {}
    for scene, keys in enumerate(plan.keys):
        missing = [role for role in writers if not done[role].issuperset(keys)]
        regions = plan.fixed_regions(scene)
        source = plan.source

        def job(role: str, keys=keys, scene=scene, regions=regions, source=source) -> Job:
            return Job(
                scene, role, plan.files[role][scene], plan.sizes[scene], keys, regions, plan.bit_depth,
                source.encoding, source.compression, source.cut,
            )  # fmt: skip

        if missing and regions is None and plan.chosen_on is not None:
            ready.append(job(plan.chosen_on, keys=keys if plan.chosen_on in missing else ()))
            followers[scene] = [job(role) for role in missing if role != plan.chosen_on]
        else:
            ready.extend(job(role) for role in missing)
    return ready, followers


class _Here(Executor):
    """Works in this process, at once."""

    def submit(self, function, /, *args, **kwargs) -> Future:
        future: Future = Future()
        future.set_result(function(*args, **kwargs))
        return future


def executor(workers: int) -> Executor:
    """Worker processes; for one worker none: its jobs are done here, as they are submitted."""
    if workers == 1:
        return _Here()
    # Spawned, not forked: the caller may hold threads (PyTorch's, OpenCV's) that a fork would break.
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=start_worker)


def start_worker() -> None:
    """Make a worker process use one thread, leave Ctrl-C to its parent, and not outlive it."""
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def follow_parent() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None  # this is a worker
        parent.join()
        os._exit(1)  # a killed parent can't tell its workers to stop

    threading.Thread(target=follow_parent, daemon=True).start()
