"""The weights in anybody's checkpoint: found wherever they lie, without the prefixes that wrappers leave behind.

Understood are weights one or more levels down (``state_dict``, ``model``, ``params_ema`` alone, …), prefixes
(``module.`` of DataParallel, ``_orig_mod.`` of torch.compile, an attribute of a Lightning module) and the counters of
profilers. What is done to a file is said in one line; what comes out has the form of our own files.
"""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from ifan_plugin.common.errors import UserError
from ifan_plugin.common.tensor_files import load_file

logger = logging.getLogger("ifan_plugin")

LAST, AVERAGED = "params", "params_ema"
PARAM_KEYS = (LAST, AVERAGED)
"""Our names of the last weights and of their average, of which a file may have both."""

_AVERAGED_NAMES = re.compile(r"(^|[_.\-])(ema|swa|averaged?|shadow)($|[_.\-])", re.IGNORECASE)
_NO_WEIGHTS = re.compile(r"optim|sched|scaler|callback|hyper|args|config|meta|loop|rng|disc|net_d|_d$", re.IGNORECASE)
_COUNTERS = ("total_ops", "total_params")  # of the profiler thop
_AVERAGERS_OWN = ("n_averaged", "initted", "step", "decay", "num_updates")
_AUTHORS = "Network."  # of the IFAN authors' files, behind "module."
_INNER = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
_OUTER = "module."
SIGNATURES = (
    "feature_extractor.level1.0.0.weight", "bottleneck.2.weight", "trunk.0.0.weight", "blocks.0.shared.weight",
    "predictor.memory.gates.weight", "shallow.0.0.0.weight", "map_network.to_map.weight",
)  # fmt: skip
"""A name each network of ours has: IFAN, DPDNet, ReblurNet, KPAC, GKMNet, ConvIR, DMENetDeconvolution."""
_DEPTH = 3


class _Set(NamedTuple):
    """One set of weights in a file: the keys that lead to it, and its names and tensors."""

    where: tuple[str, ...]
    params: Mapping[str, Any]

    @property
    def averaged(self) -> bool:
        return any(_AVERAGED_NAMES.search(key) for key in self.where)


def load(path: str | Path, names: Collection[str] = ()) -> dict[str, Any]:
    """A checkpoint's content in our own files' form.

    Args:
        path: the file, read as :func:`ifan_plugin.common.tensor_files.load_file` does.
        names: all names of the network's parameters, where they are known; else those of :data:`SIGNATURES` serve.

    Returns:
        ``{"params": …, "params_ema": …, "hyper_parameters": …}`` or a part of it; files with the authors' keys flat,
        mmengine's as they are, and what holds no weights as it is.

    Raises:
        UserError: as ``load_file``.
    """
    return tidied(load_file(path), path, names)


def tidied(content: Mapping[str, Any], path: str | Path, names: Collection[str] = ()) -> dict[str, Any]:
    """As :func:`load`, of a content that has been read."""
    if is_runner_file(content):
        return dict(content)
    if any(isinstance(content.get(key), Mapping) for key in PARAM_KEYS):
        sets = [_Set((key,), content[key]) for key in PARAM_KEYS if isinstance(content.get(key), Mapping)]
    elif has_authors_keys(content) or (content and all(isinstance(v, Tensor) for v in content.values())):
        sets = [_Set((), content)]
    else:
        sets = _chosen(list(_sets(content)))
    if not sets:
        return dict(content)
    found: dict[str, Any] = {}
    notes = []
    for each in sets:
        odd = [name for name in each.params if not isinstance(name, str)]
        if odd:
            raise UserError(f"{path}: not a checkpoint of a network: a parameter's name is {odd[0]!r:.80}, not text")
        for key, params, done in _cleaned(each, names):
            found.setdefault(key, params)
            if each.where not in ((), (LAST,), (AVERAGED,)):
                done = [f"weights taken from '{': '.join(each.where)}'", *done]
            notes += done
    if notes:
        _say(f"{path}: {'; '.join(dict.fromkeys(notes))}")
    if has_authors_keys(found.get(LAST, {})):
        return dict(found[LAST])
    if not notes and sets[0].where == ():
        return dict(content)
    return {key: value for key, value in content.items() if key in ("hyper_parameters", "blur_unit")} | found


def blur_unit(content: Mapping[str, Any], path: str | Path) -> float | None:
    """Of a network whose map is the size of the blur: pixels of its diameter to a unit. None: its map is a disparity.

    Raises:
        UserError: the file says something else than a positive number.
    """
    unit = content.get("blur_unit")
    if unit is not None and not (isinstance(unit, (int, float)) and 0 < unit < 1e6):
        raise UserError(f"{path}: its blur_unit must be a number of pixels above 0, not {unit!r}")
    return unit


def choose(content: Mapping[str, Any], param_key: str | None) -> str | None:
    """Which of a content's sets is meant: the averaged weights unless told, where there are some; None: it has none."""
    sets = [key for key in PARAM_KEYS if isinstance(content.get(key), Mapping)]
    if param_key is None:
        return sets[-1] if sets else None
    return param_key


def described(content: Mapping[str, Any]) -> str:
    """What a file holds, for messages: its keys, with the number of tensors and the first one's name."""
    tensors = [key for key, value in content.items() if isinstance(value, Tensor)]
    parts = [f"{len(tensors)} tensors, the first '{tensors[0]}'"] if tensors else []
    for key, value in content.items():
        if isinstance(value, Mapping):
            inside = [name for name, member in value.items() if isinstance(member, Tensor)]
            parts.append(f"'{key}' ({len(inside)} tensors, the first '{inside[0]}')" if inside else f"'{key}'")
        elif not isinstance(value, Tensor):
            parts.append(f"'{key}'")
    shown = ", ".join(parts[:6]) + (", …" if len(parts) > 6 else "")
    return f"the file holds {shown}" if parts else "the file holds nothing"


def has_authors_keys(params: Mapping[Any, Any]) -> bool:
    """Whether these are the IFAN authors' keys (``module.Network.*``, or without ``module.``)."""
    return any(isinstance(key, str) and key.removeprefix(_OUTER).startswith(_AUTHORS) for key in params)


def is_runner_file(content: Mapping[str, Any]) -> bool:
    """Whether a checkpoint's content is of mmengine's form, with a generator."""
    state = content.get("state_dict")
    return isinstance(state, Mapping) and any(str(key).startswith("generator.") for key in state)


def named_tensors(params: Mapping[Any, Any], path: str | Path) -> dict[str, Tensor]:
    """Parameters under their names without DataParallel's ``module.``; what modules keep beside them is left out.

    Raises:
        UserError: something else than tensors with names.
    """
    found = {}
    for name, value in params.items():
        if not isinstance(name, str) or not (isinstance(value, Tensor) or name.endswith("_extra_state")):
            raise UserError(f"{path}: not a checkpoint of a network: '{name!s:.80}' is a {type(value).__name__}")
        if isinstance(value, Tensor):
            found[name.removeprefix(_OUTER)] = value
    return found


def misfit(own: Mapping[str, Tensor], params: Mapping[str, Any]) -> str | None:
    """The first of ``params`` that a network with the state ``own`` can't take, and why; None where all fit.

    Names that only one of them has are for ``load_state_dict`` to tell.
    """
    for name, expected in own.items():
        value = params.get(name, expected)
        if not isinstance(value, Tensor):
            return f"{name} is a {type(value).__name__}, not a tensor"
        if value.shape != expected.shape:
            return f"{name} is {list(value.shape)}, expected {list(expected.shape)}"
        if (value.is_floating_point(), value.is_complex()) != (expected.is_floating_point(), expected.is_complex()):
            kinds = (str(each.dtype).removeprefix("torch.") for each in (value, expected))
            return "{} holds {}, expected {}".format(name, *kinds)
    return None


def fill(net: nn.Module, params: Mapping[str, Tensor], what: str, *, strict: bool = True) -> Any:
    """Load parameters into a network; gives what ``load_state_dict`` gives.

    Raises:
        UserError: ``what`` and the first fault: a name, shape or type that doesn't fit, and how many there are more.
    """
    wrong = misfit(net.state_dict(), params)
    if wrong is not None:
        raise UserError(f"{what}: {wrong}")
    try:
        return net.load_state_dict(params, strict=strict)
    except RuntimeError as error:
        lines = [" ".join(line.split()) for line in str(error).splitlines()[1:]]
        more = f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""
        raise UserError(f"{what}: {lines[0][:200]}{more}") from None


def load_into(net: nn.Module, params: Mapping[str, Tensor], path: str | Path, *, strict: bool = True) -> list[str]:
    """Load parameters into a network; returns lines on names that are missing or left over, where that is allowed.

    Raises:
        UserError: other names or shapes; not one name in common, even where ``strict`` is false.
    """
    own = net.state_dict()
    if not strict:
        require_overlap(own, params, path, type(net).__name__)
    try:
        result = fill(net, params, f"{path}: doesn't fit {type(net).__name__} as the options build it", strict=strict)
    except UserError as error:
        raise UserError(f"{error}{'' if own.keys() & params.keys() else f'; {described(params)}'}") from None
    return [
        f"{path}: {len(names)} {what} keys, the first: {names[0]}"
        for what, names in (("missing", result.missing_keys), ("unexpected", result.unexpected_keys))
        if names
    ]


def require_overlap(own: Mapping[str, Any], params: Mapping[str, Any], path: str | Path, what: str) -> None:
    """Raise :class:`UserError` where a file has none of a network's parameters: nothing would be loaded."""
    if own and not own.keys() & params.keys():
        raise UserError(
            f"{path}: has none of the parameters of {what} (such as '{next(iter(own))}'), so that nothing would be "
            f"loaded; {described(params)}"
        )


def _sets(content: Mapping[str, Any], where: tuple[str, ...] = ()) -> Iterator[_Set]:
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Mapping) or _NO_WEIGHTS.search(key):
            continue
        if value and all(isinstance(name, str) for name in value) and _mostly_tensors(value):
            yield _Set((*where, key), value)
        elif len(where) + 1 < _DEPTH:
            yield from _sets(value, (*where, key))


def _mostly_tensors(value: Mapping[str, Any]) -> bool:
    return 2 * sum(isinstance(member, Tensor) for member in value.values()) > len(value)


def _chosen(sets: list[_Set]) -> list[_Set]:
    """The last weights and their average, the largest where there are several."""
    chosen = []
    for averaged in (False, True):
        among = [each for each in sets if each.averaged is averaged]
        if among:
            chosen.append(max(among, key=lambda each: len(each.params)))
    return chosen


def _cleaned(each: _Set, names: Collection[str]) -> Iterator[tuple[str, dict[str, Any], list[str]]]:
    """Which of :data:`PARAM_KEYS` it is, its parameters without what isn't theirs, and what was done."""
    params, notes = dict(each.params), []
    key = AVERAGED if each.averaged else LAST
    left_out = [name for name in params if name.rsplit(".", 1)[-1] in _COUNTERS or name in _AVERAGERS_OWN]
    if left_out and not {*left_out} <= {*names}:
        notes.append(f"{len(left_out)} counters of a profiler or an average left out (the first: {left_out[0]})")
        params = {name: value for name, value in params.items() if name not in left_out}
    if has_authors_keys(params):
        yield key, params, notes
        return
    for part in _INNER:
        params = _renamed(params, part, lambda name, part=part: name.replace(part, ""), notes)
    while params and all(str(name).startswith(_OUTER) for name in params) and not set(names) & set(params):
        params = _renamed(params, _OUTER, lambda name: name.removeprefix(_OUTER), notes)
    prefixes = _prefixes(params, names)
    if not prefixes:
        yield key, params, notes
        return
    for averaged in (False, True):
        among = [prefix for prefix in prefixes if bool(_AVERAGED_NAMES.search(prefix)) is averaged]
        if among:
            prefix = max(among, key=lambda prefix: sum(name.startswith(prefix) for name in params))
            below = {name.removeprefix(prefix): value for name, value in params.items() if name.startswith(prefix)}
            others = len(params) - len(below) - sum(
                name.startswith(other) for other in prefixes if other != prefix for name in params
            )  # fmt: skip
            also = f", {others} tensors of other names left out" if others > 0 else ""
            yield AVERAGED if averaged else key, below, [*notes, f"'{prefix}' left out of the names{also}"]


def _prefixes(params: Mapping[str, Any], names: Collection[str]) -> list[str]:
    """What stands before the network's names; empty where nothing does, or where not all its names come out."""
    present = [str(name) for name in params]
    if any(name.startswith("Network.") or ".Network." in name for name in present):
        starts = {name[: name.index("Network.")] for name in present if "Network." in name}
        return [] if starts <= {"", _OUTER} else sorted(starts)
    wanted = sorted(names, key=len, reverse=True)[:1] if names else list(SIGNATURES)
    for name in wanted:
        if name in params:
            return []
        found = [each[: -len(name)] for each in present if each.endswith(f".{name}")]
        found = [prefix for prefix in found if not prefix.endswith("filter_predictor.")]  # IFAN's own trunk
        if names:
            found = [prefix for prefix in found if all(prefix + each in params for each in names)]
        if found:
            return found
    return []


def _renamed(params: dict[str, Any], part: str, rename: Any, notes: list[str]) -> dict[str, Any]:
    """With other names, where none of them then stands twice."""
    new = {rename(str(name)): value for name, value in params.items()}
    if len(new) < len(params) or list(new) == list(params):
        return params
    notes.append(f"'{part}' left out of the names")
    return new


@functools.lru_cache(maxsize=256)
def _say(line: str) -> None:
    """Once a file: it is read more than once in a run."""
    logger.warning(line)
