"""mmengine's configs for our command: read, overridden and checked; a mistake is one line and not a traceback."""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from mmengine import registry
from mmengine.config import Config, ConfigDict
from mmengine.registry import Registry
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from ifan_plugin.common.errors import UserError
from ifan_plugin.common.files import from_json
from ifan_plugin.mm import config_values
from ifan_plugin.options import file as option_file
from ifan_plugin.options import kinds
from ifan_plugin.options.schema import Option, check_call, check_value, nearest

ENDINGS = (".py", ".yml", ".yaml", ".json")
RUNNER_KEYS = {
    *(name for name in inspect.signature(Runner.__init__).parameters if name not in ("self", "cfg")),
    "custom_imports", "model_wrapper_cfg", "find_unused_parameters", "sync_bn", "activation_checkpointing",
    "efficient_conv_bn_eval", "compile", "runner_type",
}  # fmt: skip
"""What mmengine's Runner reads from the top of a config; other names there are the config file's own."""

_LOADER_KEYS = {
    *(name for name in inspect.signature(DataLoader.__init__).parameters if name != "self"),
    "dataset", "num_batch_per_epoch", "disable_subprocess_warning",
}  # fmt: skip
_LOOPS = ("train", "val", "test")
_NAMES = ("type", "constructor", "runner_type", "ema_type", "_scope_", "default_scope")
"""Keys whose values mmengine looks up in its registries; a dotted name that isn't there it imports and calls."""
_BUILDERS_OWN = {  # keys that whoever builds from a registry takes out before the class sees the rest
    registry.HOOKS: {"priority"},
    registry.OPTIM_WRAPPERS: {"optimizer", "constructor", "paramwise_cfg"},
    registry.PARAM_SCHEDULERS: {"convert_to_iter_based"},
}


def read(path: str | Path) -> Config:
    """Read a config; import what its ``custom_imports`` names.

    A ``.py`` file is a program and is run. ``.yml``, ``.yaml`` and ``.json`` are read as data: no tags, no ``_base_``,
    and types by their registered names alone, since mmengine would import and call anything else by its dotted name.

    Raises:
        UserError: no such file, another kind of file, or one that can't be read (the line is named).
    """
    path = Path(path).expanduser()
    if path.suffix not in ENDINGS:
        raise UserError(f"{path}: a config must end in {', '.join(ENDINGS)}")
    if not path.is_file():
        raise UserError(f"config not found: {path}")
    if path.suffix == ".py":
        return _run(path)
    options = _read_json(path) if path.suffix == ".json" else option_file.read(path)
    kinds.require_kind(options, path, kinds.MMENGINE)
    if "_base_" in options:
        raise UserError(f"{path}: _base_ is valid in .py configs only")
    for place, name in _names(options):
        if "." in str(name):
            raise UserError(f"{path}: {place}: must be a registered name, not {name}; dotted names need a .py config")
    try:
        config = Config(options, filename=str(path))
    except KeyError as error:  # names that mmengine keeps to itself
        raise UserError(f"{path}: {error.args[0]}") from None
    return _with_imports(config, path)


def _run(path: Path) -> Config:
    try:
        return _with_imports(Config.fromfile(path, import_custom_modules=False), path)
    except UserError:
        raise
    except SyntaxError as error:
        raise UserError(f"{path}: line {error.lineno}: not valid Python here: {error.msg}") from None
    except Exception as error:  # a config is the user's own program: it may fail in any way
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{path}: failed while it was read: {type(error).__name__}: {reason}") from error


def _with_imports(config: Config, path: Path) -> Config:
    imports = config.get("custom_imports") or {}
    if not isinstance(imports, dict) or not isinstance(imports.get("imports", []), (list, str)):
        raise UserError(f"{path}: custom_imports: must be dict(imports=[names of modules])")
    names = imports.get("imports", [])
    for name in [names] if isinstance(names, str) else names:
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", name):
            raise UserError(f"{path}: custom_imports: must be names of installed modules, not {name!r}")
        try:
            importlib.import_module(name)
        except ImportError as error:
            if not imports.get("allow_failed_imports", False):
                raise UserError(f"{path}: custom_imports: '{name}' can't be imported: {error}") from error
    return config


def _read_json(path: Path) -> dict[str, Any]:
    try:
        options = from_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise UserError(f"{path}: not valid JSON: {' '.join(str(error).split())}") from None
    if not isinstance(options, dict):
        raise UserError(f"{path}: must be a mapping of options (model, train_dataloader, …)")
    return options


def _names(value: Any, place: str = "") -> Iterable[tuple[str, Any]]:
    """Everything in a config that mmengine looks up by its name, with the place it stands at."""
    if isinstance(value, Mapping):
        for key, member in value.items():
            at = f"{place}: {key}" if place else str(key)
            if key in _NAMES and not isinstance(member, Mapping):
                yield at, member
            yield from _names(member, at)
    elif isinstance(value, (list, tuple)):
        for number, member in enumerate(value):
            yield from _names(member, f"{place}: {number}")


# --- --cfg-options ------------------------------------------------------------------------------------------------


def override(config: Config, entries: Iterable[str]) -> None:
    """Apply ``--cfg-options`` entries ``a.b=value`` in place. Nothing is executed.

    Values are mmengine's: integers, numbers, true, false, None, ``1,2`` or ``[1,2]`` (a list), ``(1,2)`` (a tuple),
    nested, and otherwise text; what stands in quotes is text as it is. A number as a key picks an item of a list.

    Raises:
        UserError: an entry of another form, a path that isn't in the config, a name of the config file's own, which
            has had its effect already, or a type that isn't a registered name.
    """
    for entry in entries:
        where = f"--cfg-options {entry}"
        path, equals, text = entry.partition("=")
        names = path.strip().split(".")
        if not equals or not all(names):
            raise UserError(f"{where}: must have the form key.subkey=value")
        place = _require_place(config, names, where)
        value = _given_value(text, where, names[-1], place)
        if names[0] == "custom_imports":
            raise UserError(f"{where}: custom_imports is valid in the config file only, and is done by now")
        if names[-1] in _NAMES and "." in str(value):  # mmengine would import it and call what it finds
            raise UserError(f"{where}: must be a registered name; dotted names need a .py config")
        config.merge_from_dict({path.strip(): value})


def _given_value(text: str, where: str, name: str, place: Any) -> Any:
    """:func:`parse_value`, but for options that are text, which Python's numbers may look like (``2024_11_26``)."""
    current = place.get(name) if isinstance(place, (Mapping, Config)) else None
    text = text.strip()
    if option_file.is_text(name) and not (len(text) > 1 and text[0] == text[-1] and text[0] in "'\""):
        return None if text.lower() == "none" else text
    value = parse_value(text, where)
    return text if isinstance(current, str) and isinstance(value, (int, float)) and "_" in text else value


def _require_place(config: Config, names: list[str], where: str) -> Any:
    if names[0] not in RUNNER_KEYS:
        if names[0] in config:
            raise UserError(
                f"{where}: '{names[0]}' is a name of the config file's own and has had its effect already; set what "
                "uses it (such as train_dataloader.batch_size)"
            )
        raise UserError(f"{where}: unknown key '{names[0]}'; {nearest(names[0], {*RUNNER_KEYS} & {*config})}")
    place: Any = config
    for depth, name in enumerate(names):
        if isinstance(place, (list, tuple)):
            if not name.isdigit() or int(name) >= len(place):
                raise UserError(f"{where}: '{name}' must be an index from 0 to {len(place) - 1}")
            place = place[int(name)]
            continue
        if not isinstance(place, (Mapping, Config)):
            raise UserError(f"{where}: '{'.'.join(names[:depth])}' has no keys")
        if depth == len(names) - 1:
            break
        if name not in place:
            raise UserError(f"{where}: no key '{name}'; {nearest(name, place)}")
        place = place[name]
    return place


def parse_value(text: str, where: str) -> Any:
    """A value of ``--cfg-options``; see :func:`override`. Raises :class:`UserError` for brackets without a partner."""
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    parts = _split(text, where)
    if len(parts) > 1:
        return [parse_value(part, where) for part in parts if part.strip()]
    if text[:1] in ("[", "(") and {"[": "]", "(": ")"}[text[0]] == text[-1:]:
        inner = [parse_value(part, where) for part in _split(text[1:-1], where) if part.strip()]
        return inner if text[0] == "[" else tuple(inner)
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"true": True, "false": False, "none": None}.get(text.lower(), text)


def _split(text: str, where: str) -> list[str]:
    """At the commas outside brackets and quotes."""
    parts, open_brackets, quote = [""], [], ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"" and not parts[-1].strip():  # an apostrophe within a word is none
            quote = letter
        elif letter in "[(":
            open_brackets.append(letter)
        elif letter in "])" and (not open_brackets or open_brackets.pop() + letter not in ("[]", "()")):
            raise UserError(f"{where}: a bracket has no partner; put text with brackets into quotes")
        if letter == "," and not quote and not open_brackets:
            parts.append("")
        else:
            parts[-1] += letter
    if open_brackets or quote:
        raise UserError(f"{where}: a {'quote' if quote else 'bracket'} has no partner")
    return parts


# --- checking -----------------------------------------------------------------------------------------------------


def check(config: Config, where: str, command: str) -> None:  # noqa: C901 (one section a branch)
    """Check names and types of what the Runner will build, before it builds anything.

    Args:
        config: the config, overrides applied.
        where: names the file in messages.
        command: ``train`` or ``test``: whether what it needs is there.

    Raises:
        UserError: an unknown or missing key, a type that isn't registered, or a value that can't be.
    """
    _require_keys(config, where, command)
    scope = config.get("default_scope") or "mmengine"

    def typed(value: Any, kinds: Registry, place: str, default: str | None = None) -> None:
        for number, each in enumerate(value if isinstance(value, (list, tuple)) else [value]):
            if isinstance(each, Mapping):
                at = f"{place}: {number}" if isinstance(value, (list, tuple)) else place
                _check_typed(each, kinds, scope, f"{where}: {at}", default)
            elif each is not None and isinstance(each, (str, int, float)):
                raise UserError(f"{where}: {place}: must be a dict with a type, not {each!r}")

    typed(config.get("model"), registry.MODELS, "model")
    typed(config.get("data_preprocessor"), registry.MODELS, "data_preprocessor")
    for loop in _LOOPS:
        loader = config.get(f"{loop}_dataloader")
        if isinstance(loader, Mapping):
            _check_loader(loader, f"{where}: {loop}_dataloader", _LOADER_KEYS)
            place = f"{loop}_dataloader"
            typed(loader["dataset"], registry.DATASETS, f"{place}: dataset")
            typed(loader["dataset"].get("pipeline"), registry.TRANSFORMS, f"{place}: dataset: pipeline")
            for key in ("sampler", "batch_sampler"):
                typed(loader.get(key), registry.DATA_SAMPLERS, f"{place}: {key}")
        loop_cfg = config.get(f"{loop}_cfg")
        default = {"val": "ValLoop", "test": "TestLoop"}.get(loop, "EpochBasedTrainLoop")
        if loop == "train" and isinstance(loop_cfg, Mapping) and not loop_cfg.get("by_epoch", True):
            default = "IterBasedTrainLoop"
        typed(loop_cfg, registry.LOOPS, f"{loop}_cfg", default)
        if loop != "train":
            evaluator = config.get(f"{loop}_evaluator")
            metrics = evaluator
            if isinstance(evaluator, Mapping) and "metrics" in evaluator:  # to mmengine that is an evaluator, no metric
                kind = evaluator.get("type", "Evaluator")
                if kind in registry.METRICS.module_dict:
                    raise UserError(f"{where}: {loop}_evaluator: put the metric into a list: [dict(type='{kind}', …)]")
                metrics = evaluator["metrics"]
            typed(metrics, registry.METRICS, f"{loop}_evaluator")
    wrapper = config.get("optim_wrapper")
    if isinstance(wrapper, Mapping) and "optimizer" in wrapper:  # else several, put together by a constructor
        typed(wrapper, registry.OPTIM_WRAPPERS, "optim_wrapper", "OptimWrapper")
        typed(wrapper["optimizer"], registry.OPTIMIZERS, "optim_wrapper: optimizer")
        lr = wrapper["optimizer"].get("lr", 0)
        check_value(lr, Option(float, minimum=0), f"{where}: optim_wrapper: optimizer: lr")
    schedulers = config.get("param_scheduler")
    if not isinstance(schedulers, Mapping) or "type" in schedulers:  # else one for each of several optimisers
        typed(schedulers, registry.PARAM_SCHEDULERS, "param_scheduler")
    for name, hook in (config.get("default_hooks") or {}).items():
        typed(hook, registry.HOOKS, f"default_hooks: {name}")
    typed(config.get("custom_hooks"), registry.HOOKS, "custom_hooks")
    typed(config.get("visualizer"), registry.VISUALIZERS, "visualizer")
    typed((config.get("visualizer") or {}).get("vis_backends"), registry.VISBACKENDS, "visualizer: vis_backends")
    typed(config.get("log_processor"), registry.LOG_PROCESSORS, "log_processor", "LogProcessor")
    config_values.check(config, where)


def _require_keys(config: Config, where: str, command: str) -> None:
    for key in config:
        close = difflib.get_close_matches(str(key), RUNNER_KEYS - {*config}, n=1, cutoff=0.85)
        if key not in RUNNER_KEYS and close:  # other names are the file's own
            raise UserError(f"{where}: unknown key '{key}'; did you mean '{close[0]}'?")
    groups = {
        "train": ("train_dataloader", "train_cfg", "optim_wrapper"),
        "val": ("val_dataloader", "val_cfg", "val_evaluator"),
        "test": ("test_dataloader", "test_cfg", "test_evaluator"),
    }
    if config.get("model") is None:
        raise UserError(f"{where}: 'model' is missing (a dict with a type)")
    for name, keys in groups.items():
        there = [key for key in keys if config.get(key) is not None]
        if len(there) != len(keys) and (there or name == command):
            missing = next(key for key in keys if key not in there)
            why = f"{there[0]} is there" if there else f"{command} needs it"
            raise UserError(f"{where}: '{missing}' is missing ({why}; {', '.join(keys)} belong together)")


def _check_loader(loader: Mapping[str, Any], place: str, known: Iterable[str]) -> None:
    _require_known(loader, known, place)
    for key in ("dataset", "sampler"):
        if key not in loader:
            raise UserError(f"{place}: '{key}' is missing (a dict with a type)")
    if not isinstance(loader["dataset"], Mapping):
        raise UserError(f"{place}: dataset: must be a dict with a type, not {loader['dataset']!r}")
    check_value(loader.get("batch_size", 1), Option(int, minimum=1), f"{place}: batch_size")
    check_value(loader.get("num_workers", 0), Option(int, minimum=0), f"{place}: num_workers")


def _require_known(mapping: Mapping[str, Any], known: Iterable[str], place: str) -> None:
    known = set(known)
    for key in mapping:
        if key not in known:
            raise UserError(f"{place}: unknown key '{key}'; {nearest(key, known)}")


def _check_typed(value: Mapping[str, Any], kinds: Registry, scope: str, place: str, default: str | None) -> None:
    kind = value.get("type", default)
    if kind is None:
        raise UserError(f"{place}: 'type' is missing ({nearest('', kinds.module_dict)})")
    found: Any = kind
    if isinstance(kind, str):
        with kinds.switch_scope_and_registry(scope) as scoped:
            found = scoped.get(kind)
            names = {**kinds.module_dict, **scoped.module_dict}
        if found is None:
            raise UserError(f"{place}: unknown type '{kind}'; {nearest(kind, names)}")
    own = {"type", "_scope_", *_BUILDERS_OWN.get(kinds, ())}
    if kinds is registry.LOOPS and "type" not in value:
        own.add("by_epoch")
    arguments = {key: member for key, member in value.items() if key not in own}
    known = _parameters(found)
    if known is not None:
        _require_known(arguments, known, place)
    if getattr(found, "__module__", "").startswith("ifan_plugin."):  # whose annotations can be relied on
        check_call(found, {k: v for k, v in arguments.items() if not isinstance(v, ConfigDict)}, place, may_lack=True)
    for key, least in (("max_iters", 1), ("max_epochs", 1), ("val_interval", 1)):
        if kinds is registry.LOOPS and key in arguments:
            check_value(arguments[key], Option(int, minimum=least), f"{place}: {key}")


def _parameters(found: Callable) -> set[str] | None:
    """Names a class or function takes, those its base classes take through ``**kwargs`` among them; None: any."""
    classes: list[Any] = list(inspect.getmro(found)) if inspect.isclass(found) else []
    functions = [each.__init__ for each in classes] or [found]
    names: set[str] = set()
    for function in functions:
        if function is object.__init__:
            break
        parameters = inspect.signature(function).parameters.values()
        names |= {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)} - {"self"}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            return names
    return None
