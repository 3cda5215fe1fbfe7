"""IFAN (Lee et al., CVPR 2021), single-image defocus deblurring, as a plug-in for BasicSR and mmengine.

Importing this package is light: neither the host nor the compiled operator is loaded before they are needed.
``register()`` puts every class into BasicSR's registries, so that option files find them by name.
``restore(image, weights=...)`` restores one picture, a numpy array; the host isn't needed for it.
"""

from typing import Any

__version__ = "0.2.0"


def register() -> None:
    """Mend BasicSR where today's stack needs it and register IFAN's classes. Calling it again changes nothing.

    Raises:
        ImportError: BasicSR isn't installed; the message says how to install it.
    """
    from ifan_plugin.host.registry import register_classes

    register_classes()


def __getattr__(name: str) -> Any:
    if name == "restore":  # it needs torch, which not everything here does
        from ifan_plugin.inference.api import restore

        return restore
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), "restore"})
