"""The model that mmengine's loops train, validate and test: IFAN with its losses, or any ``forward(lq)``."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from mmengine import dist
from mmengine.logging import MMLogger
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from mmengine.structures import BaseDataElement
from torch import Tensor, nn
from torch.nn import functional

from ifan_plugin.archs.ifan_arch import IFAN
from ifan_plugin.archs.reblur_arch import ReblurNet
from ifan_plugin.common.errors import UserError
from ifan_plugin.common.foreign import require_overlap
from ifan_plugin.inference import run_network
from ifan_plugin.mm.checkpoints import read_params
from ifan_plugin.mm.steps import train_step
from ifan_plugin.models.training_step import (
    COMPILE_CHOICES,
    check_compile_mode,
    compile_mode,
    fill_reblurring,
    forward_pass,
    loss_terms,
)
from ifan_plugin.options.schema import Option, check_call, check_mapping, nearest
from ifan_plugin.weights.runner_files import GENERATOR, REBLUR

Network = Mapping[str, Any] | nn.Module

_PICTURES = ((1, 3, 32, 32), (1, 3, 32, 32))

TEST_OPTIONS = {"disparity": Option(bool, False)}
PRETRAINED_OPTIONS = {
    GENERATOR: Option(str, None),
    REBLUR: Option(str, None),
    "param_key": Option(str, None, choices=("params", "params_ema")),
}
TRAIN_OPTIONS = {
    "accumulate": Option(int, 1, minimum=1),
    "compile": Option((bool, str), False, choices=COMPILE_CHOICES),
}


class PixelLoss(nn.Module):
    """Mean distance of two pictures over all values, as BasicSR's MSELoss, L1Loss and CharbonnierLoss.

    Args:
        norm: ``mse``, ``l1`` or ``charbonnier`` (``sqrt(d^2 + 1e-12)``).
        loss_weight: factor on the loss.

    Raises:
        ValueError: another norm.
    """

    def __init__(self, norm: str = "mse", loss_weight: float = 1.0) -> None:
        super().__init__()
        if norm not in ("mse", "l1", "charbonnier"):
            raise ValueError(f"norm must be mse, l1 or charbonnier, not {norm!r}")
        self.norm, self.loss_weight = norm, loss_weight

    def forward(self, restored: Tensor, sharp: Tensor) -> Tensor:
        """A scalar from two tensors of one shape; ValueError if shapes differ."""
        if restored.shape != sharp.shape:
            raise ValueError(f"both must have one shape, got {list(restored.shape)} and {list(sharp.shape)}")
        if self.norm == "charbonnier":
            return self.loss_weight * torch.sqrt((restored - sharp) ** 2 + 1e-12).mean()
        distance = functional.mse_loss if self.norm == "mse" else functional.l1_loss
        return self.loss_weight * distance(restored, sharp)


class IFANRestorer(BaseModel):
    """Restoration on mmengine's Runner. Networks and losses are the ones that BasicSR's ``IFANModel`` trains.

    Parameters lie under ``generator.`` and ``reblur.``, as MMagic's models have them.

    Args:
        generator: config of the network, ``dict(type="IFAN", …)``, or a module; ``forward(lq) -> restored``.
        reblur: config of the reblurring network, which only training needs; what follows from the generator's config
            (``filter_channels``, ``width``, ``taps``, ``res_units``, ``isotropic``) may be left out.
        pixel_loss: config of the deblurring loss; None: mean squared error.
        disparity_loss: config of the disparity loss, or None. Batches without left and right views go without it.
        reblur_loss: config of the reblurring loss, or None; there together with ``reblur``, or not at all.
        defocus_loss: config of :class:`ifan_plugin.losses.DefocusLoss`, which is ours, or None; needs simulated data.
        filter_bias_loss: config of :class:`ifan_plugin.losses.FilterBiasLoss`, which is ours, or None.
        perceptual_loss: config of a loss between deep features, ``dict(type="LPIPSLoss", …)``, or None.
        frequency_loss: config of a loss between spectra, ``dict(type="FrequencyLoss", …)``, or None.
        pretrained: a checkpoint of the generator, of any kind (BasicSR's, mmengine's, the authors', safetensors), or
            ``dict(generator=FILE, reblur=FILE, param_key="params"|"params_ema")``, by default the averaged
            weights where the file has them.
        strict_load: refuse checkpoints, whoever loads them, whose names, shapes or hyper-parameters aren't the
            networks'. (mmengine itself only warns, and goes on with random weights.) The authors' files are isotropic.
        data_preprocessor: default :class:`ifan_plugin.mm.preprocess.RestorationPreprocessor`.
        train_cfg: ``accumulate``: in how many parts a batch is worked through, for less memory (1); ``compile: True``
            compiles the networks' forward and backward pass, which takes minutes in the first iteration and with each
            new patch size; ``"reduce-overhead"`` makes CUDA graphs of them, too.
        test_cfg: ``disparity: True`` adds the disparity map to the predictions.
        init_cfg: mmengine's.

    Raises:
        UserError: an unknown type or key, or networks, losses and checkpoints that don't fit together.
    """

    def __init__(
        self,
        generator: Network,
        reblur: Network | None = None,
        pixel_loss: Network | None = None,
        disparity_loss: Network | None = None,
        reblur_loss: Network | None = None,
        defocus_loss: Network | None = None,
        filter_bias_loss: Network | None = None,
        perceptual_loss: Network | None = None,
        frequency_loss: Network | None = None,
        pretrained: str | Mapping[str, Any] | None = None,
        *,
        strict_load: bool = True,
        data_preprocessor: Network | None = None,
        train_cfg: Mapping[str, Any] | None = None,
        test_cfg: Mapping[str, Any] | None = None,
        init_cfg: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(data_preprocessor or {"type": "RestorationPreprocessor"}, init_cfg)
        training = check_mapping(dict(train_cfg or {}), TRAIN_OPTIONS, "model: train_cfg")
        self.accumulate: int = training["accumulate"]
        check_compile_mode(training["compile"], self.accumulate, "model: train_cfg")
        self.compiles: bool | str = training["compile"]
        mode = compile_mode(training["compile"])
        self._forward_pass = torch.compile(forward_pass, mode=mode) if training["compile"] else forward_pass
        self.with_disparity_map = check_mapping(dict(test_cfg or {}), TEST_OPTIONS, "model: test_cfg")["disparity"]
        self.strict_load = strict_load
        self.generator = _built(generator, "generator")
        is_ifan = isinstance(self.generator, IFAN)
        needing_ifan = {
            "reblur": reblur, "disparity_loss": disparity_loss, "reblur_loss": reblur_loss,
            "defocus_loss": defocus_loss, "filter_bias_loss": filter_bias_loss,
        }  # fmt: skip
        for name, given in needing_ifan.items():
            if given is not None and not is_ifan:
                raise UserError(f"model: {name}: needs a generator of type IFAN, not {type(self.generator).__name__}")
        if (reblur is None) != (reblur_loss is None):
            there, missing = ("reblur_loss", "reblur") if reblur is None else ("reblur", "reblur_loss")
            raise UserError(f"model: {there} is there and {missing} isn't: reblurring needs both, or neither")
        for name in ("disparity_loss", "defocus_loss"):
            if needing_ifan[name] is not None and not self.generator.use_disparity:
                raise UserError(f"model: {name}: the generator has no disparity estimator; remove one of them")
        self.reblur = None if reblur is None else self._build_reblurring(reblur)
        self.pixel_loss = _built(pixel_loss or {"type": "PixelLoss"}, "pixel_loss", _PICTURES)
        self.disparity_loss = None if disparity_loss is None else _built(disparity_loss, "disparity_loss")
        self.reblur_loss = None if reblur_loss is None else _built(reblur_loss, "reblur_loss")
        self.defocus_loss = None if defocus_loss is None else _built(defocus_loss, "defocus_loss")
        if filter_bias_loss is not None and not self.generator.use_filters:
            raise UserError("model: filter_bias_loss: the generator has no filters; remove one of them")
        self.filter_bias_loss = (
            None if filter_bias_loss is None else _built(filter_bias_loss, "filter_bias_loss", ((1, 8, 4, 4),))
        )
        self.perceptual_loss = None if perceptual_loss is None else _built(perceptual_loss, "perceptual_loss")
        self.frequency_loss = None if frequency_loss is None else _built(frequency_loss, "frequency_loss", _PICTURES)
        self._said_no_views = False
        self._pretrained = _checked_pretrained(pretrained)
        self._load_pretrained()  # a test loop doesn't initialise weights
        self._register_state_dict_hook(_say_hyper_parameters)

    def _build_reblurring(self, reblur: Network) -> nn.Module:
        if isinstance(reblur, Mapping):
            reblur = dict(reblur)
            if reblur.get("type", "ReblurNet") != "ReblurNet":
                raise UserError(f"model: reblur: type: must be ReblurNet, not {reblur['type']}")
            given = {key: value for key, value in reblur.items() if key != "type"}
            check_call(ReblurNet, given, "model: reblur", may_lack=True)
            fill_reblurring(reblur, cast(IFAN, self.generator).hyper_parameters, "model", "reblur", "generator")
            reblur["type"] = "ReblurNet"
        return _built(reblur, "reblur")

    # --- weights ------------------------------------------------------------------------------------------------

    def init_weights(self) -> None:
        """What the Runner calls before training: ``init_cfg``, if there is one, then ``pretrained``.

        The networks have initialised themselves, and mmengine would have them do it again: with other numbers than
        BasicSR draws from the same seed, and over the weights of a module that was given as it is.

        Raises:
            UserError: a checkpoint that can't be read or doesn't fit.
        """
        if self.init_cfg:
            super().init_weights()
        self._load_pretrained()

    def _load_pretrained(self) -> None:
        for name in (GENERATOR, REBLUR):
            network, path = getattr(self, name), self._pretrained.get(name)
            if path is None or network is None:
                continue
            params, said = read_params(path, name, self._pretrained["param_key"], network.state_dict().keys())
            self._check(network, params, said, str(path), name)
            try:
                network.load_state_dict(params, strict=self.strict_load)
            except RuntimeError as error:  # shapes, which torch insists on
                raise UserError(f"{path}: model: pretrained: {name}: {' '.join(str(error).split())[:300]}") from None

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *rest: Any
    ) -> None:
        """mmengine only logs what doesn't fit, and tests random weights: here it is looked at first."""
        said = local_metadata.get("hyper_parameters") or {}
        for name in (GENERATOR, REBLUR):
            network, start = getattr(self, name), f"{prefix}{name}."
            params = {key.removeprefix(start): value for key, value in state_dict.items() if key.startswith(start)}
            if network is None or (name == REBLUR and not params):  # testing, or a file without it
                continue
            self._check(network, params, said.get(name, {}), local_metadata.get("path", "checkpoint"), name)
        start = f"{prefix}{REBLUR}."
        if self.reblur is None:  # a training's checkpoint is tested: nothing to warn of
            for key in [key for key in state_dict if key.startswith(start)]:
                del state_dict[key]
        elif not any(key.startswith(start) for key in state_dict):  # the generator alone: the other one stays as it is
            state_dict.update({start + key: value for key, value in self.reblur.state_dict().items()})
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)

    def _check(
        self, network: nn.Module, params: Mapping[str, Tensor], said: Mapping[str, Any], path: str, name: str
    ) -> None:
        """Raise :class:`UserError` where parameters aren't this network's."""
        own = network.state_dict()
        if not self.strict_load:
            require_overlap(own, params, path, f"{type(network).__name__} ({name})")
            return
        problem = ""
        for keys, what in ((own.keys() - params, "missing"), (params.keys() - own, "unknown")):
            if keys and not problem:
                more = f" (and {len(keys) - 1} more)" if len(keys) > 1 else ""
                problem = f"{what} key {min(keys)}{more}"
        for key in () if problem else own:
            if params[key].shape != own[key].shape:
                problem = f"{key} is {list(params[key].shape)}, and {list(own[key].shape)} in the config's network"
                break
        if problem:
            raise UserError(f"{path}: doesn't fit {type(network).__name__} ({name}) as the config builds it: {problem}")
        if not isinstance(network, IFAN):
            return
        for key, value in _that_matter(said).items():
            if network.hyper_parameters.get(key, value) != value:
                raise UserError(
                    f"{path}: was trained with {key}={value}, and the config's {name} has "
                    f"{key}={network.hyper_parameters[key]}; set {key}={value} there (or strict_load=False)"
                )

    # --- mmengine's contract ------------------------------------------------------------------------------------

    def forward(
        self, inputs: Tensor, data_samples: Sequence[BaseDataElement] | None = None, mode: str = "tensor"
    ) -> Tensor | list[BaseDataElement] | dict[str, Tensor]:
        """Restored pictures, predictions, or losses.

        Args:
            inputs: the network's input, [B, C, H, W], RGB in [0, 1].
            data_samples: one a picture; ``loss`` needs their ``gt_img`` and, for the disparity loss, ``left`` and
                ``right`` ([3, H, W] each), for the defocus loss ``coc`` ([1, H, W]).
            mode: ``tensor``: the network's own output [B, 3, H, W]; ``predict``: :meth:`predict`; ``loss``:
                :meth:`loss`.
        """
        if mode == "tensor":
            return self.generator(inputs)
        if mode == "predict":
            return self.predict(inputs, data_samples)
        if mode == "loss":
            return self.loss(inputs, data_samples)
        raise ValueError(f"mode must be tensor, predict or loss, not {mode!r}")

    def loss(self, inputs: Tensor, data_samples: Sequence[BaseDataElement] | None) -> OrderedDict[str, Tensor]:
        """``l_deblur`` and, where asked for and possible, ``l_disparity``, ``l_reblur``, ``l_defocus``,
        ``l_filter_bias``, ``l_perceptual`` and ``l_frequency``: scalars.

        Raises:
            UserError: no sharp pictures, or no circles of confusion where the defocus loss wants them.
        """
        gt = _stacked(data_samples, "gt_img")
        if gt is None:
            raise UserError("training needs sharp pictures (gt_img), and a data sample has none")
        left, right, coc = (_stacked(data_samples, field) for field in ("left", "right", "coc"))
        if self.defocus_loss is not None and coc is None:
            raise UserError("model: defocus_loss: needs simulated data; set coc=True in train_dataloader's dataset")
        with_disparity = self.disparity_loss is not None and self._has_views(left, right)
        outputs = self._forward_pass(
            self.generator, self.reblur, inputs, gt, left, right, with_disparity=with_disparity,
            with_biases=self.filter_bias_loss is not None,
        )  # fmt: skip
        disparity = self.disparity_loss if with_disparity else None
        others = {"perceptual": self.perceptual_loss, "frequency": self.frequency_loss}
        return loss_terms(
            outputs, inputs, gt, self.pixel_loss, disparity, self.reblur_loss, self.defocus_loss, coc, others,
            self.filter_bias_loss,
        )  # fmt: skip

    def train_step(self, data: Any, optim_wrapper: Any) -> dict[str, Tensor]:
        """One training step: :func:`ifan_plugin.mm.steps.train_step`."""
        return train_step(self, self, data, optim_wrapper)

    def predict(self, inputs: Tensor, data_samples: Sequence[BaseDataElement] | None = None) -> list[BaseDataElement]:
        """The data samples (new ones, if there are none) with ``output.pred_img``: [3, H, W], RGB, clipped to [0, 1].

        ``img`` is what was restored ([C, H, W]) and, with ``test_cfg: disparity``, ``output.disparity`` the map
        [1, H/8, W/8] in pixels at 1/8 size.
        """
        restored = run_network(self.generator, inputs)
        disparity = self.disparity_map(inputs) if self.with_disparity_map else None
        samples = list(data_samples) if data_samples is not None else [BaseDataElement() for _ in inputs]
        for index, sample in enumerate(samples):
            sample.set_field(inputs[index], "img")
            output = BaseDataElement(pred_img=restored[index])
            if disparity is not None:
                output.set_field(disparity[index], "disparity")
            sample.set_field(output, "output")
        return samples

    @torch.no_grad()
    def disparity_map(self, inputs: Tensor) -> Tensor | None:
        """[B, 1, H/8, W/8] in pixels at 1/8 size; None where the network has none."""
        return cast(IFAN, self.generator).disparity(inputs) if getattr(self.generator, "use_disparity", False) else None

    def parse_losses(self, losses: Mapping[str, Tensor]) -> tuple[Tensor, OrderedDict[str, Tensor]]:
        """The sum of all losses, and all of them for the log, the sum as ``loss``.

        mmengine's own sums only those with "loss" in their names.

        Raises:
            UserError: the sum isn't finite; nothing has been updated then. Raised on all ranks, or the others would
                wait for ever.
        """
        total = cast(Tensor, sum(losses.values()))
        finite = torch.isfinite(total.detach()).float()
        if dist.is_distributed():
            torch.distributed.all_reduce(finite, op=torch.distributed.ReduceOp.MIN)
        if finite.item() != 1:
            values = ", ".join(f"{name} {float(value.detach()):.3g}" for name, value in losses.items())
            raise UserError(
                f"training stopped: the loss isn't finite ({values}); the checkpoints are untouched. Lower the "
                "optimizer's lr, set optim_wrapper: clip_grad: max_norm (0.5 in the paper), keep disparity_loss and "
                "reblur_loss, then go on with --resume."
            )
        return total, OrderedDict(loss=total, **losses)

    def _has_views(self, left: Tensor | None, right: Tensor | None) -> bool:
        found = getattr(self.generator, "dual_pixel", False) or (left is not None and right is not None)
        if not found and not self._said_no_views:
            self._said_no_views = True
            MMLogger.get_current_instance().info(
                "The data give no left and right views (aux_views): training without the disparity loss."
            )
        return found


def _say_hyper_parameters(
    model: IFANRestorer, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any]
) -> None:
    """Put into a saved state dict what shapes don't tell, such as ``isotropic``."""
    networks = {name: getattr(model, name) for name in (GENERATOR, REBLUR)}
    local_metadata["hyper_parameters"] = {
        name: dict(network.hyper_parameters)
        for name, network in networks.items()
        if hasattr(network, "hyper_parameters")
    }


def _that_matter(said: Mapping[str, Any]) -> dict[str, Any]:
    """Hyper-parameters that make a difference, of those a checkpoint says."""
    if not said.get("use_filters", True):
        return {}
    unused = ("num_steps", "taps", "isotropic") if said.get("filter_type", "iac") == "fac" else ("fac_taps",)
    return {key: value for key, value in said.items() if key not in unused}


def _checked_pretrained(pretrained: str | Mapping[str, Any] | None) -> dict[str, Any]:
    given = {GENERATOR: pretrained} if isinstance(pretrained, str) or pretrained is None else dict(pretrained)
    return check_mapping(given, PRETRAINED_OPTIONS, "model: pretrained")


def _stacked(samples: Sequence[BaseDataElement] | None, field: str) -> Tensor | None:
    """[B, 3, H, W] of the samples' fields; None where one hasn't got it."""
    pictures = [sample.get(field) for sample in samples or ()]
    return torch.stack(pictures) if pictures and all(picture is not None for picture in pictures) else None


def _built(config: Network, name: str, compared: Sequence[tuple[int, ...]] = ()) -> nn.Module:
    """A module from its config. Raises :class:`UserError` for unknown types and keys, and for values that don't fit.

    ``compared``: shapes of what a loss is given; it is computed once.
    """
    if isinstance(config, nn.Module):
        return config
    if not isinstance(config, Mapping) or not isinstance(config.get("type"), (str, type)):
        raise UserError(f"model: {name}: must be a dict with a type, not {config!r}")
    kind = config["type"]
    found = MODELS.get(kind) if isinstance(kind, str) else kind
    if found is None:
        raise UserError(f"model: {name}: unknown type '{kind}'; {nearest(kind, MODELS.module_dict)}")
    check_call(found, {key: value for key, value in config.items() if key != "type"}, f"model: {name}")
    try:
        built = MODELS.build(dict(config))
    except ValueError as error:
        raise UserError(f"model: {name}: {' '.join(str(error).split())}") from error
    try:
        if compared:
            built(*(torch.zeros(shape) for shape in compared))
    except (TypeError, ValueError, RuntimeError) as error:
        said = " ".join(str(error).split())
        raise UserError(f"model: {name}: type: {kind} doesn't compare what this is for (it says: {said})") from error
    return built
