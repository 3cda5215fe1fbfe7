"""Contact sheets of what a network is given: samples of a data set after augmentation, pictures of an LMDB."""

from __future__ import annotations

import copy
import itertools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from ifan_plugin.common.errors import UserError
from ifan_plugin.common.words import counted
from ifan_plugin.data.device_patches import finish_one
from ifan_plugin.data.layouts import VIEWS
from ifan_plugin.data.lmdb.read import LmdbPictures
from ifan_plugin.data.sampler import ResumableSampler, SeededDataset
from ifan_plugin.host import option_check
from ifan_plugin.images.color import to_8bit
from ifan_plugin.images.image_io import to_float, write_image
from ifan_plugin.options.basicsr import TOP_KEYS
from ifan_plugin.options.schema import Option, check_value, nearest
from ifan_plugin.pictures.visual import colour_disparity, contact_sheet

CELL = 320  # px: pictures up to this size are shown pixel by pixel, small ones enlarged by whole factors
MIN_CELL = 240  # px: room for a caption
ROLES = (*VIEWS, "target")
_DIFFERENCE_PERCENTILE = 99.5  # of the left/right difference's magnitude gets the fullest colour


class Shown(NamedTuple):
    """What :func:`show_dataset` made: the sheet's file, and lines that say what is on it."""

    path: Path
    lines: list[str]


class Opened(NamedTuple):
    """A data set as a run would open it.

    key: its key below ``datasets``. description: its options, filled in. scenes: its length. dataset: what gives the
    samples, by the ``indices`` that are to be shown.
    """

    key: str
    description: dict[str, Any]
    scenes: int
    dataset: Any
    indices: list[int]


def open_dataset(
    options: dict[str, Any], where: str, phase: str | None = None, count: int = 8, seed: int | None = None
) -> Opened:
    """Build one data set of an option file as ``basicsr train`` (or ``test``) does, and choose samples of it.

    Of a training set these are the samples that the first epoch begins with on one device, with the same draws; of
    others samples from all over the set. Arguments and errors as in :func:`show_dataset`.
    """
    from basicsr.data import build_dataset

    if count < 1:
        raise UserError(f"--count {count}: must be at least 1")
    if seed is not None and seed < 0:
        raise UserError(f"--seed {seed}: must be at least 0")
    key, own = _choose(options, where, phase)
    description = _checked(options, where, key, own, seed)
    dataset = build_dataset(description)
    scenes = len(dataset)
    if scenes == 0:
        raise UserError(f"{where}: datasets: {key}: has no samples")
    if description["phase"] != "train":
        return Opened(key, description, scenes, dataset, _evenly(scenes, count))
    run_seed = _run_seed(options, seed)
    sampler = ResumableSampler(dataset, 1, 0, description["dataset_enlarge_ratio"], run_seed)
    sampler.set_epoch(0)
    if not getattr(dataset, "draws_by_position", False):
        dataset = SeededDataset(dataset, run_seed)
    return Opened(key, description, scenes, dataset, list(itertools.islice(sampler, count)))


def show_dataset(
    options: dict[str, Any],
    where: str,
    out: Path | None = None,
    phase: str | None = None,
    count: int = 8,
    seed: int | None = None,
    *,
    overwrite: bool = False,
) -> Shown:
    """A sheet of samples of one data set of an option file, built, drawn and augmented as ``basicsr train`` would.

    A row a sample: the views that ``lq`` is stacked of, the target, the views that only losses see, and left minus
    right where there are both.

    Args:
        options: the option file's content. Plug-ins it names must be loaded.
        where: the file's name, for messages and for ``out``'s default.
        out: the PNG to write; None: the file's and the data set's names, in the working directory.
        phase: key below ``datasets`` (train, val, val_1, …) or a data set's name; None: train, else the first.
        count: how many samples; fewer where there are fewer.
        seed: instead of the file's ``manual_seed`` (and the data set's ``seed``).
        overwrite: an existing file may be replaced.

    Raises:
        UserError: wrong options or data, an existing file, or samples without pictures.
    """
    if out is None:
        own = _choose(options, where, phase)[1]
        out = Path(f"{Path(where).stem}_{own.get('name', 'unnamed')}.png")
    _refuse_existing(out, overwrite)
    opened = open_dataset(options, where, phase, count, seed)
    phase = opened.description["phase"]
    rows, titles = [], []
    shapes: dict[str, Any] = {}
    for index in opened.indices:
        sample = finish_one(opened.dataset[index])
        rows.append(sample_row(sample, list(opened.description.get("views") or [])))
        if not rows[-1]:
            held = ", ".join(map(str, sample))
            raise UserError(f"{where}: datasets: {opened.key}: its samples hold no pictures; they hold: {held}")
        titles.append(_title(sample, index, phase))
        shapes |= {n: tuple(value.shape) for n, value in sample.items() if isinstance(value, torch.Tensor)}
    write_sheet(out, rows, titles)
    which = "what the first epoch begins with" if phase == "train" else "from all over the set"
    sizes = ", ".join(f"{name} {_sized(shape)}" for name, shape in shapes.items())
    description = opened.description
    name = f"{description['name']} ({opened.key}, {description['type']})"
    said = f"{name}: {counted(len(rows), 'sample')} of {counted(opened.scenes, 'scene')}, {which}"
    return Shown(out, [said, f"a sample: {sizes}", *_pairs(opened.dataset)])


def show_lmdb(
    path: Path | str, out: Path | str | None = None, count: int = 8, seed: int = 0, *, overwrite: bool = False
) -> Path:
    """A sheet of pictures evenly picked from an LMDB, as they are stored.

    Args:
        path: ``X.lmdb``, or a folder with ``center.lmdb``, ``left.lmdb``, ``right.lmdb``, ``target.lmdb`` or some of
            them: then a row shows one scene's pictures side by side, and left minus right where there are both.
        out: the PNG to write; None: the database's (or folder's) name, in the working directory.
        count: how many pictures (or scenes); fewer where there are fewer.
        seed: shifts what is picked.
        overwrite: an existing file may be replaced.

    Returns:
        The file written.

    Raises:
        UserError: no LMDB there, a damaged one, roles of unequal keys, or an existing file.
    """
    if count < 1:
        raise UserError(f"--count {count}: must be at least 1")
    if seed < 0:
        raise UserError(f"--seed {seed}: must be at least 0")
    path = Path(path).expanduser()
    found = {role: path / f"{role}.lmdb" for role in ROLES if (path / f"{role}.lmdb").is_dir()}
    if not found and path.suffix != ".lmdb" and path.is_dir():
        inside = sorted(str(p.parent.relative_to(path)) for p in path.glob("*/*.lmdb"))
        hint = f"try {path / inside[0]}" if inside else "valid: X.lmdb, or a folder with center.lmdb, left.lmdb, …"
        raise UserError(f"{path}: has no center.lmdb, left.lmdb, right.lmdb or target.lmdb; {hint}")
    databases = {role: LmdbPictures(folder) for role, folder in (found or {path.stem: path}).items()}
    out = Path(f"{path.resolve().name.removesuffix('.lmdb')}_lmdb.png") if out is None else Path(out)
    _refuse_existing(out, overwrite)
    first = next(iter(databases.values()))
    keys = [first.entries[i].key for i in _evenly(len(first.entries), count, seed)]
    rows, titles = [], []
    for key in keys:
        pixels = {role: pictures.read(key) for role, pictures in databases.items()}
        row = _Row()
        for role, stored in pixels.items():
            info = databases[role].info
            facts = f"{_size(stored)}, {info.bit_depth} bit {info.encoding}, {stored.min()} to {stored.max()}"
            row.add(role, to_float(stored), facts)
        rows.append(row.finished())
        titles.append(key)
    write_sheet(out, rows, titles)
    return out


def sample_row(sample: Mapping[str, Any], views: list[str]) -> list[tuple[str, np.ndarray]]:
    """One sample's pictures with their captions.

    Args:
        sample: what a data set gives: float tensors [C, H, W] (or [T, C, H, W], frames), and anything else, which is
            passed over.
        views: what ``lq`` is stacked of; empty: its channels are shown by threes.

    Returns:
        (caption, uint8 [H, W, 3]) pairs, ``lq`` first, then ``gt``, then the others; left minus right at the end.
    """
    row = _Row()
    order = [name for name in ("lq", "gt", "left", "right") if name in sample]
    for name in (*order, *(name for name in sample if name not in order)):
        value = sample[name]
        if not isinstance(value, torch.Tensor) or value.dim() not in (3, 4) or not value.is_floating_point():
            continue
        frames = value if value.dim() == 4 else value[None]
        for number, frame in enumerate(frames):
            frame_name = name if len(frames) == 1 else f"{name} frame {number + 1}"
            for part, picture in _parts(frame_name, frame.numpy(), views if name == "lq" else []):
                row.add(part, picture, f"{_size(picture)}, {_range(picture)}")
    return row.finished()


def write_sheet(out: Path, rows: list[list[tuple[str, np.ndarray]]], titles: list[str]) -> None:
    """Write a contact sheet as PNG. Raises :class:`UserError` where that can't be done."""
    largest = max(max(picture.shape[:2]) for row in rows for _, picture in row)
    cell = max(MIN_CELL, largest * (CELL // largest)) if largest <= CELL else CELL
    write_image(out, contact_sheet(rows, cell, titles=titles, pixels=True) / 255.0, 8)


class _Row:
    """Collects a row's cells, and the side views for their difference."""

    def __init__(self) -> None:
        self._cells: list[tuple[str, np.ndarray]] = []
        self._sides: dict[str, np.ndarray] = {}

    def add(self, role: str, picture: np.ndarray, facts: str) -> None:
        """``picture``: float [H, W, 3]; ``role``: its name, perhaps with "lq: " before it."""
        self._cells.append((f"{role}\n{facts}", to_8bit(np.nan_to_num(picture))))
        side = role.removeprefix("lq: ")
        if side in ("left", "right"):
            self._sides[side] = picture

    def finished(self) -> list[tuple[str, np.ndarray]]:
        sides = self._sides
        if len(sides) < 2 or sides["left"].shape != sides["right"].shape:
            return self._cells
        difference = (sides["left"] - sides["right"]).mean(axis=2)
        limit = float(np.percentile(np.abs(np.nan_to_num(difference)), _DIFFERENCE_PERCENTILE))
        scale = f"blue {-limit:.3f}, white 0, red +{limit:.3f}" if limit else "white: no difference"
        return [*self._cells, (f"left - right\n{scale}", colour_disparity(difference, limit or 1.0))]


def _parts(name: str, planes: np.ndarray, views: list[str]) -> list[tuple[str, np.ndarray]]:
    """[C, H, W] as named pictures [H, W, 3]: one a view, else channels by threes, or a single one as grey."""
    channels = len(planes)
    if views and channels == 3 * len(views):
        names = [f"{name}: {view}" for view in views]
    elif channels % 3 == 0:
        names = [name] if channels == 3 else [f"{name}: channels {i} to {i + 2}" for i in range(0, channels, 3)]
    else:
        names = [name if channels == 1 else f"{name}: channel {i}" for i in range(channels)]
        planes = np.repeat(planes, 3, axis=0)
    return [(part, planes[3 * i : 3 * i + 3].transpose(1, 2, 0)) for i, part in enumerate(names)]


def _size(picture: np.ndarray) -> str:
    return f"{picture.shape[1]}x{picture.shape[0]}"


def _range(picture: np.ndarray) -> str:
    finite = picture[np.isfinite(picture)]
    if finite.size < picture.size:
        return f"{picture.size - finite.size} values aren't finite"
    return f"{finite.min():.3f} to {finite.max():.3f}"


def _pairs(dataset: Any) -> list[str]:
    """By which rule a data set's pictures were paired, and all pairs: nobody else sees wrong ones."""
    dataset = getattr(dataset, "dataset", dataset)  # behind a SeededDataset
    rule, scenes = getattr(dataset, "pairing", ""), getattr(dataset, "scenes", [])
    if not rule:
        return []
    lines = [f"{counted(len(scenes), 'pair')}, {rule}:"]
    for key, *files in scenes:
        lines.append(f"  {key}: {', '.join(os.path.join(*path.parts[-3:]) for path in files if path is not None)}")
    return lines


def _title(sample: Mapping[str, Any], index: int, phase: str) -> str:
    path = sample.get("lq_path") or sample.get("gt_path") or ""
    key = sample.get("key") or Path(path).stem
    place = f"scene {int(index)}"
    if phase == "train":
        place += f", epoch {getattr(index, 'epoch', 0)}, position {getattr(index, 'position', int(index))}"
    return f"{key}   ({place})"


def _choose(options: Mapping[str, Any], where: str, phase: str | None) -> tuple[str, dict[str, Any]]:
    """The data set asked for: its key, and its options as the file has them."""
    datasets = options.get("datasets")
    if not isinstance(datasets, dict) or not datasets:
        raise UserError(f"{where}: 'datasets' is missing: the section with train, val or test")
    if phase is None:
        phase = "train" if "train" in datasets else next(iter(datasets))
    names = {d["name"]: key for key, d in datasets.items() if isinstance(d, dict) and isinstance(d.get("name"), str)}
    key = phase if phase in datasets else names.get(phase)
    if key is None:
        raise UserError(f"--phase {phase}: {where} has no such data set; {nearest(phase, [*datasets, *names])}")
    check_value(datasets[key], Option(dict), f"{where}: datasets: {key}")
    return key, datasets[key]


def _run_seed(options: Mapping[str, Any], seed: int | None) -> int:
    return seed if seed is not None else options.get("manual_seed") or 0


def _checked(
    options: Mapping[str, Any], where: str, key: str, dataset: Mapping[str, Any], seed: int | None
) -> dict[str, Any]:
    """The data set's options, checked and filled in as for a run; the rest of the file needn't be valid."""
    run_seed = _run_seed(options, seed)
    check_value(run_seed, TOP_KEYS["manual_seed"], f"{where}: manual_seed")
    scale = options.get("scale", 1)
    check_value(scale, Option(int, minimum=1), f"{where}: scale")
    alone = {"datasets": {key: copy.deepcopy(dataset)}, "scale": scale, "manual_seed": run_seed}
    if seed is not None and "seed" in dataset:
        alone["datasets"][key]["seed"] = seed
    option_check.check_datasets(alone, where, is_train=str(key).split("_")[0] == "train")
    return alone["datasets"][key]


def _evenly(length: int, count: int, seed: int | None = None) -> list[int]:
    """``count`` places all over ``length``, in order: from the first on, or begun where ``seed`` says."""
    count = min(count, length)
    start = 0.0 if seed is None else np.random.default_rng(seed).random()
    return [int((i + start) * length / count) for i in range(count)]


def _refuse_existing(out: Path, overwrite: bool) -> None:
    if out.suffix.lower() != ".png":
        raise UserError(f"--out {out}: sheets are written as PNG; give a name that ends in .png")
    if out.is_dir():
        raise UserError(f"--out {out}: is a folder; give a file's name that ends in .png")
    if out.exists() and not overwrite:
        raise UserError(f"--out {out}: is there already; give another name, or add --overwrite")


def _sized(shape: tuple[int, ...]) -> str:
    """A tensor's shape in words: [C, H, W] as pictures are told, others as they are."""
    if len(shape) != 3:
        return str(list(shape))
    return f"{shape[2]}x{shape[1]} ({counted(shape[0], 'channel')})"
