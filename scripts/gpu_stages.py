#!/usr/bin/env python
"""The stages of gpu_check.py, one a process: `gpu_stages.py NAME JOB`. Those that measure speed: gpu_speed.py.

JOB is JSON: device, quick, work (a folder for files), result (where the stage writes what it has), limit (seconds).
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import harness

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ROOT / "ifan_plugin" / "ops" / "csrc"
SANITIZERS = ("memcheck", "racecheck", "initcheck")


class Result:
    """What a stage has found so far; written at each change, so that a stage stopped by its limit keeps it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found = {}

    def table(self, title, columns, notes=()):
        """A table's list of rows; call :meth:`save` after adding some."""
        rows = []
        self._found.setdefault("tables", []).append(
            {"title": title, "columns": list(columns), "rows": rows, "notes": list(notes)}
        )
        return rows

    def bar(self, what, wanted, found, met):
        self._found.setdefault("bars", []).append({"what": what, "wanted": wanted, "found": found, "met": bool(met)})
        self.save()

    def say(self, key, text):
        """`skipped` or `failed`, with the reason."""
        self._found[key] = text
        self.save()

    def save(self):
        aside = self._path.with_suffix(".partial")
        aside.write_text(json.dumps(self._found))
        aside.replace(self._path)


# ---------------------------------------------------------------- build


def build(job, result):
    """Compile the extension in place, unless what is there is newer than its source and runs on this device."""
    columns = ("module", "", "s")
    rows = result.table("extension modules", columns)
    reason = unusable(job)
    if reason is None:
        rows += [[name, "kept: newer than its source, and it runs", 0] for name in modules(job)]
        return result.save()
    sys.stdout.write(f"compiling, because {reason}\n")
    env = os.environ | {"MAX_JOBS": os.environ.get("MAX_JOBS", str(harness.cores()))}
    if job["device"] == "cuda":
        import torch

        major, minor = torch.cuda.get_device_capability()
        env |= {"FORCE_CUDA": "1", "TORCH_CUDA_ARCH_LIST": f"{major}.{minor}"}
        if "--split-compile" in output_of(["nvcc", "--help"]):
            env["NVCC_APPEND_FLAGS"] = "--split-compile=0"  # one file with many kernels, on all cores
    else:
        env |= {"IFAN_NO_CUDA": "1", "IFAN_REQUIRE_EXT": "1"}
    start = time.perf_counter()
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace", "--build-temp", f"{job['work']}/objects"]
    subprocess.run(command, cwd=ROOT, env=env, check=True)
    seconds = round(time.perf_counter() - start, 1)
    reason = unusable(job)
    if reason is not None:
        raise RuntimeError(f"compiled, but {reason}")
    rows += [[name, "compiled", seconds] for name in modules(job)]
    result.save()


def modules(job):
    return ["_C"] + (["_C_cuda"] if job["device"] == "cuda" else [])


def unusable(job):
    """Why the extension that is there doesn't serve, or None."""
    newest = max(path.stat().st_mtime for path in (*SOURCES.rglob("*.*"), ROOT / "setup.py"))
    for name in modules(job):
        found = sorted((ROOT / "ifan_plugin").glob(f"{name}.*so"))
        if not found:
            return f"{name} doesn't exist"
        if found[0].stat().st_mtime < newest:
            return f"{name} is older than its source"
    program = (
        "import sys, torch; from ifan_plugin.ops import iac;"
        "x = torch.ones(1, 2, 4, 4, device=sys.argv[1]); f = torch.ones(1, 28, 4, 4, device=sys.argv[1]);"
        "iac(x, f, 2, backend=sys.argv[1]).sum().item()"
    )
    done = subprocess.run([sys.executable, "-c", program, job["device"]], capture_output=True, text=True, cwd=ROOT)
    return None if done.returncode == 0 else (done.stderr.strip().splitlines() or ["it can't be run"])[-1]


def output_of(command):
    if shutil.which(command[0]) is None:
        return ""
    return subprocess.run(command, capture_output=True, text=True).stdout


# ---------------------------------------------------------------- tests


def tests(job, result):
    """tests/gpu; on a CPU those that IFAN_TEST_DEVICE=cpu leaves."""
    env = os.environ | ({"IFAN_TEST_DEVICE": "cpu"} if job["device"] == "cpu" else {})
    command = [
        sys.executable, "-u", "-m", "pytest", "tests/gpu", "-v", "-rsfE", "--durations=5", "-p", "no:cacheprovider",
    ]  # fmt: skip
    command += [] if job["quick"] else ["-m", "slow or not slow"]
    if job["device"] == "cuda" and importlib.util.find_spec("xdist"):
        command += ["-n", "4"]  # most of the time goes into the expectations, which a CPU makes
        env |= {"OMP_NUM_THREADS": str(max(1, harness.cores() // 8))}
    said = []
    with subprocess.Popen(
        command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as running:
        for line in running.stdout:  # at once, so that the log has them if the stage is stopped
            sys.stdout.write(line)
            sys.stdout.flush()
            said.append(line.rstrip())
    lines = [line for line in said if line] or ["pytest said nothing"]
    counts = dict(
        reversed(pair.split()) for pair in re.findall(r"\d+ (?:passed|failed|skipped|error|deselected)", lines[-1])
    )
    rows = result.table("pytest tests/gpu", ("outcome", "tests"))
    rows += [[name, count] for name, count in counts.items()]
    bad = [line for line in lines if line.startswith(("FAILED ", "ERROR "))]
    if bad:
        rows = result.table("not passed", ("test",))
        rows += [[line] for line in bad]
    skips = [line.partition("] ")[2] for line in lines if line.startswith("SKIPPED")]
    rows = result.table("skipped, and why", ("reason",))
    rows += [[reason] for reason in sorted({re.sub(r"^\S+:\d+: ", "", skip) for skip in skips})]
    result.save()
    if running.returncode != 0:
        raise SystemExit(f"pytest: {lines[-1]}")


# ---------------------------------------------------------------- sanitizer


def sanitizer(job, result):
    """A small selection under each of compute-sanitizer's tools, all at the same time."""
    selection = [sys.executable, str(Path(__file__)), "selection", json.dumps(job)]
    tool = shutil.which("compute-sanitizer") or shutil.which(
        "compute-sanitizer", path="/usr/local/cuda/bin:/usr/local/cuda/compute-sanitizer"
    )
    if job["device"] == "cpu":
        subprocess.run(selection, cwd=ROOT, check=True)
        return result.say("skipped", "it checks GPU kernels; the selection itself ran, on the CPU")
    if tool is None:
        return result.say("skipped", "compute-sanitizer, which comes with the CUDA toolkit, isn't on the PATH")
    # PyTorch's caching allocator would hide errors between its blocks.
    env = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    running = {
        name: subprocess.Popen(
            [tool, "--tool", name, "--print-limit", "20", *selection], cwd=ROOT, env=env,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for name in SANITIZERS
    }  # fmt: skip
    rows = result.table("compute-sanitizer", ("tool", "reports that name our kernels", "its last line"))
    bad = []
    for name, process in running.items():
        said = process.communicate()[0]
        # initcheck also reports what PyTorch's own kernels leave unwritten, so only blocks that name ours count.
        ours = [block for block in re.split(r"\n=========\s*\n", said) if "ifan::" in block and "=========" in block]
        rows.append([name, len(ours), said.strip().splitlines()[-1] if said.strip() else "it said nothing"])
        result.save()
        if ours or process.returncode != 0:
            sys.stdout.write(
                f"{name}: exit status {process.returncode}\n" + "\n".join(ours[:3] or [said[-3000:]]) + "\n"
            )
            bad.append(name)
    if bad:
        raise SystemExit(f"compute-sanitizer: {', '.join(bad)}")


def selection(job, result):
    """Each path forward and backward, float32 and float16, every variant; small, since a sanitizer is slow."""
    import torch

    from ifan_plugin.ops import filter_channels

    device = job["device"]
    shapes = [(1, 2, 9, 14, 3, 3), (1, 1, 9, 14, 2, 5)]
    shapes += [(1, 1, 150, 202, 2, 3), (1, 1, 130, 230, 2, 17)] if device == "cuda" else [(1, 1, 20, 22, 2, 3)]
    variants = ("", "single,serial", "paired,short_passes") if device == "cuda" else ("",)
    for *shape, steps, taps in shapes:
        for dtype in (torch.float32, torch.float16):
            filters = torch.randn(shape[0], filter_channels(shape[1], steps, taps), *shape[2:], device=device)
            x, grad = (torch.randn(shape, device=device).to(dtype) for _ in range(2))
            filters = (filters * taps**-0.5).to(dtype)
            for names in variants:
                os.environ["IFAN_IAC_VARIANTS"] = names
                y, saved = torch.ops.ifan_plugin.iac(x, filters, steps, taps, 0.1, True, False, True)
                grads = torch.ops.ifan_plugin.iac_backward(grad, x, filters, y, saved, steps, taps, 0.1, True, False)
                if not all(bool(torch.isfinite(each).all()) for each in (y, *grads)):
                    raise RuntimeError(f"{shape} {dtype} {names!r}: not finite")
    if device == "cuda":
        for channels, layout in ((8, torch.channels_last), (3, torch.channels_last), (3, torch.contiguous_format)):
            for dtype in (torch.float32, torch.float16):
                x = torch.randn(2, channels, 9, 13, device=device).to(dtype).contiguous(memory_format=layout)
                bias = torch.randn(channels, device=device).to(dtype)
                torch.ops.ifan_plugin.epilogue_(x, bias, x.clone(), x.clone(), 0.1)
                if not bool(torch.isfinite(x).all()):
                    raise RuntimeError(f"epilogue, {channels} channels, {layout}, {dtype}: not finite")
    result.save()


# ---------------------------------------------------------------- the loader and the simulator


def loader(job, result):
    """Samples a second that arrive on the device, against what a training step takes."""
    import benchmark_data
    import benchmark_restore
    import gpu_speed
    import torch
    from torch.utils.data import DataLoader

    device, quick = torch.device(job["device"]), job["quick"] or job["device"] == "cpu"
    scenes, batch = (1, 2) if quick else (3, 8)
    workers = min(12, max(1, harness.cores() - 1)) if device.type == "cuda" else 1
    work = Path(job["work"])
    benchmark_data.prepare(work, scenes, harness.cores(), names=("raw", "patches"))
    rows = result.table(
        "samples of 4 crops of 256 x 256, 16 bit, the paper's augmentation",
        ("reads", "workers", "batch", "samples/s on the device"),
    )
    best = 0.0
    for name in ("raw", "patches"):
        dataset, _ = benchmark_data.build({"contestant": name, "augment": "paper", "work": str(work), "scenes": scenes})
        order = benchmark_data.indices(len(dataset))
        arriving = iter(
            DataLoader(
                dataset, batch_size=batch, num_workers=workers, sampler=order, prefetch_factor=4,
                pin_memory=device.type == "cuda",
            )
        )  # fmt: skip

        def take(arriving=arriving):
            sample = next(arriving)
            return [value.to(device, non_blocking=True) for value in sample.values() if isinstance(value, torch.Tensor)]

        for _ in range(2):
            take()
        start, done = time.perf_counter(), 0
        while time.perf_counter() - start < (1 if quick else 4):
            take()
            done += batch
        if device.type == "cuda":
            torch.cuda.synchronize()
        rate = done / (time.perf_counter() - start)
        best = max(best, rate)
        rows.append([benchmark_data.CONTESTANTS[name], workers, batch, f"{rate:.1f}"])
        result.save()
        del arriving, take
    step = gpu_speed.training_job(job) | {
        "contestant": "ours",
        "precision": "bf16" if device.type == "cuda" else "fp32",
    }
    _, once = benchmark_restore.training(step)
    seconds = gpu_speed.median_seconds(once, job, runs=5)
    wanted = step["batch"] / seconds
    if device.type == "cuda":
        result.bar(
            "the loader keeps a training step of 8 patches, amp, fed",
            f"{wanted:.0f} samples/s",
            f"{best:.0f}",
            best >= wanted,
        )
    rows.append([f"a training step takes ({step['precision']})", None, step["batch"], f"{wanted:.1f}"])
    result.save()


def simulator(job, result):
    """Training data blurred where the network is: the same pictures as on the CPU, and how many a second."""
    import benchmark_simulation
    import cv2
    import numpy as np
    import torch

    from ifan_plugin.data.device_patches import finish
    from ifan_plugin.images.image_io import write_image

    quick = job["quick"] or job["device"] == "cpu"
    folder = Path(job["work"]) / "sharp"
    rng = np.random.default_rng(0)
    for name in "abc":  # structure of every size, as a photograph has
        layers = [cv2.resize(rng.random((side, side, 3)), (640, 640)) for side in (5, 20, 80, 320)]
        write_image(folder / f"{name}.png", np.mean(layers, 0), 8)
    dataset = benchmark_simulation.patches(str(folder), max_coc=12.0, sensor="none")
    samples = torch.utils.data.default_collate([dataset[index] for index in range(3)])
    here, there = finish(samples, "cpu"), finish(samples, job["device"])
    difference = max(float((there[name].cpu() - here[name]).abs().max()) for name in ("lq", "left", "right"))
    result.bar("as on the CPU, largest difference (rounded to 255 levels)", "at most 1/255", f"{difference:.2g}",
               difference <= 1.01 / 255)  # fmt: skip
    rows = result.table(
        "patches of 256 x 256 in batches of 8, blurred on the device",
        ("blur up to, px", "sensor", "ms a patch", "patches/s", "a worker prepares one in, ms"),
    )
    for max_coc in (12.0,) if quick else (12.0, 30.0):
        for sensor in ("none", "random"):
            found = benchmark_simulation.row(str(folder), max_coc, sensor, job["device"], 8 if quick else 64, 8)
            rows.append([
                max_coc, sensor, f"{found['device_ms']:.1f}", f"{found['device_patches_per_s']:.0f}",
                f"{found['worker_ms']:.0f}",
            ])  # fmt: skip
            result.save()


def main():
    name, job = sys.argv[1], json.loads(sys.argv[2])
    import gpu_speed

    part = name in ("selection", "warm_one")  # of another stage
    result = Result(Path(job["work"]) / f"{name}_{os.getpid()}.json" if part else Path(job["result"]))
    stage = globals().get(name) or getattr(gpu_speed, name)
    stage(job, result)
    if gpu_speed.FAULTS:
        result.say("failed", gpu_speed.FAULTS[0])
    result.save()


if __name__ == "__main__":
    main()
