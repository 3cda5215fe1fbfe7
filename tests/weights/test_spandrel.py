"""Our architectures in spandrel: the authors' and our files through its loader, compared with our own loading."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from ifan_plugin.archs.dpdnet_arch import DPDNet
from ifan_plugin.archs.ifan_arch import IFAN
from ifan_plugin.common.errors import UserError
from ifan_plugin.weights.official import from_official

spandrel = pytest.importorskip("spandrel")

import ifan_plugin.spandrel as ours  # noqa: E402 (only where spandrel is)

SHAPES = json.loads(
    (Path(__file__).parents[1] / "data_files" / "golden" / "official_state_dict_shapes.json").read_text()
)


@pytest.fixture
def loader() -> spandrel.ModelLoader:
    """A loader with a registry of its own, ours beside all of spandrel's."""
    registry = spandrel.MAIN_REGISTRY.copy()
    ours.register(registry)
    return spandrel.ModelLoader(registry=registry)


def official(name: str) -> dict[str, Tensor]:
    """A state dict with the authors' names and shapes, of values that a network can work with."""
    generator = torch.Generator().manual_seed(0)
    return {
        key: torch.randn(shape, generator=generator) * (0.05 if len(shape) < 2 else shape[1:].numel() ** -0.5)
        for key, shape in ((key, torch.Size(shape)) for key, shape in SHAPES[name].items())
    }


def restored(descriptor: spandrel.ImageModelDescriptor, lq: Tensor) -> Tensor:
    assert isinstance(descriptor, spandrel.ImageModelDescriptor)
    return descriptor.eval()(lq.clone())


@pytest.mark.parametrize("name", SHAPES)
def test_the_authors_files(loader, tmp_path, name):
    state_dict = official(name)
    path = tmp_path / "IFAN für mich.pth"
    torch.save(state_dict, path)
    descriptor = loader.load_from_file(path)
    assert descriptor.architecture.id == "IFAN"
    assert descriptor.purpose == "Restoration"
    assert descriptor.scale == 1
    assert (descriptor.input_channels, descriptor.output_channels) == (9 if "dual" in name else 3, 3)
    assert descriptor.size_requirements.multiple_of == 8
    assert {"isotropic", "N=17" if name == "paper" else "N=3"} <= set(descriptor.tags)
    assert ("dual-pixel" in descriptor.tags) == ("dual" in name)

    checkpoint = from_official(state_dict)
    network = IFAN(**checkpoint.arch_kwargs).eval()
    network.load_state_dict(checkpoint.params)
    lq = torch.rand(1, network.in_channels, 16, 24)
    with torch.no_grad():
        expected = network(lq)
    assert expected.std() > 0.05
    assert (expected - lq[:, :3]).abs().mean() > 0.01, "the weights show"
    assert torch.equal(restored(descriptor, lq), expected)
    assert torch.equal(restored(loader.load_from_state_dict(dict(state_dict)), lq), expected)
    if name != "paper":
        torch.save(state_dict, tmp_path / "IFAN.pytorch")  # as the authors name them: spandrel refuses the suffix
        assert torch.equal(restored(ours.load_file(tmp_path / "IFAN.pytorch"), lq), expected)


@pytest.mark.parametrize("suffix", [".pth", ".ckpt", ".safetensors"])
@pytest.mark.parametrize(
    "options",
    [{}, {"dual_pixel": True}, {"use_disparity": False}, {"use_filters": False}, {"filter_type": "fac", "fac_taps": 3}],
    ids=str,
)
def test_our_files(loader, tmp_path, options, suffix):
    torch.manual_seed(0)
    network = IFAN(width=4, num_steps=2, res_units=1, **options).eval()
    path = tmp_path / f"net_g{suffix}"
    if suffix == ".safetensors":
        save_file(network.state_dict(), path)
    else:
        torch.save({"params": network.state_dict(), "hyper_parameters": network.hyper_parameters}, path)
    lq = torch.rand(1, network.in_channels, 16, 8)
    with torch.no_grad():
        expected = network(lq)
    assert torch.equal(restored(loader.load_from_file(path), lq), expected)
    assert torch.equal(restored(ours.load_file(path), lq), expected)


def test_averaged_weights_come_first(loader, tmp_path):
    one, other = IFAN(width=2, num_steps=1, res_units=1), IFAN(width=2, num_steps=1, res_units=1)
    torch.save({"params": one.state_dict(), "params_ema": other.state_dict()}, tmp_path / "a.pth")
    for descriptor in (loader.load_from_file(tmp_path / "a.pth"), ours.load_file(tmp_path / "a.pth")):
        key = "feature_extractor.level1.0.0.weight"
        assert torch.equal(descriptor.model.state_dict()[key], other.state_dict()[key])


def test_recorded_hyper_parameters_are_read_by_ours_and_missed_aloud_by_spandrel(loader, tmp_path, caplog):
    network = IFAN(width=2, num_steps=6, taps=3, res_units=1, isotropic=True)
    torch.save({"params": network.state_dict(), "hyper_parameters": network.hyper_parameters}, tmp_path / "a.pth")
    assert ours.load_file(tmp_path / "a.pth").model.hyper_parameters == network.hyper_parameters
    assert not caplog.records
    with caplog.at_level(logging.WARNING, "ifan_plugin"):
        assert not loader.load_from_file(tmp_path / "a.pth").model.hyper_parameters["isotropic"]
    assert "separable filters of 3 taps are assumed" in caplog.text


def test_any_size_and_half_precision(loader):
    torch.manual_seed(0)
    network = IFAN(width=4, num_steps=2, res_units=1)
    descriptor = loader.load_from_state_dict(network.state_dict())
    lq = torch.rand(1, 3, 5, 19)
    expected = restored(descriptor, lq)
    assert expected.shape == lq.shape
    for dtype in (torch.bfloat16, torch.float16):
        result = restored(descriptor.to(dtype), lq.to(dtype))
        assert result.dtype == dtype
        torch.testing.assert_close(result.float(), expected, rtol=0, atol=0.05)
        descriptor = loader.load_from_state_dict(network.state_dict())


@pytest.mark.parametrize("in_channels", [3, 6])
def test_dpdnet(loader, tmp_path, in_channels):
    torch.manual_seed(0)
    network = DPDNet(in_channels, width=2, dropout=0.1).eval()
    path = tmp_path / "a.pth"
    torch.save({"params": network.state_dict(), "hyper_parameters": network.hyper_parameters}, path)
    lq = torch.rand(1, in_channels, 16, 32)
    with torch.no_grad():
        expected = network(lq)
    for descriptor in (loader.load_from_file(path), ours.load_file(path)):
        assert descriptor.architecture.id == "DPDNet"
        assert descriptor.input_channels == in_channels
        assert descriptor.size_requirements.multiple_of == 16
        assert torch.equal(restored(descriptor, lq), expected)
    assert descriptor.model.hyper_parameters == network.hyper_parameters


def test_registering_twice_adds_once():
    registry = spandrel.MAIN_REGISTRY.copy()
    known = len(registry)
    ours.register(registry)
    assert ours.register(registry) == []
    assert {support.architecture.id for support in registry.architectures()} >= {"IFAN", "DPDNet", "NAFNet"}
    assert len(registry) <= known + 2


def test_other_networks_are_still_found(loader):
    from spandrel.architectures.NAFNet import NAFNet

    weights = NAFNet(width=4, enc_blk_nums=[1], dec_blk_nums=[1]).state_dict()
    assert loader.load_from_state_dict(weights).architecture.id == "NAFNet"


def test_files_of_nothing_we_know(tmp_path):
    torch.save({"params": {"a": torch.zeros(1)}}, tmp_path / "a.pth")
    with pytest.raises(UserError, match="neither a checkpoint of IFAN nor one of DPDNet"):
        ours.load_file(tmp_path / "a.pth")
    network = IFAN(width=2, num_steps=1, res_units=1)
    wrong = {**network.hyper_parameters, "num_steps": 2}
    torch.save({"params": network.state_dict(), "hyper_parameters": wrong}, tmp_path / "b.pth")
    with pytest.raises(UserError, match=r"b\.pth: weights and hyper-parameters don't fit") as caught:
        ours.load_file(tmp_path / "b.pth")
    assert "\n" not in str(caught.value)
