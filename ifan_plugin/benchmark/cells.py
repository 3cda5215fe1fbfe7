"""Cells of a benchmark on disk: one JSON file each, found again by what it was made of."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ifan_plugin import __version__
from ifan_plugin.benchmark.models import file_digest
from ifan_plugin.benchmark.options import Benchmark, Model
from ifan_plugin.common.files import from_json, make_folder, written_aside

_FORMAT = 4  # of the files; another one makes all cells run again

NONE = "–"
"""What stands where nothing was measured, or nothing finite."""


class CellStore:
    """The folder ``cells`` of a benchmark. A cell's key is a digest of its options and of the checkpoint's content."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._digests: dict[str, str | None] = {}

    def quality_key(self, benchmark: Benchmark, model: Model, dataset: Mapping[str, Any], stamp: Any) -> str:
        """Of a model on a test set; ``stamp`` tells the test set's files."""
        pictures = asdict(benchmark.pictures)
        what = {"protocol": benchmark.protocol, "pictures": pictures}  # the metrics are in the cell, each by its name
        return self._key("quality", benchmark, model, {**what, "dataset": dataset, "files": stamp})

    def profile_key(self, benchmark: Benchmark, model: Model, machine: Mapping[str, Any]) -> str:
        """Of a model's time and memory, which another machine would measure otherwise."""
        profile = None if benchmark.profile is None else asdict(benchmark.profile)
        if profile is not None:
            del profile["time_limit"]  # what was measured within one is right under another
        return self._key("profile", benchmark, model, {"profile": profile, "machine": machine})

    def _key(self, kind: str, benchmark: Benchmark, model: Model, more: Mapping[str, Any]) -> str:
        if model.has_network and model.path is not None and model.path not in self._digests:
            self._digests[model.path] = file_digest(model.path)
        options = {key: value for key, value in asdict(model).items() if key not in ("name", "group")}
        checkpoint = self._digests[model.path] if model.has_network and model.path is not None else None
        made_of = {
            "format": _FORMAT, "version": __version__, "kind": kind, "model": options, "checkpoint": checkpoint,
            "device": benchmark.device, "seed": benchmark.seed, **more,
        }  # fmt: skip
        text = json.dumps(made_of, sort_keys=True, default=str)
        return f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:20]}"

    def read(self, key: str) -> dict[str, Any] | None:
        """A finished cell; None where there is none, it failed, or its file can't be read (then it runs again)."""
        try:
            cell = from_json((self.folder / f"{key}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return cell if isinstance(cell, dict) and cell.get("status") == "done" else None

    def write(self, key: str, cell: Mapping[str, Any]) -> None:
        """Write a cell, done or failed."""
        make_folder(self.folder)
        write_json(self.folder / f"{key}.json", cell)

    def pictures(self, key: str) -> Path:
        """The folder of a cell's pictures; made where it isn't there."""
        folder = self.folder / key
        make_folder(folder)
        return folder


def write_json(path: Path, value: Any) -> None:
    """Write JSON as a whole or not at all; numbers that JSON doesn't have become null."""
    text = json.dumps(without_infinity(value), indent=2, ensure_ascii=False, allow_nan=False, default=str)
    with written_aside(path, durable=False) as file:
        file.write(f"{text}\n".encode())


def without_infinity(value: Any) -> Any:
    """JSON has no infinity (the PSNR of equal pictures): null stands for it."""
    if isinstance(value, Mapping):
        return {str(key): without_infinity(member) for key, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_infinity(member) for member in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def is_finite(value: Any) -> bool:
    """Whether there is a number that can be rated, drawn and written."""
    return value is not None and math.isfinite(value)


def number(value: float | None, style: str) -> str:
    """A number for people; – where there is none, or none that is finite."""
    return format(value, style) if is_finite(value) else NONE


def dataset_stamp(dataset: Any, options: Mapping[str, Any]) -> list[Any]:
    """Names, sizes and times of a test set's files: what tells that somebody made it anew.

    Args:
        dataset: opened with the views that a model takes; its scenes name their files, if it has scenes.
        options: of the test set; without scenes all files are taken that lie where ``dataroot*`` and ``meta_info*``
            point.
    """
    stamp: list[Any] = [len(dataset)]
    for scene in getattr(dataset, "scenes", None) or ():
        fields = scene if isinstance(scene, tuple) else getattr(scene, "__dict__", {}).values()
        stamp += [[str(path), *_file_facts(path)] for path in fields if isinstance(path, Path)]
    if len(stamp) > 1:
        return stamp
    for key, value in sorted(options.items()):
        if key.startswith(("dataroot", "meta_info")):
            for root in value if isinstance(value, (list, tuple)) else [value]:
                stamp.append([key, *facts_below(root)])
    return stamp


def _file_facts(path: Path) -> list[int]:
    # Pictures in an LMDB have no file of their own: X.lmdb/KEY.png.
    databases = (folder / "data.mdb" for folder in path.parents if folder.suffix == ".lmdb")
    for candidate in (path, *databases):
        if candidate.is_file():
            facts = candidate.stat()
            return [facts.st_size, facts.st_mtime_ns]
    return []


def facts_below(root: Any) -> list[Any]:
    """Of a file, or of all files in a folder, by their names in it."""
    if not isinstance(root, (str, Path)):
        return []
    root = Path(root).expanduser()
    # Reading an LMDB writes its lock.mdb.
    files = [path for path in sorted(root.rglob("*")) if path.is_file() and path.name != "lock.mdb"]
    return [["", *_file_facts(root)], *([path.relative_to(root).as_posix(), *_file_facts(path)] for path in files)]
