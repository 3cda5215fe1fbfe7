#!/usr/bin/env python3
"""Real scenes with ground truth out of the videos that DPDNet's authors published, in DPDD's folder layout.

    git clone https://github.com/Abdullah-Abuolaim/defocus-deblurring-dual-pixel
    git -C defocus-deblurring-dual-pixel checkout 6956ae68a50b
    python scripts/dpdd_videos.py defocus-deblurring-dual-pixel --out datasets/real/dpdd

animated_results/SCENE_DPNet.mp4 (1620x1080, H.264) shows for a second each the blurred picture, DPDNet's and the sharp
one, three times over; animated_DP_examples/SCENE.mp4 the views, three frames each: one, centre, the other, centre. A
picture is the mean of the frames that show it, without the top 96 rows, which hold captions. Written are
test_{c,l,r}/source, test_c/target and dpdnet, as PNG of 8 bits. Which view is left isn't stated: by the background's
shift the first one is.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

CAPTION = 96  # px
SECOND = 30  # frames
SETTLED = 20  # a picture's frames before this one still change: the codec sends differences
BLOCKS = range(1, 9)
RESULTS = ("test_c/source", "dpdnet", "test_c/target")
VIEWS = ("test_l/source", None, "test_r/source", None)
FOLDERS = (*RESULTS, *filter(None, VIEWS))
VIEWS_SETTLED = 24
VIEW = 3  # frames


def result_folder(frame: int) -> str | None:
    """Where a frame of animated_results belongs."""
    block, within = divmod(frame, SECOND)
    return RESULTS[block % 3] if within >= SETTLED and block in BLOCKS else None


def view_folder(frame: int) -> str | None:
    """Where a frame of animated_DP_examples belongs."""
    return VIEWS[(frame - VIEWS_SETTLED) // VIEW % 4] if frame >= VIEWS_SETTLED else None


def pictures(path: Path, folder_of: Callable[[int], str | None]) -> dict[str, np.ndarray]:
    """For each folder the mean of its frames, uint8 BGR."""
    video, sums, counts, number = cv2.VideoCapture(str(path)), {}, {}, 0
    while True:
        read, frame = video.read()
        if not read:
            break
        folder = folder_of(number)
        number += 1
        if folder is not None:
            sums[folder] = sums.get(folder, 0) + frame[CAPTION:].astype(np.float64)
            counts[folder] = counts.get(folder, 0) + 1
    return {folder: np.rint(total / counts[folder]).astype(np.uint8) for folder, total in sums.items()}


def main() -> int:
    """Write the scenes; returns 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", type=Path, help="folder with animated_results and animated_DP_examples")
    parser.add_argument("--out", required=True, type=Path, help="folder for test_c, test_l, test_r and dpdnet")
    parser.add_argument("--scenes", nargs="+", metavar="SCENE", help="these alone, 1P0A0917 say (default: all)")
    parser.add_argument("--overwrite", action="store_true", help="replace pictures that are there already")
    args = parser.parse_args()
    every = {file.stem.removesuffix("_DPNet"): file for file in (args.videos / "animated_results").glob("*_DPNet.mp4")}
    if not every:
        parser.error(f"{args.videos}: has no animated_results/*_DPNet.mp4")
    if unknown := sorted(set(args.scenes or ()) - set(every)):
        parser.error(f"--scenes {' '.join(unknown)}: not in animated_results; there are {', '.join(sorted(every))}")
    results = {scene: every[scene] for scene in sorted(args.scenes or every)}
    wanted = (args.out / folder / f"{scene}.png" for scene in results for folder in FOLDERS)
    if not args.overwrite and (there := next(filter(Path.exists, wanted), None)):
        parser.error(f"{there}: is there already; give another --out, choose --scenes, or add --overwrite")
    for scene, result in tqdm(results.items(), unit="scene", disable=not sys.stderr.isatty()):
        views = args.videos / "animated_DP_examples" / f"{scene}.mp4"
        found = pictures(result, result_folder) | pictures(views, view_folder)
        lacking = [folder for folder in FOLDERS if folder not in found]
        if lacking:
            sys.exit(f"{result} and {views}: no frames for {', '.join(lacking)}; missing or cut short")
        for folder, picture in found.items():
            file = args.out / folder / f"{scene}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            if not cv2.imwrite(str(file), picture):
                sys.exit(f"--out {args.out}: {file} can't be written")
    height, width = picture.shape[:2]
    print(f"{args.out}: {len(results)} scene(s) of {width}x{height}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
