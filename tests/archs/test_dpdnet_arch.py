"""DPDNet against a U-Net written out step by step, and trained by the command from an option file."""

from __future__ import annotations

import re

import pytest
import torch
from helpers import basicsr, write_options
from torch import Tensor
from torch.nn import functional as F

import ifan_plugin
from ifan_plugin.archs.dpdnet_arch import DPDNet
from ifan_plugin.common.errors import UserError
from ifan_plugin.host import option_check
from ifan_plugin.host.mends import mend_all
from ifan_plugin.inference import run_network

ifan_plugin.register()
mend_all()

from basicsr.models import build_model  # noqa: E402 (the host can be imported only once it is mended)


def small(in_channels: int = 3, **changed: object) -> DPDNet:
    torch.manual_seed(0)
    return DPDNet(in_channels, **{"width": 4, **changed})


def written_out(params: dict[str, Tensor], image: Tensor) -> Tensor:
    """The network in evaluation as its paper draws it, H and W multiples of 16."""

    def conv(x: Tensor, name: str) -> Tensor:
        weight = params[f"{name}.weight"]
        if weight.shape[-1] == 2:  # "same" with an even kernel: the odd row and column lie below and to the right
            x = F.pad(x, (0, 1, 0, 1))
        return F.conv2d(
            x, weight, params[f"{name}.bias"], padding=weight.shape[-1] // 2 if weight.shape[-1] == 3 else 0
        )

    def block(x: Tensor, name: str) -> Tensor:
        return conv(conv(x, f"{name}.0").relu(), f"{name}.2").relu()

    e1 = block(image, "encoder.0")
    e2 = block(F.max_pool2d(e1, 2), "encoder.1")
    e3 = block(F.max_pool2d(e2, 2), "encoder.2")
    e4 = block(F.max_pool2d(e3, 2), "encoder.3")
    x = block(F.max_pool2d(e4, 2), "bottleneck")
    for number, skip in enumerate((e4, e3, e2, e1)):
        x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        x = block(torch.cat([skip, conv(x, f"up.{number}").relu()], 1), f"decoder.{number}")
    return conv(conv(x, "to_image.0").relu(), "to_image.2").sigmoid()


@pytest.mark.parametrize(("in_channels", "count"), [(3, 31_033_423), (6, 31_035_151)])
def test_size_of_the_papers_network(in_channels, count):
    with torch.device("meta"):
        network = DPDNet(in_channels)
    assert sum(p.numel() for p in network.parameters()) == count
    assert network.hyper_parameters == {"in_channels": in_channels, "width": 64, "dropout": 0.4}
    convolutions = [m.out_channels for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    assert convolutions[:10] == [64, 64, 128, 128, 256, 256, 512, 512, 1024, 1024]
    assert convolutions[-2:] == [3, 3]


@pytest.mark.parametrize("in_channels", [3, 6])
def test_equals_the_network_written_out(in_channels):
    network = small(in_channels).eval()
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):  # zero at first: a bias left out wouldn't show
            torch.nn.init.uniform_(parameter, 0, 0.2)
    lq = torch.rand(2, in_channels, 32, 48)
    torch.testing.assert_close(network(lq), written_out(dict(network.named_parameters()), lq))


def test_other_sizes_are_padded_by_the_edge():
    network = small(6).eval()
    lq = torch.rand(1, 6, 19, 33)
    padded = F.pad(lq, (0, 15, 0, 13), mode="replicate")
    assert torch.equal(network(lq), network(padded)[..., :19, :33])
    assert torch.equal(network(lq).detach(), run_network(network, lq))
    assert network(torch.rand(1, 6, 1, 1)).shape == (1, 3, 1, 1)


def test_dropout_in_two_places_and_in_training_alone():
    network = small()
    dropped = []
    network.dropout.register_forward_hook(lambda module, inputs, output: dropped.append((inputs[0], output)))
    network.train()(torch.rand(1, 3, 32, 32))
    (fourth, _), (bottleneck, kept) = dropped
    assert fourth.shape == (1, 32, 4, 4)
    assert bottleneck.shape == (1, 64, 2, 2)
    torch.testing.assert_close(kept, torch.where(kept == 0, 0, bottleneck / 0.6))
    assert ((kept == 0) & (bottleneck > 0)).any()
    network.eval()
    lq = torch.rand(1, 3, 32, 32)
    assert torch.equal(network(lq), network(lq))


def test_initialisation_is_he_normal():
    torch.manual_seed(0)
    network = DPDNet(3, width=16)
    weight = network.bottleneck[2].weight
    assert weight.std().item() == pytest.approx((2 / (weight.shape[1] * 9)) ** 0.5, rel=0.02)
    assert all(not p.any() for name, p in network.named_parameters() if name.endswith("bias"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"in_channels": 9}, "in_channels must be 3"),
        ({"width": 0}, "width"),
        ({"width": True}, "width"),
        ({"dropout": 1}, "dropout"),
    ],
)
def test_invalid_hyper_parameters(arguments, message):
    with pytest.raises(ValueError, match=message):
        DPDNet(**arguments)


@pytest.mark.parametrize("shape", [(1, 3, 32, 32), (6, 32, 32), (1, 6, 0, 32)])
def test_invalid_input(shape):
    with pytest.raises(ValueError, match=r"lq must be \[B, 6, H, W\] \(left, right\)"):
        small(6)(torch.rand(shape))


def dual_options(options: dict) -> dict:
    for dataset in options["datasets"].values():
        dataset["views"] = ["left", "right"]
    options["datasets"]["train"].pop("aux_views")
    del options["network_r"]
    for key in ("disparity_opt", "reblur_opt"):
        del options["train"][key]
    options["network_g"] = {"type": "DPDNet", "in_channels": 6, "width": 4}
    options["train"] |= {"optim_g": {"type": "Adam", "lr": 1e-3}, "total_iter": 2}
    options["logger"]["save_checkpoint_freq"] = 2
    return options


def test_the_command_trains_the_dual_network_from_an_option_file(options, tmp_path):
    options = dual_options(options)
    done = basicsr("train", "-opt", write_options(tmp_path, options), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "l_deblur: " in done.stderr
    saved = torch.load(tmp_path / "experiments/small/models/net_g_2.pth", weights_only=True)
    assert saved["hyper_parameters"] == {"in_channels": 6, "width": 4, "dropout": 0.4}
    DPDNet(**saved["hyper_parameters"]).load_state_dict(saved["params"])


def test_views_of_another_number_are_one_line(options):
    options = dual_options(options)
    options["network_g"]["in_channels"] = 3
    opt = option_check.check(options, "f", is_train=True) | {
        "dist": False,
        "rank": 0,
        "world_size": 1,
        "is_train": True,
    }
    message = "datasets: train: views: [left, right] give 6 channels, and network_g (DPDNet) takes 3"
    with pytest.raises(UserError, match=re.escape(message)):
        build_model(opt)
