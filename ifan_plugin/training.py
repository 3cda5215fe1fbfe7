"""What one training step of IFAN is, whichever host's loop it runs in: both forward passes and the three losses.

Nothing here knows a host. :class:`ifan_plugin.models.ifan_model.IFANModel` and
:class:`ifan_plugin.mm.model.IFANRestorer` are both made of it.
"""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ifan_plugin.archs.ifan_arch import IFAN
from ifan_plugin.archs.reblur_arch import ReblurNet
from ifan_plugin.errors import UserError

Loss = Callable[[Tensor, Tensor], Tensor]


def forward_pass(
    net_g: nn.Module,
    net_r: nn.Module | None,
    with_disparity: bool,
    lq: Tensor,
    gt: Tensor,
    left: Tensor | None = None,
    right: Tensor | None = None,
) -> dict[str, Tensor]:
    """Everything that the losses compare.

    Args:
        net_g: ``forward(lq) -> restored``; IFAN gives the rest by ``training_outputs``.
        net_r: the reblurring network, or None.
        with_disparity: whether the disparity loss is asked for.
        lq: what the network eats, [B, C, H, W] in [0, 1], H and W multiples of 8.
        gt: the sharp pictures [B, 3, H, W].
        left, right: the views [B, 3, H, W]; the dual-pixel network has them in ``lq``.

    Returns:
        ``result`` [B, 3, H, W] and, where the networks give them, ``warped_right``, ``left_small`` and ``reblurred``
        [B, 3, H/8, W/8]; float32.
    """
    if not hasattr(net_g, "training_outputs"):
        return {"result": net_g(lq).float()}
    views = (left, right) if with_disparity else (None, None)
    outputs = net_g.training_outputs(lq, *views)
    found = {"result": outputs.result}
    if with_disparity and outputs.warped_right is not None:
        found |= {"warped_right": outputs.warped_right, "left_small": outputs.left_small}
    if net_r is not None:
        to_filters = net_g.filter_predictor.to_filters
        found["reblurred"] = net_r(gt, outputs.filters, outputs.embedding, to_filters)
    return {name: value.float() for name, value in found.items()}


def loss_terms(
    outputs: Mapping[str, Tensor], lq: Tensor, gt: Tensor, pixel: Loss, disparity: Loss | None, reblur: Loss | None
) -> OrderedDict[str, Tensor]:
    """The terms of the paper's loss, scalars; their sum is what is minimised.

    Args:
        outputs: from :func:`forward_pass`.
        lq, gt: as there.
        pixel, disparity, reblur: the losses, with their weights; None leaves a term out.

    Returns:
        ``l_deblur`` and, where asked for, ``l_disparity`` and ``l_reblur``, in this order.
    """
    losses = OrderedDict(l_deblur=pixel(outputs["result"], gt))
    if disparity is not None:
        losses["l_disparity"] = disparity(outputs["warped_right"], outputs["left_small"])
    if reblur is not None:
        losses["l_reblur"] = reblur(outputs["reblurred"], lq[:, :3])
    return losses


class TrainingStep(nn.Module):
    """Both networks' forward pass as one module, so that DDP and DataParallel see all of it.

    ``forward(lq, gt, left, right)`` gives what :func:`forward_pass` does.
    """

    def __init__(
        self, net_g: nn.Module, net_r: nn.Module | None, with_disparity: bool, amp_dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.net_g, self.net_r = net_g, net_r
        self.with_disparity, self.amp_dtype = with_disparity, amp_dtype

    def forward(self, lq: Tensor, gt: Tensor, left: Tensor | None, right: Tensor | None) -> dict[str, Tensor]:
        # Entered here, not outside: DataParallel's threads would take the device's default type.
        with torch.autocast(lq.device.type, self.amp_dtype) if self.amp_dtype else nullcontext():
            return forward_pass(self.net_g, self.net_r, self.with_disparity, lq, gt, left, right)


def build_on_meta(network_class: type[nn.Module], options: Mapping[str, Any], where: str) -> nn.Module:
    """Build without memory: shows whether the hyper-parameters are possible, and the network's sizes.

    Raises:
        UserError: they aren't.
    """
    try:
        with torch.device("meta"):
            return network_class(**{key: value for key, value in options.items() if key != "type"})
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None


def fill_reblurring(
    reblurring: dict[str, Any], network: Mapping[str, Any], where: str, name: str, network_name: str
) -> None:
    """Set what follows from IFAN's options in those of its reblurring network, in place; check the rest.

    Args:
        reblurring: options of :class:`ReblurNet`, with or without ``type``.
        network: options of :class:`IFAN`.
        where: names the file in messages.
        name, network_name: the two mappings' keys, for messages.

    Raises:
        UserError: hyper-parameters that aren't possible, or don't fit each other.
    """
    channels = build_on_meta(IFAN, network, f"{where}: {network_name}").filter_channels
    if not channels:
        raise UserError(f"{where}: {name}: {network_name} has use_filters: false, so there is nothing to reblur with")
    given = reblurring.setdefault("filter_channels", channels)
    if given != channels:
        raise UserError(
            f"{where}: {name}: filter_channels: must be {channels}, as {network_name} predicts, not {given}"
        )
    parameters = inspect.signature(ReblurNet).parameters
    for key in ("width", "taps", "res_units", "isotropic"):
        if key in network and key in parameters:
            reblurring.setdefault(key, network[key])
    build_on_meta(ReblurNet, reblurring, f"{where}: {name}")
