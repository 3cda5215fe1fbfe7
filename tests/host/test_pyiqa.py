"""Metrics of pyiqa by name: those that need no weights, against what they must give."""

from __future__ import annotations

import pytest
import torch
from skimage import data

import ifan_plugin
from ifan_plugin.host import pyiqa_metrics
from ifan_plugin.metrics import psnr

pytest.importorskip("pyiqa", reason="needs pyiqa (pip install pyiqa; its licence allows no commercial use)")
ifan_plugin.register()


@pytest.fixture(scope="module")
def pictures() -> tuple[torch.Tensor, torch.Tensor]:
    """A sharp picture and the same one blurred, [3, 128, 128] in [0, 1]."""
    sharp = torch.from_numpy(data.astronaut()[:128, 150:278].copy()).permute(2, 0, 1).float() / 255
    return sharp, torch.nn.functional.avg_pool2d(sharp, 5, 1, 2, count_include_pad=False)


def test_psnr_is_ours(pictures):
    sharp, blurred = pictures
    assert pyiqa_metrics.function("pyiqa_psnr", "here")(blurred, sharp) == pytest.approx(psnr(blurred, sharp), abs=1e-3)


@pytest.mark.parametrize(("name", "perfect"), [("ssim", 1), ("gmsd", 0), ("vif", 1), ("fsim", 1)])
def test_full_reference(pictures, name, perfect):
    sharp, blurred = pictures
    name = f"pyiqa_{name}"
    measure = pyiqa_metrics.function(name, "here")
    assert pyiqa_metrics.compares(name, "here")
    assert measure(sharp, sharp) == pytest.approx(perfect, abs=1e-3)
    worse = measure(blurred, sharp) - perfect
    assert worse < -0.01 if pyiqa_metrics.better(name, "here") == "higher" else worse > 0.01


def test_without_a_sharp_picture(pictures):
    assert not pyiqa_metrics.compares("pyiqa_piqe", "here")
    assert pyiqa_metrics.better("pyiqa_piqe", "here") == "lower"
    measure = pyiqa_metrics.function("pyiqa_piqe", "here")
    assert measure(pictures[0]) < measure(pictures[1])
