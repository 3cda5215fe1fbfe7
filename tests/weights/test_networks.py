"""Networks by their checkpoints: which architecture, which arguments, which device; one line where it can't be."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ifan_plugin.archs.dpdnet_arch import DPDNet
from ifan_plugin.archs.ifan_arch import IFAN
from ifan_plugin.common.errors import UserError
from ifan_plugin.weights import conversion, official
from ifan_plugin.weights.networks import Network, load_network, pick_device
from ifan_plugin.zoo import shipped

ARGUMENTS = {"width": 4, "num_steps": 2, "res_units": 1}


def save(path: Path, network: torch.nn.Module, **more) -> Path:
    torch.save({"params": network.state_dict(), "hyper_parameters": network.hyper_parameters, **more}, path)
    return path


@pytest.fixture
def ifan() -> IFAN:
    torch.manual_seed(0)
    return IFAN(**ARGUMENTS, isotropic=True)


def same(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    ours, theirs = first.state_dict(), second.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key].cpu(), theirs[key].cpu()) for key in ours)


def test_our_own_file(ifan, tmp_path):
    path = save(tmp_path / "mein Netz ä.pth", ifan)
    loaded = load_network(path, device="cpu")
    assert isinstance(loaded, Network)
    assert same(loaded.net, ifan)
    assert loaded.net.hyper_parameters == ifan.hyper_parameters
    assert not loaded.net.training
    assert not any(parameter.requires_grad for parameter in loaded.net.parameters())
    assert (loaded.name, loaded.views, loaded.path) == ("IFAN", ("center",), path)
    assert loaded.device == torch.device("cpu")
    for part in ("IFAN", "width 4", "isotropic true", "parameters", "mein Netz ä.pth"):
        assert part in loaded.description
    assert "\n" not in loaded.description
    assert load_network(str(path), arch="IFAN", device="cpu").net.hyper_parameters == ifan.hyper_parameters


def test_averaged_weights(ifan, tmp_path):
    averaged = IFAN(**ARGUMENTS, isotropic=True)
    path = save(tmp_path / "a.pth", ifan, params_ema=averaged.state_dict())
    assert same(load_network(path, param_key="params_ema", device="cpu").net, averaged)
    assert same(load_network(path, device="cpu").net, averaged)
    assert same(load_network(path, param_key="params", device="cpu").net, ifan)


def test_safetensors_and_the_authors_keys(ifan, tmp_path):
    pytest.importorskip("safetensors")
    source = conversion.read_weights(save(tmp_path / "a.pth", ifan))
    for name, kind in (("a.safetensors", "safetensors"), ("a.pytorch", "official")):
        conversion.write_weights(tmp_path / name, kind, source)
        loaded = load_network(tmp_path / name, device="cpu")
        assert same(loaded.net, ifan)
        assert loaded.net.hyper_parameters["isotropic"] is True


def test_isotropic_where_the_file_does_not_say(ifan, tmp_path):
    torch.save({"params": ifan.state_dict()}, tmp_path / "bare.pth")
    assert load_network(tmp_path / "bare.pth", device="cpu").net.hyper_parameters["isotropic"] is False
    asked = load_network(tmp_path / "bare.pth", arguments={"isotropic": True}, device="cpu")
    assert asked.net.hyper_parameters["isotropic"] is True
    torch.save(official.to_official(ifan.state_dict()), tmp_path / "theirs.pytorch")
    assert load_network(tmp_path / "theirs.pytorch", device="cpu").net.hyper_parameters["isotropic"] is True


def test_views(tmp_path):
    dual = save(tmp_path / "dual.pth", IFAN(**ARGUMENTS, dual_pixel=True))
    assert load_network(dual, device="cpu").views == ("center", "left", "right")
    both = DPDNet(in_channels=6, width=2)
    loaded = load_network(save(tmp_path / "dpdnet.pth", both), device="cpu")
    assert (loaded.views, loaded.name) == (("left", "right"), "DPDNet")
    assert same(loaded.net, both)
    torch.save(both.state_dict(), tmp_path / "bare.pth")
    assert same(load_network(tmp_path / "bare.pth", device="cpu").net, both)


def test_without_weights():
    loaded = load_network(None, arch="DefocusDeconvolution", arguments={"method": "wiener"}, device="cpu")
    assert (loaded.name, loaded.path, loaded.views) == ("DefocusDeconvolution", None, ("center",))
    assert loaded.net.method == "wiener"
    assert loaded.description.startswith("DefocusDeconvolution: ")


def test_what_spandrel_detects(tmp_path):
    spandrel = pytest.importorskip("spandrel")
    from spandrel.architectures.NAFNet import NAFNet

    network = NAFNet(width=4, middle_blk_num=1, enc_blk_nums=[1], dec_blk_nums=[1])
    torch.save({"params": network.state_dict()}, tmp_path / "nafnet.pth")
    for arch in (None, "SpandrelNet"):
        loaded = load_network(tmp_path / "nafnet.pth", arch=arch, device="cpu")
        assert (loaded.name, loaded.views) == ("NAFNet", ("center",))
        assert same(loaded.net.network, network)
    torch.save(network.state_dict(), tmp_path / "bare.pth")
    assert load_network(tmp_path / "bare.pth", device="cpu").name == "NAFNet"
    assert spandrel


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f: load_network(None, arch="IFAN"), r"^weights: IFAN needs a checkpoint"),
        (lambda f: load_network(f / "none.pth"), r"none\.pth: no such file; looked for here and in weights/"),
        (lambda f: load_network(f), r"can't be read"),
        (lambda f: load_network(f / "a.pth", arch="IFANN"), r"unknown type 'IFANN'; did you mean 'IFAN'\?"),
        (lambda f: load_network(f / "a.pth", param_key="params_ema"), r"has no 'params_ema'; valid: --param-key params"),
        (lambda f: load_network(f / "a.pth", arguments={"widht": 4}), r"unknown key 'widht'; did you mean 'width'\?"),
        (lambda f: load_network(f / "a.pth", arguments={"width": 8}), r"width is 4 in the checkpoint, but 8"),
        (lambda f: load_network(f / "a.pth", arguments={"isotropic": False}), r"isotropic is True in the checkpoint"),
        (lambda f: load_network(f / "dpdnet.pth", arch="IFAN"), r"no IFAN checkpoint"),
        (lambda f: load_network(f / "dpdnet.pth", arguments={"width": 3}), r"width is 2 in the checkpoint, but 3"),
        (lambda f: load_network(f / "text.pth"), r"not a checkpoint, or cut short"),
        (lambda f: load_network(f / "a.pth", device="tpu"), r"^device: unknown 'tpu'; there are: auto, .*cpu$"),
    ],
)  # fmt: skip
def test_errors_are_one_line(call, message, ifan, tmp_path):
    save(tmp_path / "a.pth", ifan)
    save(tmp_path / "dpdnet.pth", DPDNet(width=2))
    (tmp_path / "text.pth").write_text("no checkpoint")
    with pytest.raises(UserError, match=message) as caught:
        call(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_package_that_ships_no_network_needs_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    with pytest.raises(UserError, match=r"^weights: give a checkpoint, or an architecture"):
        load_network(None)


def test_a_checkpoint_of_nobody(tmp_path):
    pytest.importorskip("spandrel")
    torch.save({"params": {"layer.weight": torch.zeros(3, 3)}}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"other\.pth: .*; name its architecture \(arch\)"):
        load_network(tmp_path / "other.pth")


def test_devices(monkeypatch):
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device(torch.device("cpu")) == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick_device("auto") == torch.device("cuda")
    assert pick_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(UserError, match=r"device: cuda:2 isn't on this machine; there are: auto, cuda, cuda:0, cuda:1"):
        pick_device("cuda:2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert pick_device("auto") == torch.device("cpu")
    for name in ("cuda", "mps"):
        with pytest.raises(UserError, match=rf"device: {name} isn't on this machine; there are: auto, cpu$"):
            pick_device(name)


def test_a_set_of_parameters_that_is_not_there(tmp_path):
    path = save(tmp_path / "dpdnet.pth", DPDNet(width=2))
    with pytest.raises(UserError, match=r"dpdnet\.pth: has no 'params_ema'; valid: --param-key params"):
        load_network(path, param_key="params_ema", device="cpu")


def test_the_second_hosts_file(ifan, tmp_path):
    state = {f"generator.{key}": value for key, value in ifan.state_dict().items()}
    torch.save({"state_dict": state, "meta": {}, "message_hub": {}}, tmp_path / "iter_4.pth")
    assert same(load_network(tmp_path / "iter_4.pth", arguments={"isotropic": True}, device="cpu").net, ifan)


ODD_TENSORS = {
    "sparse": (lambda tensor: tensor.to_sparse(), "is a tensor of the layout sparse_coo"),
    "quantised": (lambda tensor: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8), "is a quantised tensor"),
    "meta": (lambda tensor: tensor.to("meta"), "is a tensor without data"),
    "a number": (lambda tensor: 3, "is a int"),
    "integers": (lambda tensor: tensor.to(torch.int8), "holds int8, expected float32"),
    "complex": (lambda tensor: tensor.to(torch.complex64), "holds complex64, expected float32"),
    "flat": (lambda tensor: tensor.flatten(), "], expected ["),
}


@pytest.mark.parametrize("odd", ODD_TENSORS)
@pytest.mark.parametrize("kind", ["IFAN", "DPDNet", "another"])
def test_what_is_no_tensor_of_the_networks_is_named(kind, odd, tmp_path):
    net = {"IFAN": lambda: IFAN(**ARGUMENTS), "DPDNet": lambda: DPDNet(width=2), "another": lambda: DPDNet(width=2)}[
        kind
    ]()
    key = "reconstructor.to_image.0.weight" if kind == "IFAN" else "bottleneck.2.weight"
    change, message = ODD_TENSORS[odd]
    params = net.state_dict()
    params[key] = change(params[key].detach())
    torch.save(
        {"params": params, "hyper_parameters": net.hyper_parameters} if kind != "another" else params,
        tmp_path / "a.pth",
    )
    arch = {"arch": "DPDNet", "arguments": {"width": 2}} if kind == "another" else {}
    with pytest.raises(UserError, match=r"a\.pth") as caught:
        load_network(tmp_path / "a.pth", **arch, device="cpu")
    assert message in str(caught.value)
    assert key in str(caught.value)


def test_a_width_that_the_file_says_wrongly_is_refused_before_anything_is_drawn(tmp_path):
    net = DPDNet(width=1)
    torch.save(
        {"params": net.state_dict(), "hyper_parameters": {**net.hyper_parameters, "width": 800}}, tmp_path / "a.pth"
    )
    with pytest.raises(UserError, match=r"a\.pth: no DPDNet checkpoint: .+ expected \[800, 3, 3, 3\]"):
        load_network(tmp_path / "a.pth", device="cpu")
