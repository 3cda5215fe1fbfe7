"""The option file of ``basicsr benchmark``: checked as a whole before anything runs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ifan_plugin import zoo
from ifan_plugin.common.errors import UserError
from ifan_plugin.data.layouts import VIEWS
from ifan_plugin.metrics.protocols import protocol_named
from ifan_plugin.options.schema import Option, check_mapping, check_value, nearest

BLURRED = "blurred input"
"""The built-in type of the row that every model should beat: the centre view as it is."""
FINISHED = "pictures"
"""The built-in type of a row whose pictures somebody has restored already: ``path`` names their folder."""

TOP_OPTIONS = {
    "name": Option(str, help="of the report; its folder's name"),
    "protocol": Option(str, "ifan", help="evaluation protocol"),
    "metrics": Option(list, ["psnr", "ssim", "mae"], items=str, help="measured: psnr, ssim, mae, lpips"),
    "device": Option(str, "auto", choices=("auto", "cpu", "cuda"), help="networks run on"),
    "models": Option(list, items=dict, help="rows of the report"),
    "datasets": Option(list, items=dict, help="test sets, as in a test's option file, without views; []: costs alone"),
    "profile": Option(
        dict, {}, optional=True, help="picture that time, memory and operations are measured on; ~: none"
    ),
    "pictures": Option(dict, {}, optional=True, help="scenes shown side by side; ~: none"),
    "published": Option(bool, True, help="add the papers' figures"),
    "manual_seed": Option(int, 0, minimum=0, help="of random weights"),
    "plugins": Option(list, [], items=str, optional=True, help="installed modules to import: other people's classes"),
}

MODEL_OPTIONS = {
    "name": Option(str, help="of the row"),
    "type": Option(str, help="name of a registered network, or blurred input"),
    "path": Option(str, None, optional=True, help="checkpoint; without one the weights are random"),
    "param_key": Option(
        str, None, optional=True, help="params (the last) or params_ema; the averaged ones where it has them"
    ),
    "views": Option(
        list, None, choices=VIEWS, items=str, optional=True, help="stacked into its input; those that fit its channels"
    ),
    "group": Option(
        str, None, optional=True, help="rows of one recipe with several seeds share it: mean and deviation are shown"
    ),
}
"""A model's own keys; all others are arguments of its architecture."""

PROFILE_OPTIONS = {
    "height": Option(int, 720, minimum=16, help="of the picture, pixels"),
    "width": Option(int, 1280, minimum=16, help="of the picture, pixels"),
    "runs": Option(int, 5, minimum=1, help="that are timed; the median counts"),
    "max_seconds": Option(float, 60.0, minimum=0, help="no further run starts after so long"),
    "time_limit": Option(float, 1800.0, minimum=1, help="seconds after which a model counts as not measurable here"),
}

PICTURE_OPTIONS = {
    "count": Option(int, 2, minimum=0, help="of scenes, the first of each test set"),
    "keys": Option(list, None, items=str, optional=True, help="names of scenes, instead"),
    "crop": Option(int, 384, minimum=16, maximum=1024, help="side of the square that is shown, pixels"),
}


@dataclass(frozen=True)
class Model:
    """One row: an architecture, its arguments, and where its weights come from."""

    name: str
    type: str
    path: str | None
    param_key: str | None
    views: tuple[str, ...] | None
    arguments: dict[str, Any] = field(default_factory=dict)
    group: str | None = None

    @property
    def is_blurred(self) -> bool:
        return self.type == BLURRED

    @property
    def is_finished(self) -> bool:
        """Whether the row's pictures are read from a folder."""
        return self.type == FINISHED

    @property
    def has_network(self) -> bool:
        """Whether there is something to build, run and time."""
        return not (self.is_blurred or self.is_finished)


@dataclass(frozen=True)
class Profile:
    """How time, memory and operations are measured: for a picture of height x width pixels."""

    height: int
    width: int
    runs: int  # timed ones
    max_seconds: float  # no further run starts after so long
    time_limit: float = 1800.0  # seconds for all of a model's measuring, its building included


@dataclass(frozen=True)
class Pictures:
    """Which scenes are shown side by side: those named, or the first ones of each test set."""

    count: int
    keys: tuple[str, ...] | None
    crop: int  # side of the square that is shown, pixels

    def chosen(self, keys: Sequence[str]) -> list[str]:
        """Those of a test set's scenes that are shown."""
        return list(keys[: self.count]) if self.keys is None else [key for key in keys if key in self.keys]


@dataclass(frozen=True)
class Benchmark:
    """A whole option file, checked."""

    name: str
    protocol: str
    metrics: tuple[str, ...]
    device: str  # cpu or cuda
    models: tuple[Model, ...]
    datasets: tuple[dict[str, Any], ...]  # as under `datasets: test` of a test option file, with `name` and `type`
    profile: Profile | None
    pictures: Pictures
    published: bool
    seed: int
    plugins: tuple[str, ...]


def check(options: Mapping[str, Any], where: str) -> Benchmark:
    """Check an option file's mapping.

    What concerns one model or one test set alone (an unknown architecture, arguments, a missing file or folder) is
    found when its cells run, so that the others still do.

    Args:
        options: as read, overrides applied.
        where: the file's name, for messages.

    Raises:
        UserError: an unknown or missing key, or a value out of its range, in one line with the nearest valid name.
    """
    options = check_mapping(options, TOP_OPTIONS, where)
    _require_name(options["name"], f"{where}: name")
    protocol = protocol_named(options["protocol"], f"{where}: protocol")
    for metric in options["metrics"]:
        if metric not in protocol.better:
            known = nearest(metric, protocol.better)
            raise UserError(f"{where}: metrics: unknown '{metric}' under protocol '{protocol.name}'; {known}")
    for key in ("metrics", "models", "datasets"):
        if not options[key] and (key != "datasets" or options["profile"] is None):
            raise UserError(f"{where}: {key}: is empty; give one at least")
    models = [_model(model, f"{where}: models: {index}") for index, model in enumerate(options["models"])]
    _require_different([model.name for model in models], f"{where}: models")
    datasets = [_dataset(each, f"{where}: datasets: {index}") for index, each in enumerate(options["datasets"])]
    _require_different([each["name"] for each in datasets], f"{where}: datasets")
    profile = None
    if options["profile"] is not None:
        profile = Profile(**check_mapping(options["profile"], PROFILE_OPTIONS, f"{where}: profile"))
    pictures = check_mapping(options["pictures"] or {}, PICTURE_OPTIONS, f"{where}: pictures")
    if options["pictures"] is None:
        pictures["count"] = 0
    if pictures["keys"] is not None:
        pictures["keys"] = tuple(pictures["keys"])
    return Benchmark(
        options["name"], options["protocol"], tuple(dict.fromkeys(options["metrics"])),
        _device(options["device"], where), tuple(models), tuple(datasets), profile, Pictures(**pictures),
        options["published"], options["manual_seed"], tuple(options["plugins"] or ()),
    )  # fmt: skip


def chosen_models(benchmark: Benchmark, only: Sequence[str] | None) -> list[Model]:
    """The models that ``--only`` names; all where it is None. Raises :class:`UserError` for an unknown name."""
    if only is None:
        return list(benchmark.models)
    known = [model.name for model in benchmark.models]
    for name in only:
        if name not in known:
            raise UserError(f"--only {name}: no such model; {nearest(name, known)}")
    return [model for model in benchmark.models if model.name in only]


def _model(options: Any, where: str) -> Model:
    if isinstance(options.get("name"), str):
        where = f"{where} ({options['name']})"
    arguments = [key for key in options if key not in MODEL_OPTIONS]
    checked = check_mapping(options, MODEL_OPTIONS, where, known=arguments)
    if not checked["name"].strip():
        raise UserError(f"{where}: name: is empty")
    if checked["type"] == BLURRED and len(options) > 2:
        extra = next(key for key in options if key not in ("name", "type"))
        raise UserError(f"{where}: unknown key '{extra}'; {BLURRED} takes none but name and type")
    if checked["type"] == FINISHED:
        extra = next((key for key in options if key not in ("name", "type", "path")), None)
        if extra is not None:
            raise UserError(f"{where}: unknown key '{extra}'; {FINISHED} takes name, type and path")
        if checked["path"] is None:
            raise UserError(f"{where}: 'path' is missing: the folder of the finished pictures")
    views = checked["views"]
    if views is not None and (not views or len(set(views)) != len(views)):
        raise UserError(f"{where}: views: give each of {', '.join(VIEWS)} at most once, and one at least")
    path = None if checked["path"] is None else str(Path(zoo.located(checked["path"])).expanduser())
    return Model(
        checked["name"], checked["type"], path, checked["param_key"], None if views is None else tuple(views),
        {key: options[key] for key in arguments}, checked["group"],
    )  # fmt: skip


def _dataset(options: Any, where: str) -> dict[str, Any]:
    for key in ("name", "type"):
        if key not in options:
            raise UserError(f"{where}: '{key}' is missing (a string)")
        check_value(options[key], Option(str), f"{where}: {key}")
    _require_name(options["name"], f"{where}: name")
    if "views" in options:
        raise UserError(f"{where}: views: are chosen to fit each model; give them under a model, if at all")
    return dict(options)


def _device(asked: str, where: str) -> str:
    import torch

    if asked == "cuda" and not torch.cuda.is_available():
        raise UserError(f"{where}: device: cuda was asked for, and no GPU is found; set auto or cpu")
    if asked == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return asked


def _require_name(name: str, where: str) -> None:
    if not name.strip() or name in (".", "..") or re.search(r'[/\\:*?"<>|\0]', name):
        raise UserError(f"{where}: must be fit for a folder's name, not {name!r}")


def _require_different(names: Sequence[str], where: str) -> None:
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{where}: name: '{name}' is given twice; rows and columns need one each")
