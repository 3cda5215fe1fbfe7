"""Which photographs become which files: found, named and checked as a whole before anything is restored."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ifan_plugin.errors import UserError
from ifan_plugin.files import expanded
from ifan_plugin.inference.photos import FORMATS, SUFFIXES, format_of

ENDINGS = {"jpeg": ".jpg", "png": ".png", "tiff": ".tif", "webp": ".webp"}
"""What ``--format`` may say -> the ending of the files."""

RAW_FORMAT = "tiff"  # 16 bits, and every raw developer reads it
_VIEW_MARKS = {"left": "_L", "right": "_R"}


@dataclass(frozen=True)
class Job:
    """One photograph and the files that are made of it; None: not wanted.

    Args:
        source: the photograph, or the centre view.
        output: the restored one.
        left, right: the dual-pixel views.
        compare: both side by side.
        disparity: the map as numbers.
        disparity_colours: the map as colours.
    """

    source: Path
    output: Path
    left: Path | None = None
    right: Path | None = None
    compare: Path | None = None
    disparity: Path | None = None
    disparity_colours: Path | None = None

    @property
    def sources(self) -> tuple[Path, ...]:
        """All files that are read."""
        return tuple(path for path in (self.source, self.left, self.right) if path is not None)

    @property
    def outputs(self) -> tuple[Path, ...]:
        """All files that are written."""
        paths = (self.output, self.compare, self.disparity, self.disparity_colours)
        return tuple(path for path in paths if path is not None)


@dataclass(frozen=True)
class Found:
    """An input: the file, and its name below OUT."""

    path: Path
    relative: Path


def find_inputs(inputs: Sequence[str | os.PathLike], out: str | os.PathLike) -> tuple[list[Found], int]:
    """The files that INPUT… name, and how many others lay in their folders.

    A folder is searched with those below it, for the endings of :data:`~ifan_plugin.inference.photos.SUFFIXES`; its
    sub-folders are kept, and of several folders their names, too. Hidden files are left alone, and so is ``out`` where
    it lies inside. A pattern (``*``, ``?``, ``[…]``, ``**``) that the shell hasn't expanded is; folders below its fixed
    part are kept. A file named as such may have any ending.

    Raises:
        UserError: a file or folder that isn't there, or without pictures, or an empty name.
    """
    out = expanded(out, "--out")
    paths = [expanded(entry, "INPUT") for entry in inputs]
    folders = sum(path.is_dir() for path in paths)
    found: dict[Path, Found] = {}
    others = 0
    for entry, path in zip(inputs, paths):
        if path.is_dir():
            prefix = Path(path.resolve().name) if folders > 1 else Path()
            pictures, left_alone = _in_folder(path, out)
            others += left_alone
            if not pictures:
                raise UserError(f"{entry}: no pictures in this folder; valid endings: {_endings()}")
            here = [Found(path / relative, prefix / relative) for relative in pictures]
        elif path.is_file():
            here = [Found(path, Path(path.name))]
        elif path.exists():
            raise UserError(f"{entry}: neither a file nor a folder")
        elif glob.has_magic(str(path)):
            here = _matching(path, out)
        else:
            raise UserError(f"{entry}: no such file or folder")
        for each in here:
            found.setdefault(each.path.resolve(), each)  # one given twice is restored once
    return list(found.values()), others


def _in_folder(folder: Path, out: Path) -> tuple[list[Path], int]:
    """Pictures in a folder and below, relative to it, in order of their names; and how many other files there are."""
    pictures, others, avoided = [], 0, out.resolve()

    def unreadable(error: OSError) -> None:
        raise UserError(f"{error.filename}: can't be read: {error.strerror}")

    for root, folders, names in os.walk(folder, onerror=unreadable):
        here = Path(root)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and (here / name).resolve() != avoided)
        for name in sorted(names):
            if name.startswith("."):
                continue
            if Path(name).suffix.lower() in SUFFIXES:
                pictures.append((here / name).relative_to(folder))
            else:
                others += 1
    return pictures, others


def _matching(pattern: Path, out: Path) -> list[Found]:
    parts = pattern.parts
    base = Path(*parts[: next(number for number, part in enumerate(parts) if glob.has_magic(part))])
    avoided, pictures = out.resolve(), []
    for path in map(Path, sorted(glob.glob(str(pattern), recursive=True))):
        relative = path.relative_to(base)
        inside = any((base / folder).resolve() == avoided for folder in relative.parents[:-1])
        if path.is_file() and path.suffix.lower() in SUFFIXES and not inside:
            pictures.append(Found(path, relative))
    if not pictures:
        raise UserError(f"{pattern}: no picture is named like this; valid endings: {_endings()}")
    return pictures


def _endings() -> str:
    return ", ".join(FORMATS) + ", and those of camera raw"


def plan(
    found: Sequence[Found],
    out: str | os.PathLike,
    format: str | None = None,
    left: str | os.PathLike | None = None,
    right: str | os.PathLike | None = None,
    compare: bool = False,
    disparity: bool = False,
) -> list[Job]:
    """A job for each input, all names checked against each other.

    Args:
        found: as :func:`find_inputs` gives them.
        out: a folder; or the file's name for a single input, where it has a picture's ending and is no folder.
        format: kind of the files, a key of :data:`ENDINGS`; None: that of the input's name; raw becomes 16-bit TIFF.
        left, right: the dual-pixel views: a file for a single input, else a folder of pictures named like the inputs,
            or like them with ``_L`` and ``_R``.
        compare, disparity: whether these files are wanted, too.

    The other files are named like the restored one without its ending; with it, where two restored ones differ by that
    alone (``x.jpg`` and ``x.png`` in one folder).

    Raises:
        UserError: two inputs that would become one file, an output that is an input, ``out`` that is a file where a
            folder is needed, views that are missing, or an empty name.
    """
    out = expanded(out, "--out")
    to_file = len(found) == 1 and not out.is_dir() and out.suffix.lower() in FORMATS
    if to_file and format is not None and format_of(out) != format:
        raise UserError(f"--out {out}: its ending says {format_of(out)}, but --format {format}")
    if not to_file and out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: is a file; give a folder")
    pairs = {"left": left, "right": right}
    views = {
        view: _Views(view, expanded(place, f"--{view}"), found) for view, place in pairs.items() if place is not None
    }
    outputs = [out if to_file else out / each.relative.parent / _named(each.relative.name, format) for each in found]
    stems = Counter(map(_without_ending, outputs))
    jobs = []
    for each, output in zip(found, outputs):
        base = output.stem if stems[_without_ending(output)] == 1 else output.name

        def beside(mark: str, wanted: bool, output: Path = output, base: str = base) -> Path | None:
            return output.with_name(f"{base}_{mark}") if wanted else None

        jobs.append(
            Job(
                each.path,
                output,
                **{view: places.of(each) for view, places in views.items()},
                compare=beside("compare.jpg", compare),
                disparity=beside("disparity.png", disparity),
                disparity_colours=beside("disparity_colours.png", disparity),
            )
        )
    _require_apart(jobs)
    return jobs


def _named(name: str, format: str | None) -> str:
    """The output's name: the input's, with another ending where it becomes another kind of file."""
    suffix = Path(name).suffix
    own = FORMATS.get(suffix.lower())
    if own is not None and format in (None, own):
        return name
    stem = Path(name).stem if suffix.lower() in SUFFIXES else name
    return stem + ENDINGS[format or (RAW_FORMAT if suffix.lower() in SUFFIXES else "png")]


def _without_ending(path: Path) -> str:
    return os.path.normcase(path.with_suffix(""))


class _Views:
    """Where the left, or the right, views are."""

    def __init__(self, view: str, place: Path, found: Sequence[Found]) -> None:
        self.view, self.place = view, place
        self.by_name: dict[str, Path] | None = None
        if place.is_dir():
            names, _ = _in_folder(place, place)
            self.by_name = {str(name.with_suffix("")): place / name for name in reversed(names)}
        elif not place.is_file():
            raise UserError(f"--{view} {place}: no such file or folder")
        elif len(found) != 1:
            raise UserError(f"--{view} {place}: is one file for {len(found)} inputs; give a folder")

    def of(self, each: Found) -> Path:
        if self.by_name is None:
            return self.place
        stem = str(each.relative.with_suffix(""))
        for name in (stem, stem + _VIEW_MARKS[self.view]):
            if name in self.by_name:
                return self.by_name[name]
        raise UserError(
            f"--{self.view} {self.place}: no picture for {each.path}; valid: {stem} or {stem}{_VIEW_MARKS[self.view]} "
            f"with an ending of a picture"
        )


def _require_apart(jobs: Sequence[Job]) -> None:
    """No file is written twice, or is one of those that are read."""
    taken: dict[str, Path] = {}
    read = {_identity(path): path for job in jobs for path in job.sources}
    for job in jobs:
        for output in job.outputs:
            key = os.path.normcase(output.resolve())
            other = taken.setdefault(key, job.source)
            if other is not job.source:
                raise UserError(
                    f"{other} and {job.source} would both be written to {output}; restore them in two runs, "
                    "or give the folder they lie in, whose sub-folders are kept"
                )
            if output.is_dir():
                raise UserError(f"{output}: is a folder, and {job.source} would be written there")
            if output.exists() and _identity(output) in read:
                raise UserError(
                    f"{output}: is an input ({read[_identity(output)]}), and inputs are never written over; "
                    "give another --out"
                )


def _identity(path: Path) -> tuple[int, int]:
    """The same for two names of one file."""
    status = path.stat()
    return status.st_dev, status.st_ino
