#!/usr/bin/env python3
"""The filters that a network predicts at some places of a picture, each below the part of the picture that it reaches.

    python scripts/kernel_pictures.py datasets/quickstart/test_c/source/motorcycle_near.png \
        --places 385 330 440 80 90 150 --out docs/kernels_small.jpg

A filter is the mean of all channels' effective kernels (ifan_plugin.pictures.kernels). Each has its own scale.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np
import torch

from ifan_plugin.common.errors import UserError
from ifan_plugin.images.image_io import read_image
from ifan_plugin.pictures.kernels import FilterInspector, neighbourhood
from ifan_plugin.pictures.visual import contact_sheet, kernel_picture
from ifan_plugin.weights.networks import load_network


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path, help="a blurred picture")
    parser.add_argument("--places", type=int, nargs="+", required=True, metavar="N", help="X Y of each place, px")
    parser.add_argument("--weights", default="ifan_small", help="a checkpoint or a shipped network's name")
    parser.add_argument("--cell", type=int, default=330, help="side of each picture, px (default: 330)")
    parser.add_argument("--out", required=True, type=Path, help="JPEG or PNG")
    args = parser.parse_args()
    if len(args.places) % 2:
        parser.error("--places: X Y of each place, so an even number of them")
    if args.out.suffix.lower() not in (".jpg", ".jpeg", ".png"):
        parser.error(f"--out {args.out}: must end in .jpg or .png")
    if args.cell < 50:
        parser.error(f"--cell: must be at least 50, not {args.cell}")
    pixels = read_image(args.picture)
    height, width = pixels.shape[:2]
    places = list(zip(args.places[::2], args.places[1::2]))
    for x, y in places:
        if not (0 <= x < width and 0 <= y < height):
            parser.error(f"--places {x} {y}: outside of the picture, which is {width}x{height}")
    lq = torch.from_numpy(np.ascontiguousarray(pixels, np.float32)).permute(2, 0, 1)[None]
    network = load_network(args.weights, device="cpu").net
    try:
        inspector = FilterInspector(network, lq)
    except ValueError as error:
        parser.error(f"{args.picture}: {args.weights} can't take it: {error}")
    shown = np.rint(pixels * 255).astype(np.uint8)
    parts, filters = [], []
    for x, y in places:
        kernel = inspector.kernel(*inspector.place(x, y))
        parts.append((f"({x}, {y})", neighbourhood(shown, kernel)))
        largest = float(np.abs(kernel.weights).max())
        filters.append((f"largest weight {largest:.2g}", kernel_picture(kernel.weights, args.cell)))
    sheet = contact_sheet([parts, filters], args.cell)
    if not cv2.imwrite(str(args.out), np.ascontiguousarray(sheet[..., ::-1])):
        sys.exit(f"--out {args.out}: can't be written")
    print(f"{args.out}: {sheet.shape[1]}x{sheet.shape[0]}")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
