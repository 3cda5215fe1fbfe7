"""The conventional baseline as an arch: what it gains, what it leaves alone, what it refuses."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from helpers import ROOT, basicsr, write_options
from skimage import data
from torch import Tensor

import ifan_plugin
from ifan_plugin.archs.conventional_arch import DefocusDeconvolution
from ifan_plugin.common.errors import UserError
from ifan_plugin.conventional import psf
from ifan_plugin.host import option_check
from ifan_plugin.images.color import linear_from_srgb, srgb_from_linear
from ifan_plugin.inference import run_network
from ifan_plugin.metrics import psnr
from ifan_plugin.simulation import quickstart as quickstart_data
from ifan_plugin.simulation.simulator import simulate_dual_pixel


def as_tensor(picture: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(picture, np.float32).transpose(2, 0, 1))[None]


@cache
def coffee(sigma: float = 0.0) -> Tensor:
    """A photograph [1, 3, 200, 301], blurred in linear light."""
    linear = linear_from_srgb(data.coffee()[100:300, 80:381].astype(np.float32) / 255)
    soft = cv2.filter2D(linear, -1, psf.kernel(sigma, "disk"), borderType=cv2.BORDER_REFLECT)
    return as_tensor(srgb_from_linear(soft).clip(0, 1))


def small(sigma: float = 2.0) -> Tensor:
    """A part of it, [1, 3, 96, 129]."""
    return coffee(sigma)[..., 60:156, 90:219].clone()


@cache
def motorcycle() -> tuple[Tensor, Tensor, np.ndarray]:
    """The simulator's picture of the quickstart's scene at two thirds of its size, the sharp one, and |coc| in px."""
    scene = quickstart_data._motorcycle_scene(2.4)
    size = (494, 333)
    sharp = cv2.resize(scene.sharp, size, interpolation=cv2.INTER_AREA).clip(0, 1)
    depth = cv2.resize(scene.depth, size, interpolation=cv2.INTER_NEAREST)
    views = simulate_dual_pixel(sharp, depth, scene.camera)
    return as_tensor(views.center), as_tensor(sharp), np.abs(scene.camera.circle_of_confusion(depth))


@pytest.mark.parametrize("propagation", ["guided", "matting"])
def test_gains_on_a_simulated_dual_pixel_scene(propagation: str) -> None:
    blurred, sharp, _ = motorcycle()
    restored = DefocusDeconvolution(propagation=propagation)(blurred)
    assert psnr(restored, sharp) > psnr(blurred, sharp) + 0.2


def test_the_map_follows_the_circle_of_confusion() -> None:
    blurred, _, coc = motorcycle()
    sigma = DefocusDeconvolution().defocus_map(blurred)[0, 0].numpy()
    assert np.corrcoef(sigma.ravel(), coc.ravel())[0, 1] > 0.7
    assert sigma[coc < 0.5].mean() < 0.8
    assert sigma[coc > 3].mean() > 1.3


def test_a_sharp_picture_loses_little() -> None:
    for picture, least in ((motorcycle()[1], 45), (coffee(), 32)):  # the coffee's own background is out of focus
        assert psnr(DefocusDeconvolution()(picture), picture) > least


@pytest.mark.parametrize("sigma", [1.0, 2.0, 3.0])
def test_gains_on_a_uniformly_blurred_photograph(sigma: float) -> None:
    restored = DefocusDeconvolution()(coffee(sigma))
    assert psnr(restored, coffee()) > psnr(coffee(sigma), coffee()) + 0.3


def test_pixels_below_the_threshold_stay_exactly_as_they_are() -> None:
    net = DefocusDeconvolution(threshold=1.2)
    picture = motorcycle()[0]
    keep = (net.defocus_map(picture) <= 1.2).expand_as(picture)
    assert 0.1 < keep.float().mean() < 0.9
    restored = net(picture)
    assert torch.equal(restored[keep], picture[keep])
    assert not torch.equal(restored, picture)


def test_more_blur_measures_more() -> None:
    net = DefocusDeconvolution()
    means = [float(net.defocus_map(coffee(sigma)).mean()) for sigma in (0.0, 1.0, 2.0, 3.0)]
    assert means == sorted(means)
    assert means[-1] > means[0] + 1.0


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("size", [(1, 1), (1, 17), (2, 3), (64, 48)])
def test_constant_pictures_come_back(value: float, size: tuple[int, int]) -> None:
    net = DefocusDeconvolution()
    picture = torch.full((1, 3, *size), value)
    assert torch.equal(net(picture), picture)
    assert torch.equal(net.defocus_map(picture), torch.zeros(1, 1, *size))


@pytest.mark.parametrize("size", [(1, 1), (3, 3), (4, 9), (15, 16), (37, 5), (161, 33)])
def test_tiny_and_odd_sizes(size: tuple[int, int]) -> None:
    picture = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
    for network in (DefocusDeconvolution(), DefocusDeconvolution(propagation="matting", method="wiener")):
        restored = network(picture)
        assert restored.shape == picture.shape
        assert torch.isfinite(restored).all()
        assert 0 <= restored.min() <= restored.max() <= 1


def test_a_batch_is_its_pictures_one_by_one() -> None:
    batch = torch.cat([small(0.0), small(2.0)])
    net = DefocusDeconvolution()
    for run in (net, net.defocus_map):
        assert torch.equal(run(batch), torch.cat([run(each[None]) for each in batch]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_float_types_are_computed_in_float32(dtype: torch.dtype) -> None:
    picture = small().to(dtype)
    restored = DefocusDeconvolution()(picture)
    assert restored.dtype == dtype
    assert torch.equal(restored, DefocusDeconvolution()(picture.float()).to(dtype))


def test_through_run_network() -> None:
    picture = small()
    before = picture.clone()
    net = DefocusDeconvolution().train()
    assert torch.equal(run_network(net, picture), net(picture))
    assert torch.equal(picture, before)
    assert net.training
    assert list(net.parameters()) == []
    assert net.state_dict() == {}


def test_values_beyond_the_range_are_clipped() -> None:
    picture = 1.5 * small() - 0.2
    assert torch.equal(DefocusDeconvolution()(picture), DefocusDeconvolution()(picture.clamp(0, 1)))


def test_arguments_reach_the_result() -> None:
    picture = small()
    usual = DefocusDeconvolution()(picture)
    for arguments in (
        {"psf": "gaussian"}, {"edge_model": "disk"}, {"propagation": "matting"}, {"method": "wiener"}, {"noise": 0.02},
        {"max_sigma": 1.0}, {"threshold": 1.5},
    ):  # fmt: skip
        net = DefocusDeconvolution(**arguments)
        assert net.hyper_parameters == {**DefocusDeconvolution().hyper_parameters, **arguments}
        assert (net(picture) - usual).abs().max() > 0.01, arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"psf": "dsik"},
            "DefocusDeconvolution: psf: must be one of 'disk', 'gaussian', not 'dsik'; did you mean 'disk'?",
        ),
        (
            {"method": "Wiener"},
            "DefocusDeconvolution: method: must be one of 'hyper_laplacian', 'wiener', not 'Wiener'",
        ),
        ({"propagation": "x"}, "DefocusDeconvolution: propagation: must be one of 'guided', 'matting', not 'x'"),
        ({"noise": 0.0}, "DefocusDeconvolution: noise: must be at least 0.001, not 0.0"),
        ({"max_sigma": 50.0}, "DefocusDeconvolution: max_sigma: must be at most 20, not 50.0"),
        ({"threshold": 6.0}, "DefocusDeconvolution: threshold: must be below max_sigma (6.0), not 6.0"),
    ],
)
def test_impossible_arguments_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(UserError) as error:
        DefocusDeconvolution(**arguments)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("lq", "message"),
    [
        (torch.rand(3, 8, 8), r"lq must be \[B, 3, H, W\]"),
        (torch.rand(1, 9, 8, 8), r"got \[1, 9, 8, 8\]"),
        (torch.rand(1, 3, 0, 8), "not empty"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "float type"),
        (torch.full((1, 3, 8, 8), torch.nan), "192 values that are NaN or infinite"),
        (torch.rand(1, 3, 8, 8) / 0, "NaN or infinite"),
    ],
)
def test_impossible_pictures_are_refused(lq: Tensor, message: str) -> None:
    for run in (DefocusDeconvolution(), DefocusDeconvolution().defocus_map):
        with pytest.raises(ValueError, match=message):
            run(lq)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_pictures_on_a_gpu_come_back_to_it() -> None:
    picture = small().cuda()
    net = DefocusDeconvolution().cuda()
    for run in (net, net.defocus_map):
        assert run(picture).device == picture.device
        assert torch.equal(run(picture).cpu(), run(picture.cpu()))


def test_the_option_file_on_a_small_set(dpdd: Path, tmp_path: Path) -> None:
    options = yaml.safe_load((ROOT / "options/test/test_conventional_DPDD.yml").read_text())
    options["datasets"]["test"]["dataroot"] = str(dpdd)
    del options["val"]["metrics"]["lpips"]
    done = basicsr("test", "-opt", write_options(tmp_path, options), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    results = tmp_path / "results/test_conventional_DPDD"
    measured = json.loads((results / "DPDD_test/metrics.json").read_text())
    assert measured["protocol"] == "ifan"
    assert len(measured["images"]) == 3
    assert measured["mean"]["restored"]["psnr"] != measured["mean"]["blurred"]["psnr"]
    assert len(list((results / "visualization/DPDD_test").glob("*.png"))) == 3


def test_the_option_file_gives_the_defaults() -> None:
    network = yaml.safe_load((ROOT / "options/test/test_conventional_DPDD.yml").read_text())["network_g"]
    assert network.pop("type") == "DefocusDeconvolution"
    assert network == DefocusDeconvolution().hyper_parameters


def test_training_it_is_refused(options: dict, tmp_path: Path) -> None:
    ifan_plugin.register()
    from basicsr.models import build_model  # importable only once the host is mended

    del options["network_r"]
    options["network_g"] = {"type": "DefocusDeconvolution"}
    options["train"] |= {"disparity_opt": None, "reblur_opt": None}
    checked = option_check.check(options, "small.yml", is_train=True)
    checked |= {"dist": False, "rank": 0, "world_size": 1, "is_train": True}
    with pytest.raises(UserError, match="network_g: DefocusDeconvolution has no parameters to train"):
        build_model(checked)


@pytest.mark.slow
def test_a_slip_in_an_option_file_is_one_line(dpdd: Path, tmp_path: Path) -> None:
    options = yaml.safe_load((ROOT / "options/test/test_conventional_DPDD.yml").read_text())
    options["datasets"]["test"]["dataroot"] = str(dpdd)
    options["network_g"]["psf"] = "dsik"
    done = basicsr("test", "-opt", write_options(tmp_path, options), cwd=tmp_path)
    assert done.returncode == 2
    assert "DefocusDeconvolution: psf: must be one of 'disk', 'gaussian'" in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr
