"""The frequency loss: against the transform written out, and what it takes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ifan_plugin.losses import FrequencyLoss


@pytest.mark.parametrize(("norm", "factor"), [("backward", 1.0), ("ortho", 1 / np.sqrt(6 * 10))])
def test_it_is_the_mean_difference_of_the_spectra(norm, factor):
    rng = np.random.default_rng(0)
    one, other = rng.random((2, 2, 3, 6, 10))
    spectra = [np.fft.fft2(each) * factor for each in (one, other)]
    difference = spectra[0] - spectra[1]
    expected = 0.3 * np.mean([np.abs(difference.real), np.abs(difference.imag)])
    loss = FrequencyLoss(loss_weight=0.3, norm=norm)
    assert float(loss(torch.tensor(one), torch.tensor(other))) == pytest.approx(expected, rel=1e-5)


def test_gradients_and_precision():
    restored = torch.rand(1, 3, 8, 8, dtype=torch.double, requires_grad=True)
    FrequencyLoss()(restored.bfloat16(), torch.rand(1, 3, 8, 8)).backward()
    assert restored.grad is not None
    assert restored.grad.abs().sum() > 0
    assert float(FrequencyLoss()(restored, restored)) == 0


def test_what_it_refuses():
    with pytest.raises(ValueError, match="norm must be backward or ortho, not 'forward'"):
        FrequencyLoss(norm="forward")
    with pytest.raises(ValueError, match="one shape"):
        FrequencyLoss()(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 9))
