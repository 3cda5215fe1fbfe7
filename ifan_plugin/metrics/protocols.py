"""Evaluation protocols: what is read, what is compared, and how, so that a figure can be compared with a paper's.

===========  =============================  ==========================  =====================================
name         reads                          pictures                    PSNR, SSIM, MAE on
===========  =============================  ==========================  =====================================
`ifan`       8 bit (16-bit models: 16)      cropped at the bottom and   RGB floats clipped to [0, 1], not
                                            right to a multiple of 8    quantised
`restormer`  8 bit, left and right: 16 bit  whole                       the same
`dpdnet`     16 bit                         resized to 1680x1120        the same
`basicsr`    8 bit                          whole, optionally without   RGB rounded to 8 bits, by the host's
                                            a border                    functions (SSIM 11x11 Gaussian)
===========  =============================  ==========================  =====================================

A data set's figure is the mean of its pictures' figures. LPIPS is `alex`, version 0.1; `basicsr` has none.
Sources: the papers of IFAN (CVPR 2021), Restormer (CVPR 2022) and DPDNet (ECCV 2020), and BasicSR 1.4.2.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from torch import Tensor
from torch.nn import functional

from ifan_plugin.common.errors import UserError
from ifan_plugin.metrics import full_reference
from ifan_plugin.metrics.full_reference import MetricUnavailableError
from ifan_plugin.options.schema import nearest

CUSTOM, NO_REFERENCE = "custom", "no-reference"
"""Names that stand where no protocol was kept to, and where there is nothing to compare with."""

BETTER = MappingProxyType({"psnr": "higher", "ssim": "higher", "mae": "lower", "lpips": "lower"})
"""Metric -> whether a better picture's figure is ``higher`` or ``lower``."""


FIGURES: dict[str, Callable[[str, Tensor, Tensor, int], float]] = {}
"""Protocol of rounded pictures -> its figure of a metric's name, restored and sharp picture, and border.

Whoever has the functions joins them: :mod:`ifan_plugin.host.metrics`, when IFAN's classes are registered in BasicSR.
"""


@dataclass(frozen=True)
class Protocol:
    """One way of evaluating restored pictures.

    Args:
        name: its key in :data:`PROTOCOLS`.
        compared: what the figures are computed on, in a few words.
        crop_multiple: pictures are cropped to a multiple of it; 1: they stay whole.
        bit_depths: what may be read, the first unless asked for.
        bit_depths_dual: the same for a stack of left and right views.
        size: (height, width) that pictures are resized to, or None.
        rounded: figures are of pictures rounded to 8 bits, by the host's functions.
    """

    name: str
    compared: str
    crop_multiple: int
    bit_depths: tuple[int, ...]
    bit_depths_dual: tuple[int, ...]
    size: tuple[int, int] | None = None
    rounded: bool = False

    @property
    def better(self) -> Mapping[str, str]:
        """Metric -> ``higher`` or ``lower``, for the metrics that this protocol has."""
        return {name: better for name, better in BETTER.items() if name != "lpips" or not self.rounded}

    @property
    def dataset_options(self) -> dict[str, int]:
        """``bit_depth`` and ``crop_multiple`` of a data set of centre views. Others: :meth:`options_for`."""
        return self.options_for(("center",))

    def options_for(self, views: Collection[str]) -> dict[str, int]:
        """What a data set whose ``lq`` stacks ``views`` is to be given where its options leave it open."""
        return {"bit_depth": self._depths(views)[0], "crop_multiple": self.crop_multiple}

    def fill(self, dataset: dict[str, Any], where: str) -> None:
        """Set ``bit_depth`` and ``crop_multiple`` in a data set's options where they aren't given.

        Args:
            dataset: options of a DualPixelDataset or a SimulatedDualPixelDataset; changed in place.
            where: names the place in messages.

        Raises:
            UserError: one of the two is given and isn't the protocol's.
        """
        views = dataset.get("views", ["center"])
        allowed = {"bit_depth": self._depths(views), "crop_multiple": (self.crop_multiple,)}
        for key, values in allowed.items():
            if dataset.setdefault(key, values[0]) not in values:
                valid = " or ".join(map(str, values))
                raise UserError(
                    f"{where}: {key}: must be {valid} under protocol '{self.name}', not {dataset[key]!r}; "
                    "leave it out, and the protocol sets it"
                )

    def prepared(self, picture: Tensor) -> Tensor:
        """A picture as it is to be restored and compared: cropped or resized.

        What a data set with :attr:`dataset_options` gives is cropped already. Resizing is bilinear, as OpenCV does it
        by default; DPDD's pictures have the size already. Upright pictures stay upright.

        Args:
            picture: [..., H, W], values in [0, 1]; views, sharp picture and stacks of them alike.

        Returns:
            The same picture where nothing is to be done.

        Raises:
            UserError: smaller than ``crop_multiple``.
        """
        height, width = picture.shape[-2:]
        if self.size is not None:
            size = self.size if width >= height else self.size[::-1]
            if (height, width) == size:
                return picture
            flat = picture.reshape(1, -1, height, width)
            resized = functional.interpolate(flat, size=size, mode="bilinear", align_corners=False)
            return resized.reshape(*picture.shape[:-2], *size)
        multiple = self.crop_multiple
        if min(height, width) < multiple:
            raise UserError(
                f"protocol '{self.name}': a picture of {width}x{height} is too small; valid: at least "
                f"{multiple} pixels each way"
            )
        return picture[..., : height // multiple * multiple, : width // multiple * multiple]

    def metrics(
        self,
        restored: Tensor,
        sharp: Tensor,
        names: Collection[str] = ("psnr", "ssim", "mae"),
        crop_border: int = 0,
    ) -> dict[str, float]:
        """Figures of one restored picture.

        Args:
            restored, sharp: [3, H, W] or [1, 3, H, W], RGB, float in [0, 1] (clipped here), on any device, as
                :meth:`prepared` gives them.
            names: metrics of :attr:`better`.
            crop_border: pixels left out at each side; protocol ``basicsr`` alone has it.

        Returns:
            name -> figure, in the order of ``names``: ``psnr`` in dB (infinite for equal pictures), ``ssim`` up to 1,
            ``mae`` in [0, 1], ``lpips``.

        Raises:
            MetricUnavailableError: ``lpips`` without its weights, or under a protocol that has none.
            ValueError: another name, shapes that don't fit, or a border where the protocol has none.
        """
        if crop_border and not self.rounded:
            raise ValueError(f"protocol '{self.name}' leaves out no border")
        for name in names:
            if name not in BETTER:
                raise ValueError(f"unknown metric '{name}'; {nearest(name, self.better)}")
        if self.rounded:
            if "lpips" in names:
                raise MetricUnavailableError(f"lpips: protocol '{self.name}' has none; valid: {', '.join(self.better)}")
            if self.name not in FIGURES:
                raise MetricUnavailableError(f"protocol '{self.name}' needs BasicSR: call ifan_plugin.register() first")
            return {name: FIGURES[self.name](name, restored, sharp, crop_border) for name in names}
        return {name: getattr(full_reference, name)(restored, sharp) for name in names}

    def check_metric(self, description: Mapping[str, Any], where: str) -> str:
        """The protocol's name of a metric that compares with the sharp picture, from its options.

        Args:
            description: the option file's mapping, with the registered function as ``type``.
            where: names the place in messages.

        Raises:
            UserError: a metric, or a way of computing it, that isn't the protocol's.
        """
        kind = str(description["type"])
        name = kind.removeprefix("calculate_") if self.rounded else kind
        if name not in BETTER:
            valid = ", ".join(self.better)
            hint = "; the host's own are of protocol 'basicsr'" if kind.startswith("calculate_") else ""
            raise UserError(
                f"{where}: type: '{kind}' isn't a metric of protocol '{self.name}'; valid: {valid}{hint} "
                "(without val: protocol any mixture may be measured, and is called custom)"
            )
        usual = {"crop_border": 0, "net": "alex", "test_y_channel": False, "input_order": "HWC"}
        if self.rounded:
            del usual["crop_border"]
        for key, value in usual.items():
            if description.get(key, value) != value:
                raise UserError(f"{where}: {key}: must be {value!r} under protocol '{self.name}', or be left out")
        return name

    def _depths(self, views: Collection[str]) -> tuple[int, ...]:
        return self.bit_depths_dual if {"left", "right"} & set(views) else self.bit_depths


_FLOATS = "RGB floats in [0, 1], not quantised"

PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol("ifan", _FLOATS, 8, (8, 16), (8, 16)),
        Protocol("restormer", _FLOATS, 1, (8,), (16,)),
        Protocol("dpdnet", f"{_FLOATS}, resized to 1680x1120", 1, (16,), (16,), size=(1120, 1680)),
        Protocol("basicsr", "RGB rounded to 8 bits, by BasicSR's own functions", 1, (8,), (8,), rounded=True),
    )
}
"""Name -> :class:`Protocol`; ``ifan`` is the default."""


def protocol_named(name: str, where: str = "protocol") -> Protocol:
    """The protocol of that name. Raises :class:`UserError` with the nearest name where there is none."""
    if name not in PROTOCOLS:
        raise UserError(f"{where}: unknown protocol {name!r}; {nearest(str(name), PROTOCOLS)}")
    return PROTOCOLS[name]


def measure(
    protocol_name: str, restored: Tensor, sharp: Tensor, names: Collection[str] = ("psnr", "ssim", "mae")
) -> dict[str, float]:
    """Figures of one picture under a protocol: :meth:`Protocol.metrics`.

    Raises:
        UserError: no such protocol.
    """
    return protocol_named(protocol_name).metrics(restored, sharp, names)
