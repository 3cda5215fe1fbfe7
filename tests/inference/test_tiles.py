"""Tiles: how far a network sees, what a halo must be, and that nothing shows where tiles meet."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ifan_plugin.archs.conventional_arch import DefocusDeconvolution
from ifan_plugin.archs.dpdnet_arch import DPDNet
from ifan_plugin.archs.ifan_arch import IFAN
from ifan_plugin.common.errors import UserError
from ifan_plugin.inference import memory, run_network, tiles


@pytest.fixture(autouse=True)
def _one_thread():
    """Pictures are small: threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Reaching(nn.Module):
    """The mean of a pixel and of those `reach` pixels away on the four sides; zeros beyond the picture."""

    multiple_of = 8

    def __init__(self, reach: int, weight: float = 0.2):
        super().__init__()
        self.reach, self.weight = reach, weight

    def forward(self, lq):
        padded = F.pad(lq, (self.reach,) * 4)
        height, width, reach = *lq.shape[-2:], self.reach
        sides = [(0, reach), (2 * reach, reach), (reach, 0), (reach, 2 * reach)]
        moved = sum(padded[..., top : top + height, left : left + width] for top, left in sides)
        return (1 - 4 * self.weight) * lq + self.weight * moved


class Mean(nn.Module):
    """Takes the picture's mean into account, as channel attention does."""

    multiple_of = 8

    def forward(self, lq):
        return 0.5 * lq + 0.5 * lq.mean((2, 3), keepdim=True)


def small_ifan(**options) -> IFAN:
    torch.manual_seed(0)
    network = IFAN(**({"width": 4, "num_steps": 2, "res_units": 1} | options)).eval()
    with torch.no_grad():  # as large as a trained network's, so that every step and every place counts
        network.filter_predictor.to_filters.weight.mul_(3)
        network.filter_predictor.to_filters.bias.normal_(0, 0.3)
    return network


def picture(height: int, width: int, channels: int = 3) -> torch.Tensor:
    return torch.rand(1, channels, height, width, generator=torch.Generator().manual_seed(1))


# --- the radius ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("reach", "expected"), [(0, 0), (1, 8), (8, 8), (9, 16), (40, 40), (300, 304)])
def test_radius_is_found(reach, expected):
    assert tiles.receptive_radius(Reaching(reach)) == expected


def test_radius_of_strides_and_of_one_side():
    class OneSided(nn.Module):
        multiple_of = 8

        def __init__(self):
            super().__init__()
            self.down, self.up = nn.Conv2d(3, 3, 8, 8), nn.ConvTranspose2d(3, 3, 8, 8)

        def forward(self, lq):  # the cell above, and none below
            return self.up(F.pad(self.down(lq), (0, 0, 1, 0))[..., :-1, :])

    assert tiles.receptive_radius(OneSided()) == 8


def test_weights_do_not_matter():
    """Even those that are zero count: the next training step may change them."""
    network = nn.Conv2d(3, 3, 17, padding=8)
    nn.init.zeros_(network.weight)
    assert tiles.receptive_radius(network, multiple=8) == 8


def test_radius_of_ifan():
    """One more step of IAC is one more pixel at 1/8 size; 17 steps and two residual units a block see 520 pixels."""
    few = tiles.receptive_radius(small_ifan(num_steps=1))
    assert few % 8 == 0
    assert tiles.receptive_radius(small_ifan(num_steps=4)) == few + 3 * 8
    assert tiles.receptive_radius(small_ifan(num_steps=1, taps=5)) == few + 8
    # By hand, in pixels: encoder 38; at 1/8 size the disparity estimator 10, its features 1, the predictor 10 + 9,
    # 17 steps and the reconstructor's bottleneck 8; then 43 up to full size. The cell's own side counts for nothing.
    by_hand = 38 + 8 * (10 + 1 + 10 + 9 + 17 + 8) + 43
    assert abs(tiles.receptive_radius(IFAN(width=2)) - by_hand) < 8


def test_other_networks():
    assert tiles.receptive_radius(DPDNet(width=2)) > 32
    assert tiles.receptive_radius(Mean()) is None
    assert tiles.receptive_radius(DefocusDeconvolution()) is None, "it says so itself: NaNs are refused"


def test_one_that_stops_nans_is_a_fault():
    class Deaf(nn.Module):
        def forward(self, lq):
            return lq.nan_to_num(0)

    with pytest.raises(RuntimeError, match="Deaf: its receptive radius can't be measured"):
        tiles.receptive_radius(Deaf())


# --- tiled and whole ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reach", [5, 24])
def test_a_smaller_halo_fails(reach):
    network, lq = Reaching(reach), picture(90, 101)
    whole = run_network(network, lq)
    radius = tiles.receptive_radius(network)
    assert torch.equal(run_network(network, lq, tile=32, halo="exact"), whole)
    narrower = run_network(network, lq, tile=32, halo=radius - 8)
    assert (narrower - whole).abs().max() > 100 * tiles.TOLERANCE


@pytest.mark.parametrize(
    ("options", "size"),
    [({}, (104, 168)), ({"num_steps": 4, "isotropic": True}, (91, 133)), ({"dual_pixel": True}, (93, 130))],
    ids=str,
)
def test_ifan_tiled_is_ifan_whole(options, size):
    network = small_ifan(**options)
    lq = picture(*size, network.in_channels)
    whole = run_network(network, lq)
    for halo in ("auto", "exact"):
        tiled = run_network(network, lq, tile=40, halo=halo)
        torch.testing.assert_close(tiled, whole, rtol=0, atol=tiles.TOLERANCE)
    assert (run_network(network, lq, tile=40, halo=8) - whole).abs().max() > 5 * tiles.TOLERANCE


def test_rounded_precision():
    """bf16's own rounding is larger than what seams may differ by in float32: it has a tolerance of its own."""
    network, lq = small_ifan(), picture(64, 104)
    tiled = run_network(network, lq, tile=40, precision="bf16")
    assert tiled.dtype == torch.float32
    torch.testing.assert_close(tiled, run_network(network, lq), rtol=0, atol=0.1)


@pytest.mark.parametrize("tile", [1, 8, 24, 200])
def test_any_tile_at_the_pictures_edges(tile):
    """Sizes that are no multiples: only the picture's own edge is padded, and there as the whole is."""
    network, lq = Reaching(3), picture(29, 51)
    assert torch.equal(run_network(network, lq, tile=tile), run_network(network, lq))


def test_a_network_that_says_no_grid():
    """It pads by itself, so its strides aren't known: tiles start at multiples of 64."""

    class Secretive(nn.Module):
        def forward(self, lq):
            height, width = lq.shape[-2:]
            padded = F.pad(lq, (0, -width % 16, 0, -height % 16))
            return F.interpolate(F.avg_pool2d(padded, 16), scale_factor=16)[..., :height, :width]

    lq = picture(100, 150)
    assert torch.equal(run_network(Secretive(), lq, tile=30), run_network(Secretive(), lq))


def test_batches_and_float64():
    network = Reaching(3)
    lq = torch.rand(2, 3, 40, 40, dtype=torch.float64)
    tiled = run_network(network, lq, tile=16)
    assert tiled.dtype == torch.float64
    assert torch.equal(tiled, run_network(network, lq))


# --- the measured halo --------------------------------------------------------------------------------------------


def test_measured_halo_is_narrower_where_far_pixels_do_not_count():
    step, far = 8, Reaching(64, weight=1e-7)
    near = Reaching(3)

    def run(lq):
        return near(far(lq))

    lq = picture(120, 400)
    assert tiles.measured_halo(run, lq, step, 72) == 24
    assert tiles.measured_halo(near, lq, step, 8) == 8, "never wider than the radius"
    assert tiles.measured_halo(Reaching(64), lq, step, 64) == 64


def test_seams_widen_the_halo(caplog):
    """The strip that is measured lies in the dark middle, and far pixels count in the bright parts alone."""

    class Gated(Reaching):
        def forward(self, lq):
            dark = lq.amax() <= 0.6  # also false for a NaN
            return torch.where(dark, lq, super().forward(lq))

    network, lq = Gated(40), picture(200, 200)
    lq[..., 50:150, :] /= 2
    assert tiles.receptive_radius(network) == 40
    assert tiles.measured_halo(network, lq, 8, 40) == 24
    counts = []
    with caplog.at_level(logging.INFO, "ifan_plugin"):
        tiled = run_network(network, lq, tile=64, progress=lambda *each: counts.append(each))
    assert "again with a halo of 40 pixels" in caplog.text
    assert torch.equal(tiled, run_network(network, lq))
    assert counts[-1] == (16, 16)
    assert (1, 16) in counts[1:], "it was begun again"


def test_networks_that_see_the_whole_picture_say_so(caplog):
    lq = picture(96, 96)
    lq[..., :48] *= 0.2
    tiled = run_network(Mean(), lq, tile=32)
    assert tiled.shape == lq.shape
    assert not caplog.records, "with such a halo each tile here sees all of the picture"
    lq = picture(32, 640)
    lq[..., :320] *= 0.2
    tiled = run_network(Mean(), lq, tile=32)
    assert (tiled - run_network(Mean(), lq)).abs().max() > 0.05
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "Mean looks at the whole picture at once" in caplog.text


# --- memory -------------------------------------------------------------------------------------------------------


class Greedy(Reaching):
    """Has memory for so many pixels."""

    def __init__(self, pixels: int, message: str):
        super().__init__(3)
        self.pixels, self.message, self.tried = pixels, message, []

    def forward(self, lq):
        self.tried.append(lq.shape[-2] * lq.shape[-1])
        if self.tried[-1] > self.pixels:
            raise RuntimeError(self.message)
        return super().forward(lq)


CPU_MESSAGE = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"


@pytest.mark.parametrize("tile", ["auto", 128, 1000])
def test_out_of_memory_halves_the_tile(tile, caplog):
    network, lq = Greedy(90 * 90, CPU_MESSAGE), picture(200, 260)
    counts = []
    tiled = run_network(network, lq, tile=tile, halo=8, progress=lambda *each: counts.append(each))
    assert torch.equal(tiled, run_network(Reaching(3), lq))
    assert "Out of memory" in caplog.text
    assert counts[-1][0] == counts[-1][1] == len(counts)
    assert sum(size > network.pixels for size in network.tried) < 4, "later tiles aren't tried at the old size"


def test_out_of_memory_as_a_whole_is_one_line():
    with pytest.raises(UserError, match=r"out of memory at a picture of 60x50 pixels as a whole; set tile: auto"):
        run_network(Greedy(100, CPU_MESSAGE), picture(50, 60))


def test_out_of_memory_at_the_smallest():
    with pytest.raises(UserError, match=r"out of memory at a tile of \d+ pixels \(\d+x\d+ with its halo\)"):
        run_network(Greedy(100, CPU_MESSAGE), picture(90, 90), tile=64, halo=8)


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match="shapes that don't fit"):
        run_network(Greedy(100, "shapes that don't fit"), picture(50, 60), tile=16)


def test_automatic_side():
    size = (4000, 6000)
    assert tiles.automatic_side(100, 100 * 4000 * 6000, 96, size) is None
    side = tiles.automatic_side(100, 100 * 2000 * 2000, 96, size)
    assert 0 < side <= 2000 - 2 * 96
    assert (side + 192) ** 2 * 100 <= 100 * 2000 * 2000
    assert tiles.automatic_side(1e6, 1e6, 96, size) == 32, "the smallest is tried before giving up"
    assert tiles.automatic_side(None, None, 96, size) == 1024
    assert tiles.automatic_side(None, None, 96, (100, 100)) is None


def test_auto_measures_and_fits(monkeypatch):
    """With memory for 300x300 pixels, tiles are as large as that allows, and of one size."""
    network, lq = Reaching(3), picture(600, 600)
    sizes = []
    network.register_forward_pre_hook(lambda module, inputs: sizes.append(inputs[0].shape[-2:].numel()))
    monkeypatch.setattr(memory, "bytes_per_pixel", lambda run, example, device: 1000.0)
    held = 6 * 600 * 600 * 4 + lq.numel() * 4
    monkeypatch.setattr(memory, "budget", lambda device: 1000 * 300 * 300 + held)
    tiled = run_network(network, lq, tile="auto", halo="exact")
    assert torch.equal(tiled, run_network(Reaching(3), lq))
    assert sizes[-9:].count(216 * 216) == 1, "three by three tiles of 200 pixels: the middle one has its whole halo"
    assert max(sizes) <= 300 * 300
