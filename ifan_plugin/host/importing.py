"""What makes ``import basicsr`` work with today's torchvision."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types

from ifan_plugin.common.errors import UserError

INSTALL = "python -m ifan_plugin.install_basicsr"
"""The command that installs BasicSR; plain pip has trouble with it, as that module says."""


class BasicSRMissingError(UserError, ImportError):
    """BasicSR isn't installed; one line that says how to get it."""


def mend_torchvision() -> None:
    """``basicsr.data.degradations`` imports ``torchvision.transforms.functional_tensor``, gone since torchvision 0.17.

    An alias module with the one name that it takes from there lets the first ``import basicsr`` through.
    """
    name = "torchvision.transforms.functional_tensor"
    if name in sys.modules:
        return
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        from torchvision.transforms.functional import rgb_to_grayscale

        alias = types.ModuleType(name)
        vars(alias)["rgb_to_grayscale"] = rgb_to_grayscale
        sys.modules[name] = alias


def prepare() -> None:
    """Make ``import basicsr`` work. Safe to call again.

    Raises:
        BasicSRMissingError: BasicSR isn't installed; an ``ImportError``.
    """
    if importlib.util.find_spec("basicsr") is None:
        raise BasicSRMissingError(f"this needs BasicSR, which isn't installed: {INSTALL}")
    mend_torchvision()
    importlib.import_module("basicsr")
