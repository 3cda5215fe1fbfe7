#!/usr/bin/env python
"""How fast LMDBs are made, against what decoding and encoding PNG alone allows on the same cores.

Whole pictures of DPDD's size, 16 bits, to encoding png. `limit`: as many processes as workers, started anew, decode
each file and encode it again with OpenCV, and keep nothing. `create`: the package's own, to the last flush to the disk.
Both take turns in one run; the share is the median of limit's time over create's, pair by pair. The page cache is warm.

examples:
  python scripts/benchmark_lmdb_create.py
  python scripts/benchmark_lmdb_create.py --pictures 40 --rounds 5 --out docs/benchmarks/lmdb_create
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from pathlib import Path

import cv2
import harness
import numpy as np

HEIGHT, WIDTH = 1120, 1680


def write_pictures(folder, count):
    """Smooth pictures with a camera's noise, so that they compress about as photographs do."""
    folder.mkdir()
    for number in range(count):
        rng = np.random.default_rng(number)
        picture = cv2.resize(rng.random((HEIGHT // 16, WIDTH // 16, 3), np.float32), (WIDTH, HEIGHT), None, 0, 0, 2)
        picture += rng.normal(0, 0.01, picture.shape).astype(np.float32)
        values = np.round(picture.clip(0, 1) * 65535).astype(np.uint16)
        if not cv2.imwrite(str(folder / f"{number:04}.png"), values):
            raise OSError(f"{folder}: can't write pictures there")
    return sorted(folder.iterdir())


def recode(path):
    """What any maker of PNG databases must do at least."""
    pixels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    return len(cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1])


def timed(function):
    """Wall-clock seconds, and the processor's: of this process and those it waited for."""
    before, start = os.times(), time.perf_counter()
    function()
    seconds, after = time.perf_counter() - start, os.times()
    return {"wall": seconds, "processor": sum(after[:4]) - sum(before[:4])}


def limit(paths, workers):
    """Decoding and encoding alone."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, spawn, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        sum(pool.map(recode, paths))


def machine(workers):
    """What the figures hold for."""
    import lmdb

    import ifan_plugin
    from ifan_plugin.common.machine import processor

    return {
        "date": date.today().isoformat(), "processor": processor(), "processes": workers, "opencv": cv2.__version__,
        "lmdb": lmdb.__version__, "python": platform.python_version(), "ifan_plugin": ifan_plugin.__version__,
    }  # fmt: skip


def markdown(result):
    """The table for people."""
    rows = []
    for name in ("limit", "create"):
        wall, processor = ([turn[name][kind] for turn in result["rounds"]] for kind in ("wall", "processor"))
        median = statistics.median(wall)
        rows.append(
            f"| {name} | {median:.2f} | {min(wall):.2f} to {max(wall):.2f} | {result['pictures'] / median:.2f} "
            f"| {statistics.median(processor):.2f} |"
        )
    shares = [
        f"{result['share'][kind]:.0%} of the limit by {clock} ({min(all_of):.0%} to {max(all_of):.0%})"
        for kind, clock in (("wall", "the clock on the wall"), ("processor", "processor time"))
        for all_of in [shares_of(result, kind)]
    ]
    return "\n".join([
        "# Making an LMDB: share of what PNG allows", "",
        ", ".join(f"{key} {value}" for key, value in result["machine"].items()) + ".", "",
        f"{result['pictures']} pictures of {WIDTH}x{HEIGHT}, 16 bits, {result['bytes'] / 1e6:.0f} MB as stored; "
        f"medians of {len(result['rounds'])} rounds, start of the processes included.", "",
        "| | s | from to | pictures/s | processor s |", "|---|---|---|---|---|", *rows, "",
        f"`create` runs at {' and at '.join(shares)}; medians of the rounds.", "",
    ])  # fmt: skip


def shares_of(result, kind):
    """limit over create, round by round."""
    return [turn["limit"][kind] / turn["create"][kind] for turn in result["rounds"]]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog=__doc__.partition("\n\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--pictures", type=int, default=24, help="default: 24")
    parser.add_argument("--rounds", type=int, default=3, help="default: 3")
    parser.add_argument("--workers", type=int, default=harness.cores(), help="default: all cores")
    parser.add_argument("--folder", type=Path, help="where to work (default: the system's temporary folder)")
    parser.add_argument("--out", type=Path, help="write OUT.md and OUT.json")
    args = parser.parse_args()
    from ifan_plugin.data.lmdb.create import create

    result = {"machine": machine(args.workers), "pictures": args.pictures, "bytes": 0, "rounds": []}
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        source, out = Path(folder) / "in", Path(folder) / "out"
        paths = write_pictures(source, args.pictures)
        for number in range(args.rounds):
            turn = {
                "limit": timed(lambda: limit(paths, args.workers)),
                "create": timed(lambda: create(out, layout="folder", root=source, workers=args.workers)),
            }
            result["rounds"].append(turn)
            result["bytes"] = (out / "test/center.lmdb/data.mdb").stat().st_size
            shutil.rmtree(out)
            shown = ", ".join(f"{name} {turn[name]['wall']:.2f} s" for name in turn)
            print(f"[{number + 1}/{args.rounds}] {shown}", file=sys.stderr)
    result["share"] = {kind: statistics.median(shares_of(result, kind)) for kind in ("wall", "processor")}
    if args.out:
        harness.write(result, markdown(result), args.out)
    print(markdown(result))


if __name__ == "__main__":
    main()
