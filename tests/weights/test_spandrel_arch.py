"""SpandrelNet: networks of spandrel by name and from files, in our loops and out of them again."""

from __future__ import annotations

import builtins
import copy
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import ifan_plugin
from ifan_plugin.archs.dpdnet_arch import DPDNet
from ifan_plugin.common.errors import UserError
from ifan_plugin.host import option_check
from ifan_plugin.host.mends import mend_all
from ifan_plugin.inference import run_network
from ifan_plugin.weights.spandrel_arch import SpandrelNet

spandrel = pytest.importorskip("spandrel")
ifan_plugin.register()
mend_all()

from basicsr.archs import build_network  # noqa: E402 (the host can be imported only once it is mended)
from basicsr.models import build_model  # noqa: E402
from spandrel.architectures.NAFNet import NAFNet  # noqa: E402

NAFNET = {"width": 4, "enc_blk_nums": [1, 1], "dec_blk_nums": [1, 1]}
SWINIR = {
    "embed_dim": 8, "depths": [1], "num_heads": [2], "window_size": 4, "upscale": 1, "upsampler": "",
    "resi_connection": "1conv", "img_range": 2.0,
}  # fmt: skip
UFORMER = {"embed_dim": 4, "depths": [1] * 9, "num_heads": [1] * 9, "win_size": 8}
RESTORMER_DUAL = {
    "inp_channels": 6, "dim": 4, "num_blocks": [1, 1, 1, 1], "num_refinement_blocks": 1, "heads": [1, 1, 1, 1],
    "dual_pixel_task": True,
}  # fmt: skip


def make(architecture: str = "NAFNet", **arguments: object) -> SpandrelNet:
    torch.manual_seed(0)
    network = SpandrelNet(architecture=architecture, arguments=arguments or NAFNET)
    for parameter in network.parameters():  # NAFNet's branches begin with weight zero
        nn.init.normal_(parameter, 0, 0.2)
    return network


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("architecture", "arguments", "size"),
    [("NAFNet", NAFNET, (24, 32)), ("SwinIR", SWINIR, (16, 20)), ("Uformer", UFORMER, (128, 128))],
)
def test_equals_spandrels_own_call(architecture, arguments, size):
    """On sizes that need no padding: spandrel reflects, and here the edge is repeated, as everywhere in this package."""
    network = make(architecture, **arguments).eval()
    described = spandrel.MAIN_REGISTRY.load(network.state_dict()).eval()
    lq = torch.rand(1, 3, *size)
    with torch.no_grad():
        result = network(lq)
    assert result.std() > 0
    if architecture != "SwinIR":  # there img_range doesn't show in the weights, and spandrel takes 1
        torch.testing.assert_close(result, described(lq))
    assert torch.equal(result, network.network(lq).clamp(0, 1))


def test_a_call_that_is_more_than_the_network():
    """DRUNet gets a noise level as a fourth channel, which spandrel adds to one picture at a time."""
    network = make("DRUNet", in_nc=4, out_nc=3, nc=[4, 4, 4, 4], nb=2).eval()
    assert (network.in_channels, network.multiple_of) == (3, 8)
    lq = torch.rand(2, 3, 16, 16)
    described = spandrel.MAIN_REGISTRY.load(network.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(network(lq), torch.cat([described(picture) for picture in lq.split(1)]))


def test_padding_to_multiples_and_squares():
    network = make("Uformer", **UFORMER).eval()
    assert network.multiple_of == 128
    lq = torch.rand(1, 3, 100, 30)
    with torch.no_grad():
        assert torch.equal(run_network(network, lq), network(lq)), "padding outside or inside is the same"
    sizes = []
    network._call = lambda _, image: sizes.append(tuple(image.shape[2:])) or image
    lq = torch.rand(1, 3, 9, 130)
    assert torch.equal(network(lq), lq)
    assert sizes == [(256, 256)]


def test_only_evaluation_clips():
    network = make()
    lq = 3 * torch.rand(1, 3, 16, 16)
    unclipped = network.train()(lq)
    assert unclipped.max() > 1
    assert torch.equal(network.eval()(lq), unclipped.clamp(0, 1))


def test_restormer_with_two_views():
    pytest.importorskip("spandrel_extra_arches")
    network = make("Restormer", **RESTORMER_DUAL)
    assert (network.in_channels, network.multiple_of) == (6, 8)
    network(torch.rand(1, 6, 13, 17)).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    with pytest.raises(ValueError, match=r"Restormer: lq must be \[B, 6, H, W\]"):
        network(torch.rand(1, 3, 16, 16))


def test_the_state_dict_is_the_networks_own():
    network, plain = make(), NAFNet(**NAFNET)
    assert list(network.state_dict()) == list(plain.state_dict())
    plain.load_state_dict(network.state_dict())
    copied = copy.deepcopy(network)
    nn.init.zeros_(network.network.intro.weight)
    assert copied.state_dict()["intro.weight"].any(), "a copy is its own"
    copied.load_state_dict(network.state_dict())
    assert not copied.network.intro.weight.any()
    whole = nn.ModuleDict({"a": network, "b": nn.Conv2d(1, 1, 1)})
    assert "a.intro.weight" in whole.state_dict()
    whole.load_state_dict(whole.state_dict())
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "intro.bias"'):
        network.load_state_dict({k: v for k, v in network.state_dict().items() if k != "intro.bias"})
    found = network.load_state_dict(network.state_dict() | {"more": torch.zeros(1)}, strict=False)
    assert found.unexpected_keys == ["more"]


@pytest.mark.parametrize("name", ["ein Netz.pth", "a.safetensors", "a.pytorch"])
def test_a_file_of_its_authors(tmp_path, name):
    network = make().eval()
    if name.endswith(".safetensors"):
        save_file(network.state_dict(), tmp_path / name)
    else:
        torch.save({"params": {f"module.{k}": v for k, v in network.state_dict().items()}}, tmp_path / name)
    loaded = SpandrelNet(path=str(tmp_path / name)).eval()
    assert loaded.hyper_parameters == {
        "architecture": "NAFNet",
        "arguments": {"img_channel": 3, "middle_blk_num": 1} | NAFNET,
    }
    lq = torch.rand(1, 3, 16, 16)
    assert torch.equal(loaded(lq), network(lq))


def test_given_arguments_stand_where_weights_tell_nothing(tmp_path):
    torch.save(make("SwinIR", **SWINIR).state_dict(), tmp_path / "a.pth")
    path = str(tmp_path / "a.pth")
    assert SpandrelNet(path=path).network.hyperparameters["img_range"] == 1
    loaded = SpandrelNet(path=path, architecture="SwinIR", arguments={"img_range": 2.0})
    assert loaded.network.hyperparameters["img_range"] == 2
    assert loaded.hyper_parameters["arguments"]["embed_dim"] == 8
    with pytest.raises(UserError, match="doesn't fit the SwinIR asked for"):
        SpandrelNet(path=path, architecture="SwinIR", arguments={"embed_dim": 4})


def training_options(options: dict) -> dict:
    options["datasets"]["train"].pop("aux_views")
    del options["network_r"]
    for key in ("disparity_opt", "reblur_opt"):
        del options["train"][key]
    options["train"] |= {"optim_g": {"type": "AdamW", "lr": 1e-3}, "ema_decay": 0.5}
    options["network_g"] = {"type": "SpandrelNet", "architecture": "SwinIR", "arguments": SWINIR}
    return options


def prepared(options: dict, folder: Path, is_train: bool = True) -> dict:
    opt = option_check.check(copy.deepcopy(options), "f", is_train=is_train)
    opt |= {"dist": False, "rank": 0, "world_size": 1, "is_train": is_train}
    opt["path"] |= {"models": str(folder), "training_states": str(folder)}
    return opt


def test_it_trains_in_our_loop_and_comes_back(options, tmp_path):
    """Saved by our loop; read by spandrel itself, by path, and as pretrained weights."""
    options = training_options(options)
    model = build_model(prepared(options, tmp_path))
    before = copy.deepcopy(model.net_g.state_dict())
    for iteration in (1, 2):
        model.update_learning_rate(iteration)
        model.feed_data({"lq": torch.rand(2, 3, 16, 16), "gt": torch.rand(2, 3, 16, 16)})
        model.optimize_parameters(iteration)
    trained = model.net_g.state_dict()
    assert all(
        (trained[name] != before[name]).any() for name, p in model.net_g.network.named_parameters() if p.numel() > 3
    )
    model.save(0, 2)
    path = tmp_path / "net_g_2.pth"
    saved = torch.load(path, weights_only=True)
    assert set(saved) == {"params", "params_ema", "hyper_parameters"}
    assert saved["hyper_parameters"]["arguments"]["img_range"] == 2

    lq = torch.rand(1, 3, 16, 20)
    for param_key, expected in (("params", model.net_g), ("params_ema", model.net_g_ema), (None, model.net_g_ema)):
        loaded = SpandrelNet(path=str(path), param_key=param_key)
        assert torch.equal(run_network(loaded, lq), run_network(expected, lq)), "hyper-parameters included"
    with pytest.raises(UserError, match=r"param_key: the file has no 'param'; did you mean 'params'\?"):
        SpandrelNet(path=str(path), param_key="param")
    assert spandrel.ModelLoader().load_from_file(path).architecture.id == "SwinIR"

    options["path"] = {"pretrain_network_g": str(path)}
    again = build_model(prepared(options, tmp_path))
    assert torch.equal(run_network(again.net_g, lq), run_network(model.net_g_ema, lq))
    options["path"]["param_key_g"] = "params"
    again = build_model(prepared(options, tmp_path))
    assert torch.equal(run_network(again.net_g, lq), run_network(model.net_g, lq))
    options["network_g"]["arguments"] = {**SWINIR, "embed_dim": 4}
    with pytest.raises(UserError, match="doesn't fit SpandrelNet as the options build it") as caught:
        build_model(prepared(options, tmp_path))
    assert str(path) in one_line(caught)
    options["network_g"] = {"type": "IFAN"}
    with pytest.raises(UserError, match="isn't a checkpoint of IFAN"):
        prepared(options, tmp_path)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ({}, "give path (a checkpoint file), or architecture"),
        ({"arguments": NAFNET}, "give path (a checkpoint file), or architecture"),
        ({"architecture": "NAFNett"}, "architecture: unknown 'NAFNett'; did you mean 'NAFNet'?"),
        (
            {"architecture": "NAFNet", "arguments": {"widht": 4}},
            "NAFNet: arguments: unknown key 'widht'; did you mean 'width'?",
        ),
        (
            {"architecture": "NAFNet", "arguments": {"width": "wide"}},
            "arguments: width: must be an integer, not 'wide'",
        ),
        (
            {"architecture": "NAFNet", "arguments": [4]},
            "arguments: must be a mapping of NAFNet's hyper-parameters, not list",
        ),
        ({"path": "none.pth"}, "path: file not found: none.pth"),
        ({"path": __file__, "arguments": NAFNET}, "arguments: need architecture"),
    ],
    ids=str,
)
def test_wrong_names_are_one_line_before_anything_is_built(options, network, message):
    options = training_options(options)
    options["network_g"] = {"type": "SpandrelNet"} | network
    with pytest.raises(UserError) as caught:
        option_check.check(options, "a.yml", is_train=True)
    assert one_line(caught).startswith("a.yml: network_g")
    assert message in str(caught.value)
    with pytest.raises(UserError) as caught:
        build_network({"type": "SpandrelNet"} | network)
    assert message in one_line(caught)


@pytest.mark.parametrize(
    ("architecture", "arguments", "message"),
    [
        ("SwinIR", {**SWINIR, "upscale": 2, "upsampler": "pixelshuffledirect"}, "enlarges pictures 2 times"),
        ("NAFNet", {**NAFNET, "img_channel": 1}, "gives 1 channels, not the 3"),
        ("NAFNet", {"enc_blk_nums": 3}, "NAFNet can't be built with them: 'int' object is not iterable"),
    ],
)
def test_networks_that_do_not_serve(architecture, arguments, message):
    with pytest.raises(UserError, match=message) as caught:
        SpandrelNet(architecture=architecture, arguments=arguments)
    assert architecture in one_line(caught)


def test_files_that_do_not_serve(tmp_path):
    path = str(tmp_path / "a.pth")
    for content, message in (
        (
            {"params": {"conv.weight": torch.zeros(1)}},
            r"no architecture known to spandrel has such weights \(the first: conv",
        ),
        ({"params": {"conv.weight": 3}}, "no weights alone"),
        ({"params": {}}, "no weights alone"),
        (DPDNet(width=2).state_dict(), "is a checkpoint of DPDNet: use type: DPDNet"),
        (
            {
                "params": NAFNet(**NAFNET).state_dict(),
                "hyper_parameters": {"architecture": "NAFNet", "arguments": {"width": 8}},
            },
            "doesn't fit",
        ),
        (
            {
                "params": NAFNet(**NAFNET).state_dict(),
                "hyper_parameters": {"architecture": "NAFNet", "arguments": {"a": 8}},
            },
            "can't be built",
        ),
    ):
        torch.save(content, path)
        with pytest.raises(UserError, match=message) as caught:
            SpandrelNet(path=path)
        assert path in one_line(caught)
    torch.save(NAFNet(**NAFNET).state_dict(), path)
    with pytest.raises(UserError, match="is a NAFNet, but architecture: SwinIR was asked for"):
        SpandrelNet(path=path, architecture="SwinIR")


def test_a_file_that_runs_code_is_refused(tmp_path):
    class Harmful:
        def __reduce__(self):
            return print, ("owned",)

    torch.save({"params": Harmful()}, tmp_path / "a.pt")
    with pytest.raises(UserError, match="would run code"):
        SpandrelNet(path=str(tmp_path / "a.pt"))


def test_without_spandrel_it_says_what_to_install(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "spandrel"]:
        monkeypatch.delitem(sys.modules, name)
    found = builtins.__import__

    def without(name, *arguments, **options):
        if name.split(".")[0] == "spandrel":
            raise ImportError(f"No module named '{name}'")
        return found(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match="needs the package spandrel: pip install"):
        SpandrelNet(architecture="NAFNet")
