"""Many photographs through one network: one at a time in memory, a failure doesn't stop the others."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np

from ifan_plugin.errors import UserError
from ifan_plugin.files import written_aside
from ifan_plugin.inference.api import restore, stacked
from ifan_plugin.inference.batch_plan import Job
from ifan_plugin.inference.compare import side_by_side
from ifan_plugin.inference.disparity import (
    DisparityPicture,
    disparity_map,
    require_disparity,
    write_disparity,
)
from ifan_plugin.inference.networks import Network
from ifan_plugin.inference.photos import MAX_PIXELS, Photo, format_of, put_photo, read_photo, writing
from ifan_plugin.inference.run import require_precision
from ifan_plugin.visual import colour_disparity

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@dataclass(frozen=True)
class Settings:
    """How photographs are restored and written.

    Args:
        network: ready to be run.
        precision, tile, ensemble: as in :func:`ifan_plugin.inference.run_network`.
        quality: 1 to 100, of JPEG and WebP.
        overwrite: replace files that are there, instead of skipping their photographs.
        max_pixels: photographs that say they are larger fail.
    """

    network: Network
    precision: str = "fp32"
    tile: int | str | None = "auto"
    ensemble: bool = False
    quality: int = 95
    overwrite: bool = False
    max_pixels: int = MAX_PIXELS


@dataclass
class Outcome:
    """What became of each photograph.

    Args:
        restored: the jobs done.
        skipped: jobs, and their restored picture that was there already.
        failed: jobs, and why, in one line each.
        untried: jobs that were left when the disk was full.
        stopped: why no more were tried; empty where all were.
    """

    restored: list[Job] = field(default_factory=list)
    skipped: list[tuple[Job, Path]] = field(default_factory=list)
    failed: list[tuple[Job, str]] = field(default_factory=list)
    untried: list[Job] = field(default_factory=list)
    stopped: str = ""


class Watcher:
    """Is told how far a batch is. This one keeps silent."""

    def begins(self, job: Job) -> None:
        """A photograph's turn."""

    def tiles(self, done: int, total: int) -> None:
        """Tiles of it, or members of the ensemble times tiles."""

    def says(self, job: Job, line: str) -> None:
        """Something that the user should know, while it goes on."""

    def ends(self, job: Job, line: str) -> None:
        """It is restored, skipped or has failed; the line says which."""


class _NoRoomError(UserError):
    """The disk is full or read-only: the next photograph wouldn't fare better."""


def first_existing(job: Job) -> Path | None:
    """A file there already that the job would write; the restored picture before all others."""
    return next((path for path in job.outputs if path.exists() or path.is_symlink()), None)


def restore_all(jobs: Sequence[Job], settings: Settings, watcher: Watcher | None = None) -> Outcome:
    """Restore photographs one after another.

    All files of a photograph are written aside and then put in their places together, the restored picture first. One
    whose restored picture is there already is skipped unless ``settings.overwrite``. What can't be read, restored or
    written fails, and so does one that would replace other files; the others go on. A disk that is full or read-only
    ends the batch.

    Args:
        jobs: as :func:`ifan_plugin.inference.batch_plan.plan` makes them.
        settings: the network, and how.
        watcher: is told of progress.

    Raises:
        UserError: as :func:`require_runnable`.
    """
    watcher = watcher or Watcher()
    require_runnable(jobs, settings)
    disparity = require_disparity(settings.network) if any(job.disparity for job in jobs) else None
    outcome = Outcome()
    for number, job in enumerate(jobs):
        watcher.begins(job)
        there = None if settings.overwrite else first_existing(job)
        if there == job.output:
            outcome.skipped.append((job, there))
            watcher.ends(job, f"skipped, {there} is there already")
            continue
        start = time.perf_counter()
        try:
            if there is not None:
                raise UserError(f"{there} is there already, though {job.output} isn't; --overwrite replaces it")
            photo = _restore(job, settings, disparity, watcher)
        except (UserError, MemoryError) as error:
            reason = str(error) if isinstance(error, UserError) else "too little memory for this picture"
            reason = reason if any(str(path) in reason for path in job.sources) else f"{job.source}: {reason}"
            reason = reason.replace("\n", " ")  # a name may hold one
            outcome.failed.append((job, reason))
            watcher.ends(job, f"failed: {reason}")
            if isinstance(error, _NoRoomError):
                outcome.untried, outcome.stopped = list(jobs[number + 1 :]), reason
                break
        else:
            outcome.restored.append(job)
            height, width = photo.size
            facts = f"{width}x{height}, {photo.bit_depth} bits, {time.perf_counter() - start:.1f} s"
            watcher.ends(job, f"-> {job.output} ({facts})")
    return outcome


def require_runnable(jobs: Sequence[Job], settings: Settings) -> None:
    """Refuse what would fail for every photograph.

    Raises:
        UserError: views that are missing or that the network doesn't take, no disparity where it is wanted, a
            precision that its device doesn't have.
    """
    network = settings.network
    require_precision(settings.precision, network.device, "--precision")
    if any(job.disparity for job in jobs):
        require_disparity(network)
    for view in ("left", "right"):
        given = any(getattr(job, view) is not None for job in jobs)
        if given and view not in network.views:
            raise UserError(f"--{view}: {network.name} takes the {' and '.join(network.views)} view alone")
        if not given and jobs and view in network.views:
            raise UserError(f"--{view}: is missing; {network.name} takes the views {', '.join(network.views)}")


def _restore(job: Job, settings: Settings, disparity: DisparityPicture | None, watcher: Watcher) -> Photo:
    """One photograph, read, restored and written; as it is now."""
    photo = read_photo(job.source, settings.max_pixels)
    for note in photo.notes:
        watcher.says(job, note)
    if job.left is not None or job.right is not None:
        _require_upright(job.source, photo)
    views = {view: _view(job, view, photo, settings) for view in ("left", "right") if getattr(job, view) is not None}
    network, tile = settings.network, settings.tile
    pixels = restore(
        photo.pixels, network, **views, precision=settings.precision, tile=tile, ensemble=settings.ensemble,
        progress=watcher.tiles,
    )  # fmt: skip
    restored = dataclasses.replace(photo, pixels=pixels)
    found = None
    if disparity is not None:
        given = {"center": photo.pixels, **views}
        found = disparity_map(disparity, stacked([given[view] for view in network.views]), tile, watcher.tiles)
    _write(job, photo, restored, found, settings, watcher)
    return restored


def _view(job: Job, view: str, photo: Photo, settings: Settings) -> np.ndarray:
    path = getattr(job, view)
    read = read_photo(path, settings.max_pixels)
    _require_upright(path, read)
    pixels = read.pixels
    if pixels.shape != photo.pixels.shape or pixels.dtype != photo.pixels.dtype:
        raise UserError(
            f"{path}: {_kind(pixels)}, but {job.source} is {_kind(photo.pixels)}; valid: views of one size and kind"
        )
    return pixels


def _require_upright(path: Path, photo: Photo) -> None:
    """Turned, the views would no longer be shifted from left to right."""
    if photo.orientation != 1:
        raise UserError(
            f"{path}: its EXIF data turn it, and left and right would lie elsewhere; valid: views stored upright"
        )


def _kind(pixels: np.ndarray) -> str:
    colours = "grey" if pixels.ndim == 2 else "RGB"
    return f"{pixels.shape[1]}x{pixels.shape[0]} pixels, {colours}, {8 * pixels.dtype.itemsize} bits"


def _write(
    job: Job, photo: Photo, restored: Photo, disparity: np.ndarray | None, settings: Settings, watcher: Watcher
) -> None:
    """All files of a job: each is whole, and none is there unless the restored picture is."""
    colours = b"" if photo.grey else photo.icc

    def put(path: Path, file: IO[bytes], picture: Photo) -> None:
        for note in put_photo(file, picture, format_of(path), settings.quality, path):
            watcher.says(job, note)

    writers: dict[Path, Callable[[IO[bytes]], None]] = {job.output: lambda file: put(job.output, file, restored)}
    if job.compare is not None:
        sheet = side_by_side(photo.pixels, restored.pixels, job.source.name, settings.network.name)
        writers[job.compare] = lambda file: put(job.compare, file, Photo(sheet, "jpeg", icc=colours))
    if disparity is not None and job.disparity is not None and job.disparity_colours is not None:
        coloured = Photo(colour_disparity(disparity), "png")
        writers[job.disparity] = lambda file: write_disparity(file, disparity)
        writers[job.disparity_colours] = lambda file: put(job.disparity_colours, file, coloured)
        watcher.says(job, f"disparity from {disparity.min():.1f} to {disparity.max():.1f} pixels")
    with _room(job.output), contextlib.ExitStack() as stack:
        job.output.parent.mkdir(parents=True, exist_ok=True)
        # The last to be opened is the first in its place: the restored picture, which says that the job is done.
        opened = {path: stack.enter_context(written_aside(path, durable=False)) for path in reversed(writers)}
        for path, write in writers.items():
            write(opened[path])


@contextlib.contextmanager
def _room(path: Path) -> Iterator[None]:
    try:
        with writing(path):
            yield
    except UserError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in _NO_ROOM:
            raise _NoRoomError(str(error)) from error
        raise
