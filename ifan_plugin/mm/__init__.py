"""IFAN for mmengine's Runner: the package's own networks, losses, data and metrics under mmengine's registries.

Importing this package registers them (:func:`register_all`), so in a config one line is enough::

    custom_imports = dict(imports=["ifan_plugin.mm"])

Nothing of it is imported by ``import ifan_plugin`` or by the ``basicsr`` command. It needs mmengine
(``pip install "ifan_plugin[mm]"``).
"""

import sys
from importlib.util import find_spec

if find_spec("mmengine") is None:
    _NEEDED = 'ifan_plugin.mm needs mmengine: pip install "ifan_plugin[mm]"'
    if ("-m", __name__) in zip(sys.orig_argv, sys.orig_argv[1:]):  # Python imports this before __main__.py
        sys.stderr.write(f"python -m ifan_plugin.mm: {_NEEDED}\n")
        raise SystemExit(2)
    raise ImportError(_NEEDED)

from ifan_plugin.mm.registration import register_all

register_all()

__all__ = ["register_all"]
