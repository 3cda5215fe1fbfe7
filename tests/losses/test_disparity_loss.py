from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ifan_plugin.losses import DisparityLoss, area_downsample, warp_by_disparity


def tensors(height: int = 4, width: int = 6, scale: float = 2.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    image = torch.rand(2, 3, height, width, generator=generator, dtype=torch.float64)
    disparity = scale * torch.randn(2, 1, height, width, generator=generator, dtype=torch.float64)
    return image, disparity


def grid_sampled(image: Tensor, disparity: Tensor) -> Tensor:
    """The same through PyTorch's own sampler."""
    _, _, height, width = image.shape
    x = torch.arange(width, dtype=image.dtype) + disparity[:, 0]
    y = torch.arange(height, dtype=image.dtype)[:, None].expand_as(x)
    grid = torch.stack([2 * x / (width - 1) - 1, 2 * y / max(height - 1, 1) - 1], -1)
    return F.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=True)


@pytest.mark.parametrize(("height", "width"), [(4, 6), (1, 5), (3, 2)])
def test_equals_grid_sample(height: int, width: int) -> None:
    image, disparity = tensors(height, width)
    disparity.requires_grad_()
    upstream = torch.randn_like(image)
    results, gradients = [], []
    for function in (warp_by_disparity, grid_sampled):
        results.append(function(image, disparity))
        gradients.append(torch.autograd.grad((results[-1] * upstream).sum(), disparity)[0])
    torch.testing.assert_close(*results)
    torch.testing.assert_close(*gradients)


def test_samples_to_the_right_of_the_pixel() -> None:
    row = torch.tensor([1.0, 2.0, 3.0, 4.0]).reshape(1, 1, 1, 4)

    def shifted(by: float) -> list[float]:
        return warp_by_disparity(row, torch.full_like(row, by)).flatten().tolist()

    assert shifted(0) == [1, 2, 3, 4]
    assert shifted(1) == [2, 3, 4, 0]
    assert shifted(-1) == [0, 1, 2, 3]
    assert shifted(0.5) == [1.5, 2.5, 3.5, 2]
    assert shifted(-0.25) == [0.75, 1.75, 2.75, 3.75]
    assert shifted(9) == [0, 0, 0, 0]


def test_one_column() -> None:
    image = torch.tensor([2.0, 4.0]).reshape(1, 1, 2, 1)
    disparity = torch.tensor([0.25, -0.5]).reshape(1, 1, 2, 1)
    assert warp_by_disparity(image, disparity).flatten().tolist() == [1.5, 2.0]
    assert torch.equal(warp_by_disparity(image, torch.zeros_like(disparity)), image)


def test_gradcheck() -> None:
    image, disparity = tensors(2, 4, scale=0.7)
    assert torch.autograd.gradcheck(warp_by_disparity, (image.requires_grad_(), disparity.requires_grad_()))


def test_half_disparity_keeps_its_place() -> None:
    """bfloat16 can't hold a position like 300.5; the warp mustn't be computed in it."""
    image = torch.arange(400.0).reshape(1, 1, 1, 400)
    disparity = torch.full_like(image, 0.5, dtype=torch.bfloat16)
    assert warp_by_disparity(image, disparity)[0, 0, 0, 300] == 300.5


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_wild_disparity_stays_inside_memory(value: float) -> None:
    image, disparity = tensors()
    assert warp_by_disparity(image, torch.full_like(disparity, value)).shape == image.shape


def test_area_downsample_is_the_blocks_mean() -> None:
    image = torch.rand(2, 3, 16, 24)
    expected = image.reshape(2, 3, 2, 8, 3, 8).mean((3, 5))
    torch.testing.assert_close(area_downsample(image, 8), expected)
    assert area_downsample(image, 4).shape == (2, 3, 4, 6)


@pytest.mark.parametrize("shape", [(1, 3, 15, 16), (1, 3, 16, 12), (3, 16, 16), (1, 3, 0, 8)], ids=str)
def test_area_downsample_exception(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="multiples of 8"):
        area_downsample(torch.zeros(shape), 8)


def test_loss() -> None:
    image, disparity = tensors()
    warped = warp_by_disparity(image, disparity)
    loss = DisparityLoss(loss_weight=0.5)(warped, image)
    torch.testing.assert_close(loss, 0.5 * (warped - image).square().mean())
    assert DisparityLoss()(image, image) == 0


def test_exception() -> None:
    image, disparity = tensors()
    for wrong in (disparity[:1], disparity[:, 0], disparity[..., 1:], disparity.expand(2, 3, 4, 6)):
        with pytest.raises(ValueError, match="disparity"):
            warp_by_disparity(image, wrong)
    with pytest.raises(ValueError, match="one shape"):
        DisparityLoss()(image, image[:1])
