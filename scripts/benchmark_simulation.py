#!/usr/bin/env python3
"""How many training patches a second the simulator makes: what a loader's worker does, and what is done on the device.

    python scripts/benchmark_simulation.py DIR [--device cuda] [--patches 32] [--json FILE]

DIR holds sharp pictures; their depth is invented, optics and sensor are drawn (`camera: random`, `sensor: random`).
Rows: blur up to 12 px and up to 30 px, without and with the sensor. Besides the time that passed, the processor's is
given, which a busy machine changes less.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import cv2
import torch

from ifan_plugin.data.device_patches import finish
from ifan_plugin.data.sampler import EpochIndex
from ifan_plugin.data.simulated_dataset import SimulatedDualPixelDataset


def measured(work, device: str) -> tuple[float, float, object]:
    """Seconds that passed, seconds of the processor, result."""
    start, processor = time.perf_counter(), time.process_time()
    result = work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start, time.process_time() - processor, result


def patches(folder: str, max_coc: float, sensor: str) -> SimulatedDualPixelDataset:
    """The data set that is measured."""
    return SimulatedDualPixelDataset({
        "name": "bench", "phase": "train", "dataroot_sharp": folder, "depth_kind": "invented", "on_device": True,
        "aux_views": ["left", "right"], "patch_size": 256, "max_coc_px": max_coc, "sensor": sensor,
        "keep_in_memory": True,
    })  # fmt: skip


def row(folder: str, max_coc: float, sensor: str, device: str, count: int, batch: int) -> dict[str, object]:
    """Times of ``count`` patches in batches."""
    dataset = patches(folder, max_coc, sensor)
    indices = [EpochIndex(number % len(dataset), 0, number) for number in range(count)]
    for index in range(min(len(dataset), count)):
        dataset[EpochIndex(index, 9, 0)]  # the pictures are in memory then
    seconds, processor, samples = measured(lambda: [dataset[index] for index in indices], "cpu")
    batches = [torch.utils.data.default_collate(samples[i : i + batch]) for i in range(0, count, batch)]
    finish(batches[0], device)
    on_device, device_processor, _ = measured(lambda: [finish(each, device) for each in batches], device)
    return {
        "max_coc_px": max_coc, "sensor": sensor, "device": device, "threads": torch.get_num_threads(),
        "worker_ms": 1e3 * seconds / count, "worker_processor_ms": 1e3 * processor / count,
        "device_ms": 1e3 * on_device / count, "device_processor_ms": 1e3 * device_processor / count,
        "device_patches_per_s": count / on_device,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="DIR")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--patches", type=int, default=32)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    rows = []
    for max_coc in (12.0, 30.0):
        for sensor in ("none", "random"):
            rows.append(row(args.folder, max_coc, sensor, args.device, args.patches, args.batch))
            shown = rows[-1]
            sys.stdout.write(
                f"blur up to {max_coc:g} px, sensor {sensor}: worker {shown['worker_ms']:.0f} ms "
                f"(processor {shown['worker_processor_ms']:.0f}), {args.device} with {shown['threads']} threads "
                f"{shown['device_ms']:.0f} ms (processor {shown['device_processor_ms']:.0f}) a patch\n"
            )
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
