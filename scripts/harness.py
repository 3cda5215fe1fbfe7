"""What the benchmark scripts share: a fresh process for each row, the machine's description."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
from datetime import date
from pathlib import Path

MIB = 2**20


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

    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if "model name" in line), model)
    return {
        "date": date.today().isoformat(),
        "device": torch.cuda.get_device_name() if device == "cuda" else f"{model}, {threads} threads",
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
