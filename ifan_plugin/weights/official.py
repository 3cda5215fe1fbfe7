"""Checkpoints: the authors' names to ours, hyper-parameters from shapes.

The authors' files are flat dicts with keys `module.Network.*` (and `module.reblurNet.*` in training states).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ifan_plugin.archs.ifan_arch import IFAN
from ifan_plugin.archs.reblur_arch import ReblurNet
from ifan_plugin.common import foreign
from ifan_plugin.common.errors import UserError

# Official name of a part (the dot belongs to it) -> ours. Inside a part the names agree, but for _RES_UNITS.
_NETWORK_PARTS: dict[str, str] = {
    **{
        f"{official}{level}_{number}.": f"{ours}.level{level}.{number - 1}."
        for official, ours in (("conv", "feature_extractor"), ("kconv", "filter_encoder"))
        for level in (1, 2, 3, 4)
        for number in (1, 2, 3)
    },
    "DME.": "disparity_estimator.",
    "conv_DME.": "filter_predictor.disparity_features.",
    "conv4_4.": "filter_predictor.fuse.",
    "F.3.": "filter_predictor.to_filters.",
    "F.": "filter_predictor.trunk.",  # after F.3: the first that fits is taken
    "conv_res.": "reconstructor.bottleneck.",
    **{
        f"upconv{level}_{official}.": f"reconstructor.{ours}."
        for level in (3, 2, 1)
        for official, ours in (("u", f"up{level}"), ("1", f"refine{level}.0"), ("2", f"refine{level}.1"))
    },
    "out_res.": "reconstructor.to_image.",
}
_REBLUR_PARTS: dict[str, str] = {"RBF.3.": "to_filters.", "RBF.": "trunk."}
_RES_UNITS = (".stem.", ".units.")
_NETWORK, _REBLUR = "Network.", "reblurNet."
_TRUNK_UNITS = "filter_predictor.trunk.1.units."


class OfficialCheckpoint(NamedTuple):
    """An authors' checkpoint in our names. Both pairs load with `Class(**kwargs).load_state_dict(params)`."""

    arch_kwargs: dict[str, Any]
    params: dict[str, Tensor]
    reblur_params: dict[str, Tensor] | None  # None: the file has none, or they were left aside
    reblur_kwargs: dict[str, Any] | None


def is_official(state_dict: Mapping[str, Any]) -> bool:
    """Whether these are the authors' keys (`module.Network.*`, or without `module.`)."""
    return foreign.has_authors_keys(state_dict)


def from_official(
    state_dict: Mapping[str, Tensor],
    taps: int = 3,
    *,
    isotropic: bool = True,
    reblur: bool = True,
    path: str | Path = "checkpoint",
) -> OfficialCheckpoint:
    """Translate an authors' checkpoint; every key and shape under `Network` is checked.

    Args:
        state_dict: keys with or without `module.`, with or without the reblurring network's.
        taps: filter length, which the shapes can't tell from the number of steps (paper: 3).
        isotropic: how the filters are applied, which the shapes can't tell; all released files are isotropic.
        reblur: False leaves the reblurring network's keys aside, unchecked, as inference does.
        path: named in error messages.

    Raises:
        UserError: keys missing, unknown or of another shape (the first one and their number), or shapes no
            IFAN has.
    """
    networks: dict[str, dict[str, Tensor]] = {_NETWORK: {}, _REBLUR: {}}
    unknown = []
    for key, value in state_dict.items():
        prefix = next((p for p in networks if isinstance(key, str) and _bare(key).startswith(p)), None)
        if prefix is None or _bare(key).removeprefix(prefix) in networks[prefix]:
            unknown.append(str(key))
        else:
            networks[prefix][_bare(key).removeprefix(prefix)] = value
    if unknown:
        raise UserError(f"{path}: {_first(unknown, 'unknown key')}")

    params = _renamed(networks[_NETWORK], _NETWORK_PARTS, _NETWORK, path)
    with torch.device("meta"):
        # Names first: they depend on the residual units alone, and without them the shapes can't be read.
        names = IFAN(width=1, num_steps=1, res_units=_count_units(params, _TRUNK_UNITS) or 2).state_dict()
        _check_names(params, names, _NETWORK_PARTS, _NETWORK, path)
        arch_kwargs = {**infer_ifan_kwargs(params, taps, path), "isotropic": isotropic}
        if arch_kwargs.get("filter_type") == "fac":  # the authors released none: a file cut or mixed up
            rows = _shape(params, "filter_predictor.to_filters.weight", path)[0]
            raise UserError(f"{path}: {rows} filter channels don't fit IAC with taps={taps}")
        _check_shapes(params, IFAN(**arch_kwargs).state_dict(), _NETWORK_PARTS, _NETWORK, path)
    if not (reblur and networks[_REBLUR]):
        return OfficialCheckpoint(arch_kwargs, params, None, None)

    reblur_params = _renamed(networks[_REBLUR], _REBLUR_PARTS, _REBLUR, path)
    with torch.device("meta"):
        names = ReblurNet(1, 1, 1, res_units=_count_units(reblur_params, "trunk.1.units.") or 2).state_dict()
        _check_names(reblur_params, names, _REBLUR_PARTS, _REBLUR, path)
        reblur_kwargs = {**infer_reblur_kwargs(reblur_params, taps, path), "isotropic": isotropic}
        _check_shapes(reblur_params, ReblurNet(**reblur_kwargs).state_dict(), _REBLUR_PARTS, _REBLUR, path)
    return OfficialCheckpoint(arch_kwargs, params, reblur_params, reblur_kwargs)


def to_official(params: Mapping[str, Tensor], reblur_params: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """The inverse of `from_official`, with the prefix `module.`, for the authors' own code to load.

    Raises:
        UserError: a key that the authors' network doesn't have.
    """
    official = {}
    for ours, parts, prefix in (
        (params, _NETWORK_PARTS, _NETWORK),
        (reblur_params or {}, _REBLUR_PARTS, _REBLUR),
    ):
        for key, value in ours.items():
            name = _rename(key, _inverse(parts), _RES_UNITS[::-1])
            if name is None:
                raise UserError(f"the authors' network has no parameter for {key!r}")
            official[f"module.{prefix}{name}"] = value
    return official


def infer_ifan_kwargs(params: Mapping[str, Tensor], taps: int = 3, path: str | Path = "checkpoint") -> dict[str, Any]:
    """IFAN's hyper-parameters from the shapes of its parameters (our names).

    `isotropic` isn't in the result: shapes can't tell. num_steps is only right for the `taps` given: the
    shapes hold no more than num_steps * (2*taps + 1). A network with `filter_type: fac` is told by its number of
    filter channels, and then num_steps and taps aren't in the result.

    Raises:
        UserError: keys missing, or shapes that no IFAN with these taps has.
    """
    width = _shape(params, "feature_extractor.level1.0.0.weight", path)[0]
    if not any(key.startswith("filter_predictor.") for key in params):
        return {"width": width, "dual_pixel": False, "use_disparity": False, "use_filters": False}
    rows = _shape(params, "filter_predictor.to_filters.weight", path)[0]
    fac_taps = _fac_taps(rows, 4 * width)
    if fac_taps is None:
        filters: dict[str, Any] = {"num_steps": _steps(rows, 4 * width, taps, path), "taps": taps}
    else:
        filters = {"filter_type": "fac", "fac_taps": fac_taps}
    return {
        "width": width,
        **filters,
        "res_units": _count_units(params, _TRUNK_UNITS),
        "dual_pixel": _shape(params, "filter_encoder.level1.0.0.weight", path)[1] == 6,
        "use_disparity": any(key.startswith("disparity_estimator.") for key in params),
        "use_filters": True,
    }


def infer_reblur_kwargs(params: Mapping[str, Tensor], taps: int, path: str | Path) -> dict[str, Any]:
    """ReblurNet's hyper-parameters from the shapes of its parameters (our names), as :func:`infer_ifan_kwargs`."""
    deep, filter_channels, *_ = _shape(params, "trunk.0.0.weight", path)
    if deep % 4:
        raise UserError(f"{path}: the reblurring network has {deep} channels, not a multiple of 4")
    rows = _shape(params, "to_filters.weight", path)[0]
    return {
        "filter_channels": filter_channels,
        "width": deep // 4,
        "num_steps": _steps(rows, 3, taps, path),
        "taps": taps,
        "res_units": _count_units(params, "trunk.1.units."),
    }


def check_kwargs(given: Mapping[str, Any], inferred: Mapping[str, Any], path: str | Path) -> None:
    """Compare hyper-parameters asked for with those found in a checkpoint; keys in one only are passed over.

    Raises:
        UserError: the first key whose values differ, with both values and the file.
    """
    for key, found in inferred.items():
        if key in given and given[key] != found:
            raise UserError(f"{path}: {key} is {found} in the checkpoint, but {given[key]} was asked for")


def _bare(key: str) -> str:
    return key.removeprefix("module.")


def _inverse(parts: Mapping[str, str]) -> dict[str, str]:
    return {ours: official for official, ours in parts.items()}


def _rename(key: str, parts: Mapping[str, str], res_units: tuple[str, str]) -> str | None:
    for old, new in parts.items():
        if key.startswith(old):
            return (new + key.removeprefix(old)).replace(*res_units)
    return None


def _official(key: str, parts: Mapping[str, str], prefix: str) -> str:
    """The official name of one of our keys, for error messages."""
    return prefix + (_rename(key, _inverse(parts), _RES_UNITS[::-1]) or key)


def _renamed(
    official: Mapping[str, Tensor], parts: Mapping[str, str], prefix: str, path: str | Path
) -> dict[str, Tensor]:
    names, unknown = {}, []
    for key in official:
        name = _rename(key, parts, _RES_UNITS)
        if name is None:
            unknown.append(prefix + key)
        else:
            names[key] = name
    if unknown:
        raise UserError(f"{path}: {_first(unknown, 'unknown key')}")
    for key, value in official.items():
        if not isinstance(value, Tensor):
            raise UserError(f"{path}: {prefix}{key} is a {type(value).__name__}, not a tensor")
    return {name: official[key] for key, name in names.items()}


def _check_names(
    params: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    parts: Mapping[str, str],
    prefix: str,
    path: str | Path,
) -> None:
    for keys, what in (
        ([key for key in params if key not in expected], "unknown key"),
        ([key for key in expected if key not in params], "missing key"),
    ):
        if keys:
            raise UserError(f"{path}: {_first([_official(key, parts, prefix) for key in keys], what)}")


def _check_shapes(
    params: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    parts: Mapping[str, str],
    prefix: str,
    path: str | Path,
) -> None:
    for key, tensor in params.items():
        if tensor.shape != expected[key].shape:
            raise UserError(
                f"{path}: {_official(key, parts, prefix)} is {list(tensor.shape)}, expected {list(expected[key].shape)}"
            )


def _shape(params: Mapping[str, Tensor], key: str, path: str | Path) -> torch.Size:
    tensor = params.get(key)
    if not isinstance(tensor, Tensor):
        raise UserError(f"{path}: no IFAN checkpoint: missing key {key}")
    if tensor.dim() != 4 or 0 in tensor.shape:
        raise UserError(f"{path}: {key} is {list(tensor.shape)}, which no IFAN has")
    return tensor.shape


def _steps(rows: int, channels: int, taps: int, path: str | Path) -> int:
    if taps < 1 or taps % 2 == 0:
        raise UserError(f"{path}: taps must be odd and positive, got {taps}")
    steps, rest = divmod(rows, max(channels, 1) * (2 * taps + 1))
    if rest or not steps:
        raise UserError(f"{path}: {rows} filter channels don't fit {channels} channels with taps={taps}")
    return steps


def _fac_taps(rows: int, channels: int) -> int | None:
    """k of a network with FAC, or None. k*k + 1 is never a multiple of IAC's 2*taps + 1 with odd taps: 2*taps + 1 is
    3 modulo 4, so has such a prime factor, modulo which -1 is no square."""
    per_channel, rest = divmod(rows, max(channels, 1))
    taps = math.isqrt(max(per_channel - 1, 0))
    return taps if not rest and taps % 2 == 1 and taps * taps + 1 == per_channel else None


def _count_units(params: Mapping[str, Tensor], start: str) -> int:
    return len({key.removeprefix(start).split(".")[0] for key in params if key.startswith(start)})


def _first(keys: list[str], what: str) -> str:
    more = f" (and {len(keys) - 1} more)" if len(keys) > 1 else ""
    return f"{what} {keys[0]}{more}"
