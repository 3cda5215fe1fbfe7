"""Non-blind deconvolution with a blur that changes from place to place.

The picture is cut into overlapping tiles; each is deconvolved with every sigma that occurs in it, out of a fixed
ladder, and a pixel takes the mixture of the two whose sigmas lie around its own.
"""

from __future__ import annotations

import numpy as np
from scipy import fft

from ifan_plugin.conventional import psf
from ifan_plugin.options.schema import Option, check_value

METHODS = ("hyper_laplacian", "wiener")

LADDER_RATIO = 1.25
"""Between one sigma of the ladder and the next."""

_TILE, _FEATHER = 160, 16  # px: a tile's own part, and the ramp in which the one before goes over into it
_BETAS = tuple(8 ** (n / 2) for n in range(6))  # of the half-quadratic splitting, from weak to strong
_PRIOR = 0.2  # weight of the data times the noise's variance, so that 1 % of noise weighs 2000 (Krishnan & Fergus)
_WIENER_PRIOR, _WIENER_LEVEL = 30.0, 0.01  # the squared prior's weight over the variance, and its least


def deconvolve(
    picture: np.ndarray, sigma: float, shape: str = "disk", method: str = "hyper_laplacian", noise: float = 0.01
) -> np.ndarray:
    """Undo one known blur.

    ``hyper_laplacian`` minimises the squared difference of the re-blurred result to the picture, plus the sum of
    ``|gradient|^(1/2)``, by half-quadratic splitting with Fourier transforms (Krishnan & Fergus, NIPS 2009; the
    inner problem by Chartrand's p-shrinkage, ICASSP 2009, instead of theirs). ``wiener`` takes the squared gradient
    and is done in one step.

    Args:
        picture: float [H, W] or [H, W, C], about [0, 1], in linear light; channels are restored one by one.
        sigma: standard deviation of the blur along an axis, px, above 0.
        shape: of the blur, ``disk`` or ``gaussian``.
        method: one of :data:`METHODS`.
        noise: standard deviation of the picture's noise; more trusts the prior more.

    Returns:
        float32 of the shape of ``picture``, not clipped.

    Raises:
        UserError: another shape or method, or a number outside its range.
    """
    _check(method, noise)
    planes = np.atleast_3d(np.asarray(picture, np.float32)).transpose(2, 0, 1)
    height, width = planes.shape[1:]
    before = _margin(sigma)
    after = [fft.next_fast_len(n + 2 * before, real=True) - n - before for n in (height, width)]
    padded = np.pad(planes, ((0, 0), (before, after[0]), (before, after[1])), mode="symmetric")
    restored = _Deconvolution(sigma, shape, method, noise, padded.shape[1:])(padded)
    return restored[:, before : before + height, before : before + width].transpose(1, 2, 0).reshape(np.shape(picture))


def deconvolve_by_map(
    picture: np.ndarray,
    sigma_map: np.ndarray,
    shape: str = "disk",
    method: str = "hyper_laplacian",
    noise: float = 0.01,
    threshold: float = 0.6,
) -> np.ndarray:
    """Undo a blur that changes from place to place.

    Args:
        picture: float [H, W, C], about [0, 1], in linear light.
        sigma_map: [H, W], px, finite.
        shape, method, noise: as in :func:`deconvolve`.
        threshold: px, above 0; where sigma is no larger, the picture comes back exactly as it is.

    Returns:
        float32 [H, W, C], not clipped.

    Raises:
        UserError: another shape or method, or a number outside its range.
    """
    _check(method, noise)
    psf.check_shape(shape)
    check_value(threshold, Option(float, minimum=0.01), "threshold")
    picture = np.asarray(picture, np.float32)
    height, width = sigma_map.shape
    ladder = ladder_up_to(float(sigma_map.max()), threshold)
    if len(ladder) == 1:
        return picture.copy()
    rung = np.interp(sigma_map, ladder, np.arange(len(ladder))).astype(np.float32)
    rung[sigma_map <= threshold] = 0  # float32 may lie above what it was rounded from
    margin = _margin(ladder[-1]) + _FEATHER
    side = fft.next_fast_len(_TILE + 2 * margin, real=True)
    padded = np.pad(picture, ((margin, side), (margin, side), (0, 0)), mode="symmetric").transpose(2, 0, 1)
    steps: dict[int, _Deconvolution] = {}
    result = picture.copy()
    for top in range(0, height, _TILE):
        for left in range(0, width, _TILE):
            rows = slice(max(0, top - _FEATHER), min(height, top + _TILE))
            columns = slice(max(0, left - _FEATHER), min(width, left + _TILE))
            here = rung[rows, columns]
            window = np.outer(_ramp(rows, top, height), _ramp(columns, left, width))
            tile = padded[:, top : top + side, left : left + side]  # from `margin` px before the tile's origin on
            inner = tuple(
                slice(part.start - origin + margin, part.stop - origin + margin)
                for part, origin in ((rows, top), (columns, left))
            )
            for level in range(1, len(ladder)):
                weight = np.maximum(1 - np.abs(here - level), 0) * window
                if not weight.any():
                    continue
                if level not in steps:
                    steps[level] = _Deconvolution(ladder[level], shape, method, noise, (side, side))
                part = (slice(None), *inner)
                restored = steps[level](tile)[part].transpose(1, 2, 0)
                result[rows, columns] += weight[..., None] * (restored - picture[rows, columns])
    return result


def ladder_up_to(largest: float, threshold: float) -> np.ndarray:
    """The sigmas that pictures are deconvolved with, rising: first ``threshold``, which stands for no change, then
    a geometric row whose last is no smaller than ``largest``."""
    count = int(np.ceil(np.log(max(largest / threshold, 1)) / np.log(LADDER_RATIO)))
    return threshold * LADDER_RATIO ** np.arange(count + 1)


def _check(method: str, noise: float) -> None:
    check_value(method, Option(str, choices=METHODS), "method")
    check_value(noise, Option(float, minimum=1e-4), "noise")


def _margin(sigma: float) -> int:
    """Pixels beyond a tile that reach into its result: of the blur, and of its inverse, which rings a little."""
    return 8 + int(np.ceil(5 * sigma))


def _ramp(part: slice, origin: int, length: int) -> np.ndarray:
    """A tile's weight along an axis: rising before ``origin`` as that of the tile before it falls."""
    position = np.arange(part.start, part.stop, dtype=np.float32) + 0.5
    rising = (position - origin) / _FEATHER + 1 if origin > 0 else np.ones_like(position)
    falling = (origin + _TILE - position) / _FEATHER if origin + _TILE < length else np.ones_like(position)
    return np.clip(np.minimum(rising, falling), 0, 1)


class _Deconvolution:
    """One blur undone in pictures of one size, [C, h, w]; what depends on neither picture is computed once."""

    def __init__(self, sigma: float, shape: str, method: str, noise: float, size: tuple[int, int]) -> None:
        self.size, self.method, self.noise = size, method, noise
        self.transfer = _transfer(sigma, shape, size)
        self.squared = self.transfer**2
        along_y, along_x = (2 - 2 * np.cos(2 * np.pi * f) for f in (fft.fftfreq(size[0]), fft.rfftfreq(size[1])))
        self.gradient = (along_y[:, None] + along_x[None]).astype(np.float32)  # |Dx|^2 + |Dy|^2
        self.taper = np.outer(*(_taper(length, _margin(sigma)) for length in size))

    def __call__(self, tile: np.ndarray) -> np.ndarray:
        # The transform takes the picture for periodic. Its rim is turned into what a periodic scene's would be.
        wrapped = self._inverse(fft.rfft2(tile) * self.transfer)
        data = fft.rfft2(self.taper * tile + (1 - self.taper) * wrapped) * self.transfer
        if self.method == "wiener":
            prior = np.float32(_WIENER_PRIOR * self.noise**2) * (self.gradient + np.float32(_WIENER_LEVEL))
            return self._inverse(data / (self.squared + prior))
        weight = np.float32(_PRIOR / self.noise**2)
        restored = tile
        for beta in map(np.float32, _BETAS):
            prior = beta * fft.rfft2(_shrunk_divergence(restored, beta))
            restored = self._inverse((weight * data + prior) / (weight * self.squared + beta * self.gradient))
        return restored

    def _inverse(self, spectrum: np.ndarray) -> np.ndarray:
        return fft.irfft2(spectrum, s=self.size)


def _transfer(sigma: float, shape: str, size: tuple[int, int]) -> np.ndarray:
    """The blur's transfer function, float32 [h, w // 2 + 1]: real, since the kernel is symmetric."""
    point_spread = psf.kernel(sigma, shape)
    reach = point_spread.shape[0] // 2
    rows, columns = (np.arange(-reach, reach + 1) % length for length in size)
    plane = np.zeros(size, np.float32)
    np.add.at(plane, (rows[:, None], columns[None]), point_spread)
    return fft.rfft2(plane).real


def _taper(length: int, margin: int) -> np.ndarray:
    """1 inside, falling to 0 at both ends over half the margin."""
    distance = np.minimum(np.arange(length), np.arange(length)[::-1]) / (margin / 2)
    return (0.5 - 0.5 * np.cos(np.pi * np.minimum(distance, 1))).astype(np.float32)


def _shrunk_divergence(picture: np.ndarray, beta: np.float32) -> np.ndarray:
    """Differences along both axes, shrunk for p = 1/2, then brought back by the adjoint; [C, h, w]."""
    total = np.zeros_like(picture)
    for axis in (1, 2):
        difference = np.roll(picture, -1, axis) - picture
        size = np.abs(difference)
        # p-shrinkage, |v| - beta^(p - 2) |v|^(p - 1), as a factor of v
        difference *= np.maximum(1 - beta**-1.5 / np.maximum(size * np.sqrt(size), np.float32(1e-12)), 0)
        total += np.roll(difference, 1, axis) - difference
    return total
