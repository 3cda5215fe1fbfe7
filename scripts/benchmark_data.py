#!/usr/bin/env python
"""Training samples a second that one worker makes: the host's PNG reading, and ours from PNG, PNG in LMDB, raw LMDB.

A sample is 4 pictures (centre, left, right, target) of 1680x1120 in 16 bit, and a 256 crop of each; the host's
PairedImageDataset reads 2, so its time is given for 4. Everything is measured in one run on one machine, each
contestant in a process of its own with one thread, so read ratios, not milliseconds. The pictures are made here:
photographs that come with scikit-image, enlarged, with noise as fine as a camera's, so that their PNG are as large
as real ones. Writes a Markdown table and JSON, losses beside wins.

examples:
  python scripts/benchmark_data.py                                     # everything, in a temporary folder
  python scripts/benchmark_data.py --out docs/benchmarks/data
  python scripts/benchmark_data.py --work ~/bench --runs 3 --seconds 1 --contestants host raw   # keeps the pictures
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import harness

HEIGHT, WIDTH, PATCH = 1120, 1680, 256
PICTURES = 4
CONTESTANTS = {
    "host": "host's PairedImageDataset, PNG folders",
    "folders": "ours, PNG folders",
    "png": "ours, whole PNG in LMDB",
    "patches": "ours, 512 patches as PNG in LMDB",
    "raw": "ours, raw LMDB",
}
BARS = {("raw", "none"): 150, ("raw", "paper"): 50, ("patches", "none"): 4, ("patches", "paper"): 4}
FOLDERS = {"center": "train_c/source", "left": "train_l/source", "right": "train_r/source", "target": "train_c/target"}
MIB = 2**20


def write_pictures(root, scenes):
    """Pictures in DPDD's layout, 16-bit PNG; the files of one scene have one name, for the host pairs by name."""
    import cv2
    import numpy as np
    from skimage import data

    photos = [data.astronaut(), data.coffee(), data.chelsea(), data.rocket(), *data.stereo_motorcycle()[:2]]
    rng = np.random.default_rng(0)
    for number in range(scenes):
        photo = photos[number % len(photos)].astype(np.float32) / 255
        sharp = cv2.resize(photo, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
        blurred = cv2.GaussianBlur(sharp, (0, 0), 3)
        views = {"center": blurred, "left": np.roll(blurred, 2, 1), "right": np.roll(blurred, -2, 1), "target": sharp}
        for role, picture in views.items():
            path = root / FOLDERS[role] / f"scene{number:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            noisy = picture + 0.004 * rng.standard_normal(picture.shape, dtype=np.float32)
            pixels = np.rint(noisy.clip(0, 1)[..., ::-1] * 65535).astype(np.uint16)
            if not cv2.imwrite(str(path), pixels):
                raise OSError(f"{path}: can't be written")


def prepare(work, scenes, workers, names=("png", "patches", "raw")):
    """Pictures and the databases named in ``work``; what is there already is taken as it is."""
    from ifan_plugin.data.lmdb.create import create
    from ifan_plugin.data.lmdb.patches import Patches

    pictures = work / f"pictures_{scenes}"
    if not pictures.exists():
        say(f"making {scenes * PICTURES} pictures in {pictures}")
        aside = work / f"pictures_{scenes}.partial"
        write_pictures(aside, scenes)
        aside.rename(pictures)
    for name, how in (
        ("png", {"encoding": "png"}),
        ("patches", {"encoding": "png", "cut": Patches(size=512)}),
        ("raw", {"encoding": "raw"}),
    ):
        if name not in names:
            continue
        say(f"LMDB: {name}")
        create(work / f"{name}_{scenes}", layout="dpdd", root=pictures, splits=["train"], workers=workers, **how)
    return pictures


def build(job):
    """The data set of a job, and how many pictures a sample has."""
    work, scenes = Path(job["work"]), job["scenes"]
    pictures = work / f"pictures_{scenes}"
    if job["contestant"] == "host":
        from ifan_plugin.host.importing import prepare

        prepare()
        from basicsr.data.paired_image_dataset import PairedImageDataset

        folders = {"dataroot_lq": str(pictures / FOLDERS["center"]), "dataroot_gt": str(pictures / FOLDERS["target"])}
        common = {"phase": "train", "scale": 1, "gt_size": PATCH, "use_hflip": False, "use_rot": False}
        return PairedImageDataset({**common, **folders, "io_backend": {"type": "disk"}}), 2
    from ifan_plugin.data.dual_pixel_dataset import DualPixelDataset

    options = {
        "phase": "train", "name": "benchmark", "bit_depth": 16, "patch_size": PATCH,
        "views": ["center", "left", "right"], "augment": job["augment"] == "paper",
    }  # fmt: skip
    if job["contestant"] == "folders":
        place = {"layout": "dpdd", "dataroot": str(pictures)}
    else:
        place = {"layout": "lmdb", "dataroot": str(work / f"{job['contestant']}_{scenes}")}
    return DualPixelDataset(options | place), PICTURES


def files_of(job):
    """The files a job reads."""
    work, scenes = Path(job["work"]), job["scenes"]
    if job["contestant"] in ("host", "folders"):
        return sorted((work / f"pictures_{scenes}").rglob("*.png"))
    return sorted((work / f"{job['contestant']}_{scenes}").rglob("data.mdb"))


def measure(job):
    """Run one job in this process."""
    import cv2
    import torch

    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    dataset, pictures = build(job)
    return {"warm": warm, "cold": cold, "loader": loader, "memory": memory}[job["mode"]](job, dataset, pictures)


def indices(count):
    """Samples without end, each with dice of its own; to the host they are plain numbers."""
    from ifan_plugin.data.sampler import EpochIndex

    for position in itertools.count():
        yield EpochIndex(position % count, 0, position)


def fill_cache(job):
    for path in files_of(job):
        with open(path, "rb") as file:
            while file.read(16 * MIB):
                pass


def warm(job, dataset, pictures):
    """Seconds a picture in each of several runs, files in the page cache."""
    fill_cache(job)
    order = indices(len(dataset))
    for _ in range(2 if job["contestant"] in ("host", "folders", "png") else job["warmup"]):
        dataset[next(order)]
    seconds, samples = [], 0
    for _ in range(job["runs"]):
        start = time.perf_counter()
        done = 0
        while time.perf_counter() - start < job["seconds"] or done < 3:
            dataset[next(order)]
            done += 1
        seconds.append((time.perf_counter() - start) / done / pictures)
        samples += done
    return {"seconds": seconds, "samples": samples}


def cold(job, dataset, pictures):
    """As :func:`warm`, but before each sample its files leave the page cache, for which an LMDB must be closed."""
    order = indices(len(dataset))
    handles = [os.open(path, os.O_RDONLY) for path in files_of(job)]
    dataset[next(order)]
    seconds = []
    deadline = time.perf_counter() + job["seconds"] * job["runs"]
    while time.perf_counter() < deadline or len(seconds) < 3:
        for database in getattr(getattr(dataset, "_source", None), "_pictures", {}).values():
            database.close()
        for handle in handles:
            os.fdatasync(handle)  # only clean pages leave
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        start = time.perf_counter()
        dataset[next(order)]
        seconds.append((time.perf_counter() - start) / pictures)
    return {"seconds": seconds, "samples": len(seconds)}


def loader(job, dataset, pictures):
    """Seconds a picture through a DataLoader with one worker and batches of 8: collating and passing on included."""
    from torch.utils.data import DataLoader

    fill_cache(job)
    order = indices(len(dataset))
    arriving = iter(DataLoader(dataset, batch_size=8, num_workers=1, sampler=order, prefetch_factor=2))
    for _ in range(4):
        next(arriving)
    seconds, samples = [], 0
    for _ in range(job["runs"]):
        start = time.perf_counter()
        done = 0
        while time.perf_counter() - start < job["seconds"] or done < 1:
            next(arriving)
            done += 1
        seconds.append((time.perf_counter() - start) / (8 * done) / pictures)
        samples += 8 * done
    return {"seconds": seconds, "samples": samples}


def memory(job, dataset, pictures):
    """Memory after 100 and after ``memory_samples`` samples: the process's own, and pages mapped from files."""
    order, found = indices(len(dataset)), {}
    for done in range(1, job["memory_samples"] + 1):
        dataset[next(order)]
        if done in (100, job["memory_samples"]):
            lines = Path("/proc/self/status").read_text().splitlines()
            fields = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith("Rss")}
            found[done] = {"own": int(fields["RssAnon"]) * 1024, "files": int(fields["RssFile"]) * 1024}
    return {"memory": found}


def in_process(job, timeout):
    """Run a job in a fresh process; its result, or {"error": …}."""
    return harness.in_process(__file__, {"threads": 1, **job}, timeout)


def machine():
    """What the figures hold for."""
    import cv2
    import lmdb
    import numpy
    import torch

    import ifan_plugin
    from ifan_plugin.common.machine import processor

    return {
        "date": date.today().isoformat(),
        "CPU": f"{processor()}, {harness.cores()} cores, 1 thread used",
        "opencv": cv2.__version__,
        "lmdb": lmdb.__version__,
        "numpy": numpy.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "ifan_plugin": ifan_plugin.__version__,
    }


TITLES = {
    "warm": "Page cache warm, one worker",
    "cold": "Page cache cold: before each sample the files' pages are dropped (`posix_fadvise`, DONTNEED)",
    "loader": "Page cache warm, through a DataLoader with one worker, batches of 8: collating and passing on included",
}
NOTES = {
    "cold": "An LMDB is closed for that, so its time includes opening it again. What lies below the operating system\n"
    "(a hypervisor's or a disk's cache) isn't dropped.",
}


def markdown(result):
    """The tables for people."""
    about = ", ".join(f"{k} {v}" for k, v in result["machine"].items())
    sizes = "; ".join(f"{name}: {size / MIB:.1f}" for name, size in result["sizes"].items())
    lines = [
        "# Loading training samples",
        "",
        f"{PICTURES} pictures of {WIDTH}x{HEIGHT} a sample, 16 bit, {PATCH} crop. {about}.",
        f"MiB a scene: {sizes}.",
        "Times are medians of the runs, the spread is (max - min) / median. Samples a second are those of 4 pictures;",
        "the host's have 2 and count half. It has none of the paper's augmentation: both kinds are compared with its",
        "plain crop. The files are as OpenCV writes them by default, which it decodes fastest; databases of PNG are",
        "encoded as BasicSR does it, which takes longer to decode.",
    ]
    for mode, title in TITLES.items():
        rows = [row for row in result["rows"] if row["mode"] == mode]
        if not rows:
            continue
        lines += ["", f"## {title}", "", *([NOTES[mode], ""] if mode in NOTES else [])]
        lines += ["| reads | augmentation | samples/s | ms a picture | spread | to the first row | wanted |"]
        lines += ["|---|---|---|---|---|---|---|"]
        base = next((row["median"] for row in rows if row["contestant"] == "host" and "median" in row), None)
        for row in rows:
            start = f"| {CONTESTANTS[row['contestant']]} | {row['augment']} "
            if "error" in row:
                lines.append(f"{start}| failed: {row['error'].replace('|', '/')} | | | | |")
                continue
            factor = f"{base / row['median']:.1f}x" if base else ""
            wanted = BARS.get((row["contestant"], row["augment"])) if mode == "warm" else None
            lines.append(
                f"{start}| {1 / row['median'] / PICTURES:.1f} | {row['median'] * 1e3:.2f} | {row['spread']:.0%} "
                f"| {factor} | {f'{wanted}x' if wanted else ''} |"
            )
    for row in (row for row in result["rows"] if row["mode"] == "memory"):
        lines += ["", f"## Memory of a worker, {CONTESTANTS[row['contestant']]}, the paper's augmentation", ""]
        if "error" in row:
            lines.append(f"failed: {row['error']}")
            continue
        lines += ["| samples | its own, MiB | pages mapped from files (page cache, shared), MiB |", "|---|---|---|"]
        for count, found in row["memory"].items():
            lines.append(f"| {int(count):,} | {found['own'] / MIB:.1f} | {found['files'] / MIB:.1f} |")
    return "\n".join(lines) + "\n"


def say(text):
    print(text, file=sys.stderr, flush=True)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog=__doc__.partition("\n\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--work", type=Path, help="folder for pictures and databases, kept (default: temporary)")
    parser.add_argument(
        "--scenes", type=int, default=6, help="scenes of 4 pictures (default: 6, some 1 GB on the disk)"
    )
    parser.add_argument("--contestants", nargs="+", default=list(CONTESTANTS), choices=list(CONTESTANTS))
    modes = [*TITLES, "memory"]
    parser.add_argument("--modes", nargs="+", default=modes, choices=modes)
    parser.add_argument("--runs", type=int, default=5, help="timed runs each (default: 5)")
    parser.add_argument("--seconds", type=float, default=2, help="length of a run (default: 2)")
    parser.add_argument("--memory-samples", type=int, default=10000, help="samples of the memory test (default: 10000)")
    parser.add_argument("--timeout", type=float, default=600, help="seconds after which a contestant is given up")
    parser.add_argument("--out", type=Path, help="write OUT.md and OUT.json")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job:
        sys.stdout.write("\n" + json.dumps(measure(json.loads(args.job))) + "\n")
        return
    with tempfile.TemporaryDirectory(prefix="benchmark_data_") as temporary:
        run(args, (args.work or Path(temporary)).expanduser().resolve())


def run(args, work):
    work.mkdir(parents=True, exist_ok=True)
    prepare(work, args.scenes, harness.cores())
    common = {"work": str(work), "scenes": args.scenes, "warmup": 200}
    common |= {"runs": args.runs, "seconds": args.seconds, "memory_samples": args.memory_samples}
    jobs = [
        {"mode": mode, "contestant": contestant, "augment": augment}
        for mode in args.modes if mode != "memory"
        for contestant in args.contestants
        for augment in (["none"] if contestant == "host" else ["none", "paper"])
    ]  # fmt: skip
    if "memory" in args.modes and "raw" in args.contestants:
        jobs.append({"mode": "memory", "contestant": "raw", "augment": "paper"})
    sizes = {
        CONTESTANTS[name]: sum(path.stat().st_size for path in files_of({**common, "contestant": name})) / args.scenes
        for name in args.contestants
    }
    result = {"machine": machine(), "sizes": sizes, "rows": []}
    for number, job in enumerate(jobs, 1):
        row = job | in_process(common | job, args.timeout)
        if "seconds" in row:
            row["median"] = statistics.median(row["seconds"])
            row["spread"] = (max(row["seconds"]) - min(row["seconds"])) / row["median"]
        result["rows"].append(row)
        shown = f"failed: {row['error']}" if "error" in row else row.get("memory", "")
        if "median" in row:
            shown = f"{row['median'] * 1e3:.2f} ms a picture"
        say(f"[{number}/{len(jobs)}] {job['mode']} {job['contestant']} {job['augment']}: {shown}")
        if args.out:  # after each row: an interrupted run keeps what it has
            harness.write(result, markdown(result), args.out)
    print(markdown(result))


if __name__ == "__main__":
    main()
