"""From the data loader's batch to the device."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.model import BaseDataPreprocessor

from ifan_plugin.common.errors import UserError


class RestorationPreprocessor(BaseDataPreprocessor):
    """Moves a batch to the device and stacks its inputs. Values and channel order stay: RGB in [0, 1].

    Raises (on call):
        UserError: pictures of unequal sizes in one batch, which nothing here pads.
    """

    def forward(self, data: dict[str, Any], training: bool = False) -> dict[str, Any]:
        """``inputs``, a list of [C, H, W] or [B, C, H, W] -> [B, C, H, W]; ``data_samples`` as they are, or None."""
        data = self.cast_data(data)
        inputs = data["inputs"]
        if not isinstance(inputs, torch.Tensor):
            shapes = {tuple(picture.shape) for picture in inputs}
            if len(shapes) > 1:
                shown = " and ".join("x".join(map(str, shape)) for shape in sorted(shapes)[:2])
                raise UserError(
                    f"a batch has pictures of unequal shapes ({shown}); batch_size: 1 is valid for whole pictures"
                )
            inputs = torch.stack(list(inputs))
        return {**data, "inputs": inputs, "data_samples": data.get("data_samples")}
