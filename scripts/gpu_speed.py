"""The stages of gpu_check.py that measure speed and memory; gpu_stages.py runs them. Read ratios, not milliseconds."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import benchmark_iac
import benchmark_restore
import harness
from harness import MIB

LARGE, MIDDLE, SMALL = "1x128x140x210", "1x128x90x160", "8x128x32x32"
NETWORK_SIZE = "1280x720"  # that torch.compile is measured with
HALVES = ("float16", "bfloat16")
FORWARD, BOTH = benchmark_iac.PASSES


def on_gpu(job):
    return job["device"] == "cuda"


def sizes_of(job):
    """Of the operator."""
    if not on_gpu(job):
        return ("1x8x24x20", "2x8x16x16")
    return (LARGE, SMALL) if job["quick"] else (LARGE, MIDDLE, SMALL)


def iac_job(job):
    return {
        "device": job["device"], "threads": harness.cores(), "runs": 7 if job["quick"] else 25, "budget": 2,
        "steps": benchmark_iac.STEPS if on_gpu(job) else 3,
    }  # fmt: skip


def network_job(job):
    """A small network on a CPU, which only rehearses."""
    common = {
        "device": job["device"],
        "threads": harness.cores(),
        "runs": 3 if job["quick"] else 7,
        "budget": 4,
        "weights": None,
    }
    small = {"width": 8, "num_steps": 3, "res_units": 1}
    return common | {"pass": "restore", "precision": "fp32", "network": {} if on_gpu(job) else small}


def training_job(job):
    return network_job(job) | {
        "pass": "train",
        "size": "256x256" if on_gpu(job) else "64x64",
        "batch": 8 if on_gpu(job) else 2,
    }


FAULTS = []  # of rows that failed, but not for want of memory: such a row is a finding, these make the stage fail


def run(function, job):
    """A row's figures, or {"error": …}."""
    row = harness.summarise(harness.in_this_process(function, job))
    if "error" in row and "out of memory" not in row["error"]:
        FAULTS.append(row["error"])
    return row


def median_seconds(once, job, runs):
    """Of one call, the device waited for."""
    wait = benchmark_restore.waiting(job["device"])
    seconds = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        once()
        wait()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def ms(row):
    return f"{row['median'] * 1e3:.3f}" if "median" in row else f"failed: {row['error']}"


def mib(row):
    return f"{row['peak'] / MIB:.0f}" if row.get("peak") is not None else None


def ratio(base, row):
    """How many times quicker than `base`."""
    return base["median"] / row["median"] if base and "median" in base and "median" in row else None


def times(value):
    return "" if value is None else f"{value:.2f}x"


# ---------------------------------------------------------------- the operator


def iac(job, result):
    """The operator in every type against the unfolded forms in float32."""
    bandwidth = run(benchmark_iac.bandwidth, iac_job(job))["bandwidth"]
    rows = result.table(
        "time and memory",
        ("size", "type", "pass", "form", "ms", "spread", "slower than compiled", "faster than float32", "MiB", "share"),
        [
            f"N = {iac_job(job)['steps']}, k = {benchmark_iac.TAPS}. Share: the least traffic (forward reads the "
            "filters once, backward again and writes their gradient) over the time, to the "
            f"{'copy' if on_gpu(job) else 'read'} bandwidth measured in this run, {bandwidth / 1e9:.0f} GB/s."
        ],
    )
    found = {}
    types = ("float32", "float16") if job["quick"] else ("float32", *HALVES)
    for size in sizes_of(job):
        for dtype in types:
            for which in (FORWARD, BOTH):
                for form in ("compiled", "unfold", "unfold+split") if dtype == "float32" else ("compiled",):
                    where = {"size": size, "dtype": dtype, "pass": which, "contestant": form}
                    row = run(benchmark_iac.measure, iac_job(job) | where)
                    found[size, dtype, which, form] = row
                    base = found[size, dtype, which, "compiled"]
                    single = found[size, "float32", which, form]
                    share = f"{row['traffic'] / row['median'] / bandwidth:.0%}" if "median" in row else ""
                    spread = f"{row['spread']:.0%}" if "median" in row else ""
                    rows.append(
                        [
                            size,
                            dtype,
                            which,
                            form,
                            ms(row),
                            spread,
                            times(ratio(row, base)),
                            times(ratio(single, row)),
                            mib(row),
                            share,
                        ]
                    )
                    result.save()
    if on_gpu(job):
        iac_bars(sizes_of(job), types, found, bandwidth, result)


def iac_bars(sizes, types, found, bandwidth, result):
    for size in sizes:
        forward, both = (found[size, "float32", which, "compiled"] for which in (FORWARD, BOTH))
        if "median" not in forward or "median" not in both:
            continue
        if size != SMALL:
            share = forward["traffic"] / forward["median"] / bandwidth
            result.bar(f"IAC forward, {size}, share of the copy bandwidth", "85 %", f"{share:.0%}", share >= 0.85)
            backward = (both["traffic"] - forward["traffic"]) / (both["median"] - forward["median"]) / bandwidth
            result.bar(
                f"IAC backward, {size}, share of the copy bandwidth", "65 %", f"{backward:.0%}", backward >= 0.65
            )
        for which in (FORWARD, BOTH):
            base = found[size, "float32", which, "compiled"]
            factor = ratio(found[size, "float32", which, "unfold"], base)
            if factor is not None:
                result.bar(f"IAC {which}, {size}, against unfold", "10x", times(factor), factor >= 10)
            for dtype in types[1:]:
                factor = ratio(base, found[size, dtype, which, "compiled"])
                if factor is not None:
                    result.bar(f"IAC {which}, {size}, {dtype} against float32", "1.7x", times(factor), factor >= 1.7)


def variants(job, result):
    """The kernels' variants against today's form."""
    if not on_gpu(job):
        return result.say(
            "skipped", "they are of the CUDA kernels; tests/ops/test_cuda_variants.py has their arithmetic"
        )
    rows = result.table(
        "against the form that the plan takes",
        ("size", "type", "pass", "variants", "ms", "spread", "faster"),
        ["IFAN_IAC_VARIANTS chooses them; what they are: iac_cuda_plan.hpp."],
    )
    for size in sizes_of(job):
        for dtype in ("float32", "float16"):
            for which in (FORWARD, BOTH):
                base = None
                for form in benchmark_iac.variants_of(dtype):
                    names = form.partition(":")[2]
                    of_backward = "tiles" in names or "paired" in names
                    if (which == BOTH and "single" in names) or (which == FORWARD and of_backward):
                        continue  # of the forward or the backward kernels alone
                    where = {"size": size, "dtype": dtype, "pass": which, "contestant": form}
                    row = run(benchmark_iac.measure, iac_job(job) | where)
                    base = base or row
                    spread = f"{row['spread']:.0%}" if "median" in row else ""
                    rows.append([size, dtype, which, names or "none", ms(row), spread, times(ratio(base, row))])
                result.save()


# ---------------------------------------------------------------- the network


def network(job, result):
    """Restoring a picture, in all precisions; the plain form in float32."""
    rows = result.table(
        "restoring a picture",
        ("size", "form", "ms", "spread", "faster than plain", "MiB", "difference"),
        ["Difference: the largest one from the plain form in float32, values in [0, 1]."],
    )
    sizes = ("1280x720", "1680x1120", "6000x4000") if on_gpu(job) else ("96x64",)
    if job["quick"]:
        sizes = sizes[:1]
    for size in sizes:
        plain = None
        forms = [("plain", "fp32")] if size != "6000x4000" else []  # its filters alone take 23 GB, and copies of them
        forms += [("ours", precision) for precision in (("fp32", "bf16", "fp16") if on_gpu(job) else ("fp32", "bf16"))]
        for form, precision in forms:
            where = network_job(job) | {"size": size, "contestant": form, "precision": precision}
            row = run(benchmark_restore.measure, where)
            plain = row if form == "plain" else plain
            differs = None
            if form == "ours" and size == sizes[0] and "median" in row:
                differs = run(benchmark_restore.difference, where).get("difference")
            spread = f"{row['spread']:.0%}" if "median" in row else ""
            rows.append(
                [size, f"{form}, {precision}", ms(row), spread, times(ratio(plain, row)), mib(row),
                 f"{differs:.1e}" if differs is not None else None]
            )  # fmt: skip
            result.save()
            network_bars(size, form, precision, ratio(plain, row), row, result)


def network_bars(size, form, precision, faster, row, result):
    wanted = {("1280x720", "fp32"): 2, ("1280x720", "fp16"): 5}.get((size, precision))
    if form != "plain" and wanted and faster is not None:
        how = ", as a CUDA graph" if form == benchmark_restore.GRAPHS else ""
        result.bar(
            f"network, {size}, {precision}{how}, against plain in float32",
            f"{wanted}x",
            times(faster),
            faster >= wanted,
        )
    if size == "6000x4000" and row.get("peak") is not None:
        result.bar(f"24 megapixels, {precision}", "below 12 GB", f"{row['peak'] / 1e9:.1f} GB", row["peak"] < 12e9)


def training(job, result):
    """A step of the whole recipe but for reading data."""
    step = training_job(job)
    rows = result.table(
        f"a training step, {step['batch']} patches of {step['size']}",
        ("form", "ms", "spread", "faster than plain", "MiB", "loss of the first step"),
    )
    plain = None
    forms = [("plain", "fp32"), ("ours", "fp32"), ("ours", "bf16")]
    if on_gpu(job):
        forms += [("ours", "fp16"), *([] if job["quick"] else [(benchmark_restore.GRAPHS, "bf16")])]
    for form, precision in forms:
        row = run(benchmark_restore.measure, step | {"contestant": form, "precision": precision})
        plain = plain or row
        spread = f"{row['spread']:.0%}" if "median" in row else ""
        loss = f"{row['loss']:.4f}" if "loss" in row else None
        rows.append([f"{form}, {precision}", ms(row), spread, times(ratio(plain, row)), mib(row), loss])
        result.save()
        faster = ratio(plain, row)
        if on_gpu(job) and precision == "bf16" and faster is not None:
            how = ", compile: reduce-overhead" if form != "ours" else ""
            result.bar(f"a training step with amp (bf16{how}) against plain", "2x", times(faster), faster >= 2)


# ---------------------------------------------------------------- torch.compile, CUDA graphs


def compiled_forms(job):
    for size in (size for size in sizes_of(job) if size != MIDDLE):  # each takes half a minute to compile
        for which in (FORWARD, BOTH) if not job["quick"] else (FORWARD,):
            yield {"size": size, "dtype": "float32", "pass": which}


def warm(job, result):
    """Compile what `compile` measures; on disk it is found by later processes. Each in a process of its own, some at
    once: a program takes half a minute to compile, and tests run beside it."""
    rows = result.table("made by torch.compile", ("what", "s"))
    forms = [where | {"what": f"twin, {where['size']}, {where['pass']}"} for where in compiled_forms(job)]
    if on_gpu(job) and not job["quick"]:
        networks = [{"what": f"network, {NETWORK_SIZE}, {name}", "precision": name} for name in ("fp32", "fp16")]
        forms = [{"what": "training, bf16", "precision": "bf16"}, *networks, *forms]

    def one(form):
        start = time.perf_counter()
        command = [sys.executable, str(Path(__file__).with_name("gpu_stages.py")), "warm_one"]
        done = subprocess.run(
            [*command, json.dumps(job | {"form": form})], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env=os.environ | {"TORCHINDUCTOR_COMPILE_THREADS": "2"},
        )  # fmt: skip
        sys.stdout.write(done.stdout)
        failed = done.stdout.strip().splitlines()[-1:] or ["it said nothing"] if done.returncode else []
        with lock:
            FAULTS.extend(f"{form['what']}: {reason}" for reason in failed)
            rows.append([form["what"], failed[0] if failed else f"{time.perf_counter() - start:.1f}"])
            result.save()

    lock = threading.Lock()
    with ThreadPoolExecutor(max(1, harness.cores() // 5)) as pool:
        list(pool.map(one, forms))


def warm_one(job, result):
    """One of `warm`'s programs."""
    form = job["form"]
    brief = {"runs": 2, "budget": 0}
    if "precision" in form:
        of = training_job(job) if form["what"].startswith("training") else network_job(job) | {"size": NETWORK_SIZE}
        where = of | brief | {"contestant": benchmark_restore.GRAPHS, "precision": form["precision"]}
        row = run(benchmark_restore.measure, where)
    else:
        row = run(benchmark_iac.measure, iac_job(job) | form | brief | {"contestant": "twin+compile"})
    if "error" in row:
        sys.exit(row["error"])


def compile(job, result):
    """torch.compile of the operator's twin, and of the network with the compiled operator in it."""
    rows = result.table("the operator", ("size", "pass", "form", "ms", "spread", "slower than compiled"))
    for where in compiled_forms(job):
        base = None
        for form in ("compiled", "twin+compile"):
            row = run(benchmark_iac.measure, iac_job(job) | where | {"contestant": form})
            base = base or row
            spread = f"{row['spread']:.0%}" if "median" in row else ""
            rows.append([where["size"], where["pass"], form, ms(row), spread, times(ratio(row, base))])
            result.save()
        factor = ratio(row, base)
        if on_gpu(job) and factor is not None:
            what = f"IAC {where['pass']}, {where['size']}, against torch.compile"
            result.bar(what, "ahead", times(factor), factor > 1)
    if job["quick"] and on_gpu(job):
        return
    size = NETWORK_SIZE if on_gpu(job) else "96x64"
    columns = ("size", "form", "ms", "faster than the first", "MiB", "all of it, s", "difference")
    rows = result.table("the network", columns, ["graphs: torch.compile's mode reduce-overhead."])
    graphs = benchmark_restore.GRAPHS
    forms = [("plain", "fp32"), ("ours", "fp32"), (graphs, "fp32"), (graphs, "fp16")]
    base = None
    for form, precision in forms if on_gpu(job) else [("ours", "fp32"), ("ours+compile", "fp32")]:
        where = network_job(job) | {"size": size, "contestant": form, "precision": precision}
        start = time.perf_counter()
        row = run(benchmark_restore.measure, where)
        took = time.perf_counter() - start
        base = base or row
        differs = None if form in ("plain", "ours") else run(benchmark_restore.difference, where).get("difference")
        rows.append(
            [size, f"{form}, {precision}", ms(row), times(ratio(base, row)), mib(row), f"{took:.0f}",
             f"{differs:.1e}" if differs is not None else None]
        )  # fmt: skip
        result.save()
        if form == graphs:
            network_bars(size, form, precision, ratio(base, row), row, result)


def graphs(job, result):
    """What a CUDA graph saves: starting 17 or some hundred kernels."""
    if not on_gpu(job):
        return result.say("skipped", "CUDA graphs need a CUDA device")
    import torch

    from ifan_plugin.ops import iac as operator

    rows = result.table("eager and replayed", ("what", "eager, ms", "graph, ms", "faster", "equal"))
    calls = []
    for size in sizes_of(job):
        batch, channels, height, width = (int(n) for n in size.split("x"))
        x = torch.randn(batch, channels, height, width, device="cuda")
        filters = torch.randn(batch, benchmark_iac.STEPS * channels * 7, height, width, device="cuda") * 0.2
        calls.append((f"operator, {size}", lambda x=x, f=filters: operator(x, f, benchmark_iac.STEPS)))
    for precision in ("fp32", "fp16"):
        where = network_job(job) | {"size": "1280x720", "contestant": "ours", "precision": precision}
        calls.append((f"network, 1280x720, {precision}", benchmark_restore.restoring(where)[1]))
    for what, once in calls:
        with torch.no_grad():
            eager = statistics.median(harness.timed_on_gpu(once, 15, 2))
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                once()
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                replayed = once()
            seconds = statistics.median(harness.timed_on_gpu(graph.replay, 15, 2))
            equal = torch.equal(replayed, once())
        rows.append(
            [what, f"{eager * 1e3:.3f}", f"{seconds * 1e3:.3f}", times(eager / seconds), "yes" if equal else "no"]
        )
        result.save()
        del graph, replayed
