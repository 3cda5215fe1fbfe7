"""IFAN for mmengine's Runner: the package's own networks, losses, data and metrics under mmengine's registries.

Importing this package registers them (:func:`register_all`), so in a config one line is enough::

    custom_imports = dict(imports=["ifan_plugin.mm"])

Nothing of it is imported by ``import ifan_plugin`` or by the ``basicsr`` command. It needs mmengine
(``pip install "ifan_plugin[mm]"``).
"""

from importlib.util import find_spec

if find_spec("mmengine") is None:
    raise ImportError('ifan_plugin.mm needs mmengine: pip install "ifan_plugin[mm]"')

from ifan_plugin.mm.registration import register_all

register_all()

__all__ = ["register_all"]
