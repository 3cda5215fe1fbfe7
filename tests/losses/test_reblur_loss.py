from __future__ import annotations

import pytest
import torch

from ifan_plugin.losses import ReblurLoss


def test_loss() -> None:
    center, reblurred = torch.rand(2, 3, 16, 24), torch.rand(2, 3, 2, 3)
    small = center.reshape(2, 3, 2, 8, 3, 8).mean((3, 5))
    expected = (reblurred - small).square().mean()
    torch.testing.assert_close(ReblurLoss()(reblurred, center), expected)
    torch.testing.assert_close(ReblurLoss(loss_weight=0.25)(reblurred, center), 0.25 * expected)


@pytest.mark.parametrize("shape", [(2, 3, 2, 2), (1, 3, 2, 3), (2, 1, 2, 3), (2, 3, 16, 24)], ids=str)
def test_exception(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="reblurred must be"):
        ReblurLoss()(torch.zeros(shape), torch.zeros(2, 3, 16, 24))


def test_center_of_a_wrong_size() -> None:
    with pytest.raises(ValueError, match="multiples of 8"):
        ReblurLoss()(torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 16, 17))
