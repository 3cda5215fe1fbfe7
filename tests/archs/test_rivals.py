"""The networks IFAN is compared with: sizes as published, layers against others' arithmetic, training and resuming."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from helpers import basicsr, write_options
from scipy import ndimage
from torch.nn import functional as F

from ifan_plugin.archs import KPAC, ConvIR, DMENet, DMENetDeconvolution, GKMNet
from ifan_plugin.archs.convir_arch import GROUPS, ShapedFilter
from ifan_plugin.archs.gkmnet_arch import gaussian_taps
from ifan_plugin.archs.kpac_arch import KPACBlock
from ifan_plugin.conventional import deconvolution
from ifan_plugin.images.color import linear_from_srgb, srgb_from_linear
from ifan_plugin.losses import DefocusMapLoss
from ifan_plugin.weights.networks import load_network

SMALL = {
    "KPAC": (KPAC, {"width": 4, "blocks": 1, "taps": 3, "dilations": 2}),
    "GKMNet": (GKMNet, {"width": 4, "kernels": 3, "taps": 5}),
    "ConvIR": (ConvIR, {"blocks": 1, "width": 8}),
    "DMENetDeconvolution": (DMENetDeconvolution, {"width": 2}),
}


def small(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    network_class, arguments = SMALL[name]
    return network_class(**arguments)


@pytest.mark.parametrize(
    ("network_class", "arguments", "published", "count"),
    [
        (KPAC, {}, 2.06e6, 2_073_709),
        (GKMNet, {}, 1.41e6, 1_401_485),
        (ConvIR, {"blocks": 4}, 5.53e6, 5_530_505),
        (ConvIR, {"blocks": 8}, 8.63e6, 8_630_665),
        (ConvIR, {"blocks": 16}, 14.83e6, 14_830_985),
        (DMENet, {}, 26.94e6, 27_140_801),
    ],
)
def test_as_many_parameters_as_published(network_class, arguments, published, count):
    with torch.device("meta"):
        found = sum(p.numel() for p in network_class(**arguments).parameters())
    assert found == pytest.approx(published, rel=0.01)
    assert found == count, "the docstring says how many"
    assert f"{count:,}" in network_class.__doc__


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("size", [(37, 53), (1, 1)])
def test_any_size_is_padded_by_the_edge(name, size):
    network = small(name).eval()
    if name == "DMENetDeconvolution":
        network = network.map_network
    lq = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(1))
    height, width = (-(-side // network.multiple_of) * network.multiple_of for side in size)
    padded = F.pad(lq, (0, width - size[1], 0, height - size[0]), mode="replicate")
    with torch.no_grad():
        found, whole = network(lq), network(padded)
    assert found.shape[2:] == size
    assert torch.equal(found, whole[..., : size[0], : size[1]])


@pytest.mark.parametrize("name", SMALL)
def test_ten_steps_lower_the_loss_and_reach_every_parameter(name):
    network = small(name).train()
    generator = torch.Generator().manual_seed(2)
    gt = torch.rand(2, 3, 64, 64, generator=generator)
    lq = F.avg_pool2d(gt, 5, 1, 2)
    coc = torch.full((2, 1, 64, 64), 8.0)

    def loss() -> torch.Tensor:
        if name == "DMENetDeconvolution":
            return DefocusMapLoss()(network.training_outputs(lq).lq_disparity, coc)
        return F.mse_loss(network(lq), gt)

    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    reached, losses = set(), []
    for _ in range(10):
        optimizer.zero_grad()
        value = loss()
        value.backward()
        reached |= {key for key, p in network.named_parameters() if p.grad is not None and p.grad.any()}
        optimizer.step()
        losses.append(value.item())
    assert losses[-1] < losses[0]
    missed = {key for key, _ in network.named_parameters()} - reached
    if name == "ConvIR":  # the coarser pictures that it restores beside are for losses of several scales
        missed -= {key for key in missed if key.startswith(("to_image.0", "to_image.1"))}
    assert not missed


@pytest.mark.parametrize(
    ("network_class", "arguments", "message"),
    [
        (KPAC, {"taps": 4}, "taps must be odd"),
        (KPAC, {"blocks": 0}, "blocks must be a positive integer"),
        (GKMNet, {"kernels": 1}, "kernels and width must be at least 2"),
        (ConvIR, {"width": 12}, "width must be a multiple of 8"),
        (DMENet, {"width": True}, "width must be a positive integer"),
    ],
)
def test_invalid_hyper_parameters(network_class, arguments, message):
    with pytest.raises(ValueError, match=message):
        network_class(**arguments)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("shape", [(1, 6, 32, 32), (3, 32, 32), (1, 3, 0, 32)])
def test_invalid_input(name, shape):
    with pytest.raises(ValueError, match=r"lq must be \[B, 3, H, W\]"):
        small(name)(torch.rand(shape))


def test_kpac_blocks_spread_one_kernel_to_several_dilations():
    torch.manual_seed(3)
    block = KPACBlock(4, 3, 3)
    x = torch.rand(2, 4, 17, 19)
    weights = dict(block.named_parameters())
    scales = block.scale_attention(x).sigmoid()
    shapes = block.shape_attention(x.mean((2, 3))).sigmoid()
    found = []
    for index in range(3):
        kernel = torch.zeros(4, 4, 2 * index + 3, 2 * index + 3)
        kernel[..., :: index + 1, :: index + 1] = weights["shared.weight"]  # with holes, in place of a dilation
        spread = F.leaky_relu(F.conv2d(x, kernel, weights["shared.bias"], padding=index + 1), 0.1)
        found.append(spread * shapes[:, :, None, None] * scales[:, index, None])
    expected = F.leaky_relu(block.fusion(torch.cat(found, 1)), 0.1) + x
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize("shape", [(3, 3), (1, 3), (3, 1)])
def test_shaped_filters_against_unfolded_windows(shape):
    torch.manual_seed(4)
    module = ShapedFilter(16, shape, 2, normed=shape == (3, 3)).eval()
    for parameter in (module.low, module.high, module.mean_share):
        torch.nn.init.normal_(parameter)
    x = torch.rand(2, 16, 9, 11)
    down, across = 2 * (shape[0] // 2), 2 * (shape[1] // 2)
    windows = F.unfold(F.pad(x, (across, across, down, down), mode="reflect"), shape, dilation=2)
    taps = module.predict(x.mean((2, 3), keepdim=True)).reshape(2, GROUPS, 1, shape[0] * shape[1], 1)
    low = (windows.reshape(2, GROUPS, 2, shape[0] * shape[1], 99) * taps).sum(3).reshape(x.shape)
    if shape == (3, 3):
        mean = x.mean((2, 3), keepdim=True)
    else:
        mean = x.mean(3, keepdim=True) if shape == (1, 3) else x.mean(2, keepdim=True)
    low = low * (module.mean_share + 1) - module.mean_share * mean
    torch.testing.assert_close(module(x), low * module.low + x * (1 + module.high))


def test_convir_trains_with_one_picture_at_a_time():
    network = small("ConvIR").train()
    network(torch.rand(1, 3, 32, 32)).mean().backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in network.parameters())


def test_gkmnet_blurs_by_the_mixture_that_its_coefficients_say():
    network = GKMNet(width=4, kernels=4, taps=13)
    picture = torch.rand(1, 3, 24, 24, generator=torch.Generator().manual_seed(5))
    mixture = torch.zeros(1, 4, 24, 24)
    mixture[:, 0] = 1
    torch.testing.assert_close(network.blur(picture, mixture), picture)
    mixture = mixture.roll(3, 1)  # the widest alone: sigma 13 / 6
    expected = ndimage.gaussian_filter(picture[0].numpy(), (0, 13 / 6, 13 / 6), mode="nearest", radius=(0, 6, 6))
    np.testing.assert_allclose(network.blur(picture, mixture)[0].numpy(), expected, atol=1e-6)
    torch.testing.assert_close(gaussian_taps(4, 13).sum(1), torch.ones(4))


def test_gkmnet_leaves_a_picture_that_it_takes_for_sharp():
    network = small("GKMNet").eval()
    torch.nn.init.zeros_(network.predictor.to_mixture.weight)
    network.predictor.to_mixture.bias.data[:] = torch.tensor([100.0, 0, 0])  # the impulse alone
    lq = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(network(lq), lq)


def test_pictures_are_deconvolved_by_the_networks_map():
    network = small("DMENetDeconvolution").eval()
    torch.nn.init.zeros_(network.map_network.to_map.weight)
    network.map_network.to_map.bias.data[:] = 2.0
    sigma = F.softplus(torch.tensor(2.0)).item()
    lq = torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(6))
    torch.testing.assert_close(network.defocus_map(lq), torch.full((1, 1, 32, 48), sigma))
    picture = lq[0].permute(1, 2, 0).numpy()
    linear = deconvolution.deconvolve_by_map(
        linear_from_srgb(picture), np.full((32, 48), sigma, np.float32), "disk", "hyper_laplacian", 0.04, 0.6
    )
    expected = srgb_from_linear(linear.clip(0, 1)).astype(np.float32)
    np.testing.assert_allclose(network(lq)[0].permute(1, 2, 0).numpy(), expected, atol=1e-6)


def test_the_map_loss_is_nothing_for_a_disks_deviation():
    coc = torch.tensor([-8.0, 0.0, 4.0]).reshape(1, 1, 1, 3)
    assert DefocusMapLoss()(torch.tensor([2.0, 0.0, 1.0]).reshape(1, 1, 1, 3), coc) == 0
    assert DefocusMapLoss(0.5)(torch.zeros(1, 1, 1, 3), coc).item() == pytest.approx(0.5 * (4 + 0 + 1) / 3)
    with pytest.raises(ValueError, match=r"sigma must be \[1, 1, 1, 3\]"):
        DefocusMapLoss()(torch.zeros(1, 1, 1, 2), coc)


@pytest.mark.parametrize("name", SMALL)
def test_a_checkpoint_tells_its_network(tmp_path, name):
    network = small(name)
    path = tmp_path / "some.pth"
    torch.save({"params": network.state_dict(), "hyper_parameters": network.hyper_parameters}, path)
    loaded = load_network(path, device="cpu")
    assert (loaded.name, loaded.views) == (name, ("center",))
    assert all(torch.equal(a, b) for a, b in zip(loaded.net.state_dict().values(), network.state_dict().values()))


def training_options(options: dict, name: str, tmp_path) -> dict:
    """Ten iterations of a small network: on DPDD, or for a defocus map on blur that is made."""
    _, arguments = SMALL[name]
    options["network_g"] = {"type": name, **arguments}
    del options["network_r"]
    train = options["train"]
    for key in ("disparity_opt", "reblur_opt"):
        del train[key]
    train |= {"total_iter": 10, "optim_g": {"type": "Adam", "lr": 1e-3}}
    train["scheduler"]["milestones"] = [8]
    options["logger"]["save_checkpoint_freq"] = 5
    options["datasets"].pop("val")
    options.pop("val")
    data = options["datasets"]["train"]
    data.pop("aux_views")
    if name == "DMENetDeconvolution":
        root = data["dataroot"]
        for key in ("dataroot", "bit_depth"):
            data.pop(key)
        data |= {
            "type": "SimulatedDualPixelDataset", "dataroot_sharp": f"{root}/train_c/target",
            "depth_kind": "invented", "on_device": True, "camera": "thin_lens", "sensor": "none",
        }  # fmt: skip
        train["defocus_opt"] = {"type": "DefocusMapLoss"}
    return options


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_a_resumed_run_is_the_same_to_the_bit(options, tmp_path, name):
    options = training_options(options, name, tmp_path)
    path = write_options(tmp_path, options)
    done = basicsr("train", "-opt", path, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    folder = tmp_path / "experiments/small"
    whole = torch.load(folder / "models/net_g_10.pth", weights_only=True)["params"]
    for file in ("models/net_g_10.pth", "models/net_g_latest.pth", "training_states/10.state"):
        (folder / file).unlink(missing_ok=True)
    done = basicsr("train", "-opt", path, "--auto_resume", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    resumed = torch.load(folder / "models/net_g_10.pth", weights_only=True)["params"]
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(value, resumed[key]) for key, value in whole.items())
    shutil.rmtree(folder)
