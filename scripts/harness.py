"""What the benchmark scripts share: a fresh process for each row, the machine's description."""

from __future__ import annotations

import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from datetime import date

MIB = 2**20


def cores():
    """Processor cores that this process may use."""
    from ifan_plugin.common.machine import usable_cores

    return usable_cores()


def in_process(script, job, timeout):
    """Run `script --job JSON` in a fresh process; the JSON of its last line, or {"error": …}."""
    command = [sys.executable, script, "--job", json.dumps(job)]
    threads = str(job["threads"])
    env = {**os.environ, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=env)
    except subprocess.TimeoutExpired:
        return {"error": f"not done after {timeout:g} s"}
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        return {"error": lines[-1][:200]}
    return json.loads(done.stdout.splitlines()[-1])


def in_this_process(function, job):
    """`function(job)`, or {"error": …}. On a GPU, where the peak of the memory starts anew for each job."""
    import gc

    import torch

    try:
        return function(job)
    except Exception as error:  # noqa: BLE001  (a row that fails is a row of the table)
        return {"error": (str(error).strip().splitlines() or [type(error).__name__])[0][:200]}
    finally:
        gc.collect()
        torch.cuda.empty_cache()


def timed_on_gpu(once, runs, budget):
    """Seconds of each run by the GPU's clock. The queue is kept filled, so that starting kernels costs nothing where it
    is quicker than running them."""
    import torch

    for _ in range(2):
        once()
    torch.cuda.synchronize()
    start = time.perf_counter()
    once()
    torch.cuda.synchronize()
    runs = max(3, min(runs, int(budget / max(time.perf_counter() - start, 1e-6))))
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(runs + 1)]
    marks[0].record()
    for mark in marks[1:]:
        once()
        mark.record()
    torch.cuda.synchronize()
    return [first.elapsed_time(second) / 1e3 for first, second in itertools.pairwise(marks)]


def summarise(row):
    """Median and spread of a row's seconds, put into it."""
    if "seconds" in row:
        row["median"] = statistics.median(row["seconds"])
        row["spread"] = (max(row["seconds"]) - min(row["seconds"])) / row["median"]
    return row


def machine(device, threads):
    """What the figures hold for."""
    import torch

    import ifan_plugin
    from ifan_plugin.common.machine import processor

    return {
        "date": date.today().isoformat(),
        "device": torch.cuda.get_device_name() if device == "cuda" else f"{processor()}, {threads} threads",
        "vector": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda if device == "cuda" else None,
        "python": platform.python_version(),
        "ifan_plugin": ifan_plugin.__version__,
    }


def described(about):
    """The machine in one line."""
    return ", ".join(f"{key} {value}" for key, value in about.items() if value)


def write(result, text, out):
    """OUT.md and OUT.json."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".md").write_text(text)
    out.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
