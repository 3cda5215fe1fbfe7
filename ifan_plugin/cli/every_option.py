"""Every option of the option files, from the schemas beside the classes: for editors (JSON Schema) and for readers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ifan_plugin.archs import (
    IFAN,
    KPAC,
    ConvIR,
    DefocusDeconvolution,
    DMENetDeconvolution,
    DPDNet,
    GKMNet,
    ReblurNet,
)
from ifan_plugin.benchmark import options as benchmark
from ifan_plugin.common.files import make_folder, written_aside
from ifan_plugin.data.augment import AUGMENT_OPTIONS
from ifan_plugin.data.dual_pixel_dataset import DualPixelDataset
from ifan_plugin.data.simulated_dataset import SimulatedDualPixelDataset
from ifan_plugin.losses import DefocusLoss, DefocusMapLoss, DisparityLoss, FilterBiasLoss, FrequencyLoss, ReblurLoss
from ifan_plugin.metrics import lpips, mae, psnr, sharpness, ssim
from ifan_plugin.metrics.lpips_loss import LPIPSLoss
from ifan_plugin.models.ifan_options import TRAIN_OPTIONS
from ifan_plugin.models.validation import VAL_OPTIONS
from ifan_plugin.options.basicsr import (
    LOADER_KEYS,
    LOGGER_KEYS,
    METRIC_KEYS,
    NETWORK_PATHS,
    PATH_KEYS,
    TOP_KEYS,
    VAL_KEYS,
)
from ifan_plugin.options.json_schema import DRAFT, Schema, by_type, mapping_schema, only_for, value_schema
from ifan_plugin.options.schema import REQUIRED, Option, options_of
from ifan_plugin.weights.spandrel_arch import SpandrelNet

FILES = {"schema.json": "training and test", "benchmark/schema.json": "benchmark"}
"""Below the folder of option files -> what kind of them it describes."""

NETWORKS = {
    each.__name__: options_of(each)
    for each in (
        IFAN, ReblurNet, DPDNet, KPAC, GKMNet, ConvIR, DefocusDeconvolution, DMENetDeconvolution, SpandrelNet,
    )
}  # fmt: skip
DATASETS = {each.__name__: options_of(each) for each in (DualPixelDataset, SimulatedDualPixelDataset)}
_LOSSES = (DisparityLoss, DefocusLoss, DefocusMapLoss, ReblurLoss, FilterBiasLoss, FrequencyLoss, LPIPSLoss)
LOSSES = {each.__name__: options_of(each) for each in _LOSSES}
METRICS = {each.__name__: options_of(each, skip=("img", "img2")) for each in (psnr, ssim, mae, lpips, sharpness)}
for _keys in METRICS.values():  # this one is told of once
    _keys["crop_border"] = METRICS["psnr"]["crop_border"]
METRICS["niqe"] = METRICS["sharpness"]  # BasicSR computes it; its options are the same


class Section(NamedTuple):
    """A part of an option file: its title, what it is for, and its keys."""

    title: str
    about: str
    keys: Mapping[str, Option]


def sections() -> list[Section]:
    """All of them, as the page has them."""
    of_networks = [Section(f"network_g: type: {name}", "", keys) for name, keys in NETWORKS.items()]
    of_datasets = [Section(f"datasets: …: type: {name}", "", keys) for name, keys in DATASETS.items()]
    of_losses = [Section(f"train: …_opt: type: {name}", "", keys) for name, keys in LOSSES.items()]
    of_metrics = [Section(f"val: metrics: …: type: {name}", "", keys) for name, keys in METRICS.items()]
    return [
        Section("The whole file", "What `basicsr train` and `basicsr test` read.", TOP_KEYS),
        Section("datasets: …", "What every data set has, whatever its type.", LOADER_KEYS),
        *of_datasets,
        Section("datasets: …: augment", "Augmentation of training samples.", AUGMENT_OPTIONS),
        *of_networks,
        Section("path", "Where checkpoints come from.", {**PATH_KEYS, **NETWORK_PATHS}),
        Section("train", "What IFANModel trains with.", TRAIN_OPTIONS),
        *of_losses,
        Section("val", "What every model has.", VAL_KEYS),
        Section("val, of IFANModel", "What IFANModel has beside.", VAL_OPTIONS),
        Section("val: metrics: …", "What every metric has beside its `type`.", METRIC_KEYS),
        *of_metrics,
        Section("logger", "", LOGGER_KEYS),
        Section("A benchmark's file", "What `basicsr benchmark` reads.", benchmark.TOP_OPTIONS),
        Section("models: …", "All other keys of a model are its network's.", benchmark.MODEL_OPTIONS),
        Section("profile", "", benchmark.PROFILE_OPTIONS),
        Section("pictures", "", benchmark.PICTURE_OPTIONS),
    ]


def schemas() -> dict[str, Schema]:
    """Name in :data:`FILES` -> JSON Schema of such option files."""
    return {"schema.json": _option_file(), "benchmark/schema.json": _benchmark_file()}


def write(folder: Path) -> list[Path]:
    """Write the schemas below ``folder``, the option files' own, and return their paths."""
    paths = []
    for name, schema in schemas().items():
        path = folder / name
        make_folder(path.parent)
        with written_aside(path, durable=False) as file:
            file.write(as_text(schema).encode())
        paths.append(path)
    return paths


def as_text(schema: Schema) -> str:
    """JSON, a key a line, as the files have it."""
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def page() -> str:
    """docs/options.md: every key with its kind, its default and what it does."""
    lines = [
        "# Every option",
        "",
        "Made by `basicsr recipes schema --page` from what option files are checked with. A key without a default must",
        "be there; `~` means not given. Editors show the same: an option file's first line names its JSON Schema.",
    ]
    for section in sections():
        lines += ["", f"## `{section.title}`" if ":" in section.title else f"## {section.title}", ""]
        lines += [section.about, ""] if section.about else []
        if not section.keys:
            lines.append("No options of its own.")
            continue
        lines += ["| Key | Value | Default | |", "|---|---|---|---|"]
        lines += [_row(name, option) for name, option in section.keys.items()]
    return "\n".join(lines) + "\n"


def _row(name: str, option: Option) -> str:
    default = "" if option.default is REQUIRED else f"`{_yaml(option.default)}`"
    cells = (f"`{name}`", _valid(option), default, option.help)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _yaml(value: Any) -> str:
    return "~" if value is None else json.dumps(value, ensure_ascii=False).strip('"')


def _valid(option: Option) -> str:
    names = {bool: "true or false", int: "integer", float: "number", str: "text", list: "list", dict: "mapping"}
    kinds = option.kind if isinstance(option.kind, tuple) else (option.kind,)
    text = " or ".join(dict.fromkeys(names.get(kind, "any") for kind in kinds))
    if option.choices:
        of = "list of " if kinds == (list,) else ""
        text = of + ", ".join(f"`{_yaml(choice)}`" for choice in option.choices)
    if option.minimum is not None and option.maximum is not None:
        text += f", {option.minimum:g} to {option.maximum:g}"
    elif option.minimum is not None:
        text += f", {option.minimum:g} or more"
    return text


def _option_file() -> Schema:
    schema = mapping_schema(TOP_KEYS, closed=False)
    schema["allOf"] = [only_for("model_type", "IFANModel", [*TOP_KEYS, "network_g", "network_r"])]
    schema["patternProperties"] = {"^network_": _network()}
    phase = "^(train|val|test)(_.*)?$"
    datasets = {"type": "object", "patternProperties": {phase: _dataset()}, "additionalProperties": False}
    ending = {name.partition("…")[0]: value_schema(option) for name, option in NETWORK_PATHS.items()}
    schema["properties"] |= {
        "datasets": datasets,
        "path": {
            **mapping_schema(PATH_KEYS),
            "type": ["object", "null"],
            "patternProperties": {f"^{start}": value for start, value in ending.items()},
        },
        "logger": mapping_schema(LOGGER_KEYS) | {"type": ["object", "null"]},
    }
    train = mapping_schema(TRAIN_OPTIONS, required=False)
    train["properties"] |= {name: _loss() for name in TRAIN_OPTIONS if name.endswith("_opt")}
    val = mapping_schema({**VAL_KEYS, **VAL_OPTIONS})
    val["properties"]["metrics"] = {"type": ["object", "null"], "additionalProperties": by_type(METRICS, METRIC_KEYS)}
    ours = {"properties": {"model_type": {"const": "IFANModel"}}, "required": ["model_type"]}
    schema["allOf"].append({"if": ours, "then": {"properties": {"train": train, "val": val}}})
    return _headed(schema, "Option file of basicsr train and basicsr test")


def _benchmark_file() -> Schema:
    schema = mapping_schema(benchmark.TOP_OPTIONS)
    networks = {benchmark.BLURRED: {}, **NETWORKS}
    schema["properties"]["models"]["items"] = by_type(networks, benchmark.MODEL_OPTIONS)
    schema["properties"]["datasets"]["items"] = _dataset()
    for name, keys in (("profile", benchmark.PROFILE_OPTIONS), ("pictures", benchmark.PICTURE_OPTIONS)):
        schema["properties"][name] = mapping_schema(keys) | {"type": ["object", "null"]}
    return _headed(schema, "Option file of basicsr benchmark")


def _network() -> Schema:
    return by_type(NETWORKS, {})


def _loss() -> Schema:
    loss = by_type(LOSSES, {})
    return loss | {"type": ["object", "null"]}


def _dataset() -> Schema:
    dataset = by_type(DATASETS, LOADER_KEYS)
    augment = mapping_schema(AUGMENT_OPTIONS) | {"type": ["object", "boolean"]}
    for case in dataset["allOf"]:
        case["then"]["properties"]["augment"] |= augment
    return dataset


def _headed(schema: Schema, title: str) -> Schema:
    return {"$schema": DRAFT, "title": title, **schema}
