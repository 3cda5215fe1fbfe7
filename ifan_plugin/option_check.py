"""Option files checked as a whole against the classes they name, before anything is built."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ifan_plugin.errors import UserError
from ifan_plugin.options import Option, check_call, check_mapping, check_value, nearest

LOADER_KEYS = {
    "name": Option(str),
    "type": Option(str),
    "phase": Option(str, None),
    "scale": Option(int, None),
    "io_backend": Option(dict, None),
    "batch_size_per_gpu": Option(int, None, minimum=1),
    "num_worker_per_gpu": Option(int, None, minimum=0),
    "dataset_enlarge_ratio": Option((int, float), 1),
    "prefetch_mode": Option(str, None, choices=("cpu", "cuda")),
    "num_prefetch_queue": Option(int, 1, minimum=1),
    "pin_memory": Option(bool, False),
    "persistent_workers": Option(bool, False),
    "use_shuffle": Option(bool, True),
}
"""What the host's loader reads from every data set's options."""

TOP_KEYS = {
    "name": Option(str),
    "model_type": Option(str),
    "num_gpu": Option((int, str), "auto"),
    "datasets": Option(dict),
    "path": Option(dict, {}, optional=True),
    "scale": Option(int, 1, minimum=1),
    "manual_seed": Option(int, 0, minimum=0, optional=True),
    "train": Option(dict, None),
    "val": Option(dict, None),
    "logger": Option(dict, {}, optional=True),
    "dist_params": Option(dict, None),
    "find_unused_parameters": Option(bool, False),
    "plugins": Option(list, [], items=str, optional=True),
}

LOGGER_KEYS = {
    "print_freq": Option(int, 100, minimum=1),
    "save_checkpoint_freq": Option((int, float), 5000, minimum=1),
    "use_tb_logger": Option(bool, False),
    "wandb": Option(dict, None),
}

VAL_KEYS = {
    "val_freq": Option((int, float), 5000, minimum=1),
    "save_img": Option(bool, False),
    "suffix": Option(str, None),
    "pbar": Option(bool, True),
    "metrics": Option(dict, None),
}


def check(options: dict[str, Any], where: str, is_train: bool, distributed: bool = False) -> dict[str, Any]:
    """Check a whole option file against the classes it names, before anything is built.

    The host and the plug-ins must be imported already: their registries say which types exist.

    Args:
        options: the mapping read from the file, overrides applied.
        where: the file's name, for messages.
        is_train: whether it is for ``basicsr train`` (else ``test``).
        distributed: whether there are ranks, each of which may see fewer GPUs than there are in all.

    Returns:
        A new mapping with defaults filled in.

    Raises:
        UserError: anything that would fail later, in one line.
    """
    from basicsr.utils.registry import MODEL_REGISTRY

    networks = {key for key in options if str(key).startswith("network_")}
    model_type = options.get("model_type")
    model_class = None
    if isinstance(model_type, str):
        model_class = registered(MODEL_REGISTRY, model_type, f"{where}: model_type")
    model_check = getattr(model_class, "check_options", None)
    # Models of others may read any key at the top; ours say which they know.
    others = networks if model_check else {k for k in options if k not in TOP_KEYS and not _looks_like_slip(k, options)}
    options = check_mapping(options, TOP_KEYS, where, known=others)
    options["path"], options["logger"] = dict(options["path"] or {}), dict(options["logger"] or {})
    _check_name(options["name"], f"{where}: name")
    options["manual_seed"] = options["manual_seed"] or 0
    _check_devices(options, where, distributed)
    for key in sorted(networks):
        _check_network(options[key], f"{where}: {key}", partial=bool(model_check))
    options["logger"] = check_mapping(options["logger"], LOGGER_KEYS, f"{where}: logger")
    check_datasets(options, where, is_train)
    _check_paths(options["path"], networks, f"{where}: path")
    if is_train:
        if options["train"] is None:
            raise UserError(f"{where}: 'train' is missing: the section with total_iter, optim_g, scheduler")
        _check_training(options["train"], f"{where}: train")
    if options["val"] is not None:
        model_val_keys = getattr(model_class, "VAL_OPTIONS", {})
        known = () if model_check else options["val"]
        options["val"] = check_mapping(options["val"], {**VAL_KEYS, **model_val_keys}, f"{where}: val", known)
        _check_metrics(options["val"]["metrics"], f"{where}: val: metrics")
        if options["val"]["suffix"] is not None:
            _check_name(options["val"]["suffix"], f"{where}: val: suffix")
    elif is_train:
        del options["val"]  # the host asks whether the key is there
    else:
        options["val"] = check_mapping({}, {**VAL_KEYS, **getattr(model_class, "VAL_OPTIONS", {})}, where)
    if model_check:
        model_check(options, where, is_train)
    return {key: value for key, value in options.items() if value is not None or key == "val"}


def _looks_like_slip(key: str, options: Mapping[str, Any]) -> bool:
    return nearest(key, [k for k in TOP_KEYS if k not in options]).startswith("did you mean")


def registered(registry: Any, name: Any, where: str) -> Any:
    """The class or function that ``registry`` has under ``name``; UserError with the nearest name where it has none."""
    if not isinstance(name, str):
        raise UserError(f"{where}: must be a name, not {name!r}")
    for key in (name, f"{name}_basicsr"):
        if key in registry:
            return registry._obj_map[key]  # registry.get() prints a line when it tries the suffix
    raise UserError(f"{where}: unknown type '{name}'; {nearest(name, registry.keys())}")


def _check_name(name: str, where: str) -> None:
    if not name or name in (".", "..") or re.search(r'[/\\:*?"<>|\0]', name):
        raise UserError(f"{where}: must be fit for a folder's name, not {name!r}")


def _check_devices(options: Mapping[str, Any], where: str, distributed: bool) -> None:
    import torch

    asked, there = options["num_gpu"], torch.cuda.device_count()
    if isinstance(asked, str) and asked != "auto":
        raise UserError(f"{where}: num_gpu: must be a number or auto, not {asked!r}")
    if asked != "auto":
        check_value(asked, Option(int, minimum=0), f"{where}: num_gpu")
        if asked > there and not (distributed and there):
            found = f"only {there} found" if there else "none found"
            raise UserError(f"{where}: num_gpu: {asked} GPU(s) asked for, {found}; set num_gpu to auto or {there}")


def _check_network(network: Any, where: str, partial: bool) -> None:
    from basicsr.utils.registry import ARCH_REGISTRY

    network_class, arguments = _type_and_rest(network, ARCH_REGISTRY, where)
    # A model that checks for itself may fill in what is missing, from another network or a checkpoint.
    check_call(network_class, arguments, where, may_lack=partial)
    if hasattr(network_class, "check_options"):
        network_class.check_options(arguments, where)


def _type_and_rest(mapping: Any, registry: Any, where: str) -> tuple[Any, dict[str, Any]]:
    if not isinstance(mapping, Mapping):
        raise UserError(f"{where}: must be a mapping with a 'type'")
    if "type" not in mapping:
        raise UserError(f"{where}: 'type' is missing")
    found = registered(registry, mapping["type"], f"{where}: type")
    return found, {key: value for key, value in mapping.items() if key != "type"}


def check_datasets(options: dict[str, Any], where: str, is_train: bool) -> None:
    """Check the section ``datasets`` alone, and fill it in; ``options`` has ``scale`` and ``manual_seed``, too.

    Raises:
        UserError: as :func:`check`.
    """
    import torch
    from basicsr.utils.registry import DATASET_REGISTRY

    phases = ("train", "val") if is_train else ("val", "test")
    if not options["datasets"]:
        raise UserError(f"{where}: datasets: is empty; valid: {' and '.join(phases)}")
    if is_train and "train" not in options["datasets"]:
        raise UserError(f"{where}: datasets: 'train' is missing")
    names: dict[str, str] = {}
    for key, dataset in options["datasets"].items():
        place = f"{where}: datasets: {key}"
        phase = str(key).split("_")[0]
        if phase not in phases:
            verb = "train" if is_train else "test"
            raise UserError(f"{place}: unknown phase; basicsr {verb} takes {', '.join(phases)} (or {phases[1]}_1, …)")
        dataset_class, _ = _type_and_rest(dataset, DATASET_REGISTRY, place)
        check = getattr(dataset_class, "check_options", None)
        loader_keys = dict(LOADER_KEYS)
        if phase == "train":
            loader_keys |= {
                "batch_size_per_gpu": Option(int, minimum=1),
                "num_worker_per_gpu": Option(int, minimum=0),
            }
        own = getattr(dataset_class, "OPTIONS", dict.fromkeys(dataset))
        if isinstance(dataset.get("name"), str):
            _check_name(dataset["name"], f"{place}: name")
            names.setdefault(dataset["name"], key)
            if names[dataset["name"]] != key:
                other = names[dataset["name"]]
                raise UserError(f"{place}: name: '{dataset['name']}' is that of {other}, too; results need one each")
        filled = check_mapping(dataset, loader_keys, place, known=own)
        filled = {name: value for name, value in filled.items() if value is not None or name in dataset}
        filled["phase"] = phase
        if filled.get("prefetch_mode") == "cuda" and not (torch.cuda.is_available() and filled.get("pin_memory")):
            raise UserError(f"{place}: prefetch_mode: cuda needs a GPU and pin_memory: true; leave it out otherwise")
        filled.setdefault("scale", options["scale"])
        if check:
            if "seed" in own:
                filled.setdefault("seed", options["manual_seed"])
            check(filled, place)
        for name, value in filled.items():
            if name.startswith("dataroot") and isinstance(value, str):
                filled[name] = str(Path(value).expanduser())
                if not check and not Path(filled[name]).exists():
                    raise UserError(f"{place}: {name}: not found: {value}")
        options["datasets"][key] = filled


def _check_paths(paths: dict[str, Any], networks: set[str], where: str) -> None:
    schema: dict[str, Option] = {
        "resume_state": Option(str, None),
        "ignore_resume_networks": Option((list, str), None),
        "root": Option(str, None),
    }
    for network in networks:
        suffix = network.removeprefix("network_")
        schema[f"pretrain_{network}"] = Option(str, None)
        schema[f"param_key_{suffix}"] = Option(str, None)
        schema[f"strict_load_{suffix}"] = Option(bool, True)
    checked = check_mapping(paths, schema, where)
    for key, value in checked.items():
        if key.startswith(("pretrain_", "resume_state")) and value is not None:
            paths[key] = str(Path(value).expanduser())
            if not Path(paths[key]).is_file():
                raise UserError(f"{where}: {key}: file not found: {value}")


def _check_training(train: Any, where: str) -> None:
    """Optimisers, losses and schedulers: their names and keys, and whether they can be built of what is given."""
    import torch
    from basicsr.models import lr_scheduler
    from basicsr.utils.registry import LOSS_REGISTRY

    check_value(train, Option(dict), where)
    check_value(train.get("total_iter"), Option((int, float), minimum=1), f"{where}: total_iter")
    optimizers = {
        name: member
        for name, member in vars(torch.optim).items()
        if inspect.isclass(member) and issubclass(member, torch.optim.Optimizer)
    }
    schedulers = {
        "MultiStepLR": lr_scheduler.MultiStepRestartLR,
        "MultiStepRestartLR": lr_scheduler.MultiStepRestartLR,
        "CosineAnnealingRestartLR": lr_scheduler.CosineAnnealingRestartLR,
    }
    weight = torch.nn.Parameter(torch.zeros(1))
    for key, value in train.items():
        place = f"{where}: {key}"
        if str(key).startswith("optim_"):
            optimizer, arguments = _named(value, optimizers, place, "RAdam")
            check_call(optimizer, arguments, place, skip=1)
            check_value(arguments.get("lr"), Option(float, minimum=0), f"{place}: lr")
            _try(place, optimizer, [weight], **arguments)
        elif str(key).endswith("_opt") and value is not None:
            loss, arguments = _type_and_rest(value, LOSS_REGISTRY, place)
            check_call(loss, arguments, place)
            check_value(arguments.get("loss_weight", 1.0), Option(float), f"{place}: loss_weight")
            if "vgg_type" not in inspect.signature(loss).parameters:  # that one would fetch a network
                _try(place, loss, **arguments)
    place = f"{where}: scheduler"
    scheduler, arguments = _named(train.get("scheduler"), schedulers, place, "MultiStepLR")
    check_call(scheduler, arguments, place, skip=1)
    _try(place, scheduler, torch.optim.SGD([weight], lr=1.0), **arguments)


def _named(mapping: Any, known: Mapping[str, Any], where: str, example: str) -> tuple[Any, dict[str, Any]]:
    """What ``mapping['type']`` names among ``known``, and the other keys."""
    if not isinstance(mapping, Mapping) or not isinstance(mapping.get("type"), str):
        raise UserError(f"{where}: must be a mapping with a 'type', such as {example}")
    name = mapping["type"]
    if name not in known:
        raise UserError(f"{where}: unknown type '{name}'; {nearest(name, known)}")
    return known[name], {key: value for key, value in mapping.items() if key != "type"}


def _try(where: str, build: Any, *arguments: Any, **options: Any) -> None:
    """Build something small for once, to see whether its options can be right; other people's classes check late."""
    try:
        build(*arguments, **options)
    except (TypeError, ValueError, AssertionError, IndexError, AttributeError) as error:
        raise UserError(f"{where}: {' '.join(str(error).split()) or type(error).__name__}") from error


def _check_metrics(metrics: Mapping[str, Any] | None, where: str) -> None:
    from basicsr.utils.registry import METRIC_REGISTRY

    for name, metric in (metrics or {}).items():
        place = f"{where}: {name}"
        function, arguments = _type_and_rest(metric, METRIC_REGISTRY, place)
        better = arguments.pop("better", "higher")
        check_value(better, Option(str, choices=("higher", "lower")), f"{place}: better")
        parameters = {n: p for n, p in inspect.signature(function).parameters.items() if n not in ("img", "img2")}
        known = {n for n, p in parameters.items() if p.kind is not p.VAR_KEYWORD}
        for key in arguments:
            if key not in known:
                raise UserError(f"{place}: unknown key '{key}'; {nearest(key, known | {'better'})}")
        for key in known:
            if parameters[key].default is inspect.Parameter.empty and key not in arguments:
                raise UserError(f"{place}: '{key}' is missing")
