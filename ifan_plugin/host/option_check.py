"""Option files checked as a whole against the classes they name, before anything is built."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ifan_plugin import zoo
from ifan_plugin.common.errors import UserError
from ifan_plugin.common.words import counted
from ifan_plugin.host import optimizers, progress, pyiqa_metrics
from ifan_plugin.options.basicsr import (
    LOADER_KEYS,
    LOGGER_KEYS,
    METRIC_KEYS,
    NETWORK_PATHS,
    PATH_KEYS,
    TOP_KEYS,
    VAL_KEYS,
)
from ifan_plugin.options.schema import REQUIRED, Option, check_call, check_mapping, check_value, nearest, options_of


def check(options: dict[str, Any], where: str, *, is_train: bool, distributed: bool = False) -> dict[str, Any]:
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
    others = networks if model_check else {k for k in options if k not in TOP_KEYS and not _looks_misspelt(k, options)}
    options = check_mapping(options, TOP_KEYS, where, known=others)
    options["path"], options["logger"] = dict(options["path"] or {}), dict(options["logger"] or {})
    _check_name(options["name"], f"{where}: name")
    options["manual_seed"] = options["manual_seed"] or 0
    _check_devices(options, where, distributed)
    for key in sorted(networks):
        _check_network(options[key], f"{where}: {key}", partial=bool(model_check))
    options["logger"] = check_mapping(options["logger"], LOGGER_KEYS, f"{where}: logger")
    check_datasets(options, where, is_train=is_train)
    for key, dataset in options["datasets"].items():
        if dataset.get("on_device") is True and not getattr(model_class, "blurs_on_device", False):
            raise UserError(
                f"{where}: datasets: {key}: on_device: needs model_type IFANModel, which blurs, not {model_type}"
            )
    _check_paths(options["path"], networks, f"{where}: path")
    if is_train:
        if options["train"] is None:
            raise UserError(f"{where}: 'train' is missing: the section with total_iter, optim_g, scheduler")
        _check_training(options["train"], f"{where}: train", on_cpu=options["num_gpu"] == 0)
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
    if is_train and options.get("val"):
        progress.check_best(options["val"], f"{where}: val")
    return {key: value for key, value in options.items() if value is not None or key == "val"}


def _looks_misspelt(key: str, options: Mapping[str, Any]) -> bool:
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
            raise UserError(
                f"{where}: num_gpu: {counted(asked, 'GPU')} asked for, {found}; set num_gpu to auto or {there}"
            )
    count = there if asked == "auto" else asked
    train = options.get("train")
    if count > 1 and not distributed and isinstance(train, Mapping) and train.get("compile"):
        raise UserError(  # one process's copies of a compiled module all call the first GPU's
            f"{where}: train: compile: needs a process for each GPU (python -m torch.distributed.run "
            f"--nproc_per_node={count} -m ifan_plugin train -opt {where} --launcher pytorch) or num_gpu: 1"
        )


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


def check_datasets(options: dict[str, Any], where: str, *, is_train: bool) -> None:  # noqa: C901 (one line a rule)
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
            taker = "basicsr train" if is_train else "basicsr test"
            raise UserError(f"{place}: unknown phase; {taker} takes {', '.join(phases)} (or {phases[1]}_1, …)")
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
    suffixes = [network.removeprefix("network_") for network in networks]
    of_networks = {key.replace("…", suffix): option for suffix in suffixes for key, option in NETWORK_PATHS.items()}
    schema = {**PATH_KEYS, **of_networks}
    checked = check_mapping(paths, schema, where)
    for key, value in checked.items():
        if key.startswith(("pretrain_", "resume_state")) and value is not None:
            paths[key] = str(Path(zoo.located(value)).expanduser())
            if not Path(paths[key]).is_file():
                raise UserError(f"{where}: {key}: {zoo.not_found(value)}")


def _check_training(train: Any, where: str, *, on_cpu: bool) -> None:
    """Optimisers, losses and schedulers: their names and keys, and whether they work with what is given."""
    import torch
    from basicsr.models import lr_scheduler
    from basicsr.utils.registry import LOSS_REGISTRY

    check_value(train, Option(dict), where)
    check_value(train.get("total_iter"), Option((int, float), minimum=1), f"{where}: total_iter")
    schedulers = {
        "MultiStepLR": lr_scheduler.MultiStepRestartLR,
        "MultiStepRestartLR": lr_scheduler.MultiStepRestartLR,
        "CosineAnnealingRestartLR": lr_scheduler.CosineAnnealingRestartLR,
    }
    device = "cpu" if on_cpu or not torch.cuda.is_available() else "cuda"
    for key, value in train.items():
        place = f"{where}: {key}"
        if str(key).startswith("optim_"):
            if not isinstance(value, Mapping) or "type" not in value:
                raise UserError(f"{place}: must be a mapping with a 'type', such as RAdam")
            optimizer = optimizers.named(value["type"], place)
            arguments = {name: each for name, each in value.items() if name != "type"}
            check_call(optimizer, arguments, place, skip=1)
            check_value(arguments.get("lr"), Option(float, minimum=0), f"{place}: lr")
            _try(place, _step_once, optimizer, arguments, device)
        elif str(key).endswith("_opt") and value is not None:
            loss, arguments = _type_and_rest(value, LOSS_REGISTRY, place)
            check_call(loss, arguments, place)
            check_value(arguments.get("loss_weight", 1.0), Option(float), f"{place}: loss_weight")
            if "vgg_type" not in inspect.signature(loss).parameters:  # that one would fetch a network
                _try(place, loss, **arguments)
            if key == "pixel_opt":
                check_loss(value, place, (1, 3, 256, 256), (1, 3, 256, 256))  # some take no less
    place = f"{where}: scheduler"
    scheduler, arguments = _named(train.get("scheduler"), schedulers, place, "MultiStepLR")
    check_call(scheduler, arguments, place, skip=1)
    _try(place, _schedule, scheduler, arguments, int(train["total_iter"]))


def check_loss(
    options: Mapping[str, Any],
    where: str,
    predicted: tuple[int, ...],
    wanted: tuple[int, ...] | None,
    valid: str = "L1Loss, MSELoss, CharbonnierLoss",
    *,
    several: bool = False,
) -> None:
    """Compute a loss once: whether it compares two tensors of these shapes, and gives one number to be minimised.

    Args:
        options: ``type`` and arguments.
        where: names the place in messages.
        predicted, wanted: the shapes. ``wanted`` None: it looks at one tensor alone.
        valid: names the losses that are meant for this.
        several: it may give several terms, which count by their sum. One that fetches a network isn't tried then.

    Raises:
        UserError: it doesn't.
    """
    import torch
    from basicsr.utils.registry import LOSS_REGISTRY

    loss, arguments = _type_and_rest(options, LOSS_REGISTRY, where)
    if "vgg_type" in inspect.signature(loss).parameters:
        if several:
            return
        raise UserError(f"{where}: type: {options['type']} compares features and gives two numbers; valid: {valid}")

    module = loss(**arguments)

    def compare() -> Any:
        given = torch.full(predicted, 0.5, requires_grad=True)
        return module(given) if wanted is None else module(given, torch.zeros(wanted))

    place = f"{where}: type: {options['type']} doesn't compare what this is for; valid: {valid} (it says"
    value = _try(place, compare, end=")")
    if several and isinstance(value, tuple):
        value = sum(term for term in value if term is not None)
    if not isinstance(value, torch.Tensor) or value.numel() != 1:
        given = f"a tensor of {list(value.shape)}" if isinstance(value, torch.Tensor) else f"a {type(value).__name__}"
        raise UserError(f"{where}: {options['type']} must give one number, not {given}; valid: reduction: mean or sum")
    if not value.requires_grad:
        raise UserError(f"{where}: type: {options['type']} has no gradient with respect to the network's result")


def _step_once(optimizer: Any, arguments: Mapping[str, Any], device: str) -> None:
    """What torch refuses only when a step is made, such as capturable on a CPU."""
    import torch

    weight = torch.nn.Parameter(torch.zeros(1, 1, 1, 1, device=device))
    weight.grad = torch.zeros_like(weight)
    optimizer([weight], **arguments).step()


def _schedule(scheduler: Any, arguments: Mapping[str, Any], total: int) -> None:
    """Learning rates at the first, the last, and the iterations that the options name."""
    import torch

    periods = arguments.get("periods", ())
    if isinstance(periods, (list, tuple)) and any(isinstance(each, (int, float)) and each < 1 for each in periods):
        raise ValueError("periods: must be 1 or more iterations each")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    built = scheduler(optimizer, **arguments)
    named = [*getattr(built, "milestones", ()), *getattr(built, "cumulative_period", ())]
    for iteration in sorted({0, 1, total - 1, *named}):
        if not 0 <= iteration < total:
            continue
        built.last_epoch = iteration
        try:
            rates = built.get_lr()
        except TypeError:
            ends = getattr(built, "cumulative_period", None)
            if ends and ends[-1] < iteration:
                raise ValueError(f"periods: end at iteration {ends[-1]}, and total_iter is {total}") from None
            raise
        if not all(math.isfinite(rate) for rate in rates):
            raise ValueError(f"the learning rate of iteration {iteration} isn't finite")


def _named(mapping: Any, known: Mapping[str, Any], where: str, example: str) -> tuple[Any, dict[str, Any]]:
    """What ``mapping['type']`` names among ``known``, and the other keys."""
    if not isinstance(mapping, Mapping) or not isinstance(mapping.get("type"), str):
        raise UserError(f"{where}: must be a mapping with a 'type', such as {example}")
    name = mapping["type"]
    if name not in known:
        raise UserError(f"{where}: unknown type '{name}'; {nearest(name, known)}")
    return known[name], {key: value for key, value in mapping.items() if key != "type"}


def _try(where: str, build: Any, *arguments: Any, end: str = "", **options: Any) -> Any:
    """Build something small for once, to see whether its options can be right; other people's classes check late.

    Raises:
        UserError: ``where``, what the class says, and ``end``.
    """
    try:
        return build(*arguments, **options)
    except (
        TypeError, ValueError, AssertionError, LookupError, AttributeError, RuntimeError, ArithmeticError,
    ) as error:  # fmt: skip
        lines = str(error).strip().splitlines()
        raise UserError(f"{where}: {lines[0] if lines else type(error).__name__}{end}") from error


def _check_metrics(metrics: Mapping[str, dict[str, Any]] | None, where: str) -> None:
    from basicsr.utils.registry import METRIC_REGISTRY

    for name, metric in (metrics or {}).items():
        place = f"{where}: {name}"
        if isinstance(metric, Mapping) and pyiqa_metrics.is_named(metric.get("type")):
            pyiqa_metrics.register(metric["type"], place)
            metric.setdefault("better", pyiqa_metrics.better(metric["type"], place))
        function, arguments = _type_and_rest(metric, METRIC_REGISTRY, place)
        better = arguments.pop("better", "higher")
        check_value(better, METRIC_KEYS["better"], f"{place}: better")
        known = options_of(function, skip=("img", "img2"))
        for key in arguments:
            if key not in known:
                raise UserError(f"{place}: unknown key '{key}'; {nearest(key, {*known, 'better'})}")
        for key in known:
            if known[key].default is REQUIRED and key not in arguments:
                raise UserError(f"{place}: '{key}' is missing")
