"""Run a benchmark's cells: each once, each on its own, so that one that fails leaves the others alone."""

from __future__ import annotations

import gc
import platform
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from ifan_plugin.benchmark import models, quality
from ifan_plugin.benchmark.cells import CellStore, dataset_stamp, facts_below, number, without_infinity
from ifan_plugin.benchmark.finished import FinishedPictures
from ifan_plugin.benchmark.options import Benchmark, Model
from ifan_plugin.benchmark.profile_process import UnfinishedError, profile_model
from ifan_plugin.benchmark.provenance import code_version
from ifan_plugin.common.errors import UserError
from ifan_plugin.common.machine import memory_size, processor, usable_cores
from ifan_plugin.metrics.protocols import protocol_named
from ifan_plugin.options.schema import nearest
from ifan_plugin.weights.building import has_random_weights

Cell = dict[str, Any]


def run(benchmark: Benchmark, out: Path, only: Sequence[Model], *, overwrite: bool = False) -> dict[str, Any]:
    """Run the cells that aren't finished.

    Args:
        benchmark: checked options.
        out: folder of the results; ``cells`` in it holds a file a cell.
        only: the models whose cells may run; of the others, finished cells are shown.
        overwrite: run finished cells of these models again.

    Returns:
        ``quality`` (model name -> data set name -> cell), ``profile`` (model name -> cell), ``references`` (data set
        name -> facts about its pictures), ``notes`` (lines), ``ran`` and ``reused`` (numbers of cells). A cell has
        ``status`` (done, failed, not run), what was measured, and ``error`` (one line) where it failed.
    """
    return _Run(benchmark, out, only, overwrite).run()


class _Run:
    def __init__(self, benchmark: Benchmark, out: Path, only: Sequence[Model], overwrite: bool) -> None:
        self.benchmark, self.only, self.overwrite = benchmark, list(only), overwrite
        self.protocol = protocol_named(benchmark.protocol)
        self.store = CellStore(out / "cells")
        self.references: dict[str, Any] = {}
        self.corners: dict[str, Any] = {}
        self.stamps: dict[tuple[str, tuple[str, ...]], Any] = {}  # of (test set's name, views)
        self.keys: set[str] = set()
        self.ran = self.reused = 0
        self._built: tuple[Model, nn.Module | None] | None = None
        self._unbuildable: dict[str, UserError] = {}
        self._unavailable: dict[str, str | None] = {}

    def run(self) -> dict[str, Any]:
        benchmark = self.benchmark
        found: dict[str, Any] = {"quality": {}, "profile": {}}
        total = len(benchmark.models) * (len(benchmark.datasets) + (benchmark.profile is not None))
        with tqdm(total=total, unit="cell", desc=benchmark.name, disable=None) as bar:
            for options in benchmark.datasets:
                self._prepare(options)
            for model in benchmark.models:
                found["quality"][model.name] = {}
                for options in benchmark.datasets:
                    bar.set_postfix_str(f"{model.name} on {options['name']}", refresh=True)
                    cell = self._quality(model, options)
                    found["quality"][model.name][options["name"]] = cell
                    _tell(bar, f"{model.name} on {options['name']}", cell)
                self._built = None
                gc.collect()
                torch.cuda.empty_cache()  # the profiling process needs the GPU's memory; without a GPU it does nothing
                if benchmark.profile is not None and model.has_network:
                    bar.set_postfix_str(f"{model.name}: time and memory", refresh=True)
                    found["profile"][model.name] = self._profile(model)
                    _tell(bar, f"{model.name}: time and memory", found["profile"][model.name])
                elif benchmark.profile is not None:
                    bar.update()
        more = {"references": self.references, "notes": self._notes(), "ran": self.ran, "reused": self.reused}
        return found | more

    def _prepare(self, options: dict[str, Any]) -> None:
        """Open a test set once: the cut-outs of its blurred and sharp pictures."""
        name = options["name"]
        try:
            dataset = models.open_dataset(options, ("center",), self.protocol)
            folder = self.store.pictures(f"pictures-{name}")
            self.corners[name] = quality.write_references(dataset, self.protocol, self.benchmark.pictures, folder)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with a test set is told in its cells
            self.references[name] = {"error": _one_line(error), "traceback": _traceback(error)}
            return
        keys = quality.keys_of(dataset)
        self.keys |= set(keys)
        shown = {key: quality.picture_name(keys.index(key)) for key in self.corners[name]}
        facts = {"pictures": len(dataset), "folder": folder.name, "shown": shown}
        self.references[name] = facts | {"truth": quality.has_truth(dataset)}

    def _notes(self) -> list[str]:
        """What was asked for and isn't there, though no cell fails of it."""
        asked = self.benchmark.pictures.keys or ()
        return [f"pictures: keys: no test set has '{k}'; {nearest(k, self.keys)}" for k in asked if k not in self.keys]

    def _quality(self, model: Model, options: dict[str, Any]) -> Cell:
        name = options["name"]
        if "error" in self.references[name]:
            return {"status": "failed", **self.references[name]}
        stamp, fault = None, None
        try:
            stamp = self._stamp(model, options)
        except Exception as error:  # noqa: BLE001 - whatever is wrong is told in the cell, if it may run
            fault = error
        key = self.store.quality_key(self.benchmark, model, options, stamp)

        def measure(metrics: Sequence[str]) -> Cell:
            if fault is not None:
                raise fault
            benchmark = self.benchmark
            net = self._network(model)
            dataset = models.open_dataset(options, models.views_of(model, net), self.protocol)
            folder = self.store.pictures(key)
            source = FinishedPictures(model, name, quality.keys_of(dataset)) if model.is_finished else net
            cell = quality.measure_quality(
                source, dataset, self.protocol, metrics, self.corners[name], folder, benchmark.device,
                f"{model.name} on {name}",
            )  # fmt: skip
            random = net is not None and has_random_weights(model.path, net)
            parameters = 0 if net is None else sum(p.numel() for p in net.parameters())
            facts = {"code": code_version(), "checkpoint": models.file_digest(model.path)}
            return cell | {"random_weights": random, "parameters": parameters, **facts}

        facts = {"model": model.name, "dataset": name}
        done = None if self.overwrite and model in self.only else self.store.read(key)
        asked = self.benchmark.metrics
        if done is None:
            return self._cell(key, model, lambda: measure(asked), facts)
        missing = [metric for metric in asked if metric not in done["mean"] and self._why_not(metric) is None]
        if not missing or model not in self.only:
            self.reused += 1
            return quality.of_metrics(done, asked, self._why_not) | {"key": key, "reused": True}
        return self._more_metrics(key, done, lambda: measure(missing))

    def _more_metrics(self, key: str, done: Cell, measure: Callable[[], Cell]) -> Cell:
        """A finished cell with metrics that it lacks; they need the network's results once more, the others stay."""
        self.ran += 1
        try:
            cell = quality.merged(done, measure())
        except Exception as error:  # noqa: BLE001 - what is finished stays in its file
            return {**done, "status": "failed", "error": _one_line(error), "traceback": _traceback(error), "key": key}
        self.store.write(key, cell)
        return quality.of_metrics(without_infinity(cell), self.benchmark.metrics, self._why_not) | {"key": key}

    def _why_not(self, metric: str) -> str | None:
        """Why a metric can't be had here, found on a small picture; None where it can."""
        if metric not in self._unavailable:
            picture = torch.rand(3, 96, 96, generator=torch.Generator().manual_seed(0)).to(self.benchmark.device)
            self._unavailable[metric] = quality.unavailable(self.protocol, picture, metric)
        return self._unavailable[metric]

    def _stamp(self, model: Model, options: dict[str, Any]) -> list[Any]:
        """Tells the files that this model's input is read from."""
        views = models.views_of(model, self._network(model))
        place = options["name"], views
        if place not in self.stamps:
            self.stamps[place] = dataset_stamp(models.open_dataset(options, views, self.protocol), options)
        if model.is_finished:
            return [*self.stamps[place], facts_below(model.path)]
        return self.stamps[place]

    def _profile(self, model: Model) -> Cell:
        benchmark, profile = self.benchmark, self.benchmark.profile
        assert profile is not None
        key = self.store.profile_key(benchmark, model, machine())

        def measure() -> Cell:
            if model.name in self._unbuildable:  # a process of its own would find the same, only later
                raise self._unbuildable[model.name]
            return profile_model(model, profile, benchmark.device, benchmark.seed, benchmark.plugins)

        return self._cell(key, model, measure, {"model": model.name})

    def _network(self, model: Model) -> nn.Module | None:
        if self._built is None or self._built[0] is not model:
            try:
                net = models.build(model, self.benchmark.seed) if model.has_network else None
            except UserError as error:
                self._unbuildable[model.name] = error
                raise
            self._built = (model, None if net is None else net.to(self.benchmark.device))
        return self._built[1]

    def _cell(self, key: str, model: Model, measure: Callable[[], Cell], facts: Cell) -> Cell:
        """A finished cell from its file, or a new one; a failure becomes a cell as well."""
        may_run = model in self.only
        done = None if self.overwrite and may_run else self.store.read(key)
        if done is not None:
            self.reused += 1
            return done | {"key": key, "reused": True}
        if not may_run:
            return {"status": "not run", "error": "left out by --only"}
        self.ran += 1
        try:
            cell = {"status": "done", **facts, **measure()}
        except Exception as error:  # noqa: BLE001 - the others go on; the file keeps the traceback
            facts |= error.counts if isinstance(error, UnfinishedError) else {}
            cell = {"status": "failed", **facts, "error": _one_line(error), "traceback": _traceback(error)}
        self.store.write(key, cell)
        return without_infinity(cell) | {"key": key}  # as it will be read from its file


def _one_line(error: Exception) -> str:
    """What a row says of its failure: a user's mistake as it is, a fault with its kind and its first line."""
    if isinstance(error, UserError):
        return " ".join(str(error).split())
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


def _traceback(error: Exception) -> str | None:
    return None if isinstance(error, UserError) else "".join(traceback.format_exception(error))


def _tell(bar: tqdm, what: str, cell: Cell) -> None:
    """A line for people who watch, above the bar."""
    if cell["status"] != "done":
        said = f"{cell['status']}: {cell['error']}"
    elif "mean" in cell:
        said = ", ".join(f"{metric} {number(value, '.4f')}" for metric, value in cell["mean"].items()) or "no metric"
    else:
        said = f"{number(cell['latency_s'], '.3f')} s"
    bar.write(f"{what}: {said}{' (finished before)' if cell.get('reused') else ''}", file=sys.stderr)
    bar.update()


def machine() -> dict[str, Any]:
    """What latency depends on: processor, cores in use, GPU, memory, and the versions of what computes."""
    cores = usable_cores()
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "processor": processor(), "cores": cores, "threads": torch.get_num_threads(), "gpu": gpu,
        "memory_bytes": memory_size(), "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(), "torch": torch.__version__,
    }  # fmt: skip
