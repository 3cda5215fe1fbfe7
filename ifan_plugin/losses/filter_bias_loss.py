"""A loss of ours, not the paper's: it keeps the activations after IAC's steps open."""

from __future__ import annotations

from torch import Tensor, nn


class FilterBiasLoss(nn.Module):
    """How far the biases that are predicted with the filters lie below a margin above zero.

    A LeakyReLU of slope 0.1 follows each of the N steps. Features that are negative all along pass on 0.1**N of what
    the filters make of them, 1e-8 at N = 8. The first training of the network that ships ended there: by biases a few
    hundredths below zero, after which neither the features nor the filters have a gradient to speak of. Biases of the
    margin or more cost nothing: step by step they lift the features to where the activations let them through. Whether
    the rest of the network makes use of them is another matter (docs/zoo.md). This loss isn't in the paper.

    Args:
        loss_weight: factor on the loss.
        margin: where the biases are to be at least, in units of the features, 0 or more. The larger, the sooner
            negative features are lifted above zero.
    """

    def __init__(self, loss_weight: float = 1.0, margin: float = 0.05) -> None:
        super().__init__()
        if not margin >= 0:
            raise ValueError(f"margin must be 0 or more, got {margin}")
        self.loss_weight, self.margin = loss_weight, margin

    def forward(self, biases: Tensor) -> Tensor:
        """A scalar, 0 where no bias is below the margin: the mean of what they lack, in units of the features.

        Args:
            biases: the predicted ones, of any shape; IFAN's are [B, num_steps*4*width, H/8, W/8].
        """
        return self.loss_weight * (self.margin - biases).clamp(min=0).mean()
