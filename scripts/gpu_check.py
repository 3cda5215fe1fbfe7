#!/usr/bin/env python
"""Everything of this project that needs a GPU, in one command, for anybody who has one.

Builds the operator for the card, runs tests/gpu and compute-sanitizer, measures the operator, its variants, the
network, a training step, the loader, the on-device simulator, torch.compile and CUDA graphs. Each stage runs in a
process of its own with a time limit of its own; what fails is reported with its last lines, and the rest runs. Writes
OUT.md and OUT.json after each stage: card, driver, versions, date, tables, and the wanted figures beside those found;
OUT.log holds all that the stages printed.

examples:
  ./scripts/gpu_check.sh                                       # everything, within 6 minutes on a data-centre card
  ./scripts/gpu_check.sh --quick                               # smaller sizes, fewer repeats
  ./scripts/gpu_check.sh --only build tests --out /tmp/check
  ./scripts/gpu_check.sh --device cpu --quick                  # the same stages on a CPU: a rehearsal

Without a network: PYTHON names an interpreter that has torch 2.11 or later, numpy, OpenCV, SciPy, scikit-image,
pytest, setuptools and ninja; PYTHONPATH names whatever else is missing there. Where there is a network, with the same
version of Python, `pip wheel --no-deps --no-build-isolation -w wheels lmdb addict basicsr==1.4.2` collects what few
machines have; carried over, `pip install --no-index --no-deps --target site wheels/*.whl` unpacks it: PYTHONPATH=site.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
LAST_LINES = 15


class Stage(NamedTuple):
    """Those of one group run at the same time; what measures time is alone in its group."""

    name: str
    what: str
    group: int
    limit: float  # seconds; --quick halves it on a GPU


STAGES = (
    Stage("build", "the operator compiled for this card", 0, 200),
    Stage("tests", "tests/gpu", 1, 200),
    Stage("sanitizer", "compute-sanitizer: memcheck, racecheck, initcheck", 1, 150),
    Stage("warm", "what torch.compile makes, into its cache, so that later stages only measure", 1, 200),
    Stage("iac", "the operator against its PyTorch forms", 2, 60),
    Stage("network", "restoring: fp32, bf16, fp16", 3, 60),
    Stage("training", "a training step: fp32, amp", 4, 60),
    Stage("variants", "the kernels' variants", 5, 45),
    Stage("graphs", "CUDA graphs", 6, 25),
    Stage("compile", "torch.compile of operator and network", 7, 60),
    Stage("simulator", "the on-device simulator", 8, 30),
    Stage("loader", "training samples on their way to the device", 9, 60),
)
NAMES = tuple(stage.name for stage in STAGES)


class Running(NamedTuple):
    stage: Stage
    process: subprocess.Popen
    started: float
    limit: float
    log: Path
    result: Path


def start(stage: Stage, args: argparse.Namespace, folder: Path, limit: float) -> Running:
    """The stage in a process group of its own, so that its children end with it."""
    log, result = folder / f"{stage.name}.log", folder / f"{stage.name}.json"
    job = {"device": args.device, "quick": args.quick, "work": str(folder), "result": str(result), "limit": limit}
    command = [sys.executable, str(ROOT / "scripts" / "gpu_stages.py"), stage.name, json.dumps(job)]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
    with log.open("w") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=env, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
    return Running(stage, process, time.monotonic(), limit, log, result)


def finish(running: Running) -> dict:
    """What became of a stage: its tables, or why it has none."""
    stage, process = running.stage, running.process
    try:
        code = process.wait(max(0.1, running.started + running.limit - time.monotonic()))
        why = f"exit status {code}"
    except subprocess.TimeoutExpired:
        code, why = None, f"not done after its {running.limit:.0f} s"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    row = {"stage": stage.name, "what": stage.what, "seconds": round(time.monotonic() - running.started, 1)}
    # Stages write what they have as they go, so that one stopped by its limit keeps its finished rows.
    written = json.loads(running.result.read_text()) if running.result.exists() else {}
    if code == 0 and written:
        outcome = "skipped" if written.get("skipped") else ("failed" if written.get("failed") else "passed")
    else:
        outcome = "failed"
        lines = running.log.read_text(errors="replace").splitlines()
        written |= {"failed": why, "last_lines": lines[-LAST_LINES:]}
    return row | {"outcome": outcome} | written


def run(args: argparse.Namespace, folder: Path, report: dict) -> None:
    """All stages, group by group. `report` is complete and written after each of them."""
    end = time.monotonic() + args.limit
    chosen = [stage for stage in STAGES if stage.name in args.only]
    for group in sorted({stage.group for stage in chosen}):
        running = []
        for stage in (stage for stage in chosen if stage.group == group):
            limit = min(stage.limit * args.scale, end - time.monotonic())
            if limit < 1:
                row = {"stage": stage.name, "what": stage.what, "seconds": 0, "outcome": "skipped"}
                report["stages"].append(row | {"skipped": f"the whole check's limit of {args.limit:g} s was reached"})
                continue
            say(f"{stage.name}: {stage.what} (at most {limit:.0f} s)")
            running.append(start(stage, args, folder, limit))
        try:
            for each in running:
                report["stages"].append(finish(each))
                keep_log(each, args.out)
                told = report["stages"][-1]
                reason = told.get("skipped") or told.get("failed") or ""
                say(f"{told['stage']}: {told['outcome']} after {told['seconds']:.0f} s{f': {reason}' * bool(reason)}")
                write(report, args.out)
        finally:
            for each in running:
                if each.process.poll() is None:  # interrupted
                    os.killpg(each.process.pid, signal.SIGKILL)
        write(report, args.out)


def keep_log(running: Running, out: Path) -> None:
    """All that a stage printed, for whoever looks into a failure; the report has its last lines alone."""
    with out.with_suffix(".log").open("a", encoding="utf-8") as kept:
        kept.write(f"===== {running.stage.name}\n{running.log.read_text(errors='replace')}\n")


def machine(device: str) -> dict:
    """Card, driver, versions, date."""
    import torch

    import ifan_plugin
    from ifan_plugin.common.machine import usable_cores

    about = {"date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"), "device": device}
    if device == "cuda":
        card = torch.cuda.get_device_properties(0)
        about |= {
            "card": card.name,
            "compute capability": f"{card.major}.{card.minor}",
            "multiprocessors": card.multi_processor_count,
            "memory": f"{card.total_memory / 2**30:.0f} GiB",
            "L2": f"{card.L2_cache_size / 2**20:.0f} MiB",
            "cards": torch.cuda.device_count(),
            "driver": told_by("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
            "cuDNN": torch.backends.cudnn.version(),
        }
    nvcc = told_by("nvcc", "--version")
    about |= {
        "processor": f"{platform.machine()}, {usable_cores()} cores",
        "torch": torch.__version__,
        "CUDA of torch": torch.version.cuda,
        "nvcc": nvcc.split("release ")[-1].split(",")[0] if nvcc else None,
        "python": platform.python_version(),
        "ifan_plugin": ifan_plugin.__version__,
        "commit": told_by("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"),
    }
    return {key: value for key, value in about.items() if value is not None}


def told_by(program: str, *arguments: str) -> str | None:
    """What a program says, or None where it can't be run."""
    if shutil.which(program) is None:
        return None
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=30)
    return done.stdout.strip() if done.returncode == 0 and done.stdout.strip() else None


def markdown(report: dict) -> str:
    """The report for people."""
    lines = ["# GPU check", "", ", ".join(f"{key} {value}" for key, value in report["machine"].items()) + ".", ""]
    lines += [f"Command: `{report['command']}`.", "", "| stage | outcome | s | |", "|---|---|---|---|"]
    for row in report["stages"]:
        reason = row.get("skipped") or row.get("failed") or ""
        lines.append(f"| {row['stage']}: {row['what']} | {row['outcome']} | {row['seconds']:.0f} | {cell(reason)} |")
    bars = [bar for row in report["stages"] for bar in row.get("bars", [])]
    if bars:
        lines += ["", "## Wanted and found", "", "| what | wanted | found | |", "|---|---|---|---|"]
        lines += [
            f"| {cell(bar['what'])} | {bar['wanted']} | {bar['found']} | {'met' if bar['met'] else '**missed**'} |"
            for bar in bars
        ]
    for row in report["stages"]:
        for table in row.get("tables", []):
            lines += ["", f"## {row['stage']}: {table['title']}", "", *table.get("notes", [])]
            lines += [""] * bool(table.get("notes"))
            lines += ["| " + " | ".join(table["columns"]) + " |", "|" + "---|" * len(table["columns"])]
            lines += ["| " + " | ".join(cell(value) for value in values) + " |" for values in table["rows"]]
        if row.get("last_lines"):
            lines += ["", f"## {row['stage']}: its last lines", "", "```", *row["last_lines"], "```"]
    return "\n".join(lines) + "\n"


def cell(value: object) -> str:
    return "" if value is None else str(value).replace("|", "/").replace("\n", " ")


def write(report: dict, out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".md").write_text(markdown(report))
    out.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def arguments() -> argparse.Namespace:
    about, _, more = __doc__.partition("\n\n")
    stages = "stages:\n" + "\n".join(f"  {stage.name:10} {stage.what}" for stage in STAGES)
    parser = argparse.ArgumentParser(
        prog="gpu_check.sh", description=about, epilog=f"{more}\n{stages}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="default: cuda")
    parser.add_argument("--quick", action="store_true", help="smaller sizes, fewer repeats")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, metavar="STAGE", help="these stages alone")
    parser.add_argument("--out", type=Path, default=Path("gpu_check"), help="write OUT.md, .json and .log (gpu_check)")
    parser.add_argument(
        "--limit", type=float, help="seconds for everything (default: 360 on a GPU, 1500 on a CPU, where all is slower)"
    )
    args = parser.parse_args()
    try:
        import torch
    except ImportError:
        parser.error(f"{sys.executable} has no torch; PYTHON names an interpreter that has: PYTHON=/path/to/python")
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch finds no CUDA device; --device cpu --quick rehearses without one")
    on_cpu = args.device == "cpu"
    args.limit = args.limit or (1500 if on_cpu else 360)
    args.scale = 5 if on_cpu else 1
    args.out = args.out.expanduser().resolve()
    return args


def main() -> None:
    args = arguments()
    command = " ".join(["./scripts/gpu_check.sh", *sys.argv[1:]])
    sys.path.insert(0, str(ROOT))
    report = {"command": command, "machine": machine(args.device), "stages": []}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.with_suffix(".log").unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="gpu_check_") as folder:
        run(args, Path(folder), report)
    print(markdown(report))
    failed = [row["stage"] for row in report["stages"] if row["outcome"] == "failed"]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
