#!/usr/bin/env python
"""Time and memory of the whole network: written plainly, and as it stands here. Restoring a picture, or training.

Both have the same weights and see the same picture, each in a process of its own, in one run: read ratios, not seconds.
"plain" is the network as one writes it first: channels outermost, float32, all the filters made at once by a 1x1
convolution, IAC by unfolding. Writes a Markdown table and JSON: latency, peak memory above the weights, where the time
goes, and the largest difference between the results (before clipping; of another runtime's, after it). openvino and
onnxruntime run the network's export, which is made first where the cache folder (ifan_plugin.export.runtimes) has none.

examples:
  python scripts/benchmark_restore.py                                       # both sizes, on the GPU if there is one
  python scripts/benchmark_restore.py --device cpu --threads 2 --out docs/benchmarks/restore_cpu
  python scripts/benchmark_restore.py --sizes 1280x720 --contestants plain ours ours+compile
  python scripts/benchmark_restore.py --device cpu --contestants ours ours+compile ours+freezing onnxruntime openvino \
      --weights ifan_small --rounds 5 --runs 3 --out docs/benchmarks/restore_runtimes_small
  python scripts/benchmark_restore.py --passes train                        # batch 8 of 256x256, all three losses
  python scripts/benchmark_restore.py --device cuda --precisions fp32 fp16 bf16 --sizes 1280x720 6000x4000
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import itertools
import json
import sys
import time
import types
from pathlib import Path

import harness
from harness import MIB

SIZES = ("1280x720", "1680x1120")
RUNTIMES = ("onnxruntime", "openvino")
COMPILED = ("ours+compile", "ours+freezing")
GRAPHS = "ours+graphs"  # torch.compile into CUDA graphs, its mode reduce-overhead
CONTESTANTS = ("plain", "ours", *COMPILED, GRAPHS, *RUNTIMES)
PRECISIONS = {"fp32": None, "bf16": "bfloat16", "fp16": "float16"}
STAGES = ("feature_extractor", "filter_encoder", "disparity_estimator", "fuse", "trunk", "reconstructor")


def plain_copy(net):  # noqa: C901 (one replacement a branch)
    """The same weights in the plain form."""
    import torch
    from benchmark_iac import unfold_iac
    from torch import nn
    from torch.nn import functional as F

    from ifan_plugin.archs import ifan_arch, ifan_parts, layers
    from ifan_plugin.losses.disparity_loss import area_downsample, warp_by_disparity
    from ifan_plugin.ops.padding import pad_to_multiple

    def residual(self, x):
        out = x
        for unit in self.units:
            out = F.leaky_relu(out + unit(out), layers.NEGATIVE_SLOPE)
        return out + x if len(self.units) > 1 else out

    def encoder(self, image):
        features = [self.level1(image)]
        for level in (self.level2, self.level3, self.level4):
            features.append(level(features[-1]))
        return features

    def reconstructor(self, features, skips):
        out = self.bottleneck(features)
        for up, refine, skip in zip(
            (self.up3, self.up2, self.up1), (self.refine3, self.refine2, self.refine1), reversed(skips), strict=True
        ):
            out = refine(up(out) + skip)
        return self.to_image(out)

    def adaptive(self, x, filters):
        if self.act_last:
            return unfold_iac(x, filters, self.num_steps, self.taps, self.negative_slope, split_once=True)
        # The reblurring network's last step has no activation: undone, since the slope isn't zero.
        result = unfold_iac(x, filters, self.num_steps, self.taps, self.negative_slope, split_once=True)
        return torch.where(result > 0, result, result / self.negative_slope)

    def training_outputs(self, lq, left=None, right=None):
        *skips, features = self.feature_extractor(lq)
        blur = self.filter_encoder(lq)[-1]
        filters = self.filter_predictor(blur, self.disparity_estimator(blur))
        result = lq + self.reconstructor(self.iac(features, filters), skips)
        if right is None:
            return ifan_arch.IFANOutputs(result, filters, None, None, None)
        disparity = self.disparity_estimator(self.filter_encoder(right)[-1])
        warped = warp_by_disparity(area_downsample(right, 8), disparity)
        return ifan_arch.IFANOutputs(result, filters, disparity, warped, area_downsample(left, 8))

    def forward(self, lq):
        result = self.training_outputs(pad_to_multiple(lq, 8)).result[..., : lq.shape[2], : lq.shape[3]]
        return result if self.training else result.clamp(0, 1)

    plain = copy.deepcopy(net)
    forms = {
        layers.ResBlock: residual, layers.Encoder: encoder, ifan_parts.Reconstructor: reconstructor,
        ifan_arch.IAC: adaptive, layers.PointwiseConv: nn.Conv2d.forward, layers.ConvAct: nn.Sequential.forward,
    }  # fmt: skip
    for module in plain.modules():
        if type(module) in forms:
            module.forward = types.MethodType(forms[type(module)], module)
    if isinstance(plain, ifan_arch.IFAN):
        plain.training_outputs = types.MethodType(training_outputs, plain)
        plain.forward = types.MethodType(forward, plain)
    return plain


def networks(job):
    """The contestant's network on its device, and its reblurring network for training."""
    import torch

    from ifan_plugin.archs.ifan_arch import IFAN
    from ifan_plugin.archs.reblur_arch import ReblurNet

    torch.manual_seed(0)
    options = job.get("network", {})
    net = IFAN(**options)
    blurring = ReblurNet(net.filter_channels, **options)
    if job["weights"]:
        from ifan_plugin.weights.networks import load_network

        net = load_network(job["weights"], device="cpu").net.requires_grad_()
    if job["contestant"] == "plain":
        net, blurring = plain_copy(net), plain_copy(blurring)
    return net.to(job["device"]), blurring.to(job["device"])


def picture_of(job, batch=1):
    import torch

    from ifan_plugin.benchmark.profiling import example_picture

    width, height = (int(n) for n in job["size"].split("x"))
    picture = example_picture(3, height, width)
    shifted = [torch.roll(picture, i, dims=3) for i in range(batch)]
    return torch.cat(shifted).to(job["device"])


class Stages:
    """Seconds spent in the network's parts, by hooks; they wait for the GPU, so only one extra run has them."""

    def __init__(self, net, wait):
        self.seconds, self.started, self.wait = {}, {}, wait
        for name, module in net.named_modules():
            stage = name.rpartition(".")[2]
            if stage in STAGES and name.count(".") < 2:
                module.register_forward_pre_hook(lambda *_, s=stage: self._start(s))
                module.register_forward_hook(lambda *_, s=stage: self._stop(s))

    def _start(self, stage):
        self.wait()
        self.started[stage] = time.perf_counter()

    def _stop(self, stage):
        self.wait()
        self.seconds[stage] = self.seconds.get(stage, 0) + time.perf_counter() - self.started[stage]

    def named(self, total):
        """Stage -> seconds, for people; what is in none of them is the filters and IAC."""
        own = self.seconds
        predictor = own.get("fuse", 0) + own.get("trunk", 0)
        found = {
            "feature extractor": own["feature_extractor"],
            "filter encoder": own["filter_encoder"],
            "disparity": own["disparity_estimator"],
            "filter predictor's trunk": predictor,
            "filters and IAC": total - sum(own.values()),
            "reconstructor": own["reconstructor"],
        }
        return {name: round(seconds, 4) for name, seconds in found.items()}


def waiting(device):
    """Waits until the GPU is done; nothing on a CPU."""
    import torch

    return torch.cuda.synchronize if device == "cuda" else lambda: None


def autocast(job):
    import torch

    dtype = amp_dtype(job)
    return torch.autocast(job["device"], dtype or torch.bfloat16, enabled=dtype is not None)


def amp_dtype(job):
    import torch

    name = PRECISIONS[job["precision"]]
    return None if name is None else getattr(torch, name)


def restoring(job):
    """One call restores the picture. (network, function)"""
    import torch
    import torch._inductor.config

    from ifan_plugin.export.runtimes import running_on
    from ifan_plugin.weights.networks import Network

    net = networks(job)[0].eval()
    picture = picture_of(job)
    run = net
    if job["contestant"] in RUNTIMES:
        run = running_on(Network(net, ("center",), "IFAN", None, ""), job["contestant"]).program
    elif job["contestant"] in (*COMPILED, GRAPHS):
        torch._inductor.config.freezing = job["contestant"] == "ours+freezing"
        run = torch.compile(net, mode="reduce-overhead" if job["contestant"] == GRAPHS else None)

    def once():
        with torch.no_grad(), autocast(job):
            return run(picture)

    if job["contestant"] == "ours" and job["device"] == "cuda":
        from ifan_plugin.inference import run_network

        def once():
            return run_network(net, picture, precision=job["precision"], fixed=True)

    return net, once


def training(job):
    """One call is a step of the whole recipe but for reading data: three losses, backward, clipping, Adam."""
    import torch
    from torch.nn import functional as F

    from ifan_plugin.losses.disparity_loss import DisparityLoss
    from ifan_plugin.losses.reblur_loss import ReblurLoss
    from ifan_plugin.models.training_step import TrainingStep

    step = TrainingStep(*networks(job), with_disparity=True, amp_dtype=amp_dtype(job)).train()
    lq, sharp, left, right = (picture_of(job, job["batch"]).roll(i, 2) for i in range(4))
    parameters = list(step.parameters())
    optimizer = torch.optim.Adam(parameters, lr=1e-6)  # small: the values shouldn't run away in a benchmark
    disparity_loss, reblur_loss = DisparityLoss(), ReblurLoss()
    if job["contestant"] in (*COMPILED, GRAPHS):
        step.compile(mode="reduce-overhead" if job["contestant"] == GRAPHS else None)

    def once():
        optimizer.zero_grad(set_to_none=True)
        outputs = step(lq, sharp, left, right)
        loss = F.mse_loss(outputs["result"], sharp)
        loss = loss + disparity_loss(outputs["warped_right"], outputs["left_small"])
        loss = loss + reblur_loss(outputs["reblurred"], lq)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 0.5)
        optimizer.step()
        return loss.detach()

    return step.net_g, once


def measure(job):
    """Run one contestant in this process: seconds of each run, peak memory in bytes, seconds by stage."""
    import torch

    from ifan_plugin.inference.memory import PeakMemory

    torch.set_num_threads(job["threads"])
    restores = job["pass"] == "restore"
    net, once = (restoring if restores else training)(job)
    wait = waiting(job["device"])
    memory = PeakMemory(torch.device(job["device"]))
    first = once()
    peak = memory.growth()
    if job["contestant"] == GRAPHS:  # the first call warms up, the second one records, and what is recorded is held
        before = torch.cuda.memory_reserved() if job["device"] == "cuda" else 0
        once()
        once()
        peak += torch.cuda.memory_reserved() - before if job["device"] == "cuda" else 0
    seconds, end = [], time.perf_counter() + job["budget"]
    while len(seconds) < job["runs"] and (len(seconds) < 3 or time.perf_counter() < end):
        start = time.perf_counter()
        once()
        wait()
        seconds.append(time.perf_counter() - start)
    result = {"seconds": seconds, "peak": peak}
    if not restores:
        result["loss"] = float(first)  # of the first step: the forms must agree on it
    copied = job["device"] == "cuda" and job["precision"] != "fp32"  # its modules aren't those that are watched
    if restores and (job["contestant"] == "plain" or (job["contestant"] == "ours" and not copied)):
        stages = Stages(net, wait)
        start = time.perf_counter()
        once()
        wait()
        result["stages"] = stages.named(time.perf_counter() - start)
    return result


def difference(job):
    """The largest difference of a contestant's result from the plain form's in float32, before clipping where the
    contestant doesn't clip by itself."""
    import torch

    torch.set_num_threads(job["threads"])
    results = []
    for form in ({"contestant": "plain", "precision": "fp32"}, {}):
        net, once = restoring(job | form)
        net.train(job["device"] != "cuda")  # the result isn't clipped then; nothing else changes
        for _ in range(3 if (job | form)["contestant"] == GRAPHS else 1):  # the first two aren't replays
            found = once()
        results.append(found.float().cpu())
        del net, once, found
    plain, other = results
    if job["contestant"] in RUNTIMES or job["device"] == "cuda":  # what runs there ends with clipping
        plain = plain.clamp(0, 1)
    mse = float((plain.clamp(0, 1) - other.clamp(0, 1)).square().mean())
    return {"difference": float((plain - other).abs().max()), "mse": mse, "largest": float(plain.abs().max())}


def turns_of(jobs, rounds, measured):
    """Each job, and what was measured of it, size by size; the contestants of one take turns."""
    for _, group in itertools.groupby(jobs, key=lambda job: (job["pass"], job["size"])):
        group = list(group)
        found = [measured(job) for job in group]
        for _ in range(rounds - 1):
            for first, job in zip(found, group, strict=True):
                more = {} if "error" in first else measured(job)
                if "error" in more:
                    first.clear()
                    first.update(more)
                elif more:
                    first["seconds"] += more["seconds"]
                    first["peak"] = max(first["peak"], more["peak"])
        yield from zip(group, found, strict=True)


def markdown(result):
    """The tables for people."""
    against = result["rows"][0]["contestant"]  # plain, where it takes part
    lines = [
        "# The whole network: time and memory",
        "",
        f"{result['network']}. {harness.described(result['machine'])}.",
        "Times are medians, the spread is (max - min) / median; memory is the peak above weights and input. The",
        "difference is the largest one between the result, before clipping, and the plain form's in float32.",
        "",
        f"| pass | size | contestant | s | spread | faster than {against} | memory, MiB | of {against} | difference |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    bases = {
        (r["pass"], r["size"]): r for r in result["rows"] if r["contestant"] == against and r["precision"] == "fp32"
    }
    for row in result["rows"]:
        name = row["contestant"] + (f", {row['precision']}" if row["precision"] != "fp32" else "")
        start = f"| {row['pass']} | {row['size']} | {name} "
        if "error" in row:
            lines.append(f"{start}| failed: {row['error'].replace('|', '/')} | | | | | |")
            continue
        base = bases.get((row["pass"], row["size"]))
        faster = share = ""
        if base is not None and "median" in base:
            faster = f"{base['median'] / row['median']:.2f}x"
            share = f"{row['peak'] / base['peak']:.0%}" if base["peak"] > MIB else "–"  # too little to be compared
        differs = f"{row['difference']:.1e}" if "difference" in row else ""
        lines.append(
            f"{start}| {row['median']:.3f} | {row['spread']:.0%} | {faster} | {row['peak'] / MIB:.0f} | {share} "
            f"| {differs} |"
        )
    staged = [row for row in result["rows"] if "stages" in row]
    if staged:
        names = list(staged[0]["stages"])
        lines += ["", "Where the time goes, seconds of one more run:", ""]
        lines += [f"| size | contestant | {' | '.join(names)} |", f"|---|---|{'---|' * len(names)}"]
        for row in staged:
            name = row["contestant"] + (f", {row['precision']}" if row["precision"] != "fp32" else "")
            values = " | ".join(f"{row['stages'][stage]:.3f}" for stage in names)
            lines.append(f"| {row['size']} | {name} | {values} |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog=__doc__.partition("\n\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: cuda where there is one")
    parser.add_argument("--threads", type=int, default=harness.cores(), help="CPU threads (default: all)")
    parser.add_argument("--passes", nargs="+", default=["restore"], choices=["restore", "train"])
    parser.add_argument("--sizes", nargs="+", default=SIZES, metavar="WIDTHxHEIGHT", help="of the picture to restore")
    parser.add_argument("--batch", type=int, default=8, help="patches of 256x256 in a training step (default: 8)")
    parser.add_argument("--contestants", nargs="+", default=CONTESTANTS[:2], choices=CONTESTANTS)
    parser.add_argument(
        "--precisions", nargs="+", default=["fp32"], choices=PRECISIONS,
        help="of ours; plain is float32 (default: fp32; bf16 is slow on CPUs that have no instructions for it)",
    )  # fmt: skip
    parser.add_argument("--weights", help="an IFAN's checkpoint (default: the paper's size, random weights)")
    parser.add_argument("--runs", type=int, default=5, help="timed runs each (default: 5)")
    parser.add_argument(
        "--rounds", type=int, default=1,
        help="times that the contestants take turns at a size, with so many runs each: what the machine does in the "
        "meantime meets all of them (default: 1)",
    )  # fmt: skip
    parser.add_argument("--budget", type=float, default=60, help="seconds after which 3 runs are enough (default: 60)")
    parser.add_argument("--timeout", type=float, default=900, help="seconds after which a contestant is given up")
    parser.add_argument("--out", type=Path, help="write OUT.md and OUT.json")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job:
        job = json.loads(args.job)
        sys.stdout.write(json.dumps((difference if job.get("differ") else measure)(job)) + "\n")
        return
    import torch

    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    common = {
        "device": device, "threads": args.threads, "runs": args.runs, "budget": args.budget, "batch": args.batch,
        "weights": args.weights,
    }  # fmt: skip
    for name in set(RUNTIMES).intersection(args.contestants):
        if importlib.util.find_spec(name) is None or device != "cpu" or "train" in args.passes:
            print(f"{name} is left out: not installed, or not restoring on a CPU", file=sys.stderr)
            args.contestants = [other for other in args.contestants if other != name]
    network = f"IFAN of {args.weights}" if args.weights else "IFAN of the paper's size, random weights"
    result = {"device": device, "network": network, "machine": harness.machine(device, args.threads), "rows": []}
    jobs = [
        {"pass": p, "size": s, "contestant": c, "precision": precision}
        for p in args.passes for s in (args.sizes if p == "restore" else ["256x256"])
        for c in args.contestants for precision in (["fp32"] if c in ("plain", *RUNTIMES) else args.precisions)
    ]  # fmt: skip
    turns = turns_of(jobs, args.rounds, lambda job: harness.in_process(__file__, common | job, args.timeout))
    for number, (job, found) in enumerate(turns, 1):
        row = harness.summarise(job | found)
        if job["pass"] == "restore" and job["contestant"] != "plain" and "median" in row:
            found = harness.in_process(__file__, common | job | {"differ": True}, args.timeout)
            row |= {key: value for key, value in found.items() if key != "error"}
        result["rows"].append(row)
        shown = f"{row['median']:.3f} s" if "median" in row else f"failed: {row['error']}"
        name = f"{job['pass']} {job['size']} {job['contestant']} {job['precision']}"
        print(f"[{number}/{len(jobs)}] {name}: {shown}", file=sys.stderr)
        if args.out:  # after each row: an interrupted run keeps what it has
            harness.write(result, markdown(result), args.out)
    print(markdown(result))
    if not any("median" in row for row in result["rows"]):
        sys.exit("nothing could be measured")


if __name__ == "__main__":
    main()
