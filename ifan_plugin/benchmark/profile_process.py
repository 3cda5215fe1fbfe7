"""Time, memory and operations of one model, measured in a process of its own.

Fresh, so that the CPU's memory peak is this model's alone, and apart, so that running out of memory ends one cell and
not the benchmark. :func:`main` is the other side. It ends when its parent does, however that ends.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ifan_plugin.benchmark import models, profiling
from ifan_plugin.benchmark.options import Model, Profile
from ifan_plugin.common.errors import UserError
from ifan_plugin.common.files import writing, written_aside
from ifan_plugin.host.registry import load_plugins
from ifan_plugin.weights import building

_CHILD = f"""\
from ifan_plugin.common.machine import end_with_parent
end_with_parent()  # before what takes seconds to import
import sys
from {__name__} import main
sys.exit(main(sys.argv[1:]))
"""


class UnfinishedError(UserError):
    """A model couldn't be run here; ``counts`` holds what was counted before: parameters and operations."""

    def __init__(self, message: str, counts: dict[str, Any]) -> None:
        super().__init__(message)
        self.counts = counts


def profile_model(model: Model, profile: Profile, device: str, seed: int, plugins: tuple[str, ...] = ()) -> dict:
    """Profile one model in a new process.

    Returns:
        ``parameters``, ``products``, ``paper_count`` (None: can't be counted), ``latency_s``, ``cpu_s``
        (None: on a GPU), ``runs``, ``peak_memory_bytes`` (None: can't be told), ``megapixels_per_s``,
        ``random_weights``.

    Raises:
        UserError: the model can't be built.
        UnfinishedError: the process was ended for want of memory, or time is up.
        RuntimeError: a fault in it; the message ends with its traceback.
    """
    with tempfile.TemporaryDirectory() as folder:
        request, result = Path(folder) / "request.json", Path(folder) / "result.json"
        content = {"model": asdict(model), "profile": asdict(profile), "device": device, "seed": seed}
        with writing(request):
            request.write_text(json.dumps({**content, "plugins": list(plugins)}), encoding="utf-8")
        command = [sys.executable, "-c", _CHILD, str(request), str(result)]
        # Plug-ins that this process can import must be found there, too.
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, errors="replace", timeout=profile.time_limit
            )
        except subprocess.TimeoutExpired:
            raise UnfinishedError(
                f"model {model.name}: not measured within {profile.time_limit:g} s; lower profile: height and width, "
                "or raise profile: time_limit",
                _read(result),
            ) from None
        found = _read(result)
        if done.returncode or not found:
            raise _explained(model, done, found)
    if "user_error" in found:
        raise UserError(found["user_error"])
    return found


def _read(result: Path) -> dict[str, Any]:
    return json.loads(result.read_text(encoding="utf-8")) if result.is_file() else {}


def _explained(model: Model, done: subprocess.CompletedProcess, counts: dict[str, Any]) -> Exception:
    if done.returncode in (-9, 137):
        return UnfinishedError(
            f"model {model.name}: profiling was killed: out of memory; lower profile: height and width", counts
        )
    last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
    return RuntimeError(f"profiling {model.name} failed: {last}\n{done.stderr}")


def measure(request: dict[str, Any], tell: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """What :func:`profile_model` returns, measured in this process; ``tell`` gets what is counted before it runs."""
    load_plugins(request["plugins"], "plugins")
    views = request["model"].pop("views")
    model = Model(**request["model"], views=None if views is None else tuple(views))
    profile = Profile(**request["profile"])
    net = models.build(model, request["seed"]).to(request["device"])
    models.views_of(model, net)
    try:
        counted = profiling.count_operations(net, profile.height, profile.width)
    except Exception:  # noqa: BLE001 - whatever a network does that can't be done without data; counted as it runs
        counted = None
    counts = {
        "parameters": profiling.count_parameters(net),
        # No product at all: the work is done outside PyTorch.
        "products": (counted.products if counted else None) or None,
        "paper_count": (counted.paper_count if counted and counted.products else None),
        "random_weights": building.has_random_weights(model.path, net),
    }
    tell(counts)
    cost = profiling.measure_cost(
        net, profile.height, profile.width, profile.runs, profile.max_seconds, count_products=counted is None
    )
    return {
        **counts,
        "products": counts["products"] or cost.products or None,
        "latency_s": cost.latency_s,
        "cpu_s": cost.cpu_s,
        "runs": cost.runs,
        "peak_memory_bytes": cost.peak_memory_bytes,
        "megapixels_per_s": profile.height * profile.width / 1e6 / cost.latency_s,
        "threads": torch.get_num_threads(),
    }


def main(arguments: list[str]) -> int:
    """Read the request, write the result."""
    request, result = arguments

    def tell(found: dict[str, Any]) -> None:
        with written_aside(Path(result), durable=False) as file:
            file.write(json.dumps(found).encode())

    try:
        found = measure(json.loads(Path(request).read_text(encoding="utf-8")), tell)
    except UserError as error:
        found = {"user_error": str(error)}
    except MemoryError:
        found = {"user_error": "profiling: out of memory; lower profile: height and width"}
    tell(found)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
