"""One way to run a network on a picture, used by validation, the commands and ``ifan_plugin.restore`` alike.

Networks by their checkpoints: :mod:`ifan_plugin.inference.networks`.
"""

from ifan_plugin.inference.run import pad_to_multiple, run_network

__all__ = ["pad_to_multiple", "run_network"]
