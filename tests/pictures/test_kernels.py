"""The effective kernel: cases made by hand, finite differences of the real operators, and a whole network."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ifan_plugin.archs.dpdnet_arch import DPDNet
from ifan_plugin.archs.ifan_arch import IFAN
from ifan_plugin.common.errors import UserError
from ifan_plugin.ops import iac
from ifan_plugin.ops.fac import FAC
from ifan_plugin.pictures.kernels import FilterInspector, fac_kernel, iac_kernel, neighbourhood, no_filters


def random_filters(channels: int, steps: int, taps: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    count = steps * channels * (2 * taps + 1)
    return torch.randn(1, count, height, width, generator=generator, dtype=torch.float64)


def same_everywhere(vertical: list, horizontal: list, bias: list, height: int = 9, width: int = 11) -> torch.Tensor:
    """Filters of one channel and ``len(bias)`` steps of 3 taps."""
    values = [v for pair in zip(vertical, horizontal) for taps in pair for v in taps] + bias
    return torch.tensor(values, dtype=torch.float64)[None, :, None, None].expand(1, -1, height, width)


def finite_differences(layer, x: torch.Tensor, row: int, column: int, radius: int, step: float = 1e-6) -> torch.Tensor:
    """The kernel measured at the layer itself: each input near the place moved up and down."""
    side = 2 * radius + 1
    kernel = x.new_zeros(*x.shape[:2], side, side)
    for dy in range(-radius, radius + 1):
        for dx in range(-radius, radius + 1):
            y, z = row + dy, column + dx
            if 0 <= y < x.shape[2] and 0 <= z < x.shape[3]:
                above, below = x.clone(), x.clone()
                above[..., y, z] += step
                below[..., y, z] -= step
                slope = (layer(above) - layer(below))[..., row, column] / (2 * step)
                kernel[..., dy + radius, dx + radius] = slope
    return kernel


class TestByHand:
    x = torch.rand(1, 1, 9, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 1

    def test_separable(self):
        # Two steps: their kernels are outer products, and the two of them convolved.
        filters = same_everywhere([[1, 2, 3], [0, 1, 0]], [[1, 0, 4], [5, 6, 7]], [10.0, 10.0])
        first = torch.tensor([[1, 0, 4], [2, 0, 8], [3, 0, 12]], dtype=torch.float64)
        expected = torch.zeros(5, 5, dtype=torch.float64)
        for dx, weight in ((0, 5.0), (1, 6.0), (2, 7.0)):
            expected[1:4, dx : dx + 3] += weight * first
        found = iac_kernel(self.x, filters, 4, 5, num_steps=2)
        assert found.shape == (1, 1, 5, 5)
        torch.testing.assert_close(found[0, 0], expected)

    def test_isotropic_has_the_vertical_filter_in_both_directions(self):
        filters = same_everywhere([[1, 2, 3]], [[50, 60, 70]], [10.0])
        vertical = torch.tensor([1.0, 2, 3], dtype=torch.float64)
        found = iac_kernel(self.x, filters, 4, 5, num_steps=1, isotropic=True)
        torch.testing.assert_close(found[0, 0], torch.outer(vertical, vertical))

    def test_a_step_below_zero_counts_with_its_slope(self):
        filters = same_everywhere([[0, 1, 0]] * 2, [[0, 1, 0]] * 2, [-100.0, 0.0])
        for act_last, expected in ((True, 0.01), (False, 0.1)):
            found = iac_kernel(self.x, filters, 4, 5, num_steps=2, act_last=act_last)
            assert found[0, 0, 2, 2].item() == pytest.approx(expected)
            assert found.count_nonzero() == 1

    def test_weights_past_the_edge_are_counted_at_the_edge(self):
        filters = same_everywhere([[1, 2, 3]], [[4, 5, 6]], [0.0])
        found = iac_kernel(self.x, filters, 0, 10, num_steps=1)[0, 0]
        vertical, horizontal = torch.tensor([0.0, 3, 3]), torch.tensor([4.0, 11, 0])
        torch.testing.assert_close(found, torch.outer(vertical, horizontal).double())

    def test_fac(self):
        filters = torch.zeros(1, 2 * 9 + 2, 5, 5, dtype=torch.float64)
        filters[0, :18] = torch.arange(18.0, dtype=torch.float64)[:, None, None]
        filters[0, 19] = -1e6  # the second channel's bias
        x = torch.ones(1, 2, 5, 5, dtype=torch.float64)
        found = fac_kernel(x, filters, 2, 2, taps=3, bias=True, negative_slope=0.1)[0]
        torch.testing.assert_close(found[0], torch.arange(9.0).view(3, 3).double())
        torch.testing.assert_close(found[1], 0.1 * torch.arange(9.0, 18.0).view(3, 3).double())


class TestAgainstTheOperators:
    @pytest.mark.parametrize("isotropic", [False, True])
    @pytest.mark.parametrize("place", [(6, 7), (0, 0), (12, 3), (5, 13)])
    def test_iac(self, isotropic, place):
        steps, taps = 3, 3
        x = torch.randn(1, 2, 13, 14, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        filters = random_filters(2, steps, taps, 13, 14)
        options = {"num_steps": steps, "taps": taps, "negative_slope": 0.2, "act_last": False, "isotropic": isotropic}
        found = iac_kernel(x, filters, *place, **options)
        measured = finite_differences(lambda part: iac(part, filters, **options), x, *place, radius=3)
        torch.testing.assert_close(found, measured, rtol=1e-6, atol=1e-7)
        assert found.abs().max() > 0.1

    def test_fac(self):
        layer = FAC(5, bias=True, negative_slope=0.1)
        x = torch.randn(1, 2, 8, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
        filters = torch.randn(1, 2 * 26, 8, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
        for place in ((4, 4), (0, 8)):
            found = fac_kernel(x, filters, *place, taps=5, bias=True, negative_slope=0.1)
            measured = finite_differences(lambda part: layer(part, filters), x, *place, radius=2)
            torch.testing.assert_close(found, measured, rtol=1e-6, atol=1e-7)

    def test_is_exact_while_no_activation_changes_sign(self):
        x = torch.randn(1, 1, 9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
        filters = random_filters(1, 2, 3, 9, 9)
        kernel = iac_kernel(x, filters, 4, 4, 2)[0, 0]
        change = 1e-9 * torch.randn(9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
        moved = (iac(x + change, filters, 2) - iac(x, filters, 2))[0, 0, 4, 4]
        assert moved.item() == pytest.approx((kernel * change[2:7, 2:7]).sum().item(), rel=1e-5)

    def test_works_without_gradients_and_in_inference_mode(self):
        x, filters = torch.rand(1, 1, 5, 5), random_filters(1, 1, 3, 5, 5).float()
        expected = iac_kernel(x, filters, 2, 2, 1)
        with torch.no_grad():
            assert torch.equal(iac_kernel(x, filters, 2, 2, 1), expected)
        with torch.inference_mode():
            assert torch.equal(iac_kernel(x.clone(), filters.clone(), 2, 2, 1), expected)

    def test_places_outside_are_refused(self):
        x, filters = torch.rand(1, 1, 5, 6), random_filters(1, 1, 3, 5, 6).float()
        for place in ((-1, 0), (5, 0), (0, 6)):
            with pytest.raises(IndexError, match="5 rows and 6 columns"):
                iac_kernel(x, filters, *place, 1)


def network(**options) -> IFAN:
    torch.manual_seed(0)
    net = IFAN(width=2, num_steps=3, res_units=1, **options)
    for parameter in net.parameters():  # biases, too: they decide about the activations
        torch.nn.init.normal_(parameter, std=0.3)
    return net.eval()


PICTURE = torch.rand(1, 3, 61, 84, generator=torch.Generator().manual_seed(7))


class TestInspector:
    @pytest.mark.parametrize(
        "options",
        [{}, {"isotropic": True}, {"taps": 5}, {"filter_type": "fac", "fac_taps": 5}, {"use_disparity": False}],
    )
    @pytest.mark.parametrize("place", [(3, 5), (0, 10)])
    def test_agrees_with_all_the_filters_at_once(self, options, place):
        net = network(**options)
        inspector = FilterInspector(net, PICTURE)
        assert (inspector.rows, inspector.columns, inspector.channels) == (8, 11, 8)
        with torch.no_grad():
            padded = net._padded(PICTURE)
            features = net.feature_extractor(padded)[-1]
            filters = net.filter_predictor(*net._blur_features(padded))
        if inspector.is_fac:
            expected = fac_kernel(features, filters, *place, 5, bias=True, negative_slope=0.1)[0]
        else:
            taps = options.get("taps", 3)
            expected = iac_kernel(features, filters, *place, 3, taps, isotropic=options.get("isotropic", False))[0]
        mean = inspector.kernel(*place)
        assert mean.radius == inspector.reach == expected.shape[-1] // 2
        scale = expected.abs().max().item()
        assert scale > 0
        np.testing.assert_allclose(mean.weights, expected.mean(0), atol=1e-5 * scale)
        assert mean.total == pytest.approx(expected.mean(0).sum().item(), abs=1e-4 * scale)
        for channel in (0, 5):
            found = inspector.kernel(*place, channel)
            assert found.channel == channel
            np.testing.assert_allclose(found.weights, expected[channel], atol=1e-5 * scale)

    def test_is_what_moves_the_networks_own_features(self):
        """Finite differences through the network's inference path, which predicts step by step."""
        net = network().double()
        inspector = FilterInspector(net, PICTURE.double())
        embedding, features = inspector._embedding, inspector._features

        @torch.no_grad()
        def layer(part: torch.Tensor) -> torch.Tensor:
            return net._iac_by_steps(part, embedding)

        measured = finite_differences(layer, features, 4, 5, radius=3)
        assert measured.abs().max() > 0
        for channel in range(3):
            np.testing.assert_allclose(
                inspector.kernel(4, 5, channel).weights, measured[0, channel], atol=1e-5 * measured.abs().max().item()
            )

    def test_disparity_and_dual_pixel(self):
        net = network(dual_pixel=True)
        lq = torch.rand(1, 9, 32, 40)
        inspector = FilterInspector(net, lq)
        with torch.no_grad():
            np.testing.assert_allclose(inspector.disparity, net.disparity(lq)[0, 0], rtol=1e-5, atol=1e-6)
        assert FilterInspector(network(use_disparity=False), PICTURE).disparity is None

    def test_puts_the_mode_back(self):
        net = network().train()
        FilterInspector(net, PICTURE).kernel(0, 0)
        assert net.training
        assert all(parameter.grad is None for parameter in net.parameters())

    def test_more_channels_than_are_taken_at_once(self):
        net = IFAN(width=5, num_steps=2, res_units=1).eval()
        inspector = FilterInspector(net, PICTURE[..., :32, :32])
        every = np.mean([inspector.kernel(1, 2, channel).weights for channel in range(20)], axis=0)
        np.testing.assert_allclose(inspector.kernel(1, 2).weights, every, atol=1e-6)

    def test_places(self):
        inspector = FilterInspector(network(), PICTURE)
        assert inspector.place(0, 0) == (0, 0)
        assert inspector.place(83, 60) == (7, 10)
        assert inspector.place(15.9, 8) == (1, 1)
        assert inspector.place(-3, 1000) == (7, 0)
        with pytest.raises(IndexError, match="8 x 11"):
            inspector.kernel(8, 0)
        with pytest.raises(IndexError, match="0 to 7"):
            inspector.kernel(0, 0, 8)
        grid = inspector.grid(3)
        assert [[(k.row, k.column) for k in line] for line in grid][1] == [(4, 1), (4, 5), (4, 9)]

    def test_networks_without_filters_are_refused_in_one_line(self):
        for net, what in ((network(use_filters=False), "use_filters: false"), (DPDNet(), "DPDNet predicts no filters")):
            assert what in no_filters(net)
            with pytest.raises(UserError, match=what) as raised:
                FilterInspector(net, PICTURE)
            assert "\n" not in str(raised.value)
        assert no_filters(network()) is None

    def test_one_picture_at_a_time(self):
        with pytest.raises(ValueError, match="one picture"):
            FilterInspector(network(), PICTURE.expand(2, -1, -1, -1))


def test_the_neighbourhood_lies_under_the_kernel():
    inspector = FilterInspector(network(), PICTURE)
    picture = np.arange(61 * 84 * 3).reshape(61, 84, 3).astype(np.uint8)
    inside = neighbourhood(picture, inspector.kernel(3, 5))
    assert inside.shape == (56, 56, 3)
    np.testing.assert_array_equal(inside, picture[0:56, 16:72])
    corner = neighbourhood(picture, inspector.kernel(7, 0), outside=(1, 2, 3))
    np.testing.assert_array_equal(corner[: 61 - 32, 24:], picture[32:61, :32])
    assert (corner[:, :24] == [1, 2, 3]).all()
    assert (corner[61 - 32 :] == [1, 2, 3]).all()
