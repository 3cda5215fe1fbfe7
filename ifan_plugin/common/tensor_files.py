"""Files of tensors (torch.save's, safetensors, a Runner's of mmengine), read without running code from them."""

from __future__ import annotations

import json
import pickle
import re
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ifan_plugin.common.errors import UserError
from ifan_plugin.common.file_kinds import kind_of_file

_NUMBERS = ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "b1")


class History:
    """Stands for mmengine's ``HistoryBuffer`` while a file is read: its attributes, and none of its methods."""


class _Kind:
    """Stands for ``numpy.dtype``: a type of numbers in this machine's byte order. Others could hold objects."""

    def __init__(self, code: Any, *_: Any) -> None:
        if code not in _NUMBERS:
            raise ValueError(f"not a type of numbers: {code!r}")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] not in ("|", "<" if sys.byteorder == "little" else ">"):
            raise ValueError(f"another machine's byte order: {state[1]!r}")


class _Array(np.ndarray):
    """Stands for ``numpy.ndarray``: what is there is as many numbers as its shape says."""

    def __new__(cls, *_: Any) -> _Array:
        empty: _Array = super().__new__(cls, (0,), np.float64)
        return empty

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, fortran, raw = state
        # NumPy's own takes flags and pointers from the file's word; this takes numbers.
        values = np.frombuffer(bytes(raw), kind.dtype).reshape(shape, order="F" if fortran else "C")
        super().__setstate__(values.__reduce__()[2])


class _Type:
    """What a file names to say "an array of that class"; it is always :class:`_Array`."""


def _array(*_: Any) -> _Array:
    return _Array()


def _scalar(kind: _Kind, raw: bytes) -> np.generic:
    number: np.generic = np.frombuffer(bytes(raw), kind.dtype, count=1)[0]
    return number


def _no_bytes() -> bytes:
    """``bytes()``, as which the content of an empty array is written."""
    return b""


def _no_method(*_: Any) -> None:
    """``getattr``, by which a history names its own statistics, which are mmengine's to know."""


def safe_globals() -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """What a Runner's file may name beside tensors, as ``torch.serialization.safe_globals`` takes it.

    They are stand-ins, and none of them runs code of the file's choosing: NumPy's own would rebuild any array, one of
    pointers to objects as well.
    """
    found: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
        (Counter, "collections.Counter"),
        (History, "mmengine.logging.history_buffer.HistoryBuffer"),
        (_no_method, "builtins.getattr"),
        (_no_bytes, "builtins.bytes"),
        (_Type, "numpy.ndarray"),
        (_Kind, "numpy.dtype"),
        (_Array, f"{__name__}._Array"),
    ]
    for module in ("numpy._core.multiarray", "numpy.core.multiarray"):  # NumPy 2 and 1
        found += [(_array, f"{module}._reconstruct"), (_scalar, f"{module}.scalar")]
    return found


def load_file(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint (torch.save's, or .safetensors) to the CPU, without running code from it.

    Of a safetensors file whose metadata has hyper-parameters, as `basicsr convert` writes it, comes what our own
    checkpoints hold: `{"params": …, "hyper_parameters": …}`, and `blur_unit` where its map is the size of the blur.

    Raises:
        UserError: no such file, not readable, cut short, no checkpoint at all, or a pickle that names a
            global beyond tensors and plain containers, which would run code.
    """
    path = Path(path)
    try:
        with path.open("rb"):
            pass
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except OSError as error:
        raise UserError(f"{path}: can't be read: {error.strerror or error}") from error
    try:
        content = _load_safetensors(path) if kind_of_file(path) == "safetensors" else _load_pickle(path)
    except UserError:
        raise
    except Exception as error:  # on bytes that aren't a checkpoint the readers fail in any way at all
        raise UserError(f"{path}: not a checkpoint, or cut short ({type(error).__name__})") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a {type(content).__name__}, not a dict of parameters")
    _require_dense(content, path)
    return content


def _require_dense(content: dict[Any, Any], path: Path) -> None:
    """Refuse tensors that hold no plain numbers, which most of PyTorch's functions refuse in words of their own."""
    seen: set[int] = set()
    waiting: list[tuple[Any, Any]] = [("", content)]
    while waiting:  # not by recursion: a file may nest as deep as it likes, or hold itself
        name, value = waiting.pop()
        if isinstance(value, torch.Tensor):
            kind = _odd_kind(value)
            if kind is not None:
                raise UserError(f"{path}: '{name}' is {kind}; valid: dense tensors of numbers, as a network has them")
        elif isinstance(value, (dict, list, tuple)) and id(value) not in seen:
            seen.add(id(value))
            waiting += value.items() if isinstance(value, dict) else ((name, member) for member in value)


def _odd_kind(tensor: torch.Tensor) -> str | None:
    if tensor.is_quantized:
        return "a quantised tensor"
    if tensor.is_nested:
        return "a nested tensor"
    if tensor.layout is not torch.strided:
        return f"a tensor of the layout {str(tensor.layout).removeprefix('torch.')}"
    return "a tensor without data (of the meta device)" if tensor.is_meta else None


def _load_pickle(path: Path) -> Any:
    allowed = safe_globals()
    try:
        # mmengine's files hold numbers of NumPy's and its own buffers: read as numbers, by stand-ins.
        with torch.serialization.safe_globals(allowed), path.open("rb") as file:  # by name torch minds the ending
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        if named is None:
            raise
        raise UserError(
            f"{path}: refused: it isn't tensors alone and would run code (names the global {named[1]}); valid: what "
            "torch.save(model.state_dict(), FILE) writes"
        ) from error


def _load_safetensors(path: Path) -> dict[str, Any]:
    try:
        from safetensors import safe_open
    except ImportError as error:
        raise UserError(f"{path}: reading it needs the package safetensors") from error
    with safe_open(path, framework="pt", device="cpu") as file:
        params = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it isn't a mapping)
        metadata = file.metadata() or {}
    if "hyper_parameters" not in metadata:
        return params
    said = {key: json.loads(metadata[key]) for key in ("hyper_parameters", "blur_unit") if key in metadata}
    return {"params": params} | said
