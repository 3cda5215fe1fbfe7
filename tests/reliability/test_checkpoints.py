"""Checkpoints with bytes changed, and with contents that no network has: each is refused in one line, or loads."""

from __future__ import annotations

import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from reliability.attack import NASTY_NAMES, attack

from ifan_plugin.archs.dpdnet_arch import DPDNet
from ifan_plugin.archs.ifan_arch import IFAN
from ifan_plugin.archs.reblur_arch import ReblurNet
from ifan_plugin.weights import conversion, official, runner_files
from ifan_plugin.weights.networks import load_network

SMALL = {"width": 2, "num_steps": 1, "res_units": 1}


def contents() -> dict[str, Any]:
    """A file of each kind, as small as they come."""
    net = IFAN(**SMALL)
    ours = {"params": net.state_dict(), "hyper_parameters": dict(net.hyper_parameters)}
    reblurring = ReblurNet(net.filter_channels, 2, 1, res_units=1).state_dict()
    return {
        "ours": ours,
        "both": ours | {"params_ema": net.state_dict()},
        "bare": net.state_dict(),
        "official": official.to_official(net.state_dict(), reblurring),
        "runner": runner_files.from_ours({"generator": ours}),
        "dpdnet": {"params": DPDNet(width=1).state_dict(), "hyper_parameters": {"in_channels": 3, "width": 1, "dropout": 0.4}},
    }  # fmt: skip


def odd_values(tensor: torch.Tensor) -> list[Any]:
    """What may stand in a tensor's place."""
    flat = tensor.detach().float()
    return [
        3, 1.5, "text", None, [1], {"a": 1}, b"raw", True, torch.zeros(()), torch.zeros(0), flat.flatten(), flat[:1],
        flat.to_sparse(), flat.to(torch.int8), flat.double(), flat.half(), flat.to(torch.complex64), flat > 0,
        torch.empty_like(flat, device="meta"), torch.quantize_per_tensor(flat, 0.1, 0, torch.qint8), flat * float("nan"),
        torch.zeros(1).expand(10**9), torch.zeros(1).expand([10**6] * 3), flat.transpose(0, -1), flat.requires_grad_(),
        torch.nn.Parameter(flat), flat.to(torch.float8_e4m3fn), flat.reshape(1, -1, 1, 1), flat.new_zeros(2, 3, 0, 3),
    ]  # fmt: skip


NUMBERS = [0, -1, 2, 3, 5, 1000, 10**6, 10**9, 10**12, 2**62, 2**63, 1e30, 0.5, float("nan"), True, None, "3", [3], {}]


def edited(content: Any, rng: random.Random) -> Any:
    """A copy with one entry, anywhere, that is otherwise."""
    content = {key: dict(value) if type(value) is dict else value for key, value in content.items()}
    place = content
    while True:
        key = rng.choice(list(place))
        if isinstance(place[key], dict) and place[key] and rng.random() < 0.9:
            place[key] = place = type(place[key])(place[key])
            continue
        break
    kind = rng.randrange(6)
    if kind == 0:
        del place[key]
    elif kind == 1:
        place[rng.choice([f"{key}.x", f"module.{key}", 3, None, "", ("a",), *NASTY_NAMES])] = place.pop(key)
    elif isinstance(place[key], torch.Tensor):
        place[key] = rng.choice(odd_values(place[key]))
    else:
        place[key] = rng.choice(NUMBERS)
    return content


def flipped(data: bytes, rng: random.Random, *, only: range | None = None) -> bytes:
    """Some bytes changed, doubled or cut."""
    changed = bytearray(data)
    where = only or range(len(changed))
    for _ in range(rng.choice([1, 1, 2, 4, 16])):
        at = min(rng.choice(where), len(changed) - 1)
        kind = rng.randrange(4)
        if kind == 0:
            changed[at] = rng.randrange(256)
        elif kind == 1:
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            changed[at : at + rng.randrange(1, 9)] = bytes(
                rng.choice([0, 255, 127, 128]) for _ in range(rng.randrange(9))
            )
        elif rng.random() < 0.2:
            del changed[at:]
            break
    return bytes(changed) or b"\0"


def repacked(path: Path, out: Path, rng: random.Random) -> None:
    """A torch file whose pickle has changed bytes, under a check sum that is right."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, flipped(data, rng) if name.endswith("data.pkl") else data)


def case(folder: Path, files: dict[str, Path], stuff: dict[str, Any], rng: random.Random) -> Callable[[], str]:
    kind, how = rng.choice(list(files)), rng.randrange(4)
    path = folder / ("attack.safetensors" if kind == "safetensors" else "attack.pth")
    if how == 0 and kind in stuff:
        torch.save(edited(stuff[kind], rng), path, _use_new_zipfile_serialization=rng.random() < 0.7)
    elif how == 1 and kind in stuff:
        repacked(files[kind], path, rng)
    else:
        data = files[kind].read_bytes()
        header = range(8 + int.from_bytes(data[:8], "little")) if kind == "safetensors" else range(3000)
        path.write_bytes(flipped(data, rng, only=rng.choice([None, header])))

    def run() -> str:
        network = load_network(path, device="cpu")
        with torch.no_grad():
            network.net(torch.zeros(1, network.net.in_channels, 16, 16))
        return network.description

    def convert() -> str:
        weights = conversion.read_weights(path)
        conversion.write_weights(folder / "out.pth", "ifan_plugin", weights, overwrite=True)
        return weights.described()

    return rng.choice([run, run, convert])


@pytest.mark.slow
def test_two_thousand_checkpoints(tmp_path):
    stuff = contents()
    files = {kind: tmp_path / f"{kind}.pth" for kind in stuff} | {"legacy": tmp_path / "legacy.pth"}
    for kind, content in stuff.items():
        torch.save(content, files[kind])
    torch.save(stuff["ours"], files["legacy"], _use_new_zipfile_serialization=False)
    files["safetensors"] = tmp_path / "ours.safetensors"
    conversion.write_weights(files["safetensors"], "safetensors", conversion.read_weights(files["ours"]))
    faults = attack(lambda rng: case(tmp_path, files, stuff, rng), cases=2000, seconds=200)
    assert not faults, "\n".join(faults)
