"""One visitor's picture: restored, its disparity, and the kernels predicted for it. Nothing of gradio here."""

from __future__ import annotations

import filecmp
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from ifan_plugin import zoo
from ifan_plugin.common.errors import UserError
from ifan_plugin.demo.pictures import as_rgb, blended
from ifan_plugin.images.transparency import filled, with_hidden
from ifan_plugin.inference.api import restore
from ifan_plugin.inference.memory import budget, is_out_of_memory
from ifan_plugin.inference.run import require_precision
from ifan_plugin.photos.read_write import Photo
from ifan_plugin.pictures.kernels import FilterInspector, no_filters
from ifan_plugin.weights.networks import Network

TOO_LITTLE_MEMORY = "There is too little memory to look at the filters of a picture of this size."

INSPECTED_BYTES = 13
"""What inspecting takes for each pixel and unit of the network's width: both encoders' features (200 bytes a pixel at
width 16, as measured)."""


class StoppedError(UserError):
    """The program ends while a picture is being restored."""


@dataclass
class Work:
    """A picture and what was made of it; a session has one.

    Args:
        name: of the picture, for the page and for the download.
        photo: as it was read.
        truth: the sharp picture, float RGB [H, W, 3] in [0, 1], where it is known.
        restored: shape and type of ``photo.pixels``.
        inspector: kernels and disparity; None where the network predicts no filters, or before it was restored.
        disparity: [H/8, W/8] in pixels at 1/8 size, or None.
        blur_size: whether `disparity` is rather the diameter of the blur, in pixels at full size.
        whole: the picture as it was read, where ``photo`` is reduced; else None.
        strength: how much of the restored picture is shown and given, 0 to 1; the rest is the original.
        remark: why there is nothing to inspect, where there could be.
    """

    name: str
    photo: Photo
    truth: np.ndarray | None = None
    restored: np.ndarray | None = None
    inspector: FilterInspector | None = None
    disparity: np.ndarray | None = None
    blur_size: bool = False
    remark: str = ""
    whole: Photo | None = None
    strength: float = 1.0

    @property
    def result(self) -> Photo:
        """The restored picture at :attr:`strength`, with all that the photo had beside its pixels."""
        assert self.restored is not None
        return replace(self.photo, pixels=blended(self.photo.pixels, self.restored, self.strength))

    def take_whole(self) -> None:
        """From now on the picture is as large as it was read."""
        if self.whole is not None:
            self.photo, self.whole = self.whole, None
            self.truth = self.restored = self.inspector = self.disparity = None


class Worker:
    """Restores pictures with one network.

    Args:
        network: takes one picture, the centre view.
        tile, precision: as in :func:`ifan_plugin.inference.run_network`.

    Raises:
        UserError: a network that needs left and right views.
    """

    def __init__(self, network: Network, tile: int | str | None = "auto", precision: str = "fp32") -> None:
        if tuple(network.views) != ("center",):
            raise UserError(
                f"{network.name} takes the views {', '.join(network.views)}, and the page has one picture; valid: a "
                "network of the centre view"
            )
        require_precision(precision, network.device)
        self.network, self.tile, self.precision = network, tile, precision
        self.no_filters = no_filters(network.net)
        self.stopping = threading.Event()
        self._busy = threading.Lock()

    @property
    def is_busy(self) -> bool:
        """Whether a picture is being restored."""
        return self._busy.locked()

    def restore(self, work: Work, progress: Callable[[float, str], None] | None = None) -> None:
        """Restore ``work``'s picture and prepare its inspection.

        Args:
            progress: called with a fraction in [0, 1] and what is being done.

        Raises:
            UserError: too little memory; StoppedError: the program ends.
        """
        with self._busy:
            self._restore(work, progress)

    def _restore(self, work: Work, progress: Callable[[float, str], None] | None) -> None:
        tell = progress or (lambda fraction, what: None)
        share = 0.9 if self.no_filters else 0.7

        def tiles(done: int, total: int) -> None:
            if self.stopping.is_set():
                raise StoppedError("the demo was stopped")
            tell(share * done / max(total, 1), "Restoring" if total == 1 else f"Restoring: tile {done} of {total}")

        tell(0.0, "Restoring")
        visible = filled(work.photo.pixels, work.photo.alpha)
        restored = restore(visible, self.network, tile=self.tile, precision=self.precision, progress=tiles)
        work.restored = with_hidden(restored, work.photo.pixels, work.photo.alpha)
        work.inspector, work.disparity, work.remark = None, None, ""
        if not self.no_filters:
            tell(share, "Predicting the filters")
            if self._is_too_large(work.photo):
                work.remark = TOO_LITTLE_MEMORY
                tell(1.0, "Done")
                return
            planes = torch.from_numpy(as_rgb(visible)).permute(2, 0, 1)[None].contiguous()
            try:
                work.inspector = FilterInspector(self.network.net, planes.to(self.network.device))
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                work.remark = TOO_LITTLE_MEMORY
            else:
                unit = self.network.blur_unit
                found = work.inspector.disparity
                work.disparity, work.blur_size = (found, False) if found is None or not unit else (found * unit, True)
        tell(1.0, "Done")

    def _is_too_large(self, photo: Photo) -> bool:
        """Whether the encoders, which look at the whole picture to inspect it, take more than there is. To be asked
        beforehand: a system that promises more memory than it has ends the program instead."""
        height, width = photo.size
        channels = getattr(self.network.net, "hyper_parameters", {}).get("width", 32)
        limit = budget(self.network.device)
        return limit is not None and height * width * channels * INSPECTED_BYTES > limit


def iterations(path: Path | None) -> int | None:
    """How long a checkpoint was trained, as far as BasicSR's naming of files or the package's own tells; None: unknown.

    ``net_g_latest.pth`` counts as the checkpoint beside it whose bytes are the same.
    """
    if path is None:
        return None
    for shipped in zoo.networks().values():
        if shipped.path == path:
            return int(shipped.metadata["iterations"])
    numbered = re.compile(r"net_g_(\d+)\.pth")
    found = numbered.fullmatch(path.name)
    if found:
        return int(found[1])
    beside = ((numbered.fullmatch(other.name), other) for other in path.parent.glob("net_g_*.pth"))
    known = {int(match[1]): other for match, other in beside if match}
    newest = max(known, default=None)
    if path.name != "net_g_latest.pth" or newest is None:
        return None
    return newest if filecmp.cmp(path, known[newest], shallow=False) else None
