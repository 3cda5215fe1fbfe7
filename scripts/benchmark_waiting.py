#!/usr/bin/env python3
"""How OpenMP's threads should wait on a busy machine: a restoration and a training step, alone and beside another job.

    python scripts/benchmark_waiting.py [--runs 5] [--out docs/benchmarks/waiting]

Threads that wait for work either spin, which is quickest where each has a core of its own, or sleep. Each contestant
sets the policy by environment variables before torch is loaded. "busy" is beside a second process that trains with as
many threads and the same policy. Writes OUT.json and OUT.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import harness

CONTESTANTS = {
    "default": {},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "short spin": {"GOMP_SPINCOUNT": "10000"},
    "no spin": {"GOMP_SPINCOUNT": "0"},
}
WORK = ("restoring 1280x720", "training step, 4 x 64x64")


def job(work: str, runs: int) -> list[float]:
    """Seconds of each run, after one to warm up."""
    import torch

    from ifan_plugin.archs.ifan_arch import IFAN

    network = IFAN(16, 8, 3, 1, filter_init="identity")
    if work == WORK[0]:
        network.eval()
        picture = torch.rand(1, 3, 720, 1280)

        def once() -> None:
            with torch.no_grad():
                network(picture)
    else:
        patches = torch.rand(4, 3, 64, 64)
        optimizer = torch.optim.Adam(network.parameters(), 1e-4)

        def once() -> None:
            optimizer.zero_grad()
            network.training_outputs(patches, patches, patches).result.square().mean().backward()
            optimizer.step()

    once()
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        once()
        seconds.append(time.perf_counter() - start)
    return seconds


def started(work: str, runs: int, threads: int, policy: dict[str, str]) -> subprocess.Popen:
    """The work in a process of its own."""
    env = {**os.environ, **policy, "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, __file__, "--work", work, "--runs", str(runs)]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)


def main() -> int:
    """Measure each contestant, quiet and busy; returns 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="of each (default: 5)")
    parser.add_argument("--threads", type=int, default=harness.cores(), help="default: the cores")
    parser.add_argument("--out", type=Path, help="write OUT.json and OUT.md")
    parser.add_argument("--work", choices=WORK, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        print(json.dumps(job(args.work, args.runs)))
        return 0
    rows = []
    for work in WORK:
        runs = args.runs * (1 if work == WORK[0] else 8)
        for beside in ("quiet", "busy"):
            for name, policy in CONTESTANTS.items():
                other = started(WORK[1], 1_000_000, args.threads, policy) if beside == "busy" else None
                try:
                    done = started(work, runs, args.threads, policy)
                    seconds = json.loads(done.communicate(timeout=600)[0])
                finally:
                    if other is not None:
                        other.kill()
                        other.wait()
                row = {"work": work, "machine": beside, "policy": name, "seconds": seconds}
                rows.append(harness.summarise(row))
                print(
                    f"{work}, {beside}, {name}: {row['median']:.3f} s, spread {100 * row['spread']:.0f} %", flush=True
                )
    if args.out:
        found = {"machine": harness.machine("cpu", args.threads), "rows": rows}
        args.out.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        lines = ["# How threads wait", "", harness.described(found["machine"]), ""]
        lines += ["| work | beside | policy | median, s | spread |", "|---|---|---|---|---|"]
        for row in rows:
            figures = f"{row['median']:.3f} | {100 * row['spread']:.0f} %"
            lines.append(f"| {row['work']} | {row['machine']} | {row['policy']} | {figures} |")
        args.out.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
