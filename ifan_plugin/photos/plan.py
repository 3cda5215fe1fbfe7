"""Which photographs become which files: found, named and checked as a whole before anything is restored."""

from __future__ import annotations

import glob
import os
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ifan_plugin.common.errors import UserError
from ifan_plugin.common.files import expanded
from ifan_plugin.images.formats.raw import SUFFIXES as RAW_SUFFIXES
from ifan_plugin.images.pairing import Folder, partners
from ifan_plugin.photos.read_write import FORMATS, SUFFIXES, format_of

ENDINGS = {"jpeg": ".jpg", "png": ".png", "tiff": ".tif", "webp": ".webp"}
"""What ``--format`` may say -> the ending of the files."""

RAW_FORMAT = "tiff"  # 16 bits, and every raw developer reads it
_NOT_WRITTEN = (SUFFIXES - FORMATS.keys()) | {
    ".gif", ".jp2", ".j2k", ".jxl", ".psd", ".exr", ".hdr", ".pdf", ".svg", ".tga", ".ppm", ".pgm", ".pfm", ".qoi",
}  # fmt: skip
_MAX_NAME = 255  # bytes, of most file systems
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

    A folder is searched with those below it, linked ones, too, for the endings of
    :data:`~ifan_plugin.photos.read_write.SUFFIXES`; its sub-folders are kept, and of several folders their names, too.
    Hidden files are left alone, and so is ``out`` where it lies inside. A pattern (``*``, ``?``, ``[…]``, ``**``) that
    the shell hasn't expanded is, where folders that are there by that name count as names; folders below its fixed part
    are kept. A file named as such may have any ending.

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
    above: dict[Path, tuple[Path, ...]] = {
        folder: (folder.resolve(),)
    }  # where each folder really lies, and those above

    def unreadable(error: OSError) -> None:
        raise UserError(f"{error.filename}: can't be read: {error.strerror}")

    for root, folders, names in os.walk(folder, onerror=unreadable, followlinks=True):
        here = Path(root)
        real = {name: (here / name).resolve() for name in folders if not name.startswith(".")}
        seen = above.pop(here)
        # A link to a folder that it lies in would be followed for ever.
        folders[:] = sorted(name for name, place in real.items() if place != avoided and place not in seen)
        above |= {here / name: (*seen, real[name]) for name in folders}
        for name in sorted(names):
            if name.startswith("."):
                continue
            if Path(name).suffix.lower() in SUFFIXES:
                pictures.append((here / name).relative_to(folder))
            else:
                others += 1
    return pictures, others


def _matching(pattern: Path, out: Path) -> list[Found]:
    base, rest = _fixed_part(pattern)
    avoided, pictures = out.resolve(), []
    # Brackets are letters of many names: where they choose nothing, they are taken as they stand.
    choices = (str(rest), str(rest).replace("[", "[[]"))
    matching = (sorted(glob.glob(os.path.join(glob.escape(str(base)), choice), recursive=True)) for choice in choices)
    for path in map(Path, next(filter(None, matching), [])):
        relative = path.relative_to(base)
        inside = any((base / folder).resolve() == avoided for folder in relative.parents[:-1])
        if path.is_file() and path.suffix.lower() in SUFFIXES and not inside:
            pictures.append(Found(path, relative))
    if not pictures:
        raise UserError(f"{pattern}: no picture is named like this; valid endings: {_endings()}")
    return pictures


def _fixed_part(pattern: Path) -> tuple[Path, Path]:
    """The folders that a pattern begins with, and the rest: a part that is a folder's very name is no pattern."""
    base = Path(pattern.anchor)
    parts = pattern.relative_to(base).parts if pattern.anchor else pattern.parts
    for number, part in enumerate(parts):
        if glob.has_magic(part) and not (base / part).is_dir():
            return base, Path(*parts[number:])
        base = base / part
    return base.parent, Path(base.name)


def _endings() -> str:
    return ", ".join(FORMATS) + ", and those of camera raw"


def plan(
    found: Sequence[Found],
    out: str | os.PathLike,
    format: str | None = None,
    left: str | os.PathLike | None = None,
    right: str | os.PathLike | None = None,
    *,
    compare: bool = False,
    disparity: bool = False,
) -> list[Job]:
    """A job for each input, all names checked against each other.

    Args:
        found: as :func:`find_inputs` gives them.
        out: a folder; or the file's name for a single input, where it has a picture's ending and is no folder.
        format: kind of the files, a key of :data:`ENDINGS`; None: that of the input's name; raw becomes 16-bit TIFF,
            HEIC, AVIF and BMP become PNG (``x.bmp.png`` where there is an ``x.png``, too).
        left, right: the dual-pixel views: a file for a single input, else a folder of pictures named like the inputs,
            or like them with ``_L`` and ``_R`` (:func:`ifan_plugin.images.pairing.partners`).
        compare, disparity: whether these files are wanted, too.

    The other files are named like the restored one without its ending; with it, where two restored ones differ by that
    alone (``x.jpg`` and ``x.png`` in one folder). Names that would be too long are cut, with a checksum at their end.

    Raises:
        UserError: two inputs that would become one file, an output that is an input, ``out`` that is a file where a
            folder is needed or named like a kind of picture that isn't written, views that are missing, or an empty
            name.
    """
    out = expanded(out, "--out")
    to_file = len(found) == 1 and not out.is_dir() and out.suffix.lower() in FORMATS
    if out.suffix.lower() in _NOT_WRITTEN and not out.exists():  # nobody calls a folder so
        raise UserError(
            f"--out {out}: pictures aren't written as {out.suffix}; valid: {', '.join(FORMATS)}, or a folder's name"
        )
    if to_file and format is not None and format_of(out) != format:
        raise UserError(f"--out {out}: its ending says {format_of(out)}, but --format {format}")
    if not to_file and out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: is a file; give a folder")
    pairs = {"left": left, "right": right}
    views = {
        view: _Views(view, expanded(place, f"--{view}"), found) for view, place in pairs.items() if place is not None
    }
    outputs = [out if to_file else out / each.relative.parent / _named(each.relative.name, format) for each in found]
    if format is None and not to_file:
        outputs = _told_apart(found, outputs)
    stems = Counter(map(_without_ending, outputs))
    jobs = []
    for each, output in zip(found, outputs):
        base = output.stem if stems[_without_ending(output)] == 1 else output.name

        def beside(mark: str, wanted: bool, output: Path = output, base: str = base) -> Path | None:
            return output.with_name(_fitting(base, f"_{mark}")) if wanted else None

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
    return _fitting(stem, ENDINGS[format or (RAW_FORMAT if suffix.lower() in RAW_SUFFIXES else "png")])


def _told_apart(found: Sequence[Found], outputs: Sequence[Path]) -> list[Path]:
    """Of files that take another ending, those that would meet another one keep their own before it: x.bmp.png."""
    met = Counter(os.path.normcase(output) for output in outputs)
    apart = []
    for each, output in zip(found, outputs):
        name, changed = each.relative.name, output.suffix.lower() != each.relative.suffix.lower()
        if changed and met[os.path.normcase(output)] > 1:
            output = output.with_name(_fitting(name, output.suffix))
        apart.append(output)
    return apart


def _fitting(stem: str, end: str) -> str:
    """A name that file systems take: a stem that is too long is cut, and a few digits of its checksum tell it apart."""
    if len(os.fsencode(stem + end)) <= _MAX_NAME:
        return stem + end
    end = f"~{zlib.crc32(os.fsencode(stem)):08x}{end}"
    while len(os.fsencode(stem + end)) > _MAX_NAME:
        stem = stem[:-1]
    return stem + end


def _without_ending(path: Path) -> str:
    return os.path.normcase(path.with_suffix(""))


class _Views:
    """Where the left, or the right, views are."""

    def __init__(self, view: str, place: Path, found: Sequence[Found]) -> None:
        self.view, self.place = view, place
        self.by_stem: dict[str, str] | None = None
        if place.is_dir():
            names, _ = _in_folder(place, place)
            stems = [str(each.relative.with_suffix("")) for each in found]
            self.by_stem = partners(stems, Folder(place, list(map(str, names))), _VIEW_MARKS[view])
        elif not place.is_file():
            raise UserError(f"--{view} {place}: no such file or folder")
        elif len(found) != 1:
            raise UserError(f"--{view} {place}: is one file for {len(found)} inputs; give a folder")

    def of(self, each: Found) -> Path:
        if self.by_stem is None:
            return self.place
        stem = str(each.relative.with_suffix(""))
        if stem in self.by_stem:
            return self.place / self.by_stem[stem]
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
