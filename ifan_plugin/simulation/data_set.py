"""Write a set of simulated dual-pixel scenes to disk, in DPDD's layout.

For each split: ``{split}_c/source`` (blurred, both views added), ``{split}_c/target`` (sharp),
``{split}_l/source`` and ``{split}_r/source`` (the views), all 16-bit RGB PNG under the same name; on
request also ``{split}_coc``, the signed circle of confusion as 16-bit grey PNG, ``value = round(256 *
coc_px) + 32768``.
"""

from __future__ import annotations

import multiprocessing
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from ifan_plugin.common.errors import UserError
from ifan_plugin.common.files import make_folder, writing, written_aside
from ifan_plugin.common.locks import only_run
from ifan_plugin.images.image_io import write_image
from ifan_plugin.simulation.camera import Camera
from ifan_plugin.simulation.simulator import simulate_dual_pixel

SPLITS = ("train", "val", "test")
COC_SCALE, COC_OFFSET = 256, 32768  # stored value = COC_SCALE * pixels + COC_OFFSET
_STAGE_PREFIX, _LOCK = ".simulate-", ".simulate.lock"


class SceneContent(NamedTuple):
    """All that one simulation needs.

    sharp: H x W x 3 float, RGB, sRGB-coded, in [0, 1]. depth: H x W, metres. camera: the lens.
    how: keyword arguments of ``simulate_dual_pixel`` (optics, field, light, layer_step). noise_seed: of its noise.
    """

    sharp: np.ndarray
    depth: np.ndarray
    camera: Camera
    how: dict[str, Any]
    noise_seed: tuple[int, ...] = (0,)


class Scene(NamedTuple):
    """One scene to simulate: its split, its file stem, and what builds it.

    ``build`` runs in the worker process, so it must be picklable, and must give the same content whenever
    it is called.
    """

    split: str
    name: str
    build: Callable[[], SceneContent]


class SceneReport(NamedTuple):
    """What came out. psnr_db: the blurred centre view against the sharp picture, sRGB-coded, float; coc in px."""

    split: str
    name: str
    height: int
    width: int
    psnr_db: float
    coc_min: float
    coc_max: float


def write_set(
    scenes: Sequence[Scene],
    out: Path,
    *,
    workers: int = 1,
    overwrite: bool = False,
    save_coc: bool = False,
    progress: bool = False,
) -> list[SceneReport]:
    """Simulate ``scenes`` and write them under ``out``; returns one report a scene, in order.

    Everything is written to a hidden folder inside ``out`` first and moved into place once complete, so a
    run that fails or is stopped leaves ``out`` as it was; what a killed one left goes when the next begins.
    The files don't depend on ``workers``.

    Args:
        out: folder of the data set; made if missing.
        workers: processes; 1 runs in this one.
        overwrite: replace the splits that ``scenes`` has, whole; other splits stay.
        save_coc: write ``{split}_coc`` too.
        progress: show a progress bar on stderr.

    Raises:
        UserError: ``out`` is in the way, can't be written, or a scene can't be simulated.
    """
    if workers < 1:
        raise UserError(f"workers is {workers}; it must be at least 1")
    splits = {scene.split for scene in scenes}
    _refuse_if_occupied(out, splits, overwrite)
    made_here = not out.exists()
    make_folder(out)
    try:
        with only_run(out / _LOCK, f"{out}:"):
            for remains in out.glob(f"{_STAGE_PREFIX}*"):  # of a killed run: no other has the lock
                shutil.rmtree(remains, ignore_errors=True)
            return _write_aside(scenes, out, workers, save_coc, progress)
    finally:
        if made_here and not any(out.iterdir()):
            out.rmdir()


def _write_aside(scenes: Sequence[Scene], out: Path, workers: int, save_coc: bool, progress: bool) -> list[SceneReport]:
    splits = {scene.split for scene in scenes}
    with writing(out):
        stage = Path(tempfile.mkdtemp(prefix=_STAGE_PREFIX, dir=out))
    try:
        for split in splits:
            for folder in _folders(split, save_coc):
                make_folder(stage / folder)
        reports = _simulate_all(scenes, stage, workers, save_coc, progress)
        for top in sorted({folder.split("/")[0] for s in splits for folder in _folders(s, True)}):
            if (out / top).exists():
                (out / top).rename(stage / f"old_{top}")
            if (stage / top).exists():
                (stage / top).rename(out / top)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    return reports


def _folders(split: str, save_coc: bool) -> list[str]:
    folders = [f"{split}_c/source", f"{split}_c/target", f"{split}_l/source", f"{split}_r/source"]
    return [*folders, f"{split}_coc"] if save_coc else folders


def _refuse_if_occupied(out: Path, splits: set[str], overwrite: bool) -> None:
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file; --out must be a folder")
    if overwrite or not out.exists():
        return
    # Splits may be added one at a time, so those of other runs aren't in the way; a dead run's leftovers aren't either.
    others = {f"{split}_{kind}" for split in set(SPLITS) - splits for kind in ("c", "l", "r", "coc")}
    for entry in sorted(out.iterdir()):
        if entry.name not in others and entry.name != _LOCK and not entry.name.startswith(_STAGE_PREFIX):
            raise UserError(f"{out}: is not empty (has {entry.name}); give --out a new folder, or add --overwrite")


def _simulate_all(
    scenes: Sequence[Scene], stage: Path, workers: int, save_coc: bool, progress: bool
) -> list[SceneReport]:
    bar = tqdm(
        total=len(scenes), desc="simulate", unit="picture", mininterval=0.5, file=sys.stderr, disable=not progress
    )
    with bar:
        if workers == 1:
            reports = []
            for scene in scenes:
                reports.append(_simulate_one(scene, stage, save_coc))
                bar.update()
            return reports
        # Spawned, not forked: the caller may hold threads (PyTorch's, OpenCV's) that a fork would break.
        with ProcessPoolExecutor(
            workers, mp_context=multiprocessing.get_context("spawn"), initializer=cv2.setNumThreads, initargs=(1,)
        ) as pool:
            jobs = [pool.submit(_simulate_one, scene, stage, save_coc) for scene in scenes]
            try:
                for job in as_completed(jobs):
                    job.result()
                    bar.update()
            except BrokenProcessPool as error:
                raise UserError(
                    "a worker process was killed, perhaps for want of memory; nothing was written; "
                    f"try fewer --workers than {workers}"
                ) from error
            except BaseException:
                # Waited for: what is being written would stay behind in a folder that is taken away.
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        return [job.result() for job in jobs]


def _simulate_one(scene: Scene, stage: Path, save_coc: bool) -> SceneReport:
    content = scene.build()
    rng = np.random.default_rng(list(content.noise_seed))
    try:
        views = simulate_dual_pixel(content.sharp, content.depth, content.camera, **content.how, rng=rng)
    except UserError as error:
        raise UserError(f"{scene.name}: {error}") from None
    pictures = (views.center, content.sharp, views.left, views.right)
    for folder, picture in zip(_folders(scene.split, save_coc=False), pictures):
        write_image(stage / folder / f"{scene.name}.png", picture, bit_depth=16)
    if save_coc:
        done, encoded = cv2.imencode(".png", np.rint(views.coc * COC_SCALE + COC_OFFSET).astype(np.uint16))
        assert done
        with written_aside(stage / f"{scene.split}_coc" / f"{scene.name}.png", durable=False) as file:
            file.write(encoded.tobytes())
    squared = np.square(views.center - content.sharp, dtype=np.float64).mean()
    psnr_db = float(10 * np.log10(1 / max(squared, 1e-12)))
    height, width = views.coc.shape
    return SceneReport(scene.split, scene.name, height, width, psnr_db, float(views.coc.min()), float(views.coc.max()))
