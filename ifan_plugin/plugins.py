"""BasicSR's registries and what joins them: our classes, installed plug-ins, and modules an option file names."""

from __future__ import annotations

import importlib
import importlib.metadata
import re

from ifan_plugin.errors import UserError

GROUP = "basicsr.plugins"
"""Entry-point group: a module, or a function that registers classes in BasicSR's registries."""


def register_classes() -> None:
    """Put IFAN's classes into the host's registries under their own names. Safe to call again."""
    from ifan_plugin import host

    host.prepare()
    from basicsr.utils import registry

    from ifan_plugin import losses, metrics
    from ifan_plugin.archs.conventional_arch import DefocusDeconvolution
    from ifan_plugin.archs.dpdnet_arch import DPDNet
    from ifan_plugin.archs.ifan_arch import IFAN
    from ifan_plugin.archs.reblur_arch import ReblurNet
    from ifan_plugin.archs.spandrel_arch import SpandrelNet
    from ifan_plugin.data.dual_pixel_dataset import DualPixelDataset
    from ifan_plugin.data.simulated_dataset import SimulatedDualPixelDataset
    from ifan_plugin.models.ifan_model import IFANModel

    for target, members in (
        (registry.ARCH_REGISTRY, (IFAN, ReblurNet, DefocusDeconvolution, DPDNet, SpandrelNet)),
        (registry.DATASET_REGISTRY, (DualPixelDataset, SimulatedDualPixelDataset)),
        (registry.LOSS_REGISTRY, (losses.DisparityLoss, losses.ReblurLoss)),
        (
            registry.METRIC_REGISTRY,
            (metrics.psnr, metrics.ssim, metrics.mae, metrics.lpips, metrics.niqe, metrics.sharpness),
        ),
        (registry.MODEL_REGISTRY, (IFANModel,)),
    ):
        for member in members:
            if member.__name__ not in target:
                target.register(member)


def load_plugins(named: list[str] | None, where: str) -> list[str]:
    """Import the packages of the entry-point group ``basicsr.plugins`` and those an option file names.

    Only installed modules are imported, by dotted name; a path is refused.

    Returns:
        The names loaded.

    Raises:
        UserError: a plug-in that isn't installed, or fails while it is imported (the fault is named).
    """
    register_classes()
    loaded = []
    for entry in importlib.metadata.entry_points(group=GROUP):
        try:
            found = entry.load()
            if callable(found):
                found()
        except Exception as error:
            raise UserError(f"plug-in {entry.name} ({entry.value}) failed: {type(error).__name__}: {error}") from error
        loaded.append(entry.name)
    if named is not None and not isinstance(named, list):
        raise UserError(f"{where}: plugins: must be a list of module names")
    for name in named or []:
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", name):
            raise UserError(f"{where}: plugins: must be names of installed modules, not {name!r}")
        try:
            module = importlib.import_module(name)
            if callable(getattr(module, "register", None)):
                module.register()
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise UserError(f"{where}: plugins: '{name}' can't be loaded: {reason}") from error
        loaded.append(name)
    return loaded
