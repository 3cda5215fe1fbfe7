"""What an option file asks of IFANModel: checked, and filled in from networks and checkpoints."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from typing import Any

from torch import nn

from ifan_plugin.archs.dpdnet_arch import DPDNet
from ifan_plugin.archs.ifan_arch import IFAN
from ifan_plugin.common.errors import UserError
from ifan_plugin.data import progressive
from ifan_plugin.host.optimizers import is_averaging, named
from ifan_plugin.host.option_check import check_loss
from ifan_plugin.models import evaluation_options
from ifan_plugin.models.training_step import COMPILE_CHOICES, check_compile_mode, fill_reblurring
from ifan_plugin.options.schema import Option, check_mapping
from ifan_plugin.weights.building import build_on_meta, fill_from_checkpoint

_OURS = ("DualPixelDataset", "SimulatedDualPixelDataset")  # data sets that stack ``views``
_MAPS = ("DMENetDeconvolution",)  # networks that predict a defocus map
_OF_IFAN = {"disparity_opt", "reblur_opt", "defocus_opt", "filter_bias_opt"}  # losses of what IFAN alone predicts

TRAIN_OPTIONS = {
    "total_iter": Option((int, float), minimum=1, help="iterations of the whole training"),
    "warmup_iter": Option(int, -1, help="iterations in which the learning rate rises; -1: none"),
    "ema_decay": Option(float, 0, minimum=0, maximum=1, help="of the averaged weights; 0: none"),
    "optim_g": Option(dict, help="type, a class of torch.optim or pytorch_optimizer, and its arguments"),
    "scheduler": Option(dict, help="type and arguments: MultiStepLR, CosineAnnealingRestartLR"),
    "pixel_opt": Option(
        dict,
        optional=True,
        help="loss between restored and sharp picture; ~: the disparity map alone is trained, by defocus_opt; IFAN",
    ),
    "disparity_opt": Option(dict, None, help="the disparity loss; IFAN alone"),
    "reblur_opt": Option(dict, None, help="the reblurring loss; needs network_r"),
    "defocus_opt": Option(
        dict,
        None,
        help="ours: teaches the disparity or defocus map the blur of simulated data; IFAN, DMENet",
    ),
    "filter_bias_opt": Option(
        dict, None, help="ours: FilterBiasLoss, keeps the activations after the filters' steps open; IFAN alone"
    ),
    "perceptual_opt": Option(dict, None, help="loss between deep features, such as LPIPSLoss"),
    "frequency_opt": Option(dict, None, help="loss between spectra, such as FrequencyLoss"),
    "grad_clip": Option(float, None, minimum=0, help="largest norm of all gradients together"),
    "amp": Option(str, None, choices=("bf16", "fp16"), help="mixed precision of the forward pass"),
    "accumulate": Option(int, 1, minimum=1, help="parts that a batch is worked through in, for less memory"),
    "compile": Option(
        (bool, str),
        False,
        choices=COMPILE_CHOICES,
        help="torch.compile of the networks; the first iteration takes minutes; reduce-overhead: into CUDA graphs, too",
    ),
}

_COMPARED: dict[str, tuple[tuple[int, ...], tuple[int, ...] | None, str]] = {
    "disparity_opt": ((1, 3, 4, 4), (1, 3, 4, 4), "DisparityLoss"),
    "reblur_opt": ((1, 3, 4, 4), (1, 3, 32, 32), "ReblurLoss"),
    "defocus_opt": ((1, 1, 4, 4), (1, 1, 32, 32), "DefocusLoss"),
    "filter_bias_opt": ((1, 8, 4, 4), None, "FilterBiasLoss"),
    "frequency_opt": ((1, 3, 32, 32), (1, 3, 32, 32), "FrequencyLoss"),
    "perceptual_opt": ((1, 3, 64, 64), (1, 3, 64, 64), "LPIPSLoss, PerceptualLoss"),
}
"""Loss -> what it is given, for a picture of 32x32 (of 64x64 where networks compare; None: one tensor alone), and what
is meant for it; see :func:`ifan_plugin.models.training_step.loss_terms`."""


def check(options: dict[str, Any], where: str, *, is_train: bool) -> None:
    """Check what the option file asks of this model; fill in what networks and checkpoints determine.

    Raises:
        UserError: a missing or unknown key, networks, losses and data that don't fit together, or a checkpoint
            of other hyper-parameters.
    """
    for key in options:
        if str(key).startswith("network_") and key not in ("network_g", "network_r"):
            raise UserError(f"{where}: unknown key '{key}'; IFANModel has network_g and network_r")
    if "network_g" not in options:
        raise UserError(f"{where}: 'network_g' is missing")
    network = options["network_g"]
    is_ifan = network["type"] == "IFAN"
    if is_ifan:
        path = options["path"].get("pretrain_network_g")
        if path is not None and options["path"].get("strict_load_g", True):
            fill_from_checkpoint(network, path, options["path"].get("param_key_g", "params"))
        build_on_meta(IFAN, network, f"{where}: network_g")
    elif network["type"] == "DPDNet":
        build_on_meta(DPDNet, network, f"{where}: network_g")
    _check_views(options, where, network if is_ifan else None)
    evaluation_options.check(options, where)
    if (options.get("val") or {}).get("kernels") and not (is_ifan and network.get("use_filters", True)):
        raise UserError(f"{where}: val: kernels: needs network_g of type IFAN with use_filters: true")
    if not is_train:
        options.pop("network_r", None)  # training alone has it; a training file may be tested as it is
        return
    _check_training(options, where, network)


def _check_training(options: dict[str, Any], where: str, network: Mapping[str, Any]) -> None:
    """What training alone asks: its section, and that losses, networks and data fit together."""
    is_ifan = network["type"] == "IFAN"
    losses = _OF_IFAN - ({"defocus_opt"} if network["type"] in _MAPS else set())
    train = options["train"] = check_mapping(options["train"], TRAIN_OPTIONS, f"{where}: train")
    train["total_iter"] = int(train["total_iter"])
    _check_losses(train, network["type"], f"{where}: train")
    if train["pixel_opt"] is None:
        _check_map_alone(options, where, is_ifan=is_ifan)
    _check_recipe(train, f"{where}: train")
    _check_stages(options["datasets"]["train"], is_ifan, f"{where}: datasets: train")
    if not is_ifan:
        for key in sorted(losses):
            if train[key] is not None:
                raise UserError(f"{where}: train: {key}: needs network_g of type IFAN, not {network['type']}")
        if "network_r" in options:
            raise UserError(f"{where}: network_r: needs network_g of type IFAN, not {network['type']}")
        _check_coc(options, where)
        return
    for loss in ("disparity_opt", "defocus_opt", "filter_bias_opt"):
        for key in ("use_filters",) if loss == "filter_bias_opt" else ("use_disparity", "use_filters"):
            if train[loss] is not None and not network.get(key, True):
                raise UserError(f"{where}: train: {loss}: network_g has {key}: false; remove one of them")
    _check_coc(options, where)
    data = options["datasets"]["train"]
    size = (
        IFAN.multiple_of
        if data.get("progressive")
        else data.get("gt_size") or data.get("patch_size") or IFAN.multiple_of
    )
    if data["type"] in _OURS and size % IFAN.multiple_of:
        raise UserError(f"{where}: datasets: train: patch_size: must be a multiple of {IFAN.multiple_of}, not {size}")
    if (train["reblur_opt"] is None) != ("network_r" not in options):
        there, missing = (
            ("network_r", "train: reblur_opt") if "network_r" in options else ("train: reblur_opt", "network_r")
        )
        raise UserError(f"{where}: {there} is there and {missing} isn't: reblurring needs both, or neither")
    if "network_r" in options:
        _fill_reblurring(options, where)


def _check_map_alone(options: Mapping[str, Any], where: str, *, is_ifan: bool) -> None:
    """Without a pixel loss no picture is restored, so nothing that is made of one can be asked for."""
    train = options["train"]
    if not is_ifan or train["defocus_opt"] is None:
        raise UserError(
            f"{where}: train: pixel_opt: ~ trains IFAN's disparity map alone, which needs network_g of type IFAN and "
            "defocus_opt; give a loss between restored and sharp picture, such as {type: L1Loss}"
        )
    others = [key for key in _COMPARED if key != "defocus_opt" and train[key]]
    if others or "network_r" in options:
        name = f"train: {others[0]}" if others else "network_r"
        raise UserError(f"{where}: {name}: not with pixel_opt: ~, which trains the disparity map by defocus_opt alone")


def _check_losses(train: Mapping[str, Any], network: str, where: str) -> None:
    for key, (predicted, wanted, valid) in _COMPARED.items():
        if train[key] is None:
            continue
        if key == "defocus_opt" and network in _MAPS:
            predicted, valid = (1, 1, 32, 32), "DefocusMapLoss"
        check_loss(train[key], f"{where}: {key}", predicted, wanted, valid, several=key == "perceptual_opt")


def _check_coc(options: Mapping[str, Any], where: str) -> None:
    data, loss = options["datasets"]["train"], options["train"]["defocus_opt"]
    if loss is not None and data["type"] in _OURS and not (data.get("coc") or data.get("on_device")):
        raise UserError(
            f"{where}: train: defocus_opt: needs the circle of confusion of simulated data: set coc: true in "
            "datasets: train (a SimulatedDualPixelDataset, or what basicsr simulate --save-coc wrote), or remove it"
        )


def _check_recipe(train: Mapping[str, Any], where: str) -> None:
    """What of the section asks for more than itself."""
    if train["ema_decay"] and is_averaging(named(train["optim_g"]["type"], f"{where}: optim_g: type")):
        raise UserError(f"{where}: ema_decay: {train['optim_g']['type']} averages the weights itself; set it to 0")
    if train["compile"] and not can_compile():
        raise UserError(f"{where}: compile: needs a C++ compiler (apt-get install g++), and none is found here")
    check_compile_mode(train["compile"], train["accumulate"], where)


def _check_stages(data: Mapping[str, Any], is_ifan: bool, where: str) -> None:
    """Progressive training: the loader's batch is the largest, and each patch one that IFAN takes."""
    given = data.get("progressive") if data["type"] in _OURS else None
    if given is None:
        return
    progressive.check_batch(given, data["batch_size_per_gpu"], where, "batch_size_per_gpu")
    for size in given["patch_sizes"] if is_ifan else ():
        if size % IFAN.multiple_of:
            raise UserError(f"{where}: progressive: patch_sizes: must be multiples of {IFAN.multiple_of}, not {size}")


def can_compile() -> bool:
    """Whether there is what torch.compile makes programs with."""
    return any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "g++", "clang++"))


def check_channels(network: nn.Module, options: Mapping[str, Any]) -> None:
    """Any network with `in_channels` must get as many as the data sets' views have.

    Raises:
        UserError: a data set whose views are stacked to another number.
    """
    channels = getattr(network, "in_channels", None)
    for key, dataset in options["datasets"].items():
        views = dataset.get("views", ["center"])
        if channels is not None and dataset["type"] in _OURS and 3 * len(views) != channels:
            raise UserError(
                f"datasets: {key}: views: [{', '.join(views)}] give {3 * len(views)} channels, and network_g "
                f"({type(network).__name__}) takes {channels}"
            )


def _fill_reblurring(options: dict[str, Any], where: str) -> None:
    network, reblurring = options["network_g"], options["network_r"]
    if reblurring["type"] != "ReblurNet":
        raise UserError(f"{where}: network_r: type: must be ReblurNet, not {reblurring['type']}")
    fill_reblurring(reblurring, network, where, "network_r", "network_g")


def _check_views(options: dict[str, Any], where: str, network: Mapping[str, Any] | None) -> None:
    """IFAN takes the centre view, its dual-pixel model centre, left, right: the data must be stacked like that."""
    if network is None:
        return
    wanted = ["center", "left", "right"] if network.get("dual_pixel", False) else ["center"]
    for key, dataset in options["datasets"].items():
        views = dataset.get("views", ["center"])
        if dataset["type"] in _OURS and list(views) != wanted:
            raise UserError(
                f"{where}: datasets: {key}: views: network_g with dual_pixel: {str(len(wanted) == 3).lower()} "
                f"needs [{', '.join(wanted)}], not [{', '.join(views)}]"
            )
