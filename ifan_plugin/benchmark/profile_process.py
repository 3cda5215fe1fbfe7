"""Time, memory and operations of one model, measured in a process of its own.

Fresh, so that the CPU's memory peak is this model's alone, and apart, so that running out of memory ends one cell and
not the benchmark. ``python -m ifan_plugin.benchmark.profile_process REQUEST.json RESULT.json`` is the other side.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ifan_plugin.benchmark.options import Model, Profile
from ifan_plugin.errors import UserError


def profile_model(model: Model, profile: Profile, device: str, seed: int, plugins: tuple[str, ...] = ()) -> dict:
    """Profile one model in a new process.

    Returns:
        ``parameters``, ``products``, ``paper_count`` (None: can't be counted), ``latency_s``, ``runs``,
        ``peak_memory_bytes`` (None: can't be told), ``megapixels_per_s``, ``random_weights``.

    Raises:
        UserError: the model can't be built, or the process ended by itself (one line says how).
        RuntimeError: a fault in it; the message ends with its traceback.
    """
    with tempfile.TemporaryDirectory() as folder:
        request, result = Path(folder) / "request.json", Path(folder) / "result.json"
        content = {"model": asdict(model), "profile": asdict(profile), "device": device, "seed": seed}
        request.write_text(json.dumps({**content, "plugins": list(plugins)}), encoding="utf-8")
        command = [sys.executable, "-m", __name__, str(request), str(result)]
        # Plug-ins that this process can import must be found there, too.
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace")
        if not result.is_file():
            raise _explained(model, done)
        found = json.loads(result.read_text(encoding="utf-8"))
    if "user_error" in found:
        raise UserError(found["user_error"])
    return found


def _explained(model: Model, done: subprocess.CompletedProcess) -> Exception:
    if done.returncode in (-9, 137):
        return UserError(f"model {model.name}: profiling was killed: out of memory; lower profile: height and width")
    last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
    return RuntimeError(f"profiling {model.name} failed: {last}\n{done.stderr}")


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """What :func:`profile_model` returns, measured in this process."""
    import torch

    from ifan_plugin import plugins, profiling
    from ifan_plugin.benchmark import models

    plugins.load_plugins(request["plugins"], "plugins")
    views = request["model"].pop("views")
    model = Model(**request["model"], views=None if views is None else tuple(views))
    profile = Profile(**request["profile"])
    net = models.build(model, request["seed"]).to(request["device"])
    models.views_of(model, net)
    try:
        counted = profiling.count_operations(net, profile.height, profile.width)
    except Exception:  # noqa: BLE001 - whatever a network does that can't be done without data; counted as it runs
        counted = None
    cost = profiling.measure_cost(
        net, profile.height, profile.width, profile.runs, profile.max_seconds, count_products=counted is None
    )
    products = counted.products if counted else cost.products
    return {
        "parameters": profiling.count_parameters(net),
        # No product at all: the work is done outside PyTorch.
        "products": products or None,
        "paper_count": counted.paper_count if counted and products else None,
        "latency_s": cost.latency_s,
        "runs": cost.runs,
        "peak_memory_bytes": cost.peak_memory_bytes,
        "megapixels_per_s": profile.height * profile.width / 1e6 / cost.latency_s,
        "random_weights": models.has_random_weights(model, net),
        "threads": torch.get_num_threads(),
    }


def main(arguments: list[str]) -> int:
    """Read the request, write the result."""
    request, result = arguments
    try:
        found = measure(json.loads(Path(request).read_text(encoding="utf-8")))
    except UserError as error:
        found = {"user_error": str(error)}
    except MemoryError:
        found = {"user_error": "profiling: out of memory; lower profile: height and width"}
    Path(result).write_text(json.dumps(found), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
