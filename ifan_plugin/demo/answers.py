"""What the page answers, without its components: each gives the values of some of them, by name."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import gradio as gr
import numpy as np

from ifan_plugin.common.errors import UserError
from ifan_plugin.demo import figures
from ifan_plugin.demo.choice import Pool, loaded_lines
from ifan_plugin.demo.pictures import Limits, read_picture, reduced
from ifan_plugin.demo.samples import Samples
from ifan_plugin.demo.serve import SESSIONS
from ifan_plugin.demo.work import Work, Worker
from ifan_plugin.photos.read_write import Photo, write_photo

FIRST = "Upload a picture or choose a sample first."
HOW_TO = "Click a place in the picture, or give its coordinates, to see the kernel."
AS_UPLOADED = "as it came"
ENDINGS = {"jpeg": ".jpg", "png": ".png", "tiff": ".tif", "webp": ".webp"}
"""Kind of file -> the ending of the result's name."""


@dataclass(frozen=True)
class Setting:
    """What a page is built of.

    Args:
        pool: the networks to choose from.
        limits: of uploads.
        samples: pictures to try.
        folder: for files that the browser fetches; private, and deleted by whoever made it.
    """

    pool: Pool
    limits: Limits
    samples: Samples
    folder: Path


class Answers:
    """What is answered to each of a visitor's actions.

    Nothing raises :class:`UserError` here: what a visitor did wrong comes back as the text of ``status`` or ``kernel``.
    """

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self._folders: deque[Path] = deque()

    # --- pictures -------------------------------------------------------------------------------------------------

    def load_file(self, path: str | None) -> dict[str, Any]:
        """An upload was finished; ``path`` None: it was taken away."""
        if path is None:
            return self._cleared("")
        name = Path(path).name
        # The field is emptied, so that it takes the next one.
        return self._loaded(lambda: (name, read_picture(path, self.setting.limits), None)) | {"upload": None}

    def load_sample(self, index: int) -> dict[str, Any]:
        """A sample was chosen."""
        if index not in range(len(self.setting.samples.members)):  # no gallery of ours sends that
            return self._cleared(figures.note(f"There is no sample {index}.", "problem"))
        sample = self.setting.samples.members[index]
        return self._loaded(lambda: (sample.name, *sample.read(self.setting.limits))) | {"upload": None}

    def _loaded(self, read: Callable[[], tuple[str, Photo, np.ndarray | None]]) -> dict[str, Any]:
        try:
            name, photo, truth = read()
        except UserError as error:
            return self._cleared(figures.note(str(error), "problem"))
        small = reduced(photo, self.setting.limits.at_once)
        whole = None if small is photo else photo
        if whole is not None and truth is not None:
            truth = cv2.resize(truth, small.size[::-1], interpolation=cv2.INTER_AREA)
        work = Work(name, small, truth, whole=whole)
        said = [f"{name}: {_described(photo)}.", *photo.notes]
        return self._cleared("".join(figures.note(line) for line in said)) | {"work": work}

    def _cleared(self, status: str) -> dict[str, Any]:
        return {
            "work": None, "status": status, "compare": "", "output": gr.update(visible=False),
            "full": gr.update(visible=False), "download": gr.update(value=None, interactive=False),
            "disparity": figures.note(FIRST), "errors": "", "place": None, "places": gr.update(visible=False),
            "x": None, "y": None, "kernel": figures.note(FIRST),
        }  # fmt: skip

    # --- the network ----------------------------------------------------------------------------------------------

    def about(self, chosen: int) -> str:
        """Which network and weights are chosen."""
        try:
            network = self.setting.pool.worker(chosen).network
        except UserError as error:
            return figures.note(str(error), "problem")
        return "".join(figures.note(line) for line in loaded_lines(network, folder=False))

    def restore(
        self,
        work: Work | None,
        channel: int,
        progress: Callable[[float, str], None],
        chosen: int = 0,
        strength: float = 100,
        kind: str = AS_UPLOADED,
    ) -> dict[str, Any]:
        """Restore the picture; ``strength`` in percent, ``kind`` a key of :data:`ENDINGS` or :data:`AS_UPLOADED`."""
        if work is None:
            return {"status": figures.note(FIRST, "problem")}
        started = time.perf_counter()
        work.strength = strength / 100
        try:
            worker = self.setting.pool.worker(chosen)
            worker.restore(work, progress)
            given = self._given(work, kind)
        except UserError as error:
            return self._cleared(figures.note(str(error), "problem")) | {"work": work}
        seconds = time.perf_counter() - started
        name = self.setting.pool.choices[chosen].name
        said = f"{work.name}: restored in {seconds:.1f} s by {name} on {worker.network.device}."
        more = ""
        if work.whole is not None:
            more = (
                f"Its {_described(work.whole)} were reduced to {_size(work.photo)} for that; below the picture it can "
                "be restored at its own size."
            )
        height, width = work.photo.size
        full = {} if work.whole is None else {"value": f"Restore all {_megapixels(work.whole)}, by tiles"}
        return given | {
            "work": work, "status": figures.note(said) + figures.note(more) + given["status"],
            "output": gr.update(visible=True),
            "full": gr.update(visible=work.whole is not None, interactive=True, **full),
            "disparity": figures.disparity_html(work), "errors": figures.error_html(work),
            "about": self.about(chosen),
        } | self._inspected(worker, work, width // 2, height // 2, channel)  # fmt: skip

    def restore_whole(
        self, work: Work | None, channel: int, progress: Callable[[float, str], None], *more: Any
    ) -> dict[str, Any]:
        """The same at the picture's own size, where it was reduced."""
        if work is not None:
            work.take_whole()
        return self.restore(work, channel, progress, *more)

    def give(self, work: Work | None, strength: float, kind: str) -> dict[str, Any]:
        """Another strength, or another kind of file: nothing is computed again."""
        if work is None or work.restored is None:
            return {"status": figures.note(FIRST, "problem")}
        work.strength = strength / 100
        try:
            given = self._given(work, kind)
        except UserError as error:
            return {"status": figures.note(str(error), "problem"), "download": gr.update(interactive=False)}
        said = f"{work.name}: restored, at {strength:g} % strength."
        return given | {"work": work, "status": figures.note(said) + given["status"]}

    def _given(self, work: Work, kind: str) -> dict[str, Any]:
        """Before and after on the screen, and the result as a file. ``status``: what the file can't hold."""
        try:
            folder = Path(tempfile.mkdtemp(dir=self.setting.folder))
        except OSError as error:
            raise UserError(f"the result can't be written: {error.strerror}") from error
        self._folders.append(folder)
        if len(self._folders) > SESSIONS:  # the browser has fetched those of long ago
            shutil.rmtree(self._folders.popleft(), ignore_errors=True)
        format = work.photo.format if kind == AS_UPLOADED else kind
        format = format if format in ENDINGS else "png"
        path = folder / f"{Path(work.name).stem}_deblurred{ENDINGS[format]}"
        try:
            notes = write_photo(path, work.result, format)
        except UserError as error:  # the folder it lies in is nobody's business
            raise UserError(str(error).replace(str(path), path.name)) from error
        return {
            "compare": figures.compare_html(work), "download": gr.update(value=str(path), interactive=True),
            "status": "".join(figures.note(f"{path.name}: {line}") for line in notes),
        }  # fmt: skip

    # --- kernels --------------------------------------------------------------------------------------------------

    def inspect(
        self, work: Work | None, x: float | None, y: float | None, channel: int, chosen: int = 0
    ) -> dict[str, Any]:
        """A place was clicked or given, in pixels of the picture; ``channel`` -1 is the mean of all."""
        try:
            worker = self.setting.pool.worker(chosen)
        except UserError as error:
            return {"kernel": figures.note(str(error), "problem")}
        return self._inspected(worker, work, x, y, channel)

    def _inspected(
        self, worker: Worker, work: Work | None, x: float | None, y: float | None, channel: int
    ) -> dict[str, Any]:
        if worker.no_filters:
            return {"kernel": figures.note(worker.no_filters), "places": gr.update(visible=False)}
        if work is None or work.inspector is None:
            return {"kernel": figures.note(work.remark if work and work.remark else FIRST)}
        height, width = work.photo.size
        for name, value, size in (("x", x, width), ("y", y, height)):
            if value is None or not 0 <= value < size:
                what = "nothing" if value is None else f"{value:g}"
                return {"kernel": figures.note(f"{name} must be 0 to {size - 1}, not {what}", "problem")}
        assert x is not None
        assert y is not None
        channel = channel if channel < work.inspector.channels else -1  # of another network
        kernel = work.inspector.kernel(*work.inspector.place(x, y), None if channel < 0 else channel)
        return {
            "x": int(x), "y": int(y), "kernel": figures.kernel_html(work, work.inspector, kernel),
            "place": figures.preview(work, kernel), "places": gr.update(visible=True),
        }  # fmt: skip

    def click(self, work: Work | None, index: Sequence[float], channel: int, chosen: int = 0) -> dict[str, Any]:
        """A pixel (column, row) of the shown picture was clicked."""
        if work is None:
            return self.inspect(work, None, None, channel, chosen)
        height, width = work.photo.size
        shown = figures.preview(work)
        x = min(int((index[0] + 0.5) * width / shown.shape[1]), width - 1)
        y = min(int((index[1] + 0.5) * height / shown.shape[0]), height - 1)
        return self.inspect(work, x, y, channel, chosen)


def _size(photo: Photo) -> str:
    height, width = photo.size
    return f"{width} x {height} pixels"


def _megapixels(photo: Photo) -> str:
    return f"{photo.size[0] * photo.size[1] / 1e6:.1f} megapixels"


def _described(photo: Photo) -> str:
    return f"{_size(photo)}, {photo.bit_depth} bit{', grey' if photo.grey else ''}"
