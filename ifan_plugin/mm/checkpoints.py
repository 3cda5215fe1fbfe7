"""Checkpoints on mmengine's Runner: its own resume under torch >= 2.6, and everybody else's load directly."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader
from torch import Tensor

from ifan_plugin.common import foreign
from ifan_plugin.common.errors import UserError
from ifan_plugin.common.tensor_files import History, load_file
from ifan_plugin.weights import official, runner_files
from ifan_plugin.weights.runner_files import GENERATOR, REBLUR

LOCAL = ""
"""The prefix by which mmengine knows local files."""


@contextmanager
def scoped_loader() -> Iterator[None]:
    """Within the block mmengine reads local checkpoints by :func:`load_from_file`; afterwards as before.

    Since torch 2.6 mmengine 0.10.7 fails to read its own files: ``torch.load`` refuses what isn't a tensor, and they
    hold its histories and numbers of NumPy. :func:`load_from_file` takes those and nothing that would run code::

        with scoped_loader():
            Runner.from_cfg(config).train()
    """
    before = CheckpointLoader._schemes.get(LOCAL)
    CheckpointLoader.register_scheme(LOCAL, loader=load_from_file, force=True)
    try:
        yield
    finally:
        if before is None:
            del CheckpointLoader._schemes[LOCAL]
        else:
            CheckpointLoader.register_scheme(LOCAL, loader=before, force=True)


class CheckpointLoaderHook(Hook):
    """:func:`scoped_loader` for the length of a run, for other people's start scripts (``tools/train.py``).

    One line of a config makes their resume work, and their loading of every kind of file::

        custom_hooks = [dict(type="CheckpointLoaderHook")]

    ``python -m ifan_plugin.mm`` needs no such hook. A run that fails ends with our loader in place.
    """

    priority = "VERY_HIGH"

    def __init__(self) -> None:
        self._scope = ExitStack()

    def before_run(self, runner: Any) -> None:
        """Before anything is loaded."""
        self._scope.close()
        self._scope.enter_context(scoped_loader())

    def after_run(self, runner: Any) -> None:
        """mmengine's loader again."""
        self._scope.close()


def load_from_file(filename: str | Path, map_location: Any = None) -> dict[str, Any]:
    """A checkpoint of any kind in the form a Runner loads, ``{"state_dict": {"generator.…"}, …}``.

    Files of mmengine's come whole. BasicSR's, the authors' and safetensors become ``generator.…``; where a file has
    averaged weights beside the last ones, ``state_dict`` is the averaged ones, as in mmengine's own files.

    Args:
        filename: a local file; ``~`` is the home folder.
        map_location: left aside: everything is read to the CPU, and goes to the device when it is loaded.

    Raises:
        UserError: no such file, no checkpoint, a malformed one, or one that would run code.
    """
    path = Path(filename).expanduser()
    content = load_file(path)
    if not _is_mmengines(content):
        content = foreign.tidied(content, path)
    if isinstance(content.get("state_dict"), Mapping):
        runner_files.require_tensors(content, path)
        state = OrderedDict(content["state_dict"])
        vars(state)["_metadata"] = getattr(content["state_dict"], "_metadata", None)  # which the copy has lost
        content = {**content, "state_dict": state, "message_hub": _with_histories(content, path)}
        if content["message_hub"] is None:
            del content["message_hub"]
        if isinstance(content.get("meta"), Mapping):  # on resuming mmengine would run "config", which it never writes
            content["meta"] = {key: value for key, value in content["meta"].items() if key != "config"}
    else:
        content = runner_files.from_ours(_networks(content, path), averaged=True)
    # What a model compares itself with travels with the state dict, as torch's own version numbers do.
    said = runner_files.hyper_parameters(content, path)
    metadata = dict(getattr(content["state_dict"], "_metadata", None) or {})
    metadata[""] = {**metadata.get("", {}), "hyper_parameters": said, "path": str(path)}
    content["state_dict"]._metadata = OrderedDict(metadata)
    return content


def read_params(
    filename: str | Path, network: str = GENERATOR, param_key: str | None = None, names: Collection[str] = ()
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """One network's parameters out of a checkpoint of any kind, and its hyper-parameters as far as the file says them.

    Args:
        filename: as for :func:`load_from_file`.
        network: ``generator`` or ``reblur``.
        param_key: ``params``, the last weights, or ``params_ema``, the averaged ones; None: these where it has them.
        names: the network's parameters', where they are known.

    Raises:
        UserError: as :func:`load_from_file`; no such network or ``param_key`` in the file.
    """
    path = Path(filename).expanduser()
    content = foreign.load(path, names)
    if runner_files.is_runner_file(content):
        found = foreign.tidied(runner_files.as_ours(content, network, path), path, names)
    elif official.is_official(content):
        networks = _networks(content, path)
        if network not in networks:
            raise UserError(f"{path}: has no reblurring network")
        found = networks[network]
    else:
        found = _networks(content, path)[GENERATOR]  # a file of ours holds one network, whichever it is
    param_key = foreign.choose(found, param_key)
    if param_key not in found:
        known = [key for key in ("params", "params_ema") if key in found]
        raise UserError(f"{path}: has no '{param_key}'; valid: {' or '.join(known)}")
    return found[param_key], found.get("hyper_parameters", {})


def require_resumable(filename: str | Path, *, schedulers: bool = False) -> None:
    """Raise :class:`UserError` where a file can be loaded, but isn't a whole training state of a Runner's.

    Args:
        filename: as for :func:`load_from_file`.
        schedulers: whether the training has some, whose state must be there.
    """
    path = Path(filename).expanduser()
    content = load_file(path)
    meta = content.get("meta")
    if not (isinstance(content.get("state_dict"), Mapping) and isinstance(meta, Mapping) and "iter" in meta):
        raise UserError(f"{path}: holds weights, no training state of mmengine's; load_from starts from it")
    for key in ("epoch", "iter"):
        if type(meta.get(key)) is not int or meta[key] < 0:
            raise UserError(f"{path}: meta: {key}: must be an integer of 0 or more, not {meta.get(key)!r:.80}")
    parts = {"optimizer": "optimiser's", "message_hub": "message hub's"}
    parts |= {"param_schedulers": "schedulers'"} if schedulers else {}
    for key, whose in parts.items():
        kinds = (Mapping, list) if key == "param_schedulers" else Mapping
        if not isinstance(content.get(key), kinds):  # best_*.pth has weights, figures and no more
            raise UserError(f"{path}: holds no {whose} state, and can't be resumed from; valid: iter_*.pth")


def is_best_in(folder: str | Path, path: Any) -> bool:
    """Whether ``path`` is the name of a ``best_*.pth`` that lies in ``folder`` itself, and no link."""
    if not isinstance(path, str):
        return False
    found = Path(path)
    is_best = found.match("best_*.pth") and found.is_file() and not found.is_symlink()
    return is_best and found.parent.resolve() == Path(folder).resolve()


def _is_mmengines(content: Mapping[str, Any]) -> bool:
    """Whether a Runner wrote it, for this package's model or another: it is loaded whole."""
    return runner_files.is_runner_file(content) or isinstance(content.get("meta"), Mapping)


def _networks(content: Mapping[str, Any], path: Path) -> dict[str, dict[str, Any]]:
    """``generator`` and, in the authors' files, ``reblur`` -> our kind of file's content."""
    if official.is_official(content):
        theirs = official.from_official(content, path=path)
        networks: dict[str, dict[str, Any]] = {
            GENERATOR: {"params": theirs.params, "hyper_parameters": theirs.arch_kwargs}
        }
        if theirs.reblur_params is not None:
            networks[REBLUR] = {"params": theirs.reblur_params, "hyper_parameters": theirs.reblur_kwargs}
        return networks
    sets = {key: content[key] for key in ("params", "params_ema") if isinstance(content.get(key), Mapping)}
    if not sets:
        sets = {"params": content}
    if "params" not in sets:
        sets["params"] = sets["params_ema"]
    network: dict[str, Any] = {}
    for key, params in sets.items():
        for name, tensor in params.items():
            if not (isinstance(name, str) and isinstance(tensor, Tensor)):
                raise UserError(f"{path}: not a checkpoint of a network: '{name}' is a {type(tensor).__name__}")
        network[key] = {name.removeprefix("module."): tensor for name, tensor in params.items()}
    if isinstance(content.get("hyper_parameters"), Mapping):
        network["hyper_parameters"] = dict(content["hyper_parameters"])
    return {GENERATOR: network}


def _with_histories(content: Mapping[str, Any], path: Path) -> dict[str, Any] | None:
    """The message hub with mmengine's own buffers in place of the stand-ins they were read as.

    mmengine's checkpoint hook removes what ``runtime_info`` calls the best so far, a whole folder as well, and what the
    numbers of the kept ones give names to. A stranger's file keeps to checkpoints beside it, and to numbers.
    """
    hub = content.get("message_hub")
    if not isinstance(hub, Mapping):
        return None
    saved = hub.get("log_scalars", {})
    if not isinstance(saved, Mapping):
        raise UserError(f"{path}: message_hub: log_scalars: must be a mapping, not {type(saved).__name__}")
    scalars = {
        name: HistoryBuffer(*runner_files.history_values(value, name, path))
        for name, value in saved.items()
        if isinstance(value, History)
    }
    info = hub.get("runtime_info", {})
    if not isinstance(info, Mapping):
        raise UserError(f"{path}: message_hub: runtime_info: must be a mapping, not {type(info).__name__}")
    kept = info.get("keep_ckpt_ids", [])
    if not isinstance(kept, list) or any(type(number) is not int for number in kept):
        raise UserError(f"{path}: message_hub: keep_ckpt_ids: must be a list of iterations, not {kept!r:.80}")
    others = {k for k, value in info.items() if str(k).startswith("best_ckpt") and not is_best_in(path.parent, value)}
    own = OrderedDict((key, value) for key, value in info.items() if key not in others)
    return {**hub, "log_scalars": OrderedDict(scalars), "runtime_info": own}
