"""The paper's augmentation (Lee et al., CVPR 2021, training details), part by part and in its order.

A sample's pictures travel as a mapping of role (``center``, ``left``, ``right``, ``target``) to a float32
array [H, W, 3], coded (sRGB) RGB in [0, 1], all of one size. Every part takes such a mapping and returns a
new one; the arrays that came in are never written to.

A patch costs what a patch needs: :func:`draw_plan` decides everything, :meth:`Plan.cut` tells which part of the
pictures the patch is made of, and :func:`apply_plan` works on that part alone. :func:`augment` is all three.
In memory the planes of a picture are best each in one piece ([3, H, W] seen as [H, W, 3]), as the parts leave them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ifan_plugin.common.errors import UserError
from ifan_plugin.images.color import LUMA, srgb_from_linear
from ifan_plugin.images.image_io import Region
from ifan_plugin.images.resample import AreaAxis, area_axis, area_resample
from ifan_plugin.options.schema import Option, check_mapping

Images = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class AugmentConfig:
    """What is done to a training sample, in this order; the defaults are the paper's.

    Args:
        noise_probability: how often Gaussian noise is added, the same on all views, none on the target.
        noise_sigma: bounds of its standard deviation, which is drawn uniformly.
        grey_probability: how often all pictures turn grey.
        scale_probability: how often all pictures are shrunk.
        scale_range: bounds of the factor, which is drawn uniformly. A factor that would make the picture
            smaller than the patch is never drawn: the lower bound rises to patch / picture size instead.
        patch_size: side of the random crop, in pixels.
        hflip_probability: how often the sample is mirrored; left and right swap then, as they must to stay
            physical. Not in the paper, so 0.
    """

    noise_probability: float = 0.05
    noise_sigma: tuple[float, float] = (0.001, 0.0707)
    grey_probability: float = 0.3
    scale_probability: float = 0.5
    scale_range: tuple[float, float] = (0.7, 1.0)
    patch_size: int = 256
    hflip_probability: float = 0.0

    @classmethod
    def from_options(cls, options: Mapping | bool, patch_size: int, where: str = "augment") -> AugmentConfig:
        """What an option file asks for: a mapping (:data:`AUGMENT_OPTIONS`), true, or false: crop only.

        Raises:
            UserError: an unknown key, or a value of the wrong type or range.
        """
        if options is True:
            options = {}
        elif options is False:
            options = {key: 0.0 for key in AUGMENT_OPTIONS if key.endswith("_probability")}
        values = check_mapping(options, AUGMENT_OPTIONS, where)
        for key in ("noise_sigma", "scale_range"):
            bounds = values[key] = tuple(float(bound) for bound in values[key])
            if len(bounds) != 2 or bounds[0] > bounds[1]:
                raise UserError(f"{where}: {key}: must be [lower, upper], not {list(options[key])}")
        return cls(patch_size=patch_size, **values)


_PROBABILITY: dict[str, Any] = {"kind": float, "minimum": 0.0, "maximum": 1.0}

AUGMENT_OPTIONS: dict[str, Option] = {
    "noise_probability": Option(
        default=AugmentConfig.noise_probability, **_PROBABILITY, help="of adding white noise to the views"
    ),
    "noise_sigma": Option(
        list,
        list(AugmentConfig.noise_sigma),
        items=float,
        minimum=0.0,
        maximum=1.0,
        help="[lower, upper] of its standard deviation, of values in [0, 1]",
    ),
    "grey_probability": Option(default=AugmentConfig.grey_probability, **_PROBABILITY, help="of making all grey"),
    "scale_probability": Option(default=AugmentConfig.scale_probability, **_PROBABILITY, help="of shrinking"),
    "scale_range": Option(
        list,
        list(AugmentConfig.scale_range),
        items=float,
        minimum=0.01,
        maximum=1.0,
        help="[lower, upper] of the factor",
    ),
    "hflip_probability": Option(
        default=AugmentConfig.hflip_probability, **_PROBABILITY, help="of mirroring, which swaps left and right"
    ),
}
"""The keys of an option file's ``augment`` mapping; the patch size is the data set's own key."""


class Cut(NamedTuple):
    """What a patch is made of."""

    region: Region
    """The part of the whole pictures that is needed."""
    rows: AreaAxis | None
    """How the region's rows become the patch's; ``None`` where nothing is scaled."""
    columns: AreaAxis | None


class Plan(NamedTuple):
    """What the dice say for one sample; ``None`` or ``False`` where a part is left out."""

    sigma: float | None
    grey: bool
    size: tuple[int, int]
    """(height, width) after scaling; the picture's own where it isn't scaled."""
    top: int
    left: int
    flip: bool
    whole: tuple[int, int]
    """(height, width) of the picture before."""
    patch: int
    """Side of the patch, whose corner (``top``, ``left``) is counted after scaling."""

    def cut(self) -> Cut:
        """The part of the pictures to read, and how to scale it."""
        if self.size == self.whole:
            return Cut(Region(self.top, self.left, self.patch, self.patch), None, None)
        rows = area_axis(self.whole[0], self.size[0], self.top, self.patch)
        columns = area_axis(self.whole[1], self.size[1], self.left, self.patch)
        return Cut(Region(rows.start, columns.start, rows.length, columns.length), rows, columns)


def augment(images: Images, config: AugmentConfig, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Noise, grey, scale, crop (and mirror): one training sample.

    Args:
        images: role -> float32 [H, W, 3] in [0, 1], all of one size, at least ``patch_size`` each way.
        config: probabilities and ranges.
        rng: the only source of chance. All decisions are drawn first, always all of them and in one order, so
            that a part's probability doesn't change what the other parts do; the noise is drawn last, for the
            pixels alone that the patch is made of.

    Returns:
        role -> float32 [patch_size, patch_size, 3] in [0, 1].

    Raises:
        ValueError: pictures of unequal sizes or smaller than the patch; mirroring with one side view only.
    """
    shapes = {image.shape for image in images.values()}
    if len(shapes) != 1:
        raise ValueError(f"pictures of unequal sizes: {sorted(shapes)}")
    height, width = shapes.pop()[:2]
    plan = draw_plan(height, width, config, rng)
    if config.hflip_probability > 0:
        _require_both_sides(images)
    cut = plan.cut()
    return apply_plan(crop(images, cut.region), plan, cut, rng)


def apply_plan(images: Images, plan: Plan, cut: Cut, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Make a sample of what was cut for it.

    Args:
        images: role -> float32 [h, w, 3] in [0, 1]: ``cut.region`` of the whole pictures.
        plan: from :func:`draw_plan`.
        cut: ``plan.cut()``.
        rng: for the noise, if there is any.

    Returns:
        role -> float32 [patch, patch, 3] in [0, 1], the planes contiguous.

    Raises:
        ValueError: pictures that aren't of the region's size; mirroring with one side view only.
    """
    for role, image in images.items():
        if image.shape != (cut.region.height, cut.region.width, 3):
            raise ValueError(f"{role}: {image.shape} isn't the region's {cut.region.width}x{cut.region.height}")
    result = dict(images)
    if plan.sigma is not None:
        result = add_noise(result, plan.sigma, rng)
    if plan.grey:
        result = to_grey(result)
    if cut.rows is not None and cut.columns is not None:
        result = scale(result, cut.rows, cut.columns)
    if plan.flip:
        result = mirror(result)
    return {role: _seen_last(np.ascontiguousarray(_planes(image))) for role, image in result.items()}


def draw_plan(height: int, width: int, config: AugmentConfig, rng: np.random.Generator) -> Plan:
    """Throw the dice for a picture of ``height`` x ``width``; exactly eight numbers are drawn from ``rng``.

    Raises:
        ValueError: the picture is smaller than the patch.
    """
    patch = config.patch_size
    if min(height, width) < patch:
        raise ValueError(f"picture of {width}x{height} is smaller than the patch of {patch}x{patch}")
    noisy, sigma, grey, scaled, factor, top, left, flip = rng.random(8)
    size = (height, width)
    if scaled < config.scale_probability:
        # Truncation must not undercut the patch either, hence the outer max.
        factor = _between((max(config.scale_range[0], patch / min(size)), config.scale_range[1]), factor)
        factor = min(factor, 1.0)
        size = (max(int(height * factor), patch), max(int(width * factor), patch))
    return Plan(
        sigma=_between(config.noise_sigma, sigma) if noisy < config.noise_probability else None,
        grey=bool(grey < config.grey_probability),
        size=size,
        top=int(top * (size[0] - patch + 1)),
        left=int(left * (size[1] - patch + 1)),
        flip=bool(flip < config.hflip_probability),
        whole=(height, width),
        patch=patch,
    )


def _between(bounds: tuple[float, float], u: float) -> float:
    low, high = bounds
    return float(low + max(high - low, 0.0) * u)


def _planes(image: np.ndarray) -> np.ndarray:
    """[H, W, 3] seen as [3, H, W]."""
    return image.transpose(2, 0, 1)


def _seen_last(planes: np.ndarray) -> np.ndarray:
    """[3, H, W] seen as [H, W, 3]."""
    return planes.transpose(1, 2, 0)


def _require_both_sides(images: Images) -> None:
    if ("left" in images) != ("right" in images):
        raise ValueError("mirroring swaps the left and right views, so it needs both of them or none")


def add_noise(images: Images, sigma: float, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Gaussian noise of deviation ``sigma``, the same on every view, clipped to [0, 1]; not on ``target``."""
    height, width, channels = next(iter(images.values())).shape
    noise = rng.standard_normal((channels, height, width), dtype=np.float32)
    noise *= np.float32(sigma)
    result = dict(images)
    for role, image in images.items():
        if role != "target":
            noisy = _planes(image) + noise
            result[role] = _seen_last(np.clip(noisy, 0.0, 1.0, out=noisy))
    return result


def to_grey(images: Images) -> dict[str, np.ndarray]:
    """Every picture grey: y = 0.2126 R + 0.7152 G + 0.0722 B of the coded values, then :func:`srgb_from_linear`.

    The encoding of values that are coded already brightens the pictures; the published models are trained so.
    The three channels of a result are one plane in memory, and read-only.
    """
    red, green, blue = (np.float32(weight) for weight in LUMA)
    result = {}
    for role, image in images.items():
        # Not a matrix product: its rounding may depend on the number of threads, and samples may not.
        luma = red * image[..., 0] + green * image[..., 1] + blue * image[..., 2]
        result[role] = np.broadcast_to(srgb_from_linear(luma)[..., None], image.shape)
    return result


def scale(images: Images, rows: AreaAxis, columns: AreaAxis) -> dict[str, np.ndarray]:
    """Shrink regions to patches: each new pixel is the mean of the area it covers in the whole picture."""
    result = {}
    for role, image in images.items():
        planes = _planes(image)
        grey = planes.strides[0] == 0  # one plane seen three times
        shrunk = area_resample(np.ascontiguousarray(planes[:1] if grey else planes), rows, columns)
        np.minimum(shrunk, 1.0, out=shrunk)  # the weights sum to 1, but for rounding
        result[role] = _seen_last(np.broadcast_to(shrunk, (3, *shrunk.shape[1:])) if grey else shrunk)
    return result


def crop(images: Images, region: Region) -> dict[str, np.ndarray]:
    """A copy of ``region`` of every picture."""
    top, left, height, width = region
    part = np.s_[:, top : top + height, left : left + width]
    return {role: _seen_last(np.array(_planes(image)[part], order="C")) for role, image in images.items()}


def mirror(images: Images) -> dict[str, np.ndarray]:
    """Flip every picture left to right and swap the two side views: a mirrored left view is a right view.

    Raises:
        ValueError: one side view only.
    """
    _require_both_sides(images)
    swapped = {"left": "right", "right": "left"}
    return {role: images[swapped.get(role, role)][:, ::-1] for role in images}
