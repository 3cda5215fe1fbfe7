from __future__ import annotations

import numpy as np
import pytest
import torch

from ifan_plugin.losses import DefocusLoss, warp_by_disparity
from ifan_plugin.simulation.optics import Optics


def test_loss() -> None:
    disparity = torch.tensor([[[[0.1, -0.2]]]])
    coc = torch.zeros(1, 1, 8, 16)
    coc[..., :8] += 2.0 + torch.arange(8.0) - 3.5  # 2 px on average
    coc[..., 8:] = -0.5
    # 0.1 / 0.05 is 2 px, exactly; -0.2 / 0.05 is -4 px, 3.5 px off and beyond the bend: 3.5 - 0.5.
    expected = torch.tensor((0 + 3.0) / 2)
    torch.testing.assert_close(DefocusLoss(scale=0.05)(disparity, coc), expected)
    torch.testing.assert_close(DefocusLoss(loss_weight=0.25, scale=0.05)(disparity, coc), 0.25 * expected)
    # -0.025 / 0.05 is -0.5 px: within the bend half the square counts.
    near = DefocusLoss(scale=0.05)(torch.tensor([[[[0.125, -0.025]]]]), coc)
    torch.testing.assert_close(near, torch.tensor(0.5 * 0.5**2 / 2))


@pytest.mark.parametrize("coc", [-24.0, -12.0, 12.0, 24.0])
def test_the_default_scale_is_the_disparity_of_the_simulators_views(coc: float) -> None:
    """Sign and size: a point's centroid in the right view lies where the warp looks for what the left one shows."""
    left, right = (kernel[0] for kernel in Optics().kernels(coc))
    column = np.arange(left.shape[1])
    shift = ((right - left).sum(0) * column).sum()
    assert DefocusLoss().scale * coc == pytest.approx(shift / 8, rel=0.05)
    # And that is the warp's sign: one row with a point at column 4 in the left view.
    row = torch.zeros(1, 1, 1, 9)
    row[..., 4 + int(np.sign(shift))] = 1
    assert warp_by_disparity(row, torch.full((1, 1, 1, 9), float(np.sign(coc))))[0, 0, 0, 4] == 1


@pytest.mark.parametrize("shape", [(2, 1, 2, 2), (1, 1, 2, 3), (2, 3, 2, 3), (2, 1, 16, 24)], ids=str)
def test_exception(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="disparity must be"):
        DefocusLoss()(torch.zeros(shape), torch.zeros(2, 1, 16, 24))


def test_a_map_of_the_blur_of_a_wrong_size() -> None:
    with pytest.raises(ValueError, match="multiples of 8"):
        DefocusLoss()(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 16, 17))


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan")])
def test_scale_is_positive(scale: float) -> None:
    with pytest.raises(ValueError, match="scale must be above 0"):
        DefocusLoss(scale=scale)


def test_without_the_sign_the_map_is_of_the_blurs_size() -> None:
    """Averaged after the sign is gone: an edge between near and far isn't in focus."""
    coc = torch.full((1, 1, 8, 8), 3.0)
    coc[..., 4:] = -3.0
    disparity = torch.full((1, 1, 1, 1), 0.3)
    assert DefocusLoss(scale=0.1, signed=False)(disparity, coc).item() == pytest.approx(0, abs=1e-6)
    assert DefocusLoss(scale=0.1)(disparity, coc).item() == pytest.approx(2.5)
