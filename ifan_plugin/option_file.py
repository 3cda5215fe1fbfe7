"""BasicSR's YAML option files: read without running code, overridden from the command line, checked as a whole."""

from __future__ import annotations

import inspect
import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import yaml

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
    "manual_seed": Option(int, 0, minimum=0),
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


class _SafeLoader(yaml.SafeLoader):
    """PyYAML's safe loader that also refuses a key given twice and reads ``1e-4`` as the number it is."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        self.flatten_mapping(node)
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a plain value", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"'{key}' is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


_SafeLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\d[\d_]*\.?[\d_]*|\.\d[\d_]*)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def read(path: str | Path) -> dict[str, Any]:
    """Read an option file. YAML tags that would make Python objects are refused: reading never runs code.

    Raises:
        UserError: no such file, not text, not YAML (names the line), or not a mapping.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"option file not found: {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: can't be read as an option file: {_one_line(error)}") from None
    options = _parse(text, str(path))
    if not isinstance(options, dict):
        raise UserError(f"{path}: must be a YAML mapping of options (name: …, model_type: …)")
    return options


def read_with_overrides(path: str | Path, entries: list[str]) -> dict[str, Any]:
    """:func:`read`, then :func:`override`."""
    options = read(path)
    override(options, entries)
    return options


def _parse(text: str, where: str) -> Any:
    try:
        return yaml.load(text, Loader=_SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}:" if mark else ""
        problem = getattr(error, "problem", None) or _one_line(error)
        raise UserError(f"{where}:{line} not valid YAML here: {problem}") from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def override(options: dict[str, Any], entries: list[str]) -> None:
    """Apply ``--force_yml`` entries ``a:b=c`` in place. Values are read as safe YAML; nothing is executed.

    The last key may be new, the ones before it not; a number picks an item of a list.

    Raises:
        UserError: an entry of another form, or a path that isn't in the options.
    """
    for entry in entries:
        keys, equals, text = entry.partition("=")
        names = [key.strip() for key in keys.split(":")]
        where = f"--force_yml {entry}"
        if not equals or not all(names):
            raise UserError(f"{where}: must have the form key:subkey=value")
        text = text.strip()
        value = None if text.lower() == "none" else _parse(text, where)
        place: Any = options
        for depth, name in enumerate(names):
            last = depth == len(names) - 1
            if isinstance(place, list):
                if not name.isdigit() or int(name) >= len(place):
                    raise UserError(f"{where}: '{name}' must be an index from 0 to {len(place) - 1}")
                name = int(name)
            elif not isinstance(place, dict):
                raise UserError(f"{where}: '{':'.join(names[:depth])}' has no keys")
            elif not last and name not in place:
                raise UserError(f"{where}: no key '{name}'; {nearest(name, place)}")
            elif last and name not in place and depth == 0 and name not in TOP_KEYS:
                raise UserError(f"{where}: unknown key '{name}'; {nearest(name, {*TOP_KEYS, *place})}")
            if last:
                place[name] = value
            elif place[name] is None:
                place[name] = {}
            place = place[name]


def check(options: dict[str, Any], where: str, is_train: bool) -> dict[str, Any]:
    """Check a whole option file against the classes it names, before anything is built.

    The host and the plug-ins must be imported already: their registries say which types exist.

    Args:
        options: the mapping read from the file, overrides applied.
        where: the file's name, for messages.
        is_train: whether it is for ``basicsr train`` (else ``test``).

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
    _check_devices(options, where)
    for key in sorted(networks):
        _check_network(options[key], f"{where}: {key}", partial=bool(model_check))
    options["logger"] = check_mapping(options["logger"], LOGGER_KEYS, f"{where}: logger")
    _check_datasets(options, where, is_train)
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


def _check_devices(options: Mapping[str, Any], where: str) -> None:
    import torch

    asked, there = options["num_gpu"], torch.cuda.device_count()
    if isinstance(asked, str) and asked != "auto":
        raise UserError(f"{where}: num_gpu: must be a number or auto, not {asked!r}")
    if asked != "auto":
        check_value(asked, Option(int, minimum=0), f"{where}: num_gpu")
        if asked > there:
            found = f"only {there} found" if there else "none found"
            raise UserError(f"{where}: num_gpu: {asked} GPU(s) asked for, {found}; set num_gpu to auto or {there}")


def _check_network(network: Any, where: str, partial: bool) -> None:
    from basicsr.utils.registry import ARCH_REGISTRY

    network_class, arguments = _type_and_rest(network, ARCH_REGISTRY, where)
    # A model that checks for itself may fill in what is missing, from another network or a checkpoint.
    check_call(network_class, arguments, where, may_lack=partial)


def _type_and_rest(mapping: Any, registry: Any, where: str) -> tuple[Any, dict[str, Any]]:
    if not isinstance(mapping, Mapping):
        raise UserError(f"{where}: must be a mapping with a 'type'")
    if "type" not in mapping:
        raise UserError(f"{where}: 'type' is missing")
    found = registered(registry, mapping["type"], f"{where}: type")
    return found, {key: value for key, value in mapping.items() if key != "type"}


def _check_datasets(options: dict[str, Any], where: str, is_train: bool) -> None:
    from basicsr.utils.registry import DATASET_REGISTRY

    phases = ("train", "val") if is_train else ("val", "test")
    if not options["datasets"]:
        raise UserError(f"{where}: datasets: is empty; valid: {' and '.join(phases)}")
    if is_train and "train" not in options["datasets"]:
        raise UserError(f"{where}: datasets: 'train' is missing")
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
        filled = check_mapping(dataset, loader_keys, place, known=own)
        filled = {name: value for name, value in filled.items() if value is not None or name in dataset}
        filled["phase"] = phase
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
    import torch
    from basicsr.models import lr_scheduler
    from basicsr.utils.registry import LOSS_REGISTRY

    check_value(train.get("total_iter"), Option((int, float), minimum=1), f"{where}: total_iter")
    for key, value in train.items():
        if str(key).startswith("optim_"):
            place = f"{where}: {key}"
            if not isinstance(value, Mapping) or "type" not in value:
                raise UserError(f"{place}: must be a mapping with a 'type', such as RAdam")
            optimizers = {
                n: o
                for n, o in vars(torch.optim).items()
                if inspect.isclass(o) and issubclass(o, torch.optim.Optimizer)
            }
            if value["type"] not in optimizers:
                raise UserError(f"{place}: unknown type {value['type']!r}; {nearest(value['type'], optimizers)}")
            arguments = {k: v for k, v in value.items() if k != "type"}
            check_call(optimizers[value["type"]], arguments, place, skip=1)
            check_value(arguments.get("lr", 1e-3), Option(float, minimum=0), f"{place}: lr")
        elif str(key).endswith("_opt") and value is not None:
            loss, arguments = _type_and_rest(value, LOSS_REGISTRY, f"{where}: {key}")
            check_call(loss, arguments, f"{where}: {key}")
    scheduler = train.get("scheduler")
    if not isinstance(scheduler, Mapping) or "type" not in scheduler:
        raise UserError(f"{where}: scheduler: must be a mapping with a 'type', such as MultiStepLR")
    schedulers = {
        "MultiStepLR": lr_scheduler.MultiStepRestartLR,
        "MultiStepRestartLR": lr_scheduler.MultiStepRestartLR,
        "CosineAnnealingRestartLR": lr_scheduler.CosineAnnealingRestartLR,
    }
    if scheduler["type"] not in schedulers:
        hint = nearest(scheduler["type"], schedulers)
        raise UserError(f"{where}: scheduler: unknown type {scheduler['type']!r}; {hint}")
    arguments = {k: v for k, v in scheduler.items() if k != "type"}
    check_call(schedulers[scheduler["type"]], arguments, f"{where}: scheduler", skip=1)


def _check_metrics(metrics: Mapping[str, Any] | None, where: str) -> None:
    from basicsr.utils.registry import METRIC_REGISTRY

    for name, metric in (metrics or {}).items():
        place = f"{where}: {name}"
        function, arguments = _type_and_rest(metric, METRIC_REGISTRY, place)
        better = arguments.pop("better", "higher")
        check_value(better, Option(str, choices=("higher", "lower")), f"{place}: better")
        known = [p.name for p in inspect.signature(function).parameters.values() if p.kind is not p.VAR_KEYWORD]
        for key in arguments:
            if key not in known or key in ("img", "img2"):
                hint = nearest(key, {"better", *known} - {"img", "img2"})
                raise UserError(f"{place}: unknown key '{key}'; {hint}")
