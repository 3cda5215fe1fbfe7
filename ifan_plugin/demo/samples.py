"""Pictures to try: a folder's, the quickstart's test scenes, or scikit-image's, blurred here."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np

from ifan_plugin.common.errors import UserError
from ifan_plugin.demo.pictures import SUFFIXES, Limits, as_rgb, as_rgb8, read_picture
from ifan_plugin.images.color import linear_from_srgb, srgb_from_linear
from ifan_plugin.photos.read_write import Photo

QUICKSTART = Path("datasets/quickstart")
BUNDLED = ("astronaut.png", "coffee.png", "chelsea.png", "rocket.jpg")
BLUR_RADIUS = 3  # px, of the disc that scikit-image's sharp pictures are blurred with
MOST = 12
THUMBNAIL = 240  # px, longer side

logger = logging.getLogger("ifan_plugin")


@dataclass(frozen=True)
class Sample:
    """A picture to try.

    Args:
        name: for the page.
        path: the blurred picture, or with ``blur`` a sharp one that is blurred when it is read.
        sharp: the sharp picture, where there is one.
        blur: blur ``path`` evenly with a disc of :data:`BLUR_RADIUS`.
    """

    name: str
    path: Path
    sharp: Path | None = None
    blur: bool = False

    def read(self, limits: Limits) -> tuple[Photo, np.ndarray | None]:
        """The picture, and the sharp one (float RGB [H, W, 3] in [0, 1]) where there is one. Raises UserError."""
        photo = read_picture(self.path, limits)
        if self.blur:
            truth = as_rgb(photo.pixels)
            blurred = np.round(disc_blurred(truth) * 255).astype(np.uint8)
            return Photo(pixels=blurred, format="png"), truth
        if self.sharp is None:
            return photo, None
        truth = as_rgb(read_picture(self.sharp, limits).pixels)
        return photo, truth if truth.shape[:2] == photo.size else None

    def thumbnail(self, limits: Limits) -> np.ndarray:
        """uint8 RGB, its longer side :data:`THUMBNAIL` pixels or less. Raises UserError."""
        pixels = as_rgb8(self.read(limits)[0].pixels)
        scale = min(1.0, THUMBNAIL / max(pixels.shape[:2]))
        size = max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale))
        return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)


@dataclass(frozen=True)
class Samples:
    """Those there are. ``origin`` says where they are from, in a sentence; ``thumbnails`` belong to ``members``."""

    members: Sequence[Sample]
    thumbnails: Sequence[np.ndarray]
    origin: str


def find_samples(folder: Path | None, limits: Limits) -> Samples:
    """Look for pictures to try, the first :data:`MOST` that can be read.

    Args:
        folder: whose pictures to take. None: the test scenes of ``datasets/quickstart`` in the working directory, else
            pictures that scikit-image's package has.

    Raises:
        UserError: ``folder`` isn't there or has no picture that can be read.
    """
    if folder is not None:
        if not folder.is_dir():
            raise UserError(f"--samples {folder}: folder not found")
        found = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in SUFFIXES]
        readable = _readable([Sample(path.stem, path) for path in found], limits)
        if not readable:
            raise UserError(f"--samples {folder}: no picture in it can be used; valid: {limits.described()}")
        return _samples(readable, f"Pictures in {folder.resolve().name or folder}.")
    blurred = QUICKSTART / "test_c" / "source"
    if blurred.is_dir():
        members = []
        for path in sorted(blurred.glob("*.png")):
            sharp = QUICKSTART / "test_c" / "target" / path.name
            members.append(Sample(path.stem, path, sharp if sharp.is_file() else None))
        readable = _readable(members, limits)
        if readable:
            return _samples(readable, "The quickstart's test scenes, of simulated defocus.")
    readable = _readable([Sample(path.stem, path, blur=True) for path in _bundled()], limits)
    origin = f"scikit-image's sharp pictures, blurred here with a disc of {BLUR_RADIUS} px radius."
    return _samples(readable, origin if readable else "")


def _samples(readable: Sequence[tuple[Sample, np.ndarray]], origin: str) -> Samples:
    return Samples(tuple(sample for sample, _ in readable), tuple(shown for _, shown in readable), origin)


def _readable(samples: Sequence[Sample], limits: Limits) -> list[tuple[Sample, np.ndarray]]:
    found = []
    for sample in samples[: 2 * MOST]:
        try:
            found.append((sample, sample.thumbnail(limits)))
        except UserError as error:
            logger.warning("sample left out: %s", error)
        if len(found) == MOST:
            break
    return found


def _bundled() -> list[Path]:
    # Found without importing: skimage.data would fetch what the wheel lacks.
    spec = find_spec("skimage")
    if spec is None or not spec.submodule_search_locations:
        return []
    folder = Path(spec.submodule_search_locations[0]) / "data"
    return [folder / name for name in BUNDLED if (folder / name).is_file()]


def disc_blurred(sharp: np.ndarray, radius: float = BLUR_RADIUS) -> np.ndarray:
    """Blur float RGB [H, W, 3] in [0, 1] evenly, in linear light, with a disc of ``radius`` pixels."""
    reach = int(np.ceil(radius))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disc = np.clip(radius + 0.5 - np.hypot(x, y), 0, 1)
    linear = cv2.filter2D(linear_from_srgb(sharp), -1, disc / disc.sum(), borderType=cv2.BORDER_REFLECT)
    return srgb_from_linear(np.clip(linear, 0, 1)).clip(0, 1).astype(np.float32)
