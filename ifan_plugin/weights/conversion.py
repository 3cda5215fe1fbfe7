"""IFAN's weights from one kind of file to another: the authors' keys, ours, and safetensors, bit for bit.

Kinds of file:

- ``ifan_plugin``: what training here saves, ``{"params": {name: tensor}, "hyper_parameters": {name: value}}``;
- ``safetensors``: the same tensors under the same names, the hyper-parameters as JSON in the metadata;
- ``official``: the IFAN authors' flat dict with keys ``module.Network.*`` (and ``module.reblurNet.*``);
- ``mmengine``: what mmengine's Runner loads, ``{"state_dict": {"generator.…": tensor}}`` (and ``reblur.…``).
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ifan_plugin import __version__
from ifan_plugin.archs.ifan_arch import IFAN
from ifan_plugin.archs.reblur_arch import ReblurNet
from ifan_plugin.common import foreign
from ifan_plugin.common.errors import UserError
from ifan_plugin.common.files import save_atomically, written_aside
from ifan_plugin.options.schema import check_call
from ifan_plugin.weights import official, runner_files
from ifan_plugin.weights.building import build_on_meta

SUFFIXES = {".pth": "ifan_plugin", ".pt": "ifan_plugin", ".pytorch": "official", ".safetensors": "safetensors"}
"""Ending of a file -> the kind that is written there unless told."""

FORMATS = ("ifan_plugin", "safetensors", "official", "mmengine")
JOINT = ("official", "mmengine")
"""Kinds that hold the reblurring network in the same file."""
PARAM_KEYS = ("params", "params_ema")
BOTH = "both"
"""Stands for both of :data:`PARAM_KEYS`, which the kinds ``ifan_plugin`` and ``mmengine`` hold in one file."""


@dataclass(frozen=True)
class Weights:
    """One network's parameters as a file has them.

    Args:
        path: the file; error messages name it.
        network: ``IFAN`` or ``ReblurNet``.
        params: our names -> tensors.
        hyper_parameters: what it is built with; without ``isotropic`` where nothing tells.
        found: what the file is, in a few words.
        beside: what else the file holds, and how to get it; empty where there is nothing.
        joint: whether the file is of one of the kinds in :data:`JOINT`.
        averaged: the averaged parameters, where both sets were asked for.
        blur_unit: see :class:`ifan_plugin.weights.networks.Network`; the kinds in :data:`JOINT` can't say it.
    """

    path: Path
    network: type[nn.Module]
    params: dict[str, Tensor]
    hyper_parameters: dict[str, Any]
    found: str
    beside: str = ""
    joint: bool = False
    averaged: dict[str, Tensor] | None = None
    blur_unit: float | None = None

    @property
    def count(self) -> int:
        """Number of parameters."""
        return sum(tensor.numel() for tensor in self.params.values())

    def described(self) -> str:
        """Network, hyper-parameters, number and type of the parameters, in one line."""
        given = {"isotropic": "not said in the file"} | self.hyper_parameters
        known = [name for name in inspect.signature(self.network).parameters if name in given]
        options = ", ".join(f"{name} {str(given[name]).lower()}" for name in known)
        types = ", ".join(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in self.params.values()}))
        return f"{self.network.__name__}: {options}; {self.count:,} parameters, {types}"


def read_weights(
    path: str | Path,
    param_key: str | None = None,
    taps: int = 3,
    *,
    isotropic: bool | None = None,
    network: type[nn.Module] = IFAN,
) -> Weights:
    """The weights of an IFAN (or of a reblurring network) in a file of any kind, names and shapes checked.

    Args:
        path: the file; no code in it is run.
        param_key: which of a file's sets of parameters, ``params``, ``params_ema`` or ``both``; None: the averaged
            ones (``params_ema``) where it has them.
        taps, isotropic: what the shapes don't tell, where the file doesn't say. Files with the authors' keys are
            isotropic unless told otherwise.
        network: ``IFAN`` or ``ReblurNet``.

    Raises:
        UserError: no checkpoint, one of another network, without that ``param_key``, or one that says otherwise.
    """
    path = Path(path)
    content = foreign.load(path, signature_of(network))
    if official.is_official(content):
        return _official(content, path, param_key, taps, isotropic, network)
    runners = runner_files.is_runner_file(content)
    both = runners and any(str(key).startswith(f"{runner_files.REBLUR}.") for key in content["state_dict"])
    if runners:
        name = runner_files.GENERATOR if network is IFAN else runner_files.REBLUR
        content = runner_files.as_ours(content, name, path)
        content = foreign.tidied(content, path, signature_of(network))
    param_key = foreign.choose(content, param_key) or "params"
    said = content.get("hyper_parameters")
    said = dict(said) if isinstance(said, Mapping) else {}
    averaged = _chosen(content, path, "params_ema") if param_key == BOTH else None
    params = _chosen(content, path, "params" if param_key == BOTH else param_key)
    _require_keys_of(network, params, path)
    check_call(network, said, f"{path}: hyper_parameters", may_lack=True)
    inferred = _inferred(network, params, said.get("taps", taps), path)
    if not inferred.get("use_filters", True):  # what else it was built with made no difference
        inferred = {key: value for key, value in inferred.items() if key == "width" or key not in said}
    official.check_kwargs(said, inferred, path)
    if isotropic is not None:
        if said.get("isotropic", isotropic) != isotropic:
            raise UserError(
                f"{path}: isotropic is {said['isotropic']} in the checkpoint, but {isotropic} was asked for"
            )
        inferred["isotropic"] = isotropic
    hyper_parameters = inferred | said
    for each in (params, averaged):
        if each is not None:
            _require_fit(network, hyper_parameters, each, path)
    sets = [key for key in PARAM_KEYS if isinstance(content.get(key), Mapping)]
    whose = "mmengine's" if runners else "ours"
    found = f"a file of {whose}, {param_key}" if sets else "parameters under our names"
    other = [f"{key}, too (--param-key {key})" for key in sets if param_key not in (key, BOTH)]
    if both and network is IFAN:
        other.append("the reblurring network, too (--reblurring FILE)")
    beside = f"it has {' and '.join(other)}" if other else ""
    unit = foreign.blur_unit(content, path)
    return Weights(path, network, params, hyper_parameters, found, beside, runners, averaged, unit)


def write_weights(
    path: str | Path, kind: str, weights: Weights, reblurring: Weights | None = None, *, overwrite: bool = False
) -> None:
    """Write one network's weights aside, then rename: a reader never meets half a file.

    Args:
        path: the file; its folder must exist.
        kind: one of :data:`FORMATS`. ``safetensors`` needs that ending, the others any but that.
        weights: from :func:`read_weights`.
        reblurring: a reblurring network's, which the kinds in :data:`JOINT` put into the same file.
        overwrite: replace a file that is there.

    Raises:
        UserError: the file is there, its ending or folder isn't right, it can't be written, or (``official``) the
            authors have no such network, or the reblurring network is another one's.
    """
    path = Path(path)
    require_writable(path, kind, overwrite=overwrite)
    if weights.averaged is not None and kind not in ("ifan_plugin", "mmengine"):
        raise UserError(
            f"{path}: a file of kind {kind} holds one set of parameters; valid: --param-key params or params_ema"
        )
    if kind == "official":
        save_atomically(_to_official(path, weights, reblurring), path)
    elif kind == "mmengine":
        save_atomically(_to_runner(weights, reblurring), path)
    elif kind == "ifan_plugin":
        save_atomically(_to_ours(weights), path)
    else:
        _write_safetensors(path, weights)


def require_official(weights: Weights) -> None:
    """Raise :class:`UserError` where the authors have no such IFAN: their keys and shapes couldn't tell it."""
    for option, needed in (("use_filters", True), ("filter_type", "iac"), ("use_disparity", True)):
        found = weights.hyper_parameters.get(option, needed)
        if found != needed:
            raise UserError(
                f"{weights.path}: the authors' files have no network with {option}: {str(found).lower()}; "
                f"valid for official: {option}: {str(needed).lower()}; "
                "ifan_plugin (.pth) and safetensors take this one"
            )


def require_pair(weights: Weights, reblurring: Weights) -> None:
    """Raise :class:`UserError` where a reblurring network can't have been trained with this IFAN.

    Compared are the channels of the filters, and taps and isotropic where both are known.
    """
    to_filters = weights.params.get("filter_predictor.to_filters.weight")
    ours = weights.hyper_parameters | {"filter_channels": 0 if to_filters is None else to_filters.shape[0]}
    theirs = reblurring.hyper_parameters
    for name in ("filter_channels", "taps", "isotropic"):
        if name in ours and name in theirs and ours[name] != theirs[name]:
            raise UserError(
                f"{reblurring.path}: a reblurring network with {name} {str(theirs[name]).lower()}, but "
                f"{weights.path} has {name} {str(ours[name]).lower()}; valid: the one that was trained with it"
            )


def kind_of(path: str | Path) -> str:
    """The kind of file that an ending stands for. Raises :class:`UserError` for others."""
    suffix = Path(path).suffix
    if suffix not in SUFFIXES:
        valid = ", ".join(f"{known} ({kind})" for known, kind in SUFFIXES.items())
        raise UserError(f"{path}: unknown ending '{suffix}'; valid: {valid}, or any other with --to")
    return SUFFIXES[suffix]


def require_writable(path: Path, kind: str, *, overwrite: bool) -> None:
    """Raise :class:`UserError` where a file of that kind can't or mayn't be written; before the work."""
    if (path.suffix == ".safetensors") != (kind == "safetensors"):
        needs = "needs the ending .safetensors" if kind == "safetensors" else "can't have the ending .safetensors"
        raise UserError(f"{path}: a file of kind {kind} {needs}, by which it is read again")
    if path.is_dir():
        raise UserError(f"{path}: is a folder; give a file's name")
    if not path.parent.is_dir():
        raise UserError(f"{path.parent}: folder not found")
    if path.exists() and not overwrite:
        raise UserError(f"{path}: is there already; give another name, or add --overwrite")


def _official(
    content: Mapping[str, Any],
    path: Path,
    param_key: str | None,
    taps: int,
    isotropic: bool | None,
    network: type[nn.Module],
) -> Weights:
    if param_key not in (None, "params"):
        raise UserError(f"{path}: has the authors' keys, and no '{param_key}'; valid: --param-key params")
    asked = True if isotropic is None else isotropic
    # An inference file may lack parts of the reblurring network, which is only checked where it is asked for.
    theirs = official.from_official(content, taps, isotropic=asked, reblur=network is ReblurNet, path=path)
    found = "a file with the IFAN authors' keys"
    if network is IFAN:
        both = any("reblurNet." in str(key) for key in content)
        beside = "it has the reblurring network, too (--reblurring FILE)" if both else ""
        return Weights(path, IFAN, theirs.params, theirs.arch_kwargs, found, beside, joint=True)
    if theirs.reblur_params is None or theirs.reblur_kwargs is None:
        raise UserError(f"{path}: has no reblurring network")
    return Weights(path, ReblurNet, theirs.reblur_params, theirs.reblur_kwargs, found, joint=True)


def _to_official(path: Path, weights: Weights, reblurring: Weights | None) -> dict[str, Tensor]:
    """The authors' dict, read back once: it must be the same networks, given what shapes can't tell."""
    require_official(weights)
    if reblurring is not None:
        require_pair(weights, reblurring)
    content = official.to_official(weights.params, reblurring.params if reblurring else None)
    said = (reblurring.hyper_parameters if reblurring else {}) | weights.hyper_parameters
    back = official.from_official(content, said.get("taps", 3), isotropic=said.get("isotropic", True), path=path)
    pairs = [(weights, back.arch_kwargs)]
    if reblurring is not None:
        pairs.append((reblurring, back.reblur_kwargs or {}))
    for given, found in pairs:
        for name, value in found.items():
            if given.hyper_parameters.get(name, value) != value:
                raise UserError(
                    f"{given.path}: {name} is {given.hyper_parameters[name]}, but a file with the authors' keys would "
                    f"be read as {value}; ifan_plugin (.pth) and safetensors keep it"
                )
    return content


def _to_runner(weights: Weights, reblurring: Weights | None) -> dict[str, Any]:
    networks = {runner_files.GENERATOR: weights}
    if reblurring is not None:
        require_pair(weights, reblurring)
        networks[runner_files.REBLUR] = reblurring
    return runner_files.from_ours({name: _to_ours(each) for name, each in networks.items()}, averaged=True)


def _to_ours(weights: Weights) -> dict[str, Any]:
    content: dict[str, Any] = {"hyper_parameters": weights.hyper_parameters, "params": weights.params}
    if weights.blur_unit is not None:
        content["blur_unit"] = weights.blur_unit
    return content if weights.averaged is None else content | {"params_ema": weights.averaged}


def _chosen(content: Mapping[str, Any], path: Path, param_key: str) -> dict[str, Tensor]:
    """One set of parameters out of a file of ours, or a bare one."""
    sets = [key for key in PARAM_KEYS if isinstance(content.get(key), Mapping)]
    if sets and param_key not in sets:
        raise UserError(f"{path}: has no '{param_key}'; valid: --param-key {' or '.join(sets)}")
    if not sets and param_key != "params":
        raise UserError(f"{path}: is a bare set of parameters, without '{param_key}'; valid: --param-key params")
    params = content[param_key] if sets else content
    if not params:
        raise UserError(f"{path}: holds no parameters")
    return foreign.named_tensors(params, path)


def signature_of(network: type[nn.Module]) -> tuple[str]:
    """A name that only this network's parameters have."""
    return ("feature_extractor.level1.0.0.weight",) if network is IFAN else ("trunk.0.0.weight",)


def _require_keys_of(network: type[nn.Module], params: Mapping[str, Tensor], path: Path) -> None:
    """Say first that a file is another network's, before its hyper-parameters are looked at."""
    (key,) = signature_of(network)
    if key not in params:
        raise UserError(f"{path}: no {network.__name__} checkpoint: missing key {key}; {foreign.described(params)}")


def _inferred(network: type[nn.Module], params: Mapping[str, Tensor], taps: int, path: Path) -> dict[str, Any]:
    if network is IFAN:
        return official.infer_ifan_kwargs(params, taps, path)
    return official.infer_reblur_kwargs(params, taps, path)


def _require_fit(
    network: type[nn.Module], hyper_parameters: Mapping[str, Any], params: Mapping[str, Tensor], path: Path
) -> None:
    """Names and shapes must be exactly the network's."""
    expected = build_on_meta(network, hyper_parameters, str(path)).state_dict()
    for keys, what in ((params.keys() - expected, "unknown"), (expected.keys() - params, "missing")):
        if keys:
            more = f" (and {len(keys) - 1} more)" if len(keys) > 1 else ""
            raise UserError(f"{path}: no {network.__name__} checkpoint: {what} key {min(keys)}{more}")
    wrong = foreign.misfit(expected, params)
    if wrong is not None:
        raise UserError(f"{path}: {wrong}")


def _write_safetensors(path: Path, weights: Weights) -> None:
    try:
        from safetensors.torch import save
    except ImportError as error:
        raise UserError(f"{path}: writing it needs the package safetensors (pip install safetensors)") from error
    # The format has no shared or strided tensors; copies are neither.
    params = {
        name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in weights.params.items()
    }
    metadata = {
        "format": "pt",
        "arch": weights.network.__name__,
        "hyper_parameters": json.dumps(weights.hyper_parameters),
        "written_by": f"ifan_plugin {__version__}",
    }
    if weights.blur_unit is not None:
        metadata["blur_unit"] = f"{weights.blur_unit:g}"
    data = save(params, metadata)
    with written_aside(path) as file:
        file.write(data)
