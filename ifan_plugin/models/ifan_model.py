"""IFANModel: BasicSR's model contract with IFAN's losses. It trains any ``forward(lq)`` network as well."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from typing import Any, cast

import torch
from torch import Tensor, nn

from ifan_plugin.archs.ifan_arch import IFAN
from ifan_plugin.archs.reblur_arch import ReblurNet
from ifan_plugin.common import foreign
from ifan_plugin.common.errors import UserError
from ifan_plugin.common.machine import is_out_of_memory
from ifan_plugin.data.device_patches import finish
from ifan_plugin.host.current import Run
from ifan_plugin.host.optimizers import averaged, is_averaging
from ifan_plugin.host.parts import BaseModel, build_loss, build_network, get_root_logger
from ifan_plugin.inference import run_network
from ifan_plugin.losses import DefocusLoss
from ifan_plugin.models import ifan_options, memory, validation
from ifan_plugin.models.training_step import (
    TrainingStep,
    accumulation_key,
    compile_mode,
    lay_out,
    loss_terms,
    parts_of,
)
from ifan_plugin.pictures.kernels import FilterInspector
from ifan_plugin.weights import official
from ifan_plugin.weights.building import read_params

LOSSES = ("pixel_opt", "disparity_opt", "reblur_opt", "defocus_opt", "filter_bias_opt")
OTHER_LOSSES = ("perceptual", "frequency")  # between result and sharp picture, beside the pixel loss
MIN_LOSS_SCALE = 2.0**-14  # fp16 training that still overflows at this scale diverges; it isn't the scale


class IFANModel(BaseModel):
    """Trains and tests IFAN: deblurring, disparity and reblurring loss, one optimiser over network and ReblurNet.

    Options beside the host's: ``network_r`` (ReblurNet), ``train: pixel_opt, disparity_opt, reblur_opt, defocus_opt,
    filter_bias_opt, perceptual_opt, frequency_opt, grad_clip, amp, accumulate, compile`` and, under ``val``, those of
    :data:`ifan_plugin.models.validation.VAL_OPTIONS`. Source: Lee et al., CVPR 2021, the section on training;
    ``defocus_opt`` and ``filter_bias_opt`` are ours (:class:`ifan_plugin.losses.DefocusLoss`,
    :class:`ifan_plugin.losses.FilterBiasLoss`).
    """

    VAL_OPTIONS = validation.VAL_OPTIONS
    blurs_on_device = True  # a data set with on_device: true may be trained on
    lq: Any  # the batch and its result: tensors, None where there are none
    gt: Any
    left: Any
    right: Any
    coc: Any
    output: Any

    @classmethod
    def check_options(cls, options: dict[str, Any], where: str, is_train: bool) -> None:
        """Check what an option file asks of this model: :func:`ifan_plugin.models.ifan_options.check`."""
        ifan_options.check(options, where, is_train=is_train)

    def __init__(self, opt: dict[str, Any]) -> None:
        super().__init__(opt)
        self.views = ("center",)  # stacked into `lq`; validation sets what its data set has
        self.net_g = build_network(opt["network_g"]).to(self.device)
        ifan_options.check_channels(self.net_g, opt)
        self.print_network(self.net_g)
        self._load("network_g", self.net_g)
        path = self.opt["path"].get("pretrain_network_g")
        separable = isinstance(self.net_g, IFAN) and not self.net_g.hyper_parameters["isotropic"]
        if path and separable and official.is_official(foreign.load(path)):
            get_root_logger().warning(
                f"{path}: the authors' files were trained with isotropic filters, and network_g has isotropic: false; "
                "that is right for going on training with separable filters, and wrong for testing."
            )
        if self.is_train:
            self.init_training_settings()

    # --- networks and weights -----------------------------------------------------------------------------------

    def _load(self, key: str, net: nn.Module, param_key: str | None = None) -> None:
        path = self.opt["path"].get(f"pretrain_{key}")
        if path is not None:
            suffix = key.removeprefix("network_")
            param_key = param_key or self.opt["path"].get(f"param_key_{suffix}")
            self.load_network(net, path, self.opt["path"].get(f"strict_load_{suffix}", True), param_key)

    def load_network(self, net: nn.Module, load_path: str, strict: bool = True, param_key: str | None = None) -> None:
        """Load a checkpoint of any kind (:mod:`ifan_plugin.common.foreign`), with ``weights_only=True``.

        Raises:
            UserError: unreadable, or of other names or shapes than ``net``; without ``strict`` of no name in common.
        """
        net = self.get_bare_model(net)
        taps = getattr(net, "hyper_parameters", {}).get("taps", 3)
        names = net.state_dict().keys()
        params = read_params(load_path, param_key, reblurring=isinstance(net, ReblurNet), taps=taps, names=names)
        which = param_key or foreign.choose(foreign.load(load_path, names), None) or "params"
        get_root_logger().info(f"Loading {type(net).__name__} from {load_path} [{which}].")
        for line in foreign.load_into(net, params, load_path, strict=strict):
            get_root_logger().warning(line)

    def init_training_settings(self) -> None:
        """Losses, ReblurNet, EMA copy, optimiser, schedulers, precision."""
        train_opt, logger = self.opt["train"], get_root_logger()
        self.net_g.train()
        self.net_r = None
        if "network_r" in self.opt:
            self.net_r = build_network(self.opt["network_r"]).to(self.device)
            self.print_network(self.net_r)
            self._load("network_r", self.net_r)
        losses = ((key, train_opt.get(key)) for key in LOSSES)
        criteria: dict[str, Any] = {key: build_loss(opt).to(self.device) if opt else None for key, opt in losses}
        self.cri_pix, self.cri_disparity, self.cri_reblur, self.cri_defocus, self.cri_bias = criteria.values()
        others = ((name, train_opt.get(f"{name}_opt")) for name in OTHER_LOSSES)
        self.other_losses = {name: build_loss(opt).to(self.device) for name, opt in others if opt}

        self.with_disparity = self.cri_disparity is not None and self._has_views()
        if self.cri_disparity is not None and not self.with_disparity:
            logger.info("The data give no left and right views (aux_views): training without the disparity loss.")
        amp_dtype = {None: None, "bf16": torch.bfloat16, "fp16": torch.float16}[train_opt.get("amp")]
        map_alone = self.cri_pix is None
        if map_alone:
            logger.info("Without pixel_opt the filter encoder and the disparity estimator alone are trained.")
            self.net_g.requires_grad_(False)
            for part in (self.net_g.filter_encoder, self.net_g.disparity_estimator):
                part.requires_grad_(True)
        step = TrainingStep(
            self.net_g, self.net_r, with_disparity=self.with_disparity, with_biases=self.cri_bias is not None,
            map_alone=map_alone, amp_dtype=amp_dtype,
        )  # fmt: skip
        if self.opt["dist"]:
            lay_out(step)
        if train_opt.get("compile"):
            step.compile(mode=compile_mode(train_opt["compile"]))
            logger.info("The first iteration compiles the networks, which takes minutes, as does each new patch size.")
        self.step = self.model_to_device(step)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=amp_dtype is torch.float16)
        self.ema_decay = train_opt.get("ema_decay", 0)
        if self.ema_decay > 0:  # after DDP has given all ranks the same weights to copy
            logger.info(f"Use Exponential Moving Average with decay: {self.ema_decay}")
            self.net_g_ema = deepcopy(self.net_g).eval().requires_grad_(False)
            if self.opt["path"].get("pretrain_network_g"):
                self._load("network_g", self.net_g_ema, "params_ema")
        self.setup_optimizers()
        self.setup_schedulers()

    def _has_views(self) -> bool:
        data = self.opt["datasets"]["train"]
        aux = set(data.get("aux_views") or []) | (
            set(data.get("views") or []) if self.net_g.in_channels == 9 else set()
        )
        return {"left", "right"} <= aux

    def setup_optimizers(self) -> None:
        """One optimiser over both networks, of any type in ``torch.optim`` or ``pytorch_optimizer``."""
        options = dict(self.opt["train"]["optim_g"])
        self.trained = [p for p in self.get_bare_model(self.step).parameters() if p.requires_grad]
        if not self.trained:
            raise UserError(f"network_g: {type(self.net_g).__name__} has no parameters to train; use basicsr test")
        self.optimizer_g = self.get_optimizer(options.pop("type"), self.trained, **options)
        self.optimizers.append(self.optimizer_g)

    def averaged(self) -> AbstractContextManager[bool]:
        """A block within which a schedule-free optimiser's networks have the weights to measure and to save."""
        return averaged(self.optimizer_g, self.trained) if self.is_train else nullcontext(False)

    # --- training -----------------------------------------------------------------------------------------------

    def feed_data(self, data: Mapping[str, Any]) -> None:
        """Move a batch to the device: ``lq``, and where there, ``gt``, ``left``, ``right``, ``coc``. Blurred there
        where it isn't yet (data sets with ``on_device: true``).
        """
        self.forget_data()
        data = finish(data, self.device)
        for name in ("lq", "gt", "left", "right", "coc"):
            value = data.get(name)
            setattr(self, name, None if value is None else value.to(self.device, non_blocking=True))

    def forget_data(self) -> None:
        """Drop the batch and its result, so that their memory can be used."""
        self.lq = self.gt = self.left = self.right = self.coc = self.output = None

    def optimize_parameters(self, current_iter: int) -> None:
        """One training step.

        Raises:
            UserError: the loss or its gradient isn't finite; nothing is updated then.
        """
        if self.gt is None:
            raise UserError(f"data set {self.opt['datasets']['train']['name']}: training needs sharp pictures (gt)")
        if self.cri_defocus is not None and self.coc is None:
            raise UserError(
                f"data set {self.opt['datasets']['train']['name']}: defocus_opt needs the circle of confusion (coc)"
            )
        self.optimizer_g.zero_grad(set_to_none=True)
        try:
            losses = self._gradients()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            losses = None
        if losses is None:  # outside of the handler, which holds the failed pass's memory
            raise self._out_of_memory(current_iter)
        total = losses["l_total"]
        self._require_finite(total, losses, current_iter)
        self.scaler.unscale_(self.optimizer_g)
        limit = self.opt["train"].get("grad_clip")
        norm = nn.utils.clip_grad_norm_(self.trained, float("inf") if limit is None else limit)
        if not self.scaler.is_enabled():
            self._require_finite(norm, losses | {"gradient norm": norm}, current_iter)
        self.scaler.step(self.optimizer_g)
        self.scaler.update()
        if self.scaler.is_enabled() and self.scaler.get_scale() < MIN_LOSS_SCALE:
            self._require_finite(total * float("nan"), losses | {"gradient norm": norm}, current_iter)

        self.log_dict = self.reduce_loss_dict(OrderedDict((k, v.detach()) for k, v in losses.items()))
        self.log_dict["grad_norm"] = float(norm)
        Run.images = len(self.lq)
        if self.ema_decay > 0:
            self.model_ema(decay=self.ema_decay)

    def _gradients(self, samples: int | None = None) -> OrderedDict[str, Tensor]:
        """Add the gradients of the current batch, or of its first ``samples``, part by part; the losses, ``l_total``
        the last, as means over the parts' samples.
        """
        disparity = self.cri_disparity if self.with_disparity else None
        size = len(self.lq) if samples is None else samples
        step = self.step if samples is None else self.get_bare_model(self.step)
        parts = parts_of(size, self.opt["train"].get("accumulate", 1) if samples is None else 1)
        sums: OrderedDict[str, Tensor] = OrderedDict()
        for number, part in enumerate(parts):
            waits = number + 1 < len(parts) and isinstance(step, nn.parallel.DistributedDataParallel)
            with step.no_sync() if waits else nullcontext():
                lq, gt = self.lq[part], self.gt[part]
                others = (self.left, self.right, self.coc)
                left, right, coc = (None if value is None else value[part] for value in others)
                losses = loss_terms(
                    step(lq, gt, left, right), lq, gt, self.cri_pix, disparity, self.cri_reblur, self.cri_defocus, coc,
                    self.other_losses, self.cri_bias,
                )  # fmt: skip
                losses["l_total"] = cast(Tensor, sum(losses.values()))
                if len(parts) > 1:
                    share = (part.stop - part.start) / size
                    losses = OrderedDict((name, value * share) for name, value in losses.items())
                self.scaler.scale(losses["l_total"]).backward()
            for name, value in losses.items():
                sums[name] = sums[name] + value.detach() if name in sums else value.detach()
        return sums

    def _out_of_memory(self, current_iter: int) -> UserError:
        """What to say, and how many samples would fit: as many as do when they are tried."""
        parts = self.opt["train"].get("accumulate", 1)
        accumulation = f"train: {accumulation_key(self.opt['train'].get('compile', False))}"
        at_once = -(-len(self.lq) // parts)
        fits = memory.what_fits(lambda samples: self._gradients(samples), self.optimizer_g, at_once, self.device)
        return UserError(
            memory.told(
                f"iteration {current_iter}", len(self.lq), tuple(self.lq.shape[2:]), parts, fits,
                ("datasets: train: batch_size_per_gpu", accumulation, "train: amp: bf16", "--auto_resume"),
                with_precision=not self.opt["train"].get("amp"),
            )
        )  # fmt: skip

    def _require_finite(self, value: Tensor, shown: Mapping[str, Tensor], current_iter: int) -> None:
        finite = torch.isfinite(value.detach()).float()
        if self.opt["dist"]:  # all ranks must stop, or the others wait for ever
            torch.distributed.all_reduce(finite, op=torch.distributed.ReduceOp.MIN)
        if finite.item() == 1:
            return
        values = ", ".join(f"{name} {float(v.detach()):.3g}" for name, v in shown.items())
        raise UserError(
            f"training stopped at iteration {current_iter}: not finite ({values}); the checkpoints in "
            f"{self.opt['path']['models']} are untouched. Lower train: optim_g: lr, set train: grad_clip (0.5 in the "
            "paper) or train: warmup_iter, keep disparity_opt and reblur_opt"
            f"{', train without amp' if self.opt['train'].get('amp') else ''}, then go on with --auto_resume."
        )

    # --- evaluation ---------------------------------------------------------------------------------------------

    def _evaluated(self) -> Any:
        return getattr(self, "net_g_ema", self.net_g)

    def test(self) -> None:
        """Restore the current batch, with the averaged weights where there are some, as ``val: tile, ensemble`` say."""
        val = self.opt.get("val") or {}
        self.output = run_network(
            self._evaluated(), self.lq, tile=val.get("tile"), ensemble=val.get("ensemble", False), views=self.views
        )

    @torch.no_grad()
    def disparity_map(self) -> Tensor | None:
        """Of the current batch, [B, 1, H/8, W/8] in pixels at 1/8 size; None where the network has none."""
        network = self._evaluated()
        return network.disparity(self.lq) if getattr(network, "use_disparity", False) else None

    def inspector(self) -> FilterInspector:
        """The effective kernels in the first picture of the current batch; UserError where the network has none."""
        return FilterInspector(self._evaluated(), self.lq[:1])

    def validation(self, dataloader: Any, current_iter: int | str, tb_logger: Any, save_img: bool = False) -> None:
        """All of a data set, spread over the ranks. Called by the host's loops."""
        with self.averaged():
            validation.validate(self, dataloader.dataset, current_iter, tb_logger, save_img=save_img)

    def get_current_visuals(self) -> OrderedDict[str, Tensor]:
        """``lq``, ``result`` and ``gt`` of the current batch, on the CPU."""
        found = (("lq", self.lq), ("result", self.output), ("gt", self.gt))
        return OrderedDict((name, value.detach().cpu()) for name, value in found if value is not None)

    @property
    def blur_unit(self) -> float | None:
        """Of a network whose map is taught the size of the blur: pixels of its diameter to a unit; saved with it."""
        loss = getattr(self, "cri_defocus", None)
        return 1 / loss.scale if isinstance(loss, DefocusLoss) and not loss.signed else None

    # --- saving -------------------------------------------------------------------------------------------------

    def save(self, epoch: int, current_iter: int) -> None:
        """Networks first, the state last: a state that is there can be resumed from."""
        with self.averaged():
            if hasattr(self, "net_g_ema"):
                self.save_network([self.net_g, self.net_g_ema], "net_g", current_iter, ["params", "params_ema"])
            else:
                self.save_network(self.net_g, "net_g", current_iter)
            if self.net_r is not None:
                self.save_network(self.net_r, "net_r", current_iter)
        self.save_training_state(epoch, current_iter)

    def extra_state(self) -> dict[str, Any]:
        """What a resumed run needs beside the host's fields, such as the loss scale and the best figures so far."""
        state = {"scaler": self.scaler.state_dict(), "best": getattr(self, "best_metric_results", {})}
        if is_averaging(type(self.optimizer_g)):  # the files of the networks hold the averaged ones
            state["trained"] = [parameter.detach().cpu() for parameter in self.trained]
        return state

    def resume_training(self, resume_state: dict[str, Any]) -> None:
        """Continue with the optimiser, schedulers, loss scale and best figures of ``resume_state``."""
        super().resume_training(resume_state)
        extra = resume_state.get("extra", {})
        if extra.get("scaler"):
            self.scaler.load_state_dict(extra["scaler"])
        if extra.get("best"):
            self.best_metric_results = extra["best"]
        if is_averaging(type(self.optimizer_g)):
            if len(extra.get("trained", ())) != len(self.trained):
                raise UserError("resume_state: lacks the weights that a schedule-free optimiser goes on from")
            with torch.no_grad():
                for parameter, values in zip(self.trained, extra["trained"]):
                    parameter.copy_(values)
