"""One way to run a network on a picture, used by validation, the commands and ``ifan_plugin.restore`` alike.

Networks by their checkpoints: :mod:`ifan_plugin.weights.networks`.
"""

from ifan_plugin.inference.run import run_network

__all__ = ["run_network"]
