"""IFAN with its three losses among MMagic's own data, metrics and visualisers.

MMagic's ``BaseEditModel`` trains IFAN as it is (``generator=dict(type="IFAN")``), with the pixel loss alone. The
classes here keep its contract and add the rest. In a config, beside ``default_scope = "mmagic"``::

    custom_imports = dict(imports=["ifan_plugin.mm.mmagic"])

MMagic 1.2.0 can't be imported on today's stack without help: ``scripts/mmagic_env.sh`` builds an environment where it
can. Nothing else of this package imports this module; importing it raises UserError where there is no MMagic.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import torch
from mmengine.structures import BaseDataElement
from torch import Tensor

from ifan_plugin.common.errors import UserError
from ifan_plugin.inference import run_network
from ifan_plugin.mm.data import PICTURES
from ifan_plugin.mm.model import IFANRestorer

if find_spec("mmagic") is None:
    raise UserError("ifan_plugin.mm.mmagic: MMagic isn't installed here; ./scripts/mmagic_env.sh builds an environment")
try:
    from mmagic.models import BaseEditModel
    from mmagic.registry import MODELS, TRANSFORMS
    from mmagic.structures import DataSample
except (ImportError, AssertionError, AttributeError) as error:  # all three occur on stacks that it doesn't fit
    raise UserError(
        f"ifan_plugin.mm.mmagic: MMagic can't be imported ({str(error).splitlines()[0] if str(error) else error!r}); "
        "./scripts/mmagic_env.sh builds an environment where it can"
    ) from error

VIEWS = ("left", "right")


@MODELS.register_module()
class IFANEditModel(IFANRestorer):
    """:class:`ifan_plugin.mm.model.IFANRestorer` with the contract of MMagic's ``BaseEditModel``.

    Batches come from MMagic's ``DataPreprocessor``: ``inputs`` is the centre view or a mapping ``img`` (centre),
    ``left``, ``right``, ``data_samples`` one stacked ``DataSample`` with ``gt_img``. Predictions are MMagic's, too:
    ``output.pred_img`` [3, H, W], BGR in [0, 255], beside ``input`` and ``gt_img``. Any network of MMagic that is a
    ``forward(x) -> Tensor`` trains here as well, with the pixel loss.

    Args:
        data_preprocessor: MMagic's, set up so that the network sees RGB in [0, 1], which is the default.
        **kwargs: as :class:`IFANRestorer` takes them: ``generator``, ``reblur``, ``pixel_loss``, ``disparity_loss``,
            ``reblur_loss``, ``defocus_loss``, ``filter_bias_loss``, ``pretrained``, ``strict_load``, ``train_cfg``,
            ``test_cfg``, ``init_cfg``.

    Raises:
        UserError: as that class does.
    """

    def __init__(self, data_preprocessor: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        default = {
            "type": "mmagic.DataPreprocessor", "mean": [0.0, 0.0, 0.0], "std": [255.0, 255.0, 255.0],
            "output_channel_order": "RGB",
        }  # fmt: skip
        super().__init__(data_preprocessor=data_preprocessor or default, **kwargs)

    def forward(
        self, inputs: Tensor | Mapping[str, Tensor], data_samples: DataSample | None = None, mode: str = "tensor"
    ) -> Tensor | list[DataSample] | OrderedDict[str, Tensor]:
        """As ``BaseEditModel.forward``: restored pictures, predictions, or losses.

        Args:
            inputs: [B, 3, H, W], RGB in [0, 1], or a mapping of such tensors: ``img`` and, where the dual-pixel
                network or the disparity loss wants them, ``left`` and ``right``.
            data_samples: stacked; ``loss`` needs its ``gt_img`` [B, 3, H, W] in [0, 1].
            mode: ``tensor``, ``predict`` or ``loss``.

        Raises:
            UserError: views or sharp pictures that are needed and aren't there.
            ValueError: another mode.
        """
        pictures = inputs if isinstance(inputs, Mapping) else {"img": inputs}
        lq = self._eaten(pictures)
        if mode == "tensor":
            return self.generator(lq)
        if mode == "predict":
            return self._predict(lq, pictures["img"], data_samples)
        if mode == "loss":
            given = {name: None if data_samples is None else data_samples.get(name) for name in ("gt_img", "coc")}
            fields = given | {side: pictures.get(side) for side in VIEWS}
            there = {name: values for name, values in fields.items() if values is not None}
            samples = [BaseDataElement(**{name: values[i] for name, values in there.items()}) for i in range(len(lq))]
            return self.loss(lq, samples)
        raise ValueError(f"mode must be tensor, predict or loss, not {mode!r}")

    def _eaten(self, pictures: Mapping[str, Tensor]) -> Tensor:
        """The network's input: the centre view, or the dual-pixel network's [B, 9, H, W]."""
        if not getattr(self.generator, "dual_pixel", False):
            return pictures["img"]
        missing = [side for side in VIEWS if side not in pictures]
        if missing:
            raise UserError(f"model: the dual-pixel network needs inputs img, left and right; {missing[0]} isn't there")
        return torch.cat([pictures["img"], *(pictures[side] for side in VIEWS)], 1)

    def _predict(self, lq: Tensor, center: Tensor, data_samples: DataSample) -> list[DataSample]:
        restored = self.data_preprocessor.destruct(run_network(self.generator, lq), data_samples)
        predictions = DataSample(pred_img=restored.cpu())
        disparity = self.disparity_map(lq) if self.with_disparity_map else None
        if disparity is not None:
            predictions.set_field(disparity.cpu(), "disparity")
        return BaseEditModel.convert_to_datasample(self, predictions, data_samples, center)


@TRANSFORMS.register_module()
class PackEditInputs:
    """A transform: a sample of :class:`ifan_plugin.mm.data.DualPixelDataset` to what MMagic's preprocessor takes.

    So MMagic's loop trains on every layout, on 16-bit pictures and with the paper's augmentation. ``inputs`` is a
    mapping ``img`` and, where the sample has them, ``left`` and ``right``; the ``DataSample`` has ``gt_img``. All are
    float [3, H, W], RGB in [0, 255], and the meta information says that it is RGB.
    """

    def __call__(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        """Raises :class:`UserError` where ``lq`` isn't the centre view alone: views come by ``aux_views`` here."""
        if tuple(sample["views"]) != ("center",):
            raise UserError("PackEditInputs: views must be [center]; for left and right set aux_views: [left, right]")
        inputs = {"img": sample["lq"] * 255} | {side: sample[side] * 255 for side in VIEWS if side in sample}
        order = {f"{name}_channel_order": "RGB" for name in (*inputs, "gt")}
        rest = {name: value for name, value in sample.items() if name not in ("lq", "lq_path", *PICTURES)}
        packed = DataSample(metainfo={"img_path": sample.get("lq_path"), **order, **rest})
        if "gt" in sample:
            packed.set_field(sample["gt"] * 255, "gt_img")
        if "coc" in sample:
            packed.set_field(sample["coc"], "coc")
        return {"inputs": inputs, "data_samples": packed}

    def __repr__(self) -> str:
        return "PackEditInputs()"
