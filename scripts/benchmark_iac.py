#!/usr/bin/env python
"""Time and memory of iterative adaptive convolution: compiled op, PyTorch twin, torch.compile of it, unfold.

Everything is measured in one run on one machine, so that figures compare: read ratios, not milliseconds. On a CPU
each contestant has a process of its own, which its memory's peak needs; on a GPU all share one, and the GPU's clock
times them. Writes a Markdown table and JSON, losses beside wins.

examples:
  python scripts/benchmark_iac.py                                   # all sizes, float32, on the GPU if there is one
  python scripts/benchmark_iac.py --device cpu --threads 2 --out docs/benchmarks/iac_cpu
  python scripts/benchmark_iac.py --sizes 8x128x32x32 --dtypes float32 bfloat16 --passes forward
  python scripts/benchmark_iac.py --variants --dtypes float32 float16   # the CUDA kernels' variants
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path

import harness
from harness import MIB

SIZES = ("1x128x140x210", "1x128x90x160", "8x128x32x32", "1x128x500x750")
CONTESTANTS = ("compiled", "twin", "twin+compile", "unfold", "unfold+split")
DTYPES = ("float64", "float32", "float16", "bfloat16")
PASSES = ("forward", "forward+backward")
STEPS, TAPS = 17, 3

# `struct Variants` in ifan_plugin/ops/csrc/common/cuda/iac_cuda_plan.hpp says what they are.
VARIANTS = (
    "single", "serial", "short_passes", "long_passes", "wide_tiles", "tall_tiles", "paired", "paired,wide_tiles",
)  # fmt: skip
SWITCH = "IFAN_IAC_VARIANTS"


def unfold_iac(x, filters, num_steps, taps=TAPS, slope=0.1, split_once=False):
    """IAC as the literature writes filter-adaptive convolution: unfold the neighbours, multiply, sum.

    Each step slices its filters where it needs them, so that autograd makes a gradient of full size for each slice;
    `split_once` is the same without that.
    """
    from torch.nn import functional

    batch, channels, height, width = x.shape
    rows, pad = channels * taps, taps // 2
    sizes = [rows] * (2 * num_steps) + [channels] * num_steps
    if split_once:
        pieces = filters.split(sizes, dim=1)
    else:
        starts = [sum(sizes[:i]) for i in range(len(sizes))]
        pieces = [filters[:, start : start + size] for start, size in zip(starts, sizes, strict=True)]
    for step in range(num_steps):
        for axis, piece in ((2, pieces[2 * step]), (3, pieces[2 * step + 1])):
            kernel = (taps, 1) if axis == 2 else (1, taps)
            padding = (0, 0, pad, pad) if axis == 2 else (pad, pad, 0, 0)
            padded = functional.pad(x, padding, mode="replicate")
            neighbours = functional.unfold(padded, kernel).view(batch, channels, taps, height, width)
            x = (neighbours * piece.view(batch, channels, taps, height, width)).sum(2)
        x = functional.leaky_relu(x + pieces[2 * num_steps + step], slope)
    return x


def contestant(name, device, steps):
    """The function to time: (x, filters) -> y."""
    import torch

    from ifan_plugin.ops import iac

    name, _, variants = name.partition(":")
    os.environ[SWITCH] = variants  # the operator reads it at each call
    if name == "compiled":
        return lambda x, f: iac(x, f, steps, TAPS, backend=device)
    if name.startswith("unfold"):
        return lambda x, f: unfold_iac(x, f, steps, split_once=name == "unfold+split")
    twin = lambda x, f: iac(x, f, steps, TAPS, backend="reference")  # noqa: E731
    return torch.compile(twin, dynamic=False) if name == "twin+compile" else twin


def measure(job):
    """Run one contestant at one size in this process. Returns seconds of each run and the peak memory in bytes."""
    import torch

    from ifan_plugin.inference.memory import PeakMemory

    torch.set_num_threads(job["threads"])
    device, cuda = job["device"], job["device"] == "cuda"
    shape = [int(n) for n in job["size"].split("x")]
    dtype = getattr(torch, job["dtype"])
    batch, channels, height, width = shape
    generator = torch.Generator(device).manual_seed(0)
    x = torch.randn(shape, generator=generator, device=device).to(dtype)
    steps = job.get("steps", STEPS)
    total = steps * channels * (2 * TAPS + 1)
    filters = torch.empty(batch, total, height, width, dtype=dtype, device=device)
    for start in range(0, total, 1024):  # in parts: the random numbers shouldn't be the peak
        part = filters[:, start : start + 1024]
        part.copy_(0.2 * torch.randn(part.shape, generator=generator, device=device))
    backward = job["pass"] == "forward+backward"
    run = contestant(job["contestant"], device, steps)
    grad = torch.ones_like(x)
    if backward:
        x.requires_grad_()
        filters.requires_grad_()

    def once():
        if not backward:
            with torch.no_grad():
                return run(x, filters)
        x.grad = filters.grad = None
        y = run(x, filters)
        y.backward(grad)
        return y

    memory = PeakMemory(torch.device(device))
    once()
    peak = memory.growth()
    if cuda:
        seconds, reading = harness.timed_on_gpu(once, job["runs"], job["budget"]), []
    else:
        seconds, reading = timed_beside_reading(once, filters, job)
    element = filters.element_size()
    read = filters.numel() * element * (1 if not backward else 3)  # backward reads again and writes the gradient
    result = {"seconds": seconds, "peak": peak, "traffic": read, "output": x.numel() * element}
    if reading:
        result["bandwidth"] = filters.numel() * element / statistics.median(reading)
    return result


def timed_beside_reading(once, filters, job):
    """Seconds of each run, and of plain passes over the same bytes between them: the machine's speed swings."""
    import torch

    bits = filters.detach().flatten().view(torch.float32)  # sums of 16-bit numbers would be slower than the memory
    seconds, reading, deadline = [], [], time.perf_counter() + job["budget"]
    while len(seconds) < job["runs"] and (len(seconds) < 3 or time.perf_counter() < deadline):
        start = time.perf_counter()
        bits.sum()
        reading.append(time.perf_counter() - start)
        start = time.perf_counter()
        once()
        seconds.append(time.perf_counter() - start)
    return seconds, reading


def bandwidth(job):
    """Bytes a second of the best of several passes over 1.8 GB: read (a sum) on the CPU, copy on the GPU."""
    import torch

    torch.set_num_threads(job["threads"])
    data = torch.ones(450_000_000, dtype=torch.float32, device=job["device"])
    if job["device"] == "cuda":
        target = torch.empty_like(data)
        best = min(harness.timed_on_gpu(lambda: target.copy_(data), 20, 5))
        return {"bandwidth": data.numel() * 4 * 2 / best}
    best = 0.0
    for _ in range(12):
        start = time.perf_counter()
        data.sum()
        best = max(best, data.numel() * 4 / (time.perf_counter() - start))
    return {"bandwidth": best}


def too_big(job):
    """Why a job can't fit into this machine's memory, or None. Being killed for it would take the run along."""
    if job.get("bandwidth") or job["device"] == "cuda":
        return None
    batch, channels, height, width = (int(n) for n in job["size"].split("x"))
    bytes_each = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}[job["dtype"]]
    filters = batch * STEPS * channels * (2 * TAPS + 1) * height * width * bytes_each
    # Backward has their gradient too; unfold and the compiled twin keep copies of them for it.
    copies = {"forward": 1.2, "forward+backward": 2.3 if job["contestant"] in ("compiled", "twin") else 4.5}[
        job["pass"]
    ]
    lines = Path("/proc/meminfo").read_text().splitlines() if Path("/proc/meminfo").exists() else []
    free = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), None)
    if free is None or copies * filters < free:
        return None
    return f"needs some {copies * filters / 2**30:.0f} GiB, {free / 2**30:.0f} GiB are free"


def result_of(job, timeout):
    """A job's result, or {"error": …}; in a fresh process but on a GPU."""
    reason = too_big(job)
    if reason:
        return {"error": reason}
    if job["device"] == "cuda":
        return harness.in_this_process(bandwidth if job.get("bandwidth") else measure, job)
    return harness.in_process(__file__, job, timeout)


def jobs_of(sizes, dtypes, passes, contestants):
    """What is to be measured."""
    return [
        {"size": s, "dtype": t, "pass": p, "contestant": c}
        for s in sizes for t in dtypes for p in passes for c in contestants
    ]  # fmt: skip


def variants_of(dtype):
    """The contestants of --variants in one type: `single` is of half types."""
    return ["compiled", *(f"compiled:{v}" for v in VARIANTS if v != "single" or dtype in ("float16", "bfloat16"))]


def _place(row):
    return row["size"], row["dtype"], row["pass"]


def markdown(result):
    """The table for people."""
    about = harness.described(result["machine"])
    kind = "copy" if result["device"] == "cuda" else "read"
    lines = [
        "# Iterative adaptive convolution: time and memory",
        "",
        f"N = {STEPS}, k = {TAPS}. {about}.",
        f"Measured {kind} bandwidth: {result['bandwidth'] / 1e9:.1f} GB/s (best of 12 passes over 1.8 GB).",
        "Share: the pass's least traffic (forward reads the filters once; backward reads them again and writes their",
        "gradient) over its time, to that bandwidth"
        + ("." if kind == "copy" else " as the median of sums of the same filters between the runs showed it."),
        "Times are medians, the spread is (max - min) / median; memory is the peak above the inputs.",
        "",
        "| size | type | pass | contestant | ms | spread | to compiled | extra memory, MiB | share of bandwidth |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    compiled = {_place(r): r["median"] for r in result["rows"] if r["contestant"] == "compiled" and "median" in r}
    for row in result["rows"]:
        start = f"| {row['size']} | {row['dtype']} | {row['pass']} | {row['contestant']} "
        if "error" in row:
            lines.append(f"{start}| failed: {row['error'].replace('|', '/')} | | | | |")
            continue
        base = compiled.get(_place(row))
        factor = f"{row['median'] / base:.1f}x" if base else ""
        lines.append(
            f"{start}| {row['median'] * 1e3:.1f} | {row['spread']:.0%} | {factor} | {row['peak'] / MIB:.0f} "
            f"| {row['traffic'] / row['median'] / row.get('bandwidth', result['bandwidth']):.0%} |"
        )
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog=__doc__.partition("\n\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: cuda where there is one")
    parser.add_argument("--threads", type=int, default=harness.cores(), help="CPU threads (default: all)")
    parser.add_argument("--sizes", nargs="+", default=SIZES, metavar="BxCxHxW")
    parser.add_argument("--dtypes", nargs="+", default=["float32"], choices=DTYPES)
    parser.add_argument("--passes", nargs="+", default=PASSES, choices=PASSES)
    parser.add_argument("--contestants", nargs="+", default=CONTESTANTS, choices=CONTESTANTS)
    parser.add_argument("--variants", action="store_true", help="compare the CUDA kernels' variants instead")
    parser.add_argument("--runs", type=int, default=9, help="timed runs each (default: 9)")
    parser.add_argument("--budget", type=float, default=20, help="seconds after which 3 runs are enough (default: 20)")
    parser.add_argument("--timeout", type=float, default=300, help="seconds after which a contestant is given up")
    parser.add_argument("--out", type=Path, help="write OUT.md and OUT.json")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job:
        job = json.loads(args.job)
        sys.stdout.write(json.dumps(bandwidth(job) if job.get("bandwidth") else measure(job)) + "\n")
        return
    import torch

    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if args.variants and device != "cuda":
        parser.error("--variants compares CUDA kernels, so it needs a CUDA device")
    common = {"device": device, "threads": args.threads, "runs": args.runs, "budget": args.budget}
    result = {"device": device, "machine": harness.machine(device, args.threads), "rows": []}
    result |= result_of({**common, "bandwidth": True}, args.timeout)
    if args.variants:
        jobs = [job for t in args.dtypes for job in jobs_of(args.sizes, [t], args.passes, variants_of(t))]
    else:
        jobs = jobs_of(args.sizes, args.dtypes, args.passes, args.contestants)
    for number, job in enumerate(jobs, 1):
        row = harness.summarise(job | result_of(common | job, args.timeout))
        result["rows"].append(row)
        shown = f"{row['median'] * 1e3:.1f} ms" if "median" in row else f"failed: {row['error']}"
        print(
            f"[{number}/{len(jobs)}] {job['size']} {job['dtype']} {job['pass']} {job['contestant']}: {shown}",
            file=sys.stderr,
        )
        if args.out:  # after each row: an interrupted run keeps what it has
            harness.write(result, markdown(result), args.out)
    print(markdown(result))


if __name__ == "__main__":
    main()
