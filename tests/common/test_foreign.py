"""Weights in anybody's files: found wherever they lie, averaged ones first; and files that are something else."""

from __future__ import annotations

import io
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from ifan_plugin.archs.ifan_arch import IFAN
from ifan_plugin.archs.reblur_arch import ReblurNet
from ifan_plugin.common import foreign
from ifan_plugin.common.errors import UserError
from ifan_plugin.common.tensor_files import load_file
from ifan_plugin.weights import conversion, official
from ifan_plugin.weights.building import read_params
from ifan_plugin.weights.networks import load_network

pytest.importorskip("mmengine", reason="needs mmengine")
from ifan_plugin.mm import checkpoints as mm


def prefixed(prefix, params):
    return {prefix + key: value for key, value in params.items()}


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return IFAN(width=4, num_steps=2, res_units=1)


@pytest.fixture(scope="module")
def averaged(net):
    return {key: value + 1 for key, value in net.state_dict().items()}


COUNTERS = {"total_ops": torch.zeros(1), "feature_extractor.total_params": torch.zeros(1)}
FORMS = {
    "bare": lambda p, a: p,
    "ours": lambda p, a: {"params": p},
    "state_dict": lambda p, a: {"state_dict": p, "epoch": 3, "optimizer": {"state": {}, "param_groups": [{"lr": 1}]}},
    "state_dict of DataParallel": lambda p, a: {"state_dict": prefixed("module.", p)},
    "model": lambda p, a: {"model": p, "args": {"lr": torch.zeros(1)}},
    "model_state_dict": lambda p, a: {"model_state_dict": p, "optimizer_state_dict": {"exp_avg": torch.zeros(3)}},
    "two levels down": lambda p, a: {"checkpoint": {"net": p}},
    "averaged alone": lambda p, a: {"params_ema": p},
    "compiled": lambda p, a: {"params": prefixed("_orig_mod.", p)},
    "compiled and parallel": lambda p, a: {"state_dict": prefixed("module._orig_mod.", p)},
    "parts compiled": lambda p, a: {"params": {key.replace(".level1.", ".level1._orig_mod."): v for key, v in p.items()}},
    "Lightning": lambda p, a: {"state_dict": {**prefixed("model.", p), "loss.vgg.weight": torch.zeros(2)}, "epoch": 1},
    "any attribute": lambda p, a: {"params": prefixed("x.y.", p)},
    "profiled": lambda p, a: {"params": {**p, **COUNTERS}},
    "profiled in mmengine": lambda p, a: {"state_dict": prefixed("generator.", {**p, **COUNTERS})},
    "swa_utils": lambda p, a: {"state_dict": {"n_averaged": torch.tensor(3), **prefixed("module.", p)}},
    "ordered": lambda p, a: {"state_dict": OrderedDict(p), "scheduler": {"last_epoch": 3}},
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_weights_are_found_by_every_reader(form, net, averaged, tmp_path, caplog):
    params = net.state_dict()
    path = tmp_path / f"{form}.pth"
    torch.save(FORMS[form](dict(params), averaged), path)

    def are_there(found):
        return found.keys() == params.keys() and all(torch.equal(found[key], params[key]) for key in params)

    with caplog.at_level("WARNING", logger="ifan_plugin"):
        assert are_there(load_network(path, device="cpu").net.state_dict())
    notes = [record.getMessage() for record in caplog.records]
    assert len(notes) == (form not in ("bare", "ours", "averaged alone"))
    assert all(str(path) in note and "\n" not in note for note in notes)
    assert are_there(read_params(str(path), None, reblurring=False))
    assert are_there(read_params(str(path), None, reblurring=False, names=params.keys()))
    assert are_there(conversion.read_weights(path).params)
    assert are_there(mm.read_params(path)[0])
    state = mm.load_from_file(path)["state_dict"]
    if form != "profiled in mmengine":
        assert are_there({key.removeprefix("generator."): value for key, value in state.items()})


BOTH = {
    "ours": lambda p, a: {"params": p, "params_ema": a},
    "timm": lambda p, a: {"state_dict": p, "state_dict_ema": a},
    "ema": lambda p, a: {"model": p, "ema": {"model": a, "decay": 0.9}},
    "model_ema": lambda p, a: {"model": prefixed("module.", p), "model_ema": prefixed("module.", a)},
    "Lightning": lambda p, a: {"state_dict": {**prefixed("net.", p), **prefixed("net_ema.", a)}},
    "mmengine": lambda p, a: {"state_dict": prefixed("generator.", a),
                              "ema_state_dict": prefixed("module.generator.", p)},
}  # fmt: skip


@pytest.mark.parametrize("form", BOTH)
def test_averaged_weights_are_the_default_everywhere(form, net, averaged, tmp_path):
    pytest.importorskip("spandrel", reason="needs spandrel")
    from ifan_plugin.weights import spandrel

    path, key = tmp_path / "both.pth", "reconstructor.to_image.0.bias"
    torch.save(BOTH[form](net.state_dict(), averaged), path)
    last = net.state_dict()[key]
    readers = {
        "restore, deblur, demo, export": lambda which: load_network(
            path, param_key=which, device="cpu"
        ).net.state_dict(),
        "option files": lambda which: read_params(str(path), which, reblurring=False),
        "convert": lambda which: conversion.read_weights(path, which).params,
        "mmengine's pretrained": lambda which: mm.read_params(path, param_key=which)[0],
    }
    for reader in readers.values():
        assert torch.equal(reader(None)[key], averaged[key])
        assert torch.equal(reader("params_ema")[key], averaged[key])
        assert torch.equal(reader("params")[key], last)
    assert torch.equal(mm.load_from_file(path)["state_dict"][f"generator.{key}"], averaged[key])
    if form != "mmengine":
        assert torch.equal(spandrel.load_file(path).model.state_dict()[key], averaged[key])
    assert load_network(path, device="cpu").param_key == "params_ema"


def test_the_authors_keys_one_level_down(net, tmp_path):
    flat = official.to_official(net.state_dict())
    for number, content in enumerate(({"state_dict": flat}, {"model": prefixed("x.", flat)}, flat)):
        path = tmp_path / f"{number}.pytorch"
        torch.save(content, path)
        assert conversion.read_weights(path).found == "a file with the IFAN authors' keys"


def test_a_reblurring_network_beside_ifan(net, tmp_path):
    reblur = ReblurNet(net.filter_channels, width=4, num_steps=2, res_units=1)
    path = tmp_path / "both.ckpt"
    both = {**prefixed("net_g.", net.state_dict()), **prefixed("net_r.", reblur.state_dict())}
    torch.save({"state_dict": both}, path)
    assert conversion.read_weights(path).params.keys() == net.state_dict().keys()
    assert conversion.read_weights(path, network=ReblurNet).params.keys() == reblur.state_dict().keys()


def test_what_is_no_network_of_ours_is_named(tmp_path):
    path = tmp_path / "vgg.pth"
    torch.save({"state_dict": {"features.0.weight": torch.zeros(2)}, "epoch": 4, "optimizer": {"state": {}}}, path)
    for read in (lambda: conversion.read_weights(path), lambda: load_network(path, device="cpu")):
        with pytest.raises(UserError) as caught:
            read()
        assert "features.0.weight" in str(caught.value)
        assert "\n" not in str(caught.value)
    assert foreign.described({"a": {"b": torch.zeros(1)}, "epoch": 1}) == (
        "the file holds 'a' (1 tensors, the first 'b'), 'epoch'"
    )


def test_nothing_in_common_is_an_error_without_strict(net):
    layer = torch.nn.Linear(1, 1)
    assert foreign.load_into(layer, {"weight": torch.ones(1, 1)}, "f", strict=False) == [
        "f: 1 missing keys, the first: bias"
    ]
    with pytest.raises(UserError, match=r"^f: has none of the parameters of Linear \(such as 'weight'\).* 1 tensors, "):
        foreign.load_into(layer, {"x": torch.ones(1)}, "f", strict=False)


def zipped(**members):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "/"), content)
    return data.getvalue()


def scripted():
    data = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), data)
    return data.getvalue()


def a_model():
    data = io.BytesIO()
    torch.save(torch.nn.Linear(1, 1), data)
    return data.getvalue()


NOT_CHECKPOINTS = {
    "an HTML page": (b"<!DOCTYPE html><html><title>Virus scan\n warning</title>", "a web page (HTML) ('Virus scan warning')"),
    "a page after blanks": (b"\xef\xbb\xbf\r\n  <HTML><body>404</body></HTML>", "a web page"),
    "a pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 42\n", "pointer of Git LFS"),
    "nothing": (b"", "the file is empty"),
    "gzip": (b"\x1f\x8b\x08" + bytes(60), "gzip archive"),
    "zip": (zipped(IFAN__weights="x", readme="y"), "a zip archive (IFAN/weights, readme)"),
    "npz": (zipped(**{"a.npy": "x"}), "NumPy archive"),
    "JSON": (b'{"message": "Not Found"}', "is text that begins '{\"message\""),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(60), "HDF5"),
    "TorchScript": (scripted, "TorchScript program"),
    "a whole model": (a_model, "would run code (names the global torch.nn.modules.linear.Linear)"),
    "half a file": (lambda: a_model()[:300], "not a checkpoint, or cut short"),
}  # fmt: skip


@pytest.mark.parametrize("kind", NOT_CHECKPOINTS)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_what_is_no_checkpoint_is_called_what_it_is(kind, suffix, tmp_path):
    content, said = NOT_CHECKPOINTS[kind]
    path = tmp_path / f"file{suffix}"
    path.write_bytes(content() if callable(content) else content)
    with pytest.raises(UserError) as caught:
        load_file(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_content_counts_and_not_the_name(net, tmp_path):
    pytest.importorskip("safetensors")
    weights = tmp_path / "a.pth"
    torch.save({"params": net.state_dict()}, weights)
    conversion.write_weights(tmp_path / "b.safetensors", "safetensors", conversion.read_weights(weights))
    Path(tmp_path / "b.safetensors").rename(tmp_path / "b.pth")
    weights.rename(tmp_path / "a.safetensors")
    for name in ("a.safetensors", "b.pth"):
        assert conversion.read_weights(tmp_path / name).params.keys() == net.state_dict().keys()
