"""Make LMDBs from folders of pictures: in parallel, with bounded memory, continued where a killed run stopped."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from ifan_plugin.common.errors import UserError
from ifan_plugin.common.locks import only_run
from ifan_plugin.common.machine import usable_cores
from ifan_plugin.common.words import counted
from ifan_plugin.data.lmdb.patches import Cut
from ifan_plugin.data.lmdb.plan import Source, SplitPlan, plan_split
from ifan_plugin.data.lmdb.read import ENCODINGS, LmdbPictures
from ifan_plugin.data.lmdb.work import work
from ifan_plugin.data.lmdb.writer import DatabaseWriter, WriteError, read_facts, remove_old
from ifan_plugin.images.image_io import read_pixels
from ifan_plugin.images.white_level import note_on

_LOCK = ".lock"


@dataclass
class Report:
    """What :func:`create` did.

    Attributes:
        made, up_to_date: folders of databases made, and of those that were there already.
        pictures: pictures (or patches) in the databases made; ``continued`` of them by runs before this one.
        bytes: size of the data files made.
        seconds: wall-clock time of this run; of source pictures it worked on ``worked_on``.
        notes: what the user should know.
    """

    made: list[Path] = field(default_factory=list)
    up_to_date: list[Path] = field(default_factory=list)
    pictures: int = 0
    continued: int = 0
    bytes: int = 0
    seconds: float = 0.0
    worked_on: int = 0
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        parts = []
        if self.made:
            kept = f", {self.continued} of them made before" if self.continued else ""
            rate = self.worked_on / self.seconds if self.seconds else 0.0
            parts.append(
                f"{counted(len(self.made), 'database')}: {counted(self.pictures, 'picture')}{kept}, "
                f"{self.bytes / 1e6:.1f} MB, {self.seconds:.1f} s, {rate:.1f} source pictures a second."
            )
        if self.up_to_date:
            parts.append(f"Up to date: {', '.join(map(str, self.up_to_date))}.")
        return " ".join(parts + self.notes)


def create(
    out: str | os.PathLike,
    *,
    layout: str,
    root: str | os.PathLike | None = None,
    folders: Mapping[str, str | os.PathLike] | None = None,
    splits: Sequence[str] | None = None,
    views: Sequence[str] | None = None,
    encoding: str = "png",
    bit_depth: int | None = None,
    cut: Cut = None,
    compression: int = 1,
    workers: int | None = None,
    overwrite: bool = False,
    progress: bool = False,
    pairing: str = "auto",
) -> Report:
    """Write ``out/{split}/{center,left,right,target}.lmdb``, which ``layout: lmdb`` of the data sets reads.

    Each database is written aside (``.center.lmdb.partial``) and put in place when all are whole. A run that is
    killed goes on where it stopped when it is started again with the same arguments on the same files.
    With more than one worker the processes are spawned: a script needs its ``if __name__ == "__main__":``.

    Args:
        out: folder; made if missing.
        layout: a key of :data:`ifan_plugin.data.layouts.LAYOUTS`, or ``folders``.
        root: the data set's folder, for all layouts but ``folders``.
        folders: for ``folders``: role (``center``, ``left``, ``right``, ``target``) -> folder.
        splits: ``None``: all whose folders exist (for ``folders``: ``train``).
        views: of ``center``, ``left``, ``right``; ``None``: those whose folders exist. The sharp pictures come
            along where there are some.
        encoding: ``png`` (as BasicSR makes it) or ``raw`` (rows uncompressed, so that a crop reads its rows alone).
        bit_depth: 8, 16, or ``None`` for that of the files. 16-bit files become 8 by shifting out the lower 8 bits.
        cut: :class:`~ifan_plugin.data.lmdb.patches.Patches`, :class:`~ifan_plugin.data.lmdb.patches.CenterCrop`, or
            ``None`` for whole pictures. Which patches are dropped is decided on the sharp picture where there is
            one, else on the centre view (or the first), and holds for every role.
        compression: PNG compression level, 0 to 9.
        workers: processes; 1 works in this one; ``None``: all cores this process may use.
        overwrite: replace databases that are there, once the new ones are complete.
        progress: show a bar with rate and time left on stderr.
        pairing: as in :func:`ifan_plugin.data.layouts.paired_scenes`.

    Raises:
        UserError: an argument out of range, folders or pictures that can't be used (told from names, headers and
            file ends before the work starts; what only decoding shows, when it comes up), databases there that
            were made otherwise, another run on the same ``out``, a full disk.
    """
    started = time.monotonic()
    if encoding not in ENCODINGS:
        raise UserError(f"unknown encoding '{encoding}'; valid: {', '.join(ENCODINGS)}")
    if bit_depth not in (8, 16, None):
        raise UserError(f"bit depth is {bit_depth}; valid: 8 or 16")
    if not 0 <= compression <= 9:
        raise UserError(f"compression is {compression}; valid: 0 to 9")
    if workers is not None and workers < 1:
        raise UserError(f"workers is {workers}; it must be at least 1")
    given = None if folders is None else {role: Path(folder) for role, folder in folders.items()}
    source = Source(layout, Path(root) if root else None, given, views, encoding, bit_depth, cut, compression, pairing)
    plans = [plan_split(source, split) for split in dict.fromkeys(splits or source.splits())]
    out = Path(out).expanduser()
    report = Report(notes=_notes(plans))
    with only_run(out / _LOCK, f"{out}:"):
        for plan in plans:
            for role in plan.files:
                remove_old(out / plan.split / f"{role}.lmdb")
        to_make = [(plan, _roles_to_make(out, plan, overwrite, report)) for plan in plans]
        for plan, roles in to_make:
            if roles:
                _make_split(out / plan.split, plan, roles, workers or usable_cores(), progress, report)
    report.seconds = time.monotonic() - started
    return report


def _make_split(folder: Path, plan: SplitPlan, roles: list[str], workers: int, progress: bool, report: Report) -> None:
    """Make one split's databases and put them in place together."""
    writers: dict[str, DatabaseWriter] = {}
    keys = [key for scene in plan.keys for key in scene]
    last = plan.source.compression if plan.source.encoding == "png" else plan.source.encoding
    try:
        with ExitStack() as stack:
            folder.mkdir(parents=True, exist_ok=True)
            for role in roles:
                writers[role] = DatabaseWriter(folder / f"{role}.lmdb", plan.facts(role))
                stack.callback(writers[role].close)
            report.continued += sum(len(writer.done) for writer in writers.values())
            report.worked_on += work(plan, writers, workers, progress=progress)
            for role, writer in writers.items():
                writer.finish(plan.info(role), keys, last)
            for writer in writers.values():
                writer.publish()
    except (WriteError, OSError) as error:
        reason = str(error) if isinstance(error, WriteError) else error.strerror or str(error)
        raise UserError(f"{folder}: can't be written: {reason}; {_room(folder, plan, writers)}") from error
    report.made += [writer.path for writer in writers.values()]
    report.pictures += len(keys) * len(writers)
    report.bytes += sum(writer.bytes for writer in writers.values())


def _room(folder: Path, plan: SplitPlan, writers: Mapping[str, DatabaseWriter]) -> str:
    """How much a failed run still needs, and what to do."""
    pictures = sum(map(len, plan.keys)) * len(plan.files)
    done = sum(len(writer.done) for writer in writers.values())
    if plan.source.encoding == "raw":
        needed = plan.raw_bytes() * len(plan.files) * (pictures - done) / pictures
    elif done:
        needed = sum(writer.bytes for writer in writers.values()) / done * (pictures - done)
    else:  # nothing to go by but the files themselves
        needed = sum(path.stat().st_size for files in plan.files.values() for path in files)
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    return (
        f"about {needed / 1e6:.0f} MB more are needed, {free / 1e6:.0f} MB are free there; make room and run the same "
        "command again, it goes on from here"
    )


def _roles_to_make(out: Path, plan: SplitPlan, overwrite: bool, report: Report) -> list[str]:
    """The roles whose databases aren't there yet; those that are up to date go into the report."""
    roles = []
    for role in plan.files:
        path, facts = out / plan.split / f"{role}.lmdb", plan.facts(role)
        if overwrite or not os.path.lexists(path):
            roles.append(role)
        elif (reason := _not_up_to_date(path, facts)) is None:
            report.up_to_date.append(path)
        else:
            raise UserError(f"{path}: {reason}; give --out another folder, or --overwrite to replace it")
    for role in {"center", "left", "right", "target"} - plan.files.keys():
        path = out / plan.split / f"{role}.lmdb"
        there, facts = read_facts(path), plan.facts(next(iter(plan.files)))
        for name in ("keys", "patch", "chosen_on", "bit_depth"):
            if there is not None and there.get(name) != facts[name]:
                raise UserError(
                    f"{path}: is there, made with {_differing(name, there, facts)}: the databases of one folder belong "
                    "together; make all roles in one run, or give --out another folder"
                )
    return roles


def _not_up_to_date(path: Path, facts: dict) -> str | None:
    """Why a database that is there isn't what is to be made."""
    try:
        LmdbPictures(path).check()
    except UserError:
        return "is there, but not whole"
    there = read_facts(path)
    if there is None:
        return "is there, made by another program"
    for name in facts:
        if there.get(name) != facts[name]:
            return f"is there, made with {_differing(name, there, facts)}"
    return None


def _differing(name: str, there: dict, facts: dict) -> str:
    if name in ("keys", "sources"):
        return "other source files" if name == "sources" else "other names"
    return f"{name} {there.get(name)}, not {facts[name]}"


def _notes(plans: Sequence[SplitPlan]) -> list[str]:
    """How pictures were paired; what isn't an error, but may surprise."""
    notes = [
        f"{plan.split}: {counted(len(plan.keys), 'scene')}, paired {plan.pairing}." for plan in plans if plan.pairing
    ]
    for plan in plans:
        files = next(iter(plan.files.values()))
        chosen = [files[place] for place in sorted({0, len(files) // 2, len(files) - 1})]
        with contextlib.suppress(UserError):  # who reads a damaged picture says so
            advice = "the data set's option white_level: {} (and a database of 16 bits)"
            dark = note_on(map(read_pixels, chosen), files[0].parent, advice)
            notes += [f"Note: {dark}."] if dark else []
    for plan in plans:
        for keys in plan.keys:
            if plan.source.encoding == "png" and not keys[0].isascii():
                note = (
                    f"Note: BasicSR's own LMDB reader takes ASCII keys only, and '{keys[0]}' isn't; the data sets of "
                    "this package read it."
                )
                return [*notes, note]
    return notes
