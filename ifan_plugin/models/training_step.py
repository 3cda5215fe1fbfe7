"""What one training step of IFAN is, whichever host's loop it runs in: both forward passes and the losses.

Nothing here knows a host. :class:`ifan_plugin.models.ifan_model.IFANModel` and
:class:`ifan_plugin.mm.model.IFANRestorer` are both made of it.
"""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn

from ifan_plugin.archs.ifan_arch import IFAN
from ifan_plugin.archs.reblur_arch import ReblurNet
from ifan_plugin.common.errors import UserError
from ifan_plugin.weights.building import build_on_meta

Loss = Callable[[Tensor, Tensor], Tensor]

COMPILE_CHOICES = (False, True, "reduce-overhead")
"""What the option ``compile`` may be: no, yes, or a mode of :func:`torch.compile`."""


def forward_pass(
    net_g: nn.Module,
    net_r: nn.Module | None,
    lq: Tensor,
    gt: Tensor,
    left: Tensor | None = None,
    right: Tensor | None = None,
    *,
    with_disparity: bool,
    with_biases: bool = False,
    map_alone: bool = False,
) -> dict[str, Tensor]:
    """Everything that the losses compare.

    Args:
        net_g: ``forward(lq) -> restored``; IFAN gives the rest by ``training_outputs``.
        net_r: the reblurring network, or None.
        lq: the network's input, [B, C, H, W] in [0, 1], H and W multiples of 8.
        gt: the sharp pictures [B, 3, H, W].
        left, right: the views [B, 3, H, W]; the dual-pixel network has them in ``lq``.
        with_disparity: whether the disparity loss is asked for.
        with_biases: whether the loss of the predicted biases is.
        map_alone: IFAN's disparity map is all that is asked for: a tenth of the time.

    Returns:
        ``result`` [B, 3, H, W] and, where the networks give them, ``warped_right``, ``left_small`` and ``reblurred``
        [B, 3, H/8, W/8], ``lq_disparity`` [B, 1, H/8, W/8] and ``filter_biases`` [B, num_steps*4*width, H/8, W/8];
        float32.
    """
    if not hasattr(net_g, "training_outputs"):
        return {"result": net_g(lq).float()}
    if map_alone:
        return {"lq_disparity": cast(IFAN, net_g).disparity(lq).float()}
    views = (left, right) if with_disparity else (None, None)
    ifan = cast(IFAN, net_g)  # or what has its methods
    outputs = ifan.training_outputs(lq, *views)
    found = {"result": outputs.result}
    if with_disparity and outputs.warped_right is not None and outputs.left_small is not None:
        found |= {"warped_right": outputs.warped_right, "left_small": outputs.left_small}
    if outputs.lq_disparity is not None:
        found["lq_disparity"] = outputs.lq_disparity
    if with_biases and outputs.filters is not None:
        found["filter_biases"] = ifan.biases_of(outputs.filters)
    if net_r is not None:
        to_filters = ifan.filter_predictor.to_filters
        found["reblurred"] = net_r(gt, outputs.filters, outputs.embedding, to_filters)
    return {name: value.float() for name, value in found.items()}


def loss_terms(
    outputs: Mapping[str, Tensor],
    lq: Tensor,
    gt: Tensor,
    pixel: Loss | None,
    disparity: Loss | None,
    reblur: Loss | None,
    defocus: Loss | None = None,
    coc: Tensor | None = None,
    others: Mapping[str, Loss | None] | None = None,
    filter_bias: Callable[[Tensor], Tensor] | None = None,
) -> OrderedDict[str, Tensor]:
    """The terms of the paper's loss and of ours, scalars; their sum is what is minimised.

    Args:
        outputs: from :func:`forward_pass`.
        lq, gt: as there.
        pixel, disparity, reblur, defocus: the losses, with their weights; None leaves a term out.
        coc: for the last one, which isn't the paper's: the signed circle of confusion [B, 1, H, W], pixels.
        others: name -> loss between result and sharp picture, such as ``perceptual``; those that are None are left out.
            One that gives several terms, as BasicSR's PerceptualLoss does, counts by their sum.
        filter_bias: ours, too: what the predicted biases cost.

    Returns:
        Where asked for, ``l_deblur``, ``l_disparity``, ``l_reblur``, ``l_defocus``, ``l_filter_bias`` and ``l_`` with
        the names of ``others``, in this order.
    """
    losses: OrderedDict[str, Tensor] = OrderedDict()
    if pixel is not None:
        losses["l_deblur"] = pixel(outputs["result"], gt)
    if disparity is not None:
        losses["l_disparity"] = disparity(outputs["warped_right"], outputs["left_small"])
    if reblur is not None:
        losses["l_reblur"] = reblur(outputs["reblurred"], lq[:, :3])
    if defocus is not None and coc is not None:
        losses["l_defocus"] = defocus(outputs["lq_disparity"], coc)
    if filter_bias is not None:
        losses["l_filter_bias"] = filter_bias(outputs["filter_biases"])
    for name, loss in (others or {}).items():
        if loss is not None:
            value: Any = loss(outputs["result"], gt)
            terms = [term for term in value if term is not None] if isinstance(value, tuple) else [value]
            losses[f"l_{name}"] = cast(Tensor, sum(terms))
    return losses


def lay_out(module: nn.Module) -> None:
    """Give convolutions' weights the memory format that their gradients come in, channels innermost.

    DDP gathers gradients in buckets laid out as the weights are when it wraps them; where the gradients come otherwise,
    it copies each of them in every step, and says so. Networks that don't work with channels innermost are left alone.
    """
    if not any(hasattr(part, "training_outputs") for part in module.modules()):
        return
    for part in module.modules():
        if type(part) in (nn.Conv2d, nn.ConvTranspose2d):  # products with weights have gradients as the weights are
            part.to(memory_format=torch.channels_last)


def compile_mode(choice: bool | str) -> str | None:
    """The argument ``mode`` of :func:`torch.compile` for one of :data:`COMPILE_CHOICES`."""
    return choice if isinstance(choice, str) else None


def accumulation_key(choice: bool | str) -> str:
    """What is to be set, to a number, for gradients to be accumulated."""
    return "compile to true and accumulate" if choice == "reduce-overhead" else "accumulate"


def check_compile_mode(choice: bool | str, accumulate: int, where: str, key: str = "accumulate") -> None:
    """UserError where the networks are to be CUDA graphs and `key` says that gradients are accumulated: a graph writes
    its gradients to the same memory each time, where those of the part before still are."""
    if choice == "reduce-overhead" and accumulate > 1:
        raise UserError(
            f"{where}: compile: reduce-overhead doesn't go with {key}: {accumulate}; set compile: true, or {key}: 1"
        )


def parts_of(size: int, parts: int) -> list[slice]:
    """A batch of ``size`` as consecutive parts, as equal as can be; fewer where it has fewer samples."""
    parts = min(parts, size)
    ends = [size * (number + 1) // parts for number in range(parts)]
    return [slice(start, end) for start, end in zip([0, *ends], ends)]


class TrainingStep(nn.Module):
    """Both networks' forward pass as one module, so that DDP and DataParallel see all of it.

    ``forward(lq, gt, left, right)`` gives what :func:`forward_pass` does.
    """

    def __init__(
        self,
        net_g: nn.Module,
        net_r: nn.Module | None,
        *,
        with_disparity: bool,
        with_biases: bool = False,
        map_alone: bool = False,
        amp_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.net_g, self.net_r = net_g, net_r
        self.with_disparity, self.with_biases, self.map_alone = with_disparity, with_biases, map_alone
        self.amp_dtype = amp_dtype

    def forward(self, lq: Tensor, gt: Tensor, left: Tensor | None, right: Tensor | None) -> dict[str, Tensor]:
        # Entered here, not outside: DataParallel's threads would take the device's default type.
        with torch.autocast(lq.device.type, self.amp_dtype) if self.amp_dtype else nullcontext():
            return forward_pass(
                self.net_g, self.net_r, lq, gt, left, right,
                with_disparity=self.with_disparity, with_biases=self.with_biases, map_alone=self.map_alone,
            )  # fmt: skip


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
