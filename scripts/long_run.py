#!/usr/bin/env python3
"""Does a long training grow or slow down: memory, open files and time of a tiny network in BasicSR's own loop.

    python scripts/long_run.py [--iterations 5000] [--workers 1] [--out docs/benchmarks/long_run]

Runs `basicsr train` in this process, as a user does: all of IFAN's losses, a worker that loads data, averaged weights,
TensorBoard, a checkpoint and a validation with pictures every hundredth of the run. Behind every hundredth it notes
the resident memory (of this process and of its workers), open files, threads, and the processor's and the clock's
seconds. Compared are the medians (of open files the least) of the second tenth, behind the warm-up, and of the last.
Ends with status 1 where memory or open files have grown by more than a hundredth, and writes OUT.json and OUT.md.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import cv2
import harness
import numpy as np
import yaml

MARKS = 100
ALLOWED = 0.01


def write_data(root: Path, scenes: int = 6, height: int = 64, width: int = 96) -> None:
    """Pictures in DPDD's layout, 16 bits: smooth sharp ones, blurred ones, left and right shifted by a pixel."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for number in range(scenes if split == "train" else 2):
            sharp = cv2.resize(rng.random((9, 13, 3)), (width, height), interpolation=cv2.INTER_CUBIC).clip(0, 1)
            blurred = cv2.GaussianBlur(sharp, (5, 5), 1.2)
            views = {
                f"{split}_c/target": sharp, f"{split}_c/source": blurred,
                f"{split}_l/source": np.roll(blurred, 1, 1), f"{split}_r/source": np.roll(blurred, -1, 1),
            }  # fmt: skip
            for folder, view in views.items():
                (root / folder).mkdir(parents=True, exist_ok=True)
                path = root / folder / f"{number}.png"
                if not cv2.imwrite(str(path), np.rint(view * 65535).astype(np.uint16)):
                    raise OSError(f"{path}: can't be written")


def options(data: Path, iterations: int, workers: int) -> dict:
    """All that a training of IFAN has, tiny."""
    dataset = {"type": "DualPixelDataset", "dataroot": str(data), "bit_depth": 16}
    often = max(1, iterations // MARKS)
    return {
        "name": "long_run", "model_type": "IFANModel", "num_gpu": 0, "manual_seed": 3,
        "datasets": {
            "train": dataset | {
                "name": "train_set", "aux_views": ["left", "right"], "patch_size": 32, "batch_size_per_gpu": 2,
                "num_worker_per_gpu": workers, "dataset_enlarge_ratio": 50,
            },
            "val": dataset | {"name": "val_set"},
        },
        "network_g": {"type": "IFAN", "width": 4, "num_steps": 2, "res_units": 1},
        "network_r": {"type": "ReblurNet", "num_steps": 2},
        "path": {},
        "train": {
            "total_iter": iterations, "ema_decay": 0.99, "optim_g": {"type": "RAdam", "lr": 1e-4},
            "scheduler": {"type": "MultiStepLR", "milestones": [iterations // 2], "gamma": 0.5},
            "pixel_opt": {"type": "MSELoss"}, "disparity_opt": {"type": "DisparityLoss"},
            "reblur_opt": {"type": "ReblurLoss"}, "grad_clip": 0.5,
        },
        "val": {"val_freq": often, "save_img": True, "pbar": False, "metrics": {"psnr": {"type": "psnr"}}},
        "logger": {"print_freq": often, "save_checkpoint_freq": often, "use_tb_logger": True},
    }  # fmt: skip


def resident(pid: int | str) -> int:
    """Bytes of a process that lie in memory, without those of files."""
    found = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(found["RssAnon"].split()[0]) * 1024


def open_files(pid: int | str) -> int:
    """Open files of a process, without the batches in shared memory that wait their turn."""
    folder, count = f"/proc/{pid}/fd", 0
    for name in os.listdir(folder):
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            count += "/torch_" not in os.readlink(f"{folder}/{name}")
    return count


def mark(iteration: int) -> dict[str, float]:
    """How things stand behind an iteration."""
    workers = [child.pid for child in multiprocessing.active_children() if child.pid]
    return {
        "iteration": iteration,
        "memory": resident("self"),
        "workers' memory": sum(map(resident, workers)),
        "open files": open_files("self"),
        "workers' open files": sum(map(open_files, workers)),
        "threads": len(os.listdir("/proc/self/task")),
        "processor": time.process_time(),
        "clock": time.perf_counter(),
    }


def train(folder: Path, iterations: int, workers: int) -> list[dict[str, float]]:
    """The training itself; the marks behind each of its hundredths."""
    from ifan_plugin import cli
    from ifan_plugin.models.ifan_model import IFANModel

    marks, often, step = [], max(1, iterations // MARKS), IFANModel.optimize_parameters

    def optimize_parameters(self, current_iter: int) -> None:
        if current_iter % often == 1 and current_iter > 1:  # behind the checkpoint and the validation of the last one
            marks.append(mark(current_iter - 1))
        step(self, current_iter)

    IFANModel.optimize_parameters = optimize_parameters
    write_data(folder / "data")
    path = folder / "long_run.yml"
    path.write_text(yaml.safe_dump(options(folder / "data", iterations, workers)), encoding="utf-8")
    os.chdir(folder)
    sys.argv = ["basicsr", "train"]
    status = cli.main(["train", "-opt", str(path)])
    if status:
        raise SystemExit(status)
    return marks


def compared(marks: list[dict[str, float]]) -> list[dict[str, float | str]]:
    """Each figure in the second and in the last tenth: medians; for time, seconds an iteration between marks."""
    tenth = len(marks) // 10
    parts = marks[tenth : 2 * tenth + 1], marks[-tenth - 1 :]
    rows = []
    for name in ("memory", "workers' memory", "open files", "workers' open files", "threads"):
        # A worker has two more files open while it hands over a batch: what grows shows in the least count.
        typical = min if "files" in name else statistics.median
        rows.append((name, *(typical(each[name] for each in part) for part in parts)))
    for name in ("processor", "clock"):
        seconds = (
            [(b[name] - a[name]) / (b["iteration"] - a["iteration"]) for a, b in itertools.pairwise(part)]
            for part in parts
        )
        rows.append((f"seconds an iteration, {name}", *map(statistics.median, seconds)))
    return [
        {"figure": name, "second tenth": before, "last tenth": after, "ratio": after / before if before else 1.0}
        for name, before, after in rows
    ]


def main() -> int:
    """Train, compare, write; returns 1 where something has grown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=5000, help="of the training (default: 5000; at least 1000)")
    parser.add_argument("--workers", type=int, default=1, help="processes that load data (default: 1)")
    parser.add_argument("--out", type=Path, help="write OUT.json and OUT.md")
    args = parser.parse_args()
    if args.iterations < 1000:
        parser.error(f"--iterations {args.iterations}: a tenth says something from 1000 on")
    out = args.out and args.out.absolute()
    with tempfile.TemporaryDirectory(prefix="long_run_") as folder:
        marks = train(Path(folder), args.iterations, args.workers)
        os.chdir("/")
    rows = compared(marks)
    grown = [row["figure"] for row in rows[:4] if row["ratio"] > 1 + ALLOWED]
    lines = ["| figure | second tenth | last tenth | ratio |", "|---|---|---|---|"]
    for row in rows:
        unit = 2**20 if "memory" in row["figure"] else 1
        name = f"{row['figure']}, MiB" if unit > 1 else row["figure"]
        lines.append(
            f"| {name} | {row['second tenth'] / unit:.4g} | {row['last tenth'] / unit:.4g} | {row['ratio']:.4f} |"
        )
    print("\n".join([*lines, f"grown: {', '.join(grown) or 'nothing'}"]))
    if out:
        machine = harness.machine("cpu", int(os.environ.get("OMP_NUM_THREADS", harness.cores())))
        found = {"machine": machine, "iterations": args.iterations, "workers": args.workers}
        text = json.dumps(found | {"rows": rows, "marks": marks}, indent=1)
        out.with_suffix(".json").write_text(text + "\n", encoding="utf-8")
        head = ["# A long training", "", harness.described(machine) + f", {args.iterations} iterations", ""]
        out.with_suffix(".md").write_text("\n".join([*head, *lines]) + "\n", encoding="utf-8")
    return 1 if grown else 0


if __name__ == "__main__":
    sys.exit(main())
