"""The package's metrics for mmengine's evaluator."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger
from torch import Tensor

from ifan_plugin.common.errors import UserError
from ifan_plugin.host import pyiqa_metrics
from ifan_plugin.host.metrics import niqe
from ifan_plugin.metrics import MetricUnavailableError, sharpness
from ifan_plugin.metrics.protocols import BETTER, protocol_named
from ifan_plugin.options.schema import nearest

NO_REFERENCE = {"niqe": niqe, "sharpness": sharpness}


class RestorationMetrics(BaseMetric):
    """PSNR, SSIM, MAE, LPIPS under a protocol, and NIQE and sharpness without ground truth.

    They are computed on each picture by the very functions that ``basicsr test`` uses; a data set's figure is the mean
    of its pictures'.

    Args:
        metrics: ``psnr``, ``ssim``, ``mae``, ``lpips``, ``niqe``, ``sharpness``; where pyiqa is installed its own, such
            as ``pyiqa_musiq`` and ``pyiqa_dists``.
        protocol: what the first four are computed on (:data:`ifan_plugin.metrics.protocols.PROTOCOLS`). Cropping and
            resizing is the data set's (its own ``protocol``).
        baseline: measure the blurred centre view too; as ``blurred_psnr`` and so on.
        prefix: put before the names, with a slash; mmengine's.
        **options: mmengine's ``collect_device``, ``collect_dir``.

    Attributes:
        records: after an evaluation, of each picture ``{"image": name, "restored": {metric: figure}, "blurred": …}``.

    Raises:
        UserError: an unknown metric or protocol.
    """

    def __init__(
        self,
        metrics: Sequence[str] = ("psnr", "ssim", "mae"),
        protocol: str = "ifan",
        *,
        baseline: bool = False,
        prefix: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(prefix=prefix or "restoration", **options)
        self.prefix = prefix  # the base class warns where there is none: here the bare names are meant
        self.metrics = [metrics] if isinstance(metrics, str) else list(metrics)
        for name in self.metrics:
            if pyiqa_metrics.is_named(name):
                pyiqa_metrics.function(name, "RestorationMetrics")
            elif name not in BETTER and name not in NO_REFERENCE:
                raise UserError(
                    f"RestorationMetrics: unknown metric '{name}'; {nearest(name, {**BETTER, **NO_REFERENCE})}"
                )
        self.protocol = protocol_named(protocol, "RestorationMetrics: protocol")
        self.baseline = baseline
        self.records: list[dict[str, Any]] = []
        self._said: set[str] = set()

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Measure a batch: each sample's ``output.pred_img`` [3, H, W], RGB in [0, 1], against its ``gt_img``."""
        for sample in data_samples:
            compared = {"restored": sample["output"]["pred_img"]}
            blurred = _center_view(sample) if self.baseline else None
            if blurred is not None:
                compared["blurred"] = blurred
            figures = {which: self._measure(picture, sample.get("gt_img")) for which, picture in compared.items()}
            self.results.append({"image": str(sample.get("key", len(self.results))), **figures})

    def compute_metrics(self, results: list[dict[str, Any]]) -> dict[str, float]:
        """Means over the pictures that have the figure: metric -> figure, ``blurred_…`` for the input's."""
        self.records = results
        means = {}
        for which, prefix in (("restored", ""), ("blurred", "blurred_")):
            for name in self.metrics:
                values = [record[which][name] for record in results if name in record.get(which, {})]
                if values:
                    means[prefix + name] = math.fsum(values) / len(values)
        return means

    def _measure(self, picture: Tensor, sharp: Tensor | None) -> dict[str, float]:
        figures: dict[str, float] = {}
        for name in self.metrics:
            try:
                if pyiqa_metrics.is_named(name):
                    figures |= self._of_pyiqa(name, picture, sharp)
                elif name not in BETTER:
                    figures[name] = NO_REFERENCE[name](picture)
                elif sharp is None:
                    self._say(f"no sharp pictures (gt_img): {name} is left out")
                else:
                    figures |= self.protocol.metrics(picture, sharp, (name,))
            except MetricUnavailableError as error:
                self._say(f"'{name}' is left out: {error}")
        return figures

    def _of_pyiqa(self, name: str, picture: Tensor, sharp: Tensor | None) -> dict[str, float]:
        measure = pyiqa_metrics.function(name, "RestorationMetrics")
        compares = pyiqa_metrics.compares(name, "RestorationMetrics")
        if compares and sharp is None:
            self._say(f"no sharp pictures (gt_img): {name} is left out")
            return {}
        return {name: measure(picture, sharp) if compares else measure(picture)}

    def _say(self, message: str) -> None:
        """A warning, once."""
        if message not in self._said:
            self._said.add(message)
            MMLogger.get_current_instance().warning(message)


def _center_view(sample: dict[str, Any]) -> Tensor | None:
    """The blurred centre view [3, H, W] within what the network ate; None where it doesn't see it."""
    views = list(sample.get("views", ["center"]))
    if "center" not in views or "img" not in sample:
        return None
    start = 3 * views.index("center")
    return sample["img"][start : start + 3]
