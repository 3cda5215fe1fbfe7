"""Folders of sharp pictures and of their depth, as scenes for the dual-pixel simulator."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ifan_plugin.common.errors import UserError
from ifan_plugin.common.words import counted
from ifan_plugin.images.image_io import PICTURE_SUFFIXES, image_size, read_image
from ifan_plugin.images.pairing import Folder, pair, partners
from ifan_plugin.images.reader import decode
from ifan_plugin.simulation.abuolaim import AbuolaimOptics
from ifan_plugin.simulation.camera import Camera
from ifan_plugin.simulation.data_set import SPLITS, Scene, SceneContent
from ifan_plugin.simulation.depth import invent_depth
from ifan_plugin.simulation.depth_values import depth_from_disparity, fill_depth_holes
from ifan_plugin.simulation.optics import Optics
from ifan_plugin.simulation.presets import OPTICS_NAMES, PRESETS, draw_optics
from ifan_plugin.simulation.sensor import IDEAL, LightAndSensor

_OPTICS_STREAM, _DEPTH_STREAM, _NOISE_STREAM = 2, 4, 5  # tell one part's random numbers from another's
DEPTH_SUFFIXES = frozenset({".npy", ".npz", ".png", ".pfm"})
FULL_FRAME_WIDTH_MM = 36.0


@dataclass(frozen=True)
class FolderOptions:
    """How to read depth, and the camera that looks at it.

    Args:
        depth_kind: ``depth``, ``disparity``, or ``invented`` where there is none.
        depth_scale: times the stored value gives metres (depth) or pixels (disparity).
        focal_px, baseline_m, doffs_px: the stereo pair's focal length and x-difference of principal points,
            in pixels of the picture, and its baseline in metres. Disparity only.
        focal_length_mm, f_number: the simulated lens.
        focus_distance_m: its focus; None draws one for each picture, uniform in inverse depth between the
            5th and the 95th percentile of what the picture holds.
        pixel_pitch_um: None takes what a full-frame sensor (36 mm wide) has at the picture's width; with a
            disparity, what ``focal_px`` implies.
        optics: the form of the blur: a preset, ``random`` or ``abuolaim`` (:mod:`ifan_plugin.simulation.presets`).
        light: what happens to the light before and after the lens.
        seed: of the drawn focus distances, optics, invented depth and noise.

    Raises:
        UserError: an invalid value.
    """

    depth_kind: str = "depth"
    depth_scale: float = 1.0
    focal_px: float | None = None
    baseline_m: float | None = None
    doffs_px: float = 0.0
    focal_length_mm: float = 50.0
    f_number: float = 4.0
    focus_distance_m: float | None = None
    pixel_pitch_um: float | None = None
    optics: str = "thin_lens"
    light: LightAndSensor = IDEAL
    seed: int = 0

    def __post_init__(self) -> None:
        if self.depth_kind not in ("depth", "disparity", "invented"):
            raise UserError(f"depth kind is {self.depth_kind}; it must be depth, disparity or invented")
        if self.optics not in OPTICS_NAMES:
            raise UserError(f"optics are {self.optics}; they must be one of {', '.join(OPTICS_NAMES)}")
        if not self.depth_scale > 0:
            raise UserError(f"depth scale is {self.depth_scale:g}; it must be positive")
        if self.depth_kind == "disparity" and (self.focal_px is None or self.baseline_m is None):
            raise UserError("disparity needs the stereo pair's --focal-px and --baseline-m")
        if self.seed < 0:
            raise UserError(f"seed is {self.seed}; it must be 0 or more")
        # Bad lenses are told before anything is read; 1 Gm and 1 um stand for what isn't known yet.
        Camera(self.focal_length_mm, self.f_number, self.focus_distance_m or 1e9, self.pixel_pitch_um or 1.0)
        if self.focus_distance_m == 0 or self.pixel_pitch_um == 0:
            raise UserError("focus distance and pixel pitch must be positive")


def folder_scenes(
    sharp: Path, depth: Path | None, split: str, options: FolderOptions, pairing: str = "auto"
) -> tuple[list[Scene], str]:
    """Pair the pictures in ``sharp`` with the depth files in ``depth``; one scene a picture, and the rule of pairing.

    Args:
        pairing: as for :func:`paired_files`.

    Raises:
        UserError: a folder is missing or has no pictures, a picture has no depth or two, ``split`` is
            unknown.
    """
    if split not in SPLITS:
        raise UserError(f"split is {split}; it must be one of {', '.join(SPLITS)}")
    pairs, rule = paired_files(sharp, depth, pairing=pairing, ask="--pairing order")
    scenes = [Scene(split, path.stem, partial(_read_scene, path, depth_path, options)) for path, depth_path in pairs]
    return scenes, rule


def paired_files(
    sharp: Path,
    depth: Path | None,
    names: tuple[str, str] = ("--sharp", "--depth"),
    pairing: str = "auto",
    ask: str = "pairing: order",
) -> tuple[list[tuple[Path, Path | None]], str]:
    """The pictures in ``sharp`` in sorted order, each with its depth file in ``depth``, and the rule of pairing.

    There may be more depth files than pictures, where their names are the pictures'. ``depth`` None: none have any,
    and there is no rule.

    Args:
        names: what messages call the two folders.
        pairing, ask: as for :func:`ifan_plugin.images.pairing.pair`.

    Raises:
        UserError: a folder is missing or has no such files, a picture has no depth, two of one stem, or pairs that
            can't be told.
    """
    pictures = _files_by_stem(sharp, PICTURE_SUFFIXES, names[0], "pictures")
    if depth is None:
        return [(path, None) for path in pictures.values()], ""
    depths = _files_by_stem(depth, DEPTH_SUFFIXES, names[1], "depth files")
    sides = [Folder(sharp, [p.name for p in pictures.values()]), Folder(depth, [p.name for p in depths.values()])]
    if len(pictures) == len(depths) or pairing == "order":
        found = pair(sides, pairing, ask=ask)
        return [(sharp / one, depth / two) for one, two in found.rows], found.rule
    by_name = partners(list(pictures), sides[1])
    for stem, path in pictures.items():
        if stem not in by_name:
            raise UserError(f"{path}: no depth of that name in {depth}; add {stem}.npy, .npz, .png or .pfm there")
    return [(path, depth / by_name[stem]) for stem, path in pictures.items()], "by names"


def _files_by_stem(folder: Path, suffixes: frozenset[str], flag: str, what: str) -> dict[str, Path]:
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give {flag} a folder of {what}")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in suffixes or path.name.startswith("."):
            continue
        if path.stem in found:
            raise UserError(f"{path}: {found[path.stem].name} has the same stem; keep one of them")
        found[path.stem] = path
    if not found:
        raise UserError(f"{folder}: no {what} ({', '.join(sorted(suffixes))}); check {flag}")
    return found


def read_sharp_and_depth(
    picture_path: Path, depth_path: Path | None, options: FolderOptions
) -> tuple[np.ndarray, np.ndarray | None, float]:
    """A picture, its depth in metres without holes, and its pixel pitch in micrometres.

    Returns:
        float32 H x W x 3 in [0, 1], H x W (None without a file), and the pitch: as asked for, or what
        :class:`FolderOptions` takes.

    Raises:
        UserError: a file can't be read or used, or their sizes differ.
    """
    sharp = read_image(picture_path, bit_depth=None)
    if depth_path is None:
        return sharp, None, options.pixel_pitch_um or FULL_FRAME_WIDTH_MM / sharp.shape[1] * 1000
    stored = read_depth(depth_path) * options.depth_scale
    if stored.shape != sharp.shape[:2]:
        raise UserError(
            f"{depth_path}: is {stored.shape[1]}x{stored.shape[0]}, but {picture_path.name} is "
            f"{sharp.shape[1]}x{sharp.shape[0]}; sizes must be equal"
        )
    pitch = options.pixel_pitch_um
    try:
        if options.depth_kind == "disparity":
            assert options.focal_px is not None  # as is checked with the options
            assert options.baseline_m is not None
            depth = depth_from_disparity(stored, options.focal_px, options.baseline_m, options.doffs_px)
            pitch = pitch or options.focal_length_mm / options.focal_px * 1000
        else:
            depth = stored
            pitch = pitch or FULL_FRAME_WIDTH_MM / sharp.shape[1] * 1000
        return sharp, fill_depth_holes(depth), pitch
    except UserError as error:
        raise UserError(f"{depth_path}: {error}") from None


def _read_scene(picture_path: Path, depth_path: Path | None, options: FolderOptions) -> SceneContent:
    sharp, depth, pitch = read_sharp_and_depth(picture_path, depth_path, options)
    # Seeded by name, so that a picture's camera doesn't change when others join the folder.
    key = (options.seed, zlib.crc32(picture_path.stem.encode()))
    if depth is None:
        sharp, depth = invent_depth(sharp, np.random.default_rng([*key, _DEPTH_STREAM]))
    focus = options.focus_distance_m
    if focus is None:
        focus = float(1 / np.random.default_rng(key).uniform(*np.percentile(1 / depth, [5, 95])))
    try:
        camera = Camera(options.focal_length_mm, options.f_number, focus, pitch)
    except UserError as error:
        raise UserError(f"{depth_path or picture_path}: {error}") from None
    if options.optics == "random":
        optics: Optics | AbuolaimOptics = draw_optics(np.random.default_rng([*key, _OPTICS_STREAM]))
    else:
        optics = AbuolaimOptics() if options.optics == "abuolaim" else PRESETS[options.optics]
    return SceneContent(sharp, depth, camera, {"optics": optics, "light": options.light}, (*key, _NOISE_STREAM))


def read_depth(path: Path) -> np.ndarray:
    """Depth or disparity as stored, H x W float64; unknown is NaN or inf.

    Reads ``.npy``, ``.npz`` (one array), 16-bit grey PNG and grey ``.pfm``. Where whole numbers are stored
    0 means unknown, since they have no NaN.

    Raises:
        UserError: the file can't be read or isn't one H x W array of such numbers.
    """
    suffix = path.suffix.lower()
    array: np.ndarray | None
    try:
        if suffix in (".npy", ".npz"):
            array = _read_numpy(path)
        elif suffix == ".pfm":
            array = _read_pfm(path)
        else:
            array = _read_png(path)
    except OSError as error:
        raise UserError(f"{path}: can't be read: {error.strerror or error}") from None
    except (ValueError, EOFError, zlib.error, zipfile.BadZipFile):
        array = None
    if array is None:
        raise UserError(f"{path}: not a readable {suffix} file; valid: .npy, .npz, 16-bit grey .png, grey .pfm")
    if suffix == ".png" and array.dtype != np.uint16:
        raise UserError(f"{path}: is an 8-bit PNG, too coarse for depth; valid: a 16-bit grey PNG")
    if array.ndim != 2 or array.size == 0 or array.dtype.kind not in "fiu":
        raise UserError(f"{path}: holds {array.dtype} {list(array.shape)}; valid: one H x W array of real numbers")
    values = array.astype(np.float64)
    if array.dtype.kind in "iu":
        values[array == 0] = np.nan
    return values


def depth_size(path: Path) -> tuple[int, int] | None:
    """(height, width) of a depth file as its header says; None where only reading the whole would tell.

    Raises:
        UserError: the file can't be read, or holds no H x W array.
    """
    suffix = path.suffix.lower()
    if suffix == ".png":
        return image_size(path)
    if suffix != ".npy":
        return None
    try:
        shape = np.load(path, mmap_mode="r", allow_pickle=False).shape
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: not a readable .npy file; valid: one H x W array of real numbers") from error
    if len(shape) != 2:
        raise UserError(f"{path}: holds an array {list(shape)}; valid: one H x W array of real numbers")
    return shape


def _read_png(path: Path) -> np.ndarray | None:
    data = path.read_bytes()
    try:
        return decode(data, str(path)).samples()
    except UserError:  # what kinds of photographs there are is beside the point here
        return None


def _read_numpy(path: Path) -> np.ndarray:
    loaded = np.load(path, allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        return loaded
    with loaded:
        if len(loaded.files) != 1:
            raise UserError(f"{path}: holds {counted(len(loaded.files), 'array')}; it must hold one")
        return loaded[loaded.files[0]]


def _read_pfm(path: Path) -> np.ndarray:
    with path.open("rb") as file:
        if file.readline().strip() != b"Pf":
            raise UserError(f"{path}: not a grey PFM (it must begin with Pf)")
        width, height = (int(number) for number in file.readline().split())
        order = "<" if float(file.readline()) < 0 else ">"
        values = np.frombuffer(file.read(), f"{order}f4")
    return values.reshape(height, width)[::-1]  # rows are stored from the bottom up
