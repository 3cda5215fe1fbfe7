"""``ifan_plugin.restore``: every shape and type of array comes back as it went in."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT
from torch import nn

import ifan_plugin
from ifan_plugin.archs.ifan_arch import IFAN
from ifan_plugin.common.errors import UserError
from ifan_plugin.inference import run_network
from ifan_plugin.weights.networks import Network, load_network


class Mixed(nn.Module):
    """Half the brightness; of several views the weighted mean, so that their order shows."""

    multiple_of = 8

    def forward(self, lq):
        views = lq.split(3, 1)
        return 0.5 * sum((2**number) * view for number, view in enumerate(views)) / (2 ** len(views) - 1)


def network(*views: str) -> Network:
    return Network(Mixed(), views or ("center",), "Mixed", None, "Mixed")


def array(shape, dtype, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if dtype == np.float32:
        return rng.random(shape, np.float32)
    return rng.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    net = IFAN(width=4, num_steps=2, res_units=1)
    path = tmp_path_factory.mktemp("weights") / "net.pth"
    torch.save({"params": net.state_dict(), "hyper_parameters": net.hyper_parameters}, path)
    return path


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("shape", [(13, 18, 3), (13, 18), (13, 18, 4)], ids=str)
def test_shape_and_type_come_back(shape, dtype):
    image = array(shape, dtype)
    if shape[-1] == 4:  # colours that nobody sees are another test's
        image[..., 3] = np.maximum(image[..., 3], 0.1 if dtype == np.float32 else np.iinfo(dtype).max // 10)
    before = image.copy()
    found = ifan_plugin.restore(image, weights=network())
    assert (found.shape, found.dtype) == (image.shape, image.dtype)
    assert np.array_equal(image, before), "the picture given is left alone"
    colours = image[..., :3].astype(np.float64) / 2
    expected = colours if dtype == np.float32 else np.rint(colours)
    largest = 1e-6 if dtype == np.float32 else 1  # halves are rounded either way
    assert np.abs(found[..., :3] - expected).max() <= largest
    assert np.abs(found[..., :3] - colours).max() <= (1e-6 if dtype == np.float32 else 0.5 + 2e-3)
    if shape[-1] == 4:
        assert np.array_equal(found[..., 3], image[..., 3])


def test_it_is_the_network_on_the_picture(checkpoint):
    image = array((37, 42, 3), np.float32)
    net = load_network(checkpoint, device="cpu").net
    expected = run_network(net, torch.from_numpy(image).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()
    assert np.array_equal(ifan_plugin.restore(image, checkpoint, device="cpu"), expected)
    averaged = ifan_plugin.restore(image, checkpoint, device="cpu", ensemble=True)
    assert averaged.shape == image.shape
    assert not np.array_equal(averaged, expected)


def test_grey_is_the_mean_of_three_equal_channels(checkpoint):
    net = load_network(checkpoint, device="cpu")
    image = array((24, 32), np.float32)
    coloured = ifan_plugin.restore(np.repeat(image[..., None], 3, 2), net)
    np.testing.assert_allclose(ifan_plugin.restore(image, net), coloured.mean(2), atol=1e-6)
    assert np.abs(coloured[..., 0] - coloured[..., 1]).max() > 1e-4, "else the mean wouldn't be tested"


def test_views_are_stacked_in_order():
    image, left, right = (array((16, 24, 3), np.float32, seed) for seed in range(3))
    found = ifan_plugin.restore(image, network("center", "left", "right"), left=left, right=right)
    np.testing.assert_allclose(found, (image + 2 * left + 4 * right) / 14, atol=1e-6)
    found = ifan_plugin.restore(image, network("left", "right"), left=left, right=right)
    np.testing.assert_allclose(found, (left + 2 * right) / 6, atol=1e-6)
    assert np.array_equal(ifan_plugin.restore(image, network(), left=left), ifan_plugin.restore(image, network()))


def test_odd_strides_and_values_beyond():
    image = array((40, 30, 3), np.float32)[::-1, ::2]
    np.testing.assert_allclose(ifan_plugin.restore(image, network()), image / 2, atol=1e-6)
    image = np.array([[[-1, 0.5, 2]]], np.float32)
    np.testing.assert_allclose(ifan_plugin.restore(image, network()), [[[0, 0.25, 0.5]]], atol=1e-6)


def test_without_weights():
    image = array((32, 32, 3), np.uint8)
    found = ifan_plugin.restore(image, None, arch="DefocusDeconvolution")
    assert (found.shape, found.dtype) == (image.shape, image.dtype)


def test_progress_counts_tiles():
    counts = []
    ifan_plugin.restore(array((64, 32, 3), np.uint8), network(), tile=32, progress=lambda *each: counts.append(each))
    assert counts == [(1, 2), (2, 2)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image": [[1]]}, "image: must be a numpy array, not list; valid: uint8"),
        ({"image": np.zeros((4, 4, 3))}, r"image: is float64 \[4, 4, 3\]; valid: uint8, uint16 or float32"),
        ({"image": np.zeros((4, 4, 2), np.uint8)}, r"image: is uint8 \[4, 4, 2\]; valid"),
        ({"image": np.zeros((0, 4, 3), np.uint8)}, r"image: is uint8 \[0, 4, 3\]; valid"),
        ({"image": np.full((4, 4), np.nan, np.float32)}, "image: holds NaN or infinite values"),
        ({"left": None}, "left: Mixed takes the views center, left, right; give left, too"),
        ({"right": np.zeros((8, 9, 3), np.uint8)}, r"right: must be uint8 \[8, 8, 3\] as image is, not uint8 \[8, 9, 3\]"),
        ({"right": np.zeros((8, 8, 3), np.uint16)}, "right: must be uint8"),
        ({"tile": 0}, "tile: must be auto, off or a positive number of pixels, not 0"),
        ({"tile": "large"}, "tile: must be auto"),
        ({"precision": "fp8"}, "precision: must be fp32, bf16, fp16, not 'fp8'"),
        ({"precision": "fp16"}, "precision: fp16 needs a GPU"),
        ({"weights": "nowhere.pth"}, "nowhere.pth: no such file"),
    ],
)  # fmt: skip
def test_errors_are_one_line(arguments, message):
    given = {name: np.zeros((8, 8, 3), np.uint8) for name in ("image", "left", "right")}
    given |= {"weights": network("center", "left", "right")} | arguments
    with pytest.raises(UserError, match=message) as caught:
        ifan_plugin.restore(**given)
    assert "\n" not in str(caught.value)


def test_the_package_stays_light():
    """``restore`` is there without torch, or the host, having been loaded."""
    program = (
        "import sys, ifan_plugin\n"
        "assert 'restore' in dir(ifan_plugin)\n"
        "assert 'torch' not in sys.modules\n"
        "ifan_plugin.restore\n"
        "assert 'torch' in sys.modules\n"
        "assert not [name for name in sys.modules if name.split('.')[0] in ('basicsr', 'spandrel')]\n"
        "try:\n"
        "    ifan_plugin.nothing\n"
        "except AttributeError as error:\n"
        "    assert 'nothing' in str(error)\n"
        "else:\n"
        "    raise SystemExit('no error')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


class Broken(Mixed):
    """As damaged weights do, or numbers that a narrow type doesn't have."""

    def forward(self, lq):
        return super().forward(lq) * float("nan")


@pytest.mark.parametrize("tile", [None, 64])
def test_a_result_that_is_not_finite_is_no_picture(tile):
    damaged = Network(Broken(), ("center",), "Broken", Path("nan.pth"), "Broken")
    with pytest.raises(UserError, match=r"nan\.pth: its result isn't finite \(NaN\); the weights may be damaged"):
        ifan_plugin.restore(array((96, 130, 3), np.uint8), weights=damaged, tile=tile)
