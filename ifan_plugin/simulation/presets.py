"""Optics that were measured, and draws of all parameters for training. Where each figure comes from: docs/optics.md."""

from __future__ import annotations

from types import MappingProxyType

import numpy as np

from ifan_plugin.common.errors import UserError
from ifan_plugin.simulation.optics import Optics

PRESETS = MappingProxyType({
    "thin_lens": Optics(),
    # scripts/fit_optics.py pixel4: correlation with the 48 measured pairs .989 in the median, .967 at least.
    "pixel4": Optics(
        split=1.268, split_limit=0.751, balance=-1.014, edge=0.677, stretch=0.688, curvature=0.14, vignetting=-0.321,
        lean=-0.677, spherical=-0.22,
    ),
    # scripts/fit_optics.py canon; brightness: L over R 1.01 to 1.02 at the left edge, 0.97 to 0.99 at the right one.
    "canon_rf50": Optics(
        split=0.385, balance=-2.0, brightness=-0.009, edge=0.22, stretch=-0.042, curvature=-0.039, vignetting=0.169,
        lean=-0.438, spherical=-0.441, red=0.56, blue=0.28,
    ),
})  # fmt: skip
"""Optics by name. ``thin_lens`` has the overlap of the views that cameras have, and is otherwise ideal."""

RANDOM_RANGES = MappingProxyType(
    {
        "split": (0.3, 1.3),  # Canon .385, Pixel 4 1.27
        "split_limit": (0.7, 1.0),  # Pixel 4 .75
        "balance": (-1.6, 0.0),  # Pixel 4 -1.0, Canon -2.0 (hardly determined); never the other sign
        "brightness": (-0.02, 0.005),  # Canon -.009
        "edge": (0.05, 0.7),  # Canon .22, Pixel 4 .68
        "stretch": (-0.1, 0.7),  # Canon -.04, Pixel 4 .69
        "curvature": (-0.05, 0.15),  # Canon -.04, Pixel 4 .14
        "vignetting": (-0.35, 0.2),  # Pixel 4 -.32, Canon .17
        "lean": (-0.7, 0.0),  # Pixel 4 -.68, Canon -.44
        "spherical": (-0.6, -0.1),  # Pixel 4 -.22, Canon -.44: one sign, or it would tell nothing of the defocus's
        "red": (0.1, 1.0),  # Canon .56; one sign, as spherical
        "blue": (0.1, 1.0),  # Canon .28
    }
)
"""What ``random`` draws from, uniformly; the ends are the measured cameras', a little widened."""

OPTICS_NAMES = (*PRESETS, "random", "abuolaim")
"""What ``basicsr simulate --optics`` and a data set's ``camera`` may be."""


def draw_optics(rng: np.random.Generator) -> Optics:
    """Optics by chance, each parameter from :data:`RANDOM_RANGES`; always as many numbers are drawn."""
    return Optics(**{name: float(rng.uniform(*bounds)) for name, bounds in RANDOM_RANGES.items()})


def preset(name: str) -> Optics:
    """Optics by name.

    Raises:
        UserError: no such preset.
    """
    if name not in PRESETS:
        raise UserError(f"optics '{name}': must be one of {', '.join(PRESETS)}")
    return PRESETS[name]
