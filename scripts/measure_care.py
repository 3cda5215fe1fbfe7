#!/usr/bin/env python3
"""Does a network leave alone what it should? Sharp photographs, noise and JPEG's blocks, before and after it.

    python scripts/measure_care.py --weights ifan_small --sharp DIR [--out docs/benchmarks/care.json]

Each sharp photograph is restored as it is, with noise added (deviation 5 of 255), and as a JPEG of quality 60. The
table gives the mean absolute change of the picture in levels of 255, and, in its flattest tenth (8x8 blocks of the
sharp picture with the least deviation), the deviation about each block's mean before and after: what was amplified is
larger after. The step at borders is JPEG's trace: the mean difference of neighbours across a border of 8x8 blocks, less
that of neighbours beside it.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import cv2
import numpy as np

import ifan_plugin
from ifan_plugin.weights.networks import load_network

NOISE, QUALITY = 5.0, 60


def blocks(picture: np.ndarray) -> np.ndarray:
    """Grey values [count, 64] of the 8x8 blocks of an RGB picture, uint8 [H, W, 3]."""
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32)
    height, width = (side // 8 for side in grey.shape)
    return grey[: 8 * height, : 8 * width].reshape(height, 8, width, 8).swapaxes(1, 2).reshape(-1, 64)


def spread(picture: np.ndarray, flat: np.ndarray) -> float:
    """Root mean square deviation about the mean of each of the blocks ``flat``, in levels of 255."""
    return float(np.sqrt(blocks(picture)[flat].var(1).mean()))


def step(picture: np.ndarray, flat: np.ndarray) -> float:
    """How much more neighbours differ across the right border of the blocks ``flat`` than on both sides of it."""
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32)
    height, width = (side // 8 for side in grey.shape)
    rows = grey[: 8 * height].reshape(height, 8, -1)
    at = np.arange(8, 8 * width - 2, 8)  # first columns of the blocks but the first
    across, beside = (
        sum(np.abs(rows[..., at + k] - rows[..., at + k - 1]) for k in shifts) / len(shifts)
        for shifts in ((0,), (-1, 1))
    )
    chosen = np.zeros(height * width, bool)
    chosen[flat] = True
    return float((across - beside).mean(1)[chosen.reshape(height, width)[:, : len(at)]].mean())


def spoiled(picture: np.ndarray) -> dict[str, np.ndarray]:
    """The picture as it is, with noise, and as a JPEG."""
    noise = np.random.default_rng(0).normal(0, NOISE, picture.shape)
    coded = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1]
    return {
        "sharp": picture,
        f"noise, deviation {NOISE:g}": np.rint(picture + noise).clip(0, 255).astype(np.uint8),
        f"JPEG, quality {QUALITY}": np.ascontiguousarray(cv2.imdecode(coded, cv2.IMREAD_COLOR)[..., ::-1]),
    }


def main() -> int:
    """Measure and print; returns 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="ifan_small", help="a checkpoint or a shipped network's name")
    parser.add_argument("--sharp", required=True, type=Path, help="folder of sharp photographs, PNG or JPEG")
    parser.add_argument("--largest", type=int, default=1024, help="longer sides are cut to this, px (default: 1024)")
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    args = parser.parse_args()
    files = sorted(path for path in args.sharp.iterdir() if path.suffix.lower() in (".png", ".jpg", ".jpeg"))
    if not files:
        sys.exit(f"--sharp {args.sharp}: no PNG or JPEG files")
    network = load_network(args.weights)
    found: dict[str, list[tuple[float, ...]]] = {}
    for path in files:
        picture = np.ascontiguousarray(cv2.imread(str(path), cv2.IMREAD_COLOR)[: args.largest, : args.largest, ::-1])
        sharpness = blocks(picture).var(1)
        flat = np.argsort(sharpness)[: max(len(sharpness) // 10, 1)]
        for kind, given in spoiled(picture).items():
            restored = ifan_plugin.restore(given, weights=network)
            change = float(np.abs(restored.astype(np.float32) - given).mean())
            measures = [measure(seen, flat) for measure in (spread, step) for seen in (given, restored)]
            found.setdefault(kind, []).append((change, *measures))
    rows = {
        kind: dict(zip(("change", "before", "after", "step_before", "step_after"), np.mean(values, 0).tolist()))
        for kind, values in found.items()
    }
    print(f"{args.weights}, {len(files)} photographs; levels of 255\n")
    print("| photographs | mean change | deviation in flat parts, before | after | step at borders, before | after |")
    print("|---|---|---|---|---|---|")
    for kind, row in rows.items():
        print(f"| {kind} | " + " | ".join(f"{value:.2f}" for value in row.values()) + " |")
    if args.out:
        args.out.write_text(
            json.dumps({"weights": args.weights, "pictures": len(files), "rows": rows}, indent=1) + "\n"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
