#!/usr/bin/env python3
"""Write a trained network into the package (ifan_plugin/zoo), with what it is in the file's metadata.

    python scripts/ship_weights.py experiments/IFAN_small/models/net_g_latest.pth --name ifan_small \
        --recipe options/train_IFAN_small.yml --data 'which photographs' --report results/benchmark/real/report.json

The averaged parameters are taken where a checkpoint has them; of several checkpoints of one network the mean of their
parameters is shipped. Figures are those of the report's row with that name.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

import torch
from safetensors.torch import save_file

from ifan_plugin import __version__
from ifan_plugin.weights import conversion
from ifan_plugin.zoo.shipped import FOLDER

SUMMARY = "trained on simulated blur; for weights trained on DPDD see docs/zoo.md"
LARGEST = 8_000_000  # bytes


def main() -> int:
    """Write the file; returns 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", type=Path, nargs="+")
    parser.add_argument("--name", required=True, help="the network's name, such as ifan_small")
    parser.add_argument("--recipe", required=True, type=Path, help="the option file it was trained with")
    parser.add_argument("--data", required=True, help="what it was trained on, in a few words")
    parser.add_argument("--iterations", required=True, type=int, help="how many iterations it was trained for")
    parser.add_argument("--summary", default=SUMMARY, help="one sentence for people who use it")
    parser.add_argument("--blur-unit", type=float, help="its map is the blur's diameter in units of so many pixels")
    parser.add_argument("--report", type=Path, action="append", default=[], help="report.json of basicsr benchmark")
    args = parser.parse_args()
    read = [conversion.read_weights(checkpoint) for checkpoint in args.checkpoints]
    weights = read[0]
    if any(other.hyper_parameters != weights.hyper_parameters for other in read):
        sys.exit("the checkpoints are of networks with different hyper-parameters")
    figures: dict[str, dict[str, float]] = {}
    for report in args.report:
        for row in json.loads(report.read_text(encoding="utf-8"))["rows"]:
            if row["name"] == args.name:
                figures |= {name: quality["mean"] for name, quality in row["quality"].items()}
    commit = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True)
    metadata = {
        "format": "pt",
        "arch": weights.network.__name__,
        "hyper_parameters": json.dumps(weights.hyper_parameters),
        "written_by": f"ifan_plugin {__version__}",
        "recipe": args.recipe.as_posix(),
        "iterations": str(args.iterations),
        "data": args.data,
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "commit": commit.stdout.strip(),
        "figures": json.dumps(figures),
        "licence": "Apache-2.0",
        "summary": args.summary,
    }
    if args.blur_unit:
        metadata["blur_unit"] = f"{args.blur_unit:g}"
    params = {
        name: torch.stack([one.params[name].detach() for one in read]).mean(0).contiguous() for name in weights.params
    }
    path = FOLDER / f"{args.name}.safetensors"
    save_file(params, path, metadata)
    size = path.stat().st_size
    print(f"{path}: {size:,} bytes; {weights.described()}")
    if size > LARGEST:
        sys.exit(f"{path}: is larger than {LARGEST:,} bytes, which is too much for the package")
    return 0


if __name__ == "__main__":
    sys.exit(main())
