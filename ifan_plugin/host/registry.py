"""BasicSR's registries and what joins them: our classes, installed plug-ins, and modules an option file names."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from ifan_plugin.common.errors import UserError
from ifan_plugin.host.importing import prepare

GROUP = "basicsr.plugins"
"""Entry-point group: a module, or a function that registers classes in BasicSR's registries."""


CLASSES = {
    "ARCH_REGISTRY": (
        "ifan_plugin.archs.ifan_arch:IFAN", "ifan_plugin.archs.reblur_arch:ReblurNet",
        "ifan_plugin.archs.conventional_arch:DefocusDeconvolution",
        "ifan_plugin.archs.conventional_arch:DMENetDeconvolution", "ifan_plugin.archs.convir_arch:ConvIR",
        "ifan_plugin.archs.dpdnet_arch:DPDNet", "ifan_plugin.archs.gkmnet_arch:GKMNet",
        "ifan_plugin.archs.kpac_arch:KPAC", "ifan_plugin.weights.spandrel_arch:SpandrelNet",
    ),
    "DATASET_REGISTRY": (
        "ifan_plugin.data.dual_pixel_dataset:DualPixelDataset",
        "ifan_plugin.data.simulated_dataset:SimulatedDualPixelDataset",
    ),
    "LOSS_REGISTRY": (
        "ifan_plugin.losses:DisparityLoss", "ifan_plugin.losses:DefocusLoss", "ifan_plugin.losses:DefocusMapLoss",
        "ifan_plugin.losses:ReblurLoss", "ifan_plugin.losses:FilterBiasLoss",
        "ifan_plugin.losses:FrequencyLoss", "ifan_plugin.metrics.lpips_loss:LPIPSLoss",
    ),
    "METRIC_REGISTRY": (
        "ifan_plugin.metrics:psnr", "ifan_plugin.metrics:ssim", "ifan_plugin.metrics:mae", "ifan_plugin.metrics:lpips",
        "ifan_plugin.host.metrics:niqe", "ifan_plugin.metrics:sharpness",
    ),
    "MODEL_REGISTRY": ("ifan_plugin.models.ifan_model:IFANModel",),
}  # fmt: skip
"""BasicSR's registry -> what of ours joins it, by name as other people's plug-ins do: it is built upon this folder."""


def register_classes() -> None:
    """Put IFAN's classes into the host's registries under their own names. Safe to call again."""
    prepare()
    from basicsr.utils import registry

    for target, names in CLASSES.items():
        for name in names:
            module, _, member = name.partition(":")
            if member not in getattr(registry, target):
                getattr(registry, target).register(getattr(importlib.import_module(module), member))


def load_plugins(named: list[str] | None, where: str, given: Sequence[str] = ()) -> list[str]:
    """Import the packages of the entry-point group ``basicsr.plugins`` and those an option file or a flag names.

    An option file names installed modules alone: reading one never runs a file that came with it. A person may name a
    file on the command line; the option file's names may mean it then.

    Args:
        named: the option file's ``plugins``.
        where: the option file, for messages.
        given: values of ``--plugin``, names or ``.py`` files.

    Returns:
        The names loaded, those of ``given`` last.

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
    asked = [_importable(entry) for entry in given]  # before the option file's, which may name the same modules
    for name in named or []:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise UserError(f"{where}: plugins: must be names of installed modules, not {name!r}")
        _load(name, f"{where}: plugins", Path(where).parent)
        loaded.append(name)
    for name in asked:
        _load(name, "--plugin: plugins", Path())
        loaded.append(name)
    return loaded


_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def _load(name: str, where: str, beside: Path) -> None:
    try:
        module = importlib.import_module(name)
        if callable(getattr(module, "register", None)):
            module.register()
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        if isinstance(error, ModuleNotFoundError) and error.name == name.partition(".")[0]:
            found = [place for folder in (beside, Path()) for place in _files_of(error.name, folder)]
            reason += f"; to run what lies there, add --plugin {found[0]}" if found else (
                "; install it, or name its file: --plugin FILE.py"
            )  # fmt: skip
        raise UserError(f"{where}: '{name}' can't be loaded: {reason}") from error


def _files_of(name: str, folder: Path) -> list[Path]:
    """What a module's name may mean in a folder: a file or a package."""
    return [
        *(path for path in [folder / f"{name}.py"] if path.is_file()),
        *(path for path in [folder / name] if (path / "__init__.py").is_file()),
    ]


def _importable(entry: str) -> str:
    """The module's name of a ``--plugin``; a file's folder can be imported from then, after all that is installed."""
    path = Path(entry).expanduser()
    if path.suffix != ".py" and len(path.parts) == 1 and not entry.endswith("/"):
        if not _NAME.fullmatch(entry):
            raise UserError(f"--plugin {entry}: must be the name of an installed module, or a .py file")
        if importlib.util.find_spec(entry.partition(".")[0]) is not None or not (path / "__init__.py").is_file():
            return entry
    file = path / "__init__.py" if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"--plugin {entry}: no such file")
    if not path.stem.isidentifier():
        raise UserError(f"--plugin {entry}: Python can't import a file of this name; valid: letters, digits and _")
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)
    importlib.invalidate_caches()
    spec = importlib.util.find_spec(path.stem)
    origin = None if spec is None else spec.origin
    if origin is None or not Path(origin).is_file() or not file.samefile(origin):
        raise UserError(f"--plugin {entry}: another module is called {path.stem} ({origin}); rename the file")
    return path.stem
