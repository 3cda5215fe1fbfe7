"""IFAN (Lee et al., CVPR 2021), single-image defocus deblurring, as a plug-in for BasicSR and mmengine.

Importing this package is light: neither the host nor the compiled operator is loaded before they are needed.
``register()`` puts every class into BasicSR's registries, so that option files find them by name.
"""

__version__ = "0.1.0"


def register() -> None:
    """Mend BasicSR where today's stack needs it and register IFAN's classes. Calling it again changes nothing.

    Raises:
        ImportError: BasicSR isn't installed.
    """
    from ifan_plugin import plugins

    plugins.register_classes()
