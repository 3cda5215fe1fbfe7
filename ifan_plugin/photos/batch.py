"""Many photographs through one network: one at a time in memory, a failure doesn't stop the others."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import cv2
import numpy as np

from ifan_plugin.common.errors import UserError
from ifan_plugin.common.files import NO_ROOM, make_folder, writing, written_aside
from ifan_plugin.images.transparency import filled, with_hidden
from ifan_plugin.images.white_level import note_on, scaled
from ifan_plugin.inference.api import restore, stacked
from ifan_plugin.inference.run import require_precision
from ifan_plugin.inference.stages import reported
from ifan_plugin.photos.compare import Crop, require_inside, side_by_side
from ifan_plugin.photos.disparity import (
    DisparityPicture,
    disparity_map,
    require_disparity,
    write_disparity,
)
from ifan_plugin.photos.plan import Job
from ifan_plugin.photos.read_write import (
    MAX_PIXELS,
    Photo,
    format_of,
    put_photo,
    read_photo,
    require_writable,
)  # fmt: skip
from ifan_plugin.photos.scale import automatic_scale, blended, restored_at, shrunk
from ifan_plugin.pictures.visual import colour_disparity
from ifan_plugin.weights.networks import Network


@dataclass(frozen=True)
class Settings:
    """How photographs are restored and written.

    Args:
        network: ready to be run.
        precision, tile, ensemble: as in :func:`ifan_plugin.inference.run_network`.
        quality: 1 to 100, of JPEG and WebP.
        overwrite: replace files that are there, instead of skipping their photographs.
        white_level: the value of 16-bit photographs that is white, where it isn't 65535: they are scaled.
        max_pixels: photographs that say they are larger fail.
        scale: of the size that photographs are restored at, above 0 and up to 1; ``auto``: where the blur of a large
            one is too wide for the network, the size where it fits (:mod:`ifan_plugin.photos.scale`).
        strength: of the result, which is mixed with the photograph: above 0 and up to 1.
        crop: the part that is enlarged in comparisons; None: the one that gained most.
    """

    network: Network
    precision: str = "fp32"
    tile: int | str | None = "auto"
    ensemble: bool = False
    quality: int = 95
    overwrite: bool = False
    white_level: int | None = None
    max_pixels: int = MAX_PIXELS
    scale: float | str = "auto"
    strength: float = 1.0
    crop: Crop | None = None


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

    def stage(self, share: float) -> None:
        """How much of the tile, or of the picture that is restored as a whole, is done: 0 to 1."""

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
        jobs: as :func:`ifan_plugin.photos.plan.plan` makes them.
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
        start = time.perf_counter()
        try:
            with writing(job.output):
                there = None if settings.overwrite else first_existing(job)
            if there == job.output:
                outcome.skipped.append((job, there))
                watcher.ends(job, f"skipped, {there} is there already")
                continue
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
    dark = None if settings.white_level else note_on([photo.pixels], job.source.name, "--white-level {}")
    if dark is not None:
        watcher.says(job, dark)
    photo = dataclasses.replace(photo, pixels=scaled(photo.pixels, settings.white_level))
    if job.left is not None or job.right is not None:
        _require_upright(job.source, photo)
    require_writable(photo, format_of(job.output), job.output)
    if job.compare is not None and settings.crop is not None:
        require_inside(settings.crop, photo.pixels)
    views = {view: _view(job, view, photo, settings) for view in ("left", "right") if getattr(job, view) is not None}
    scale = _scale(job, photo, settings, watcher)
    visible = filled(photo.pixels, photo.alpha)
    views = {view: filled(given, photo.alpha) for view, given in views.items()}
    with reported(settings.network.program or settings.network.net, watcher.stage):
        pixels = _restored(visible, views, scale, settings, watcher)
        found = None
        if disparity is not None:
            found = _disparity({"center": visible, **views}, disparity, scale, settings, watcher)
    pixels = with_hidden(pixels, photo.pixels, photo.alpha)
    restored = dataclasses.replace(photo, pixels=blended(photo.pixels, pixels, settings.strength))
    _write(job, photo, restored, found, settings, watcher)
    return restored


def _scale(job: Job, photo: Photo, settings: Settings, watcher: Watcher) -> float:
    """The scale to restore a photograph at; says why where it chose one."""
    if settings.scale != "auto":
        return float(settings.scale)
    scale, blur = automatic_scale(photo.pixels)
    if scale < 1 and blur is not None:
        height, width = photo.size
        how_much = "at least" if blur.at_least else "about"
        watcher.says(
            job,
            f"its blur, {how_much} {2 * blur.sigma:.0f} pixels in radius, is wider than networks undo: restored at "
            f"{round(scale * width)}x{round(scale * height)}, and what changed put back at {width}x{height} "
            f"(--scale {scale:g}; --scale 1 works at full size)",
        )
    return scale


def _restored(
    pixels: np.ndarray, views: dict[str, np.ndarray], scale: float, settings: Settings, watcher: Watcher
) -> np.ndarray:
    def run(given: dict[str, np.ndarray]) -> np.ndarray:
        return restore(
            given["center"], settings.network, left=given.get("left"), right=given.get("right"),
            precision=settings.precision, tile=settings.tile, ensemble=settings.ensemble, progress=watcher.tiles,
        )  # fmt: skip

    given = {"center": pixels, **views}
    return run(given) if scale == 1 else restored_at(scale, given, run)


def _disparity(
    given: dict[str, np.ndarray], picture: DisparityPicture, scale: float, settings: Settings, watcher: Watcher
) -> np.ndarray:
    """The disparity map in pixels at full size, as the network saw the photograph."""
    height, width = given["center"].shape[:2]
    seen = [given[view] if scale == 1 else shrunk(given[view], scale) for view in settings.network.views]
    found = disparity_map(picture, stacked(seen), settings.tile, watcher.tiles)
    return found if scale == 1 else cv2.resize(found, (width, height), interpolation=cv2.INTER_LINEAR) / scale


def _view(job: Job, view: str, photo: Photo, settings: Settings) -> np.ndarray:
    path = getattr(job, view)
    read = read_photo(path, settings.max_pixels)
    _require_upright(path, read)
    pixels = scaled(read.pixels, settings.white_level)
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

    def writes(path: Path, picture: Photo) -> Callable[[IO[bytes]], None]:
        return lambda file: put(path, file, picture)

    writers = {job.output: writes(job.output, restored)}
    if job.compare is not None:
        sheet = side_by_side(photo.pixels, restored.pixels, job.source.name, settings.network.name, settings.crop)
        writers[job.compare] = writes(job.compare, Photo(sheet, "jpeg", icc=colours))
    if disparity is not None and job.disparity is not None and job.disparity_colours is not None:
        coloured = Photo(colour_disparity(disparity), "png")
        blur_size = settings.network.blur_unit is not None
        writers[job.disparity] = lambda file: write_disparity(file, disparity, blur_size=blur_size)
        writers[job.disparity_colours] = writes(job.disparity_colours, coloured)
        what = "diameter of the blur" if blur_size else "disparity"
        watcher.says(job, f"{what} from {disparity.min():.1f} to {disparity.max():.1f} pixels")
    with _room(), contextlib.ExitStack() as stack:
        make_folder(job.output.parent)
        # The last to be opened is the first in its place: the restored picture, which says that the job is done.
        opened = {path: stack.enter_context(written_aside(path, durable=False)) for path in reversed(writers)}
        for path, write in writers.items():
            write(opened[path])


@contextlib.contextmanager
def _room() -> Iterator[None]:
    try:
        yield
    except UserError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in NO_ROOM:
            raise _NoRoomError(str(error)) from error
        raise
