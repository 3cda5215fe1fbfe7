"""What an option file asks of IFANModel: checked, and filled in from networks and checkpoints."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ifan_plugin import checkpoints, runner_files
from ifan_plugin.archs.ifan_arch import IFAN
from ifan_plugin.errors import UserError
from ifan_plugin.models import evaluation_options
from ifan_plugin.options import Option, check_call, check_mapping
from ifan_plugin.training import build_on_meta, fill_reblurring

_OURS = ("DualPixelDataset", "SimulatedDualPixelDataset")  # data sets that stack ``views``

TRAIN_OPTIONS = {
    "total_iter": Option((int, float), minimum=1),
    "warmup_iter": Option(int, -1),
    "ema_decay": Option(float, 0, minimum=0, maximum=1),
    "optim_g": Option(dict),
    "scheduler": Option(dict),
    "pixel_opt": Option(dict),
    "disparity_opt": Option(dict, None),
    "reblur_opt": Option(dict, None),
    "grad_clip": Option(float, None, minimum=0),
    "amp": Option(str, None, choices=("bf16", "fp16")),
}


def check(options: dict[str, Any], where: str, is_train: bool) -> None:
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
        _fill_from_checkpoint(options, where)
        build_on_meta(IFAN, network, f"{where}: network_g")
    _check_views(options, where, network if is_ifan else None)
    evaluation_options.check(options, where)
    if (options.get("val") or {}).get("kernels") and not (is_ifan and network.get("use_filters", True)):
        raise UserError(f"{where}: val: kernels: needs network_g of type IFAN with use_filters: true")
    if not is_train:
        options.pop("network_r", None)  # training alone has it; a training file may be tested as it is
        return
    train = options["train"] = check_mapping(options["train"], TRAIN_OPTIONS, f"{where}: train")
    train["total_iter"] = int(train["total_iter"])
    if not is_ifan:
        for key in ("disparity_opt", "reblur_opt"):
            if train[key] is not None:
                raise UserError(f"{where}: train: {key}: needs network_g of type IFAN, not {network['type']}")
        if "network_r" in options:
            raise UserError(f"{where}: network_r: needs network_g of type IFAN, not {network['type']}")
        return
    for key in ("use_disparity", "use_filters"):
        if train["disparity_opt"] is not None and not network.get(key, True):
            raise UserError(f"{where}: train: disparity_opt: network_g has {key}: false; remove one of them")
    data = options["datasets"]["train"]
    size = data.get("gt_size") or data.get("patch_size") or IFAN.multiple_of
    if data["type"] in _OURS and size % IFAN.multiple_of:
        raise UserError(f"{where}: datasets: train: patch_size: must be a multiple of {IFAN.multiple_of}, not {size}")
    if (train["reblur_opt"] is None) != ("network_r" not in options):
        there, missing = (
            ("network_r", "train: reblur_opt") if "network_r" in options else ("train: reblur_opt", "network_r")
        )
        raise UserError(f"{where}: {there} is there and {missing} isn't: reblurring needs both, or neither")
    if "network_r" in options:
        _fill_reblurring(options, where)


def read_params(path: str, param_key: str, reblurring: bool, taps: int = 3) -> dict[str, Tensor]:
    """The parameters in a checkpoint, under our names. ``taps`` matters for the authors' files."""
    content = _read(path, reblurring)
    if checkpoints.is_official(content):
        official = checkpoints.from_official(content, taps=taps, reblur=reblurring, path=path)
        params = official.reblur_params if reblurring else official.params
        if params is None:
            raise UserError(f"{path}: has no reblurring network")
        return params
    if param_key not in content and "params" in content:
        param_key = "params"
    params = content.get(param_key, content)
    return {name.removeprefix("module."): value for name, value in params.items()}


def _read(path: str, reblurring: bool = False) -> dict[str, Any]:
    """A checkpoint's content, a file of mmengine's in our form."""
    content = checkpoints.load_file(path)
    if not runner_files.is_runner_file(content):
        return content
    return runner_files.as_ours(content, runner_files.REBLUR if reblurring else runner_files.GENERATOR, path)


def _fill_from_checkpoint(options: dict[str, Any], where: str) -> None:
    """Check network_g against the checkpoint it starts from, and take from it what the options leave open."""
    path = options["path"].get("pretrain_network_g")
    if path is None or not options["path"].get("strict_load_g", True):
        return
    network = options["network_g"]
    given = {key: value for key, value in network.items() if key != "type"}
    content = _read(path)
    if checkpoints.is_official(content):
        known = {"taps": given.get("taps", 3), "isotropic": given.get("isotropic", True)}
        inferred = checkpoints.from_official(content, **known, reblur=False, path=path).arch_kwargs
    elif isinstance(content.get("hyper_parameters"), dict):
        inferred = content["hyper_parameters"]
        others = [key for key in inferred if key not in inspect.signature(IFAN).parameters]
        if others:
            raise UserError(f"{path}: hyper_parameters: unknown key '{others[0]}': this isn't a checkpoint of IFAN")
        check_call(IFAN, inferred, f"{path}: hyper_parameters")
    else:
        params = read_params(path, options["path"].get("param_key_g", "params"), reblurring=False)
        inferred = checkpoints.infer_ifan_kwargs(params, given.get("taps", 3), path)
    checkpoints.check_kwargs(given, inferred, path)
    network.update(inferred | given)


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
    """IFAN eats the centre view, its dual-pixel model centre, left, right: the data must be stacked like that."""
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
