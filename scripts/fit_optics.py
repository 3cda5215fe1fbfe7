#!/usr/bin/env python3
"""Fit the simulator's optics to real cameras: the numbers in ifan_plugin/simulation/presets.py and docs/optics.md.

    python scripts/fit_optics.py pixel4 DIR [--table FILE] [--picture FILE]
    python scripts/fit_optics.py canon DIR  [--table FILE]

pixel4: DIR holds blur_kernels_left.npy and blur_kernels_right.npy, 48 kernels each of 61x61 pixels, measured at 6x8
        places by Xin et al. (ICCV 2021) with a Pixel 4. Where a kernel lies in its window is no matter of optics,
        so the fitted pair is laid on the measured one's middle.
canon:  DIR holds flat_001_{0600,1500}_f{20,4}_{l,r}.png, a poster at 0.6 m and 1.5 m, focus at 1 m, taken with a Canon
        R6 II and RF 50 mm (LinYark/Sdirt, MIT licence). The f/20 picture is blurred and compared with the f/4 views.

Prints a line a place, and what was fitted. Takes half a minute each.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict, replace
from pathlib import Path

import cv2
import numpy as np
from scipy.optimize import least_squares

from ifan_plugin.images.color import linear_from_srgb, srgb_from_linear
from ifan_plugin.simulation.camera import Camera
from ifan_plugin.simulation.optics import Optics, colour_cocs, view_kernels

ROWS, COLUMNS, HALF = 6, 8, 30
PIXEL4_ASPECT = 1512 / 2016


# ------------------------------------------------------------------------------------------------------ Pixel 4


def pixel4_fields() -> list[tuple[float, float]]:
    """Where the 48 kernels were measured: the middles of 6x8 cells, in half widths."""
    return [
        ((column - (COLUMNS - 1) / 2) / (COLUMNS / 2), (row - (ROWS - 1) / 2) / (ROWS / 2) * PIXEL4_ASPECT)
        for row in range(ROWS)
        for column in range(COLUMNS)
    ]


def moved(kernel: np.ndarray, dx: float, dy: float) -> np.ndarray:
    """A kernel moved by fractions of a pixel."""
    fy, fx = (np.fft.fftfreq(side) for side in kernel.shape)
    return np.fft.ifft2(np.fft.fft2(kernel) * np.exp(-2j * np.pi * (fx[None] * dx + fy[:, None] * dy))).real


def centroid(kernel: np.ndarray) -> tuple[float, float]:
    y, x = np.mgrid[: kernel.shape[0], : kernel.shape[1]]
    return float((kernel * x).sum() / kernel.sum()), float((kernel * y).sum() / kernel.sum())


class Pixel4:
    """The measured pairs, and a fitted pair beside each."""

    NAMES = ("split", "split_limit", "balance", "edge", "stretch", "curvature", "vignetting", "lean", "spherical")
    START = (1.5, 0.8, -0.4, 0.6, 0.1, 0.05, 0.05, 0.05, 0.1, 24.0)
    BOUNDS = ((0.1, 0.2, -2, 0.05, -1, -1, -1, -2, -0.9, 10), (8, 1, 2, 2, 1, 1, 1, 2, 0.9, 50))

    def __init__(self, folder: Path) -> None:
        self.measured = [np.load(folder / f"blur_kernels_{side}.npy").astype(float) for side in ("left", "right")]
        self.fields = pixel4_fields()

    def pair(self, parameters: np.ndarray, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Measured and fitted, each [2, 61, 61]; the measured one moved to where the fitted one lies."""
        optics = Optics(**dict(zip(self.NAMES, parameters[:-1])))
        fitted = np.stack(view_kernels(np, optics, parameters[-1:], self.fields[index], HALF))[:, 0]
        measured = np.stack([kernels[index] for kernels in self.measured])
        (x, y), (to_x, to_y) = centroid(measured.mean(0)), centroid(fitted.mean(0))
        return np.stack([moved(kernel, to_x - x, to_y - y) for kernel in measured]), fitted

    def fit(self) -> np.ndarray:
        """The parameters in the order of NAMES, and the circle of confusion in pixels."""

        def residuals(parameters: np.ndarray, indices: range) -> np.ndarray:
            parts = []
            for index in indices:
                measured, fitted = self.pair(parameters, index)
                parts.append(((measured - fitted) / np.linalg.norm(measured)).ravel())
            return np.concatenate(parts)

        found = np.array(self.START)
        for step in (3, 1):  # a few places first
            found = least_squares(
                residuals, found, bounds=self.BOUNDS, x_scale=np.abs(self.START) + 0.1, max_nfev=20,
                args=(range(0, len(self.fields), step),),
            ).x  # fmt: skip
        return found

    def correlations(self, parameters: np.ndarray) -> np.ndarray:
        """[48]: of each measured pair with the fitted one, both views together."""
        pairs = [self.pair(parameters, index) for index in range(len(self.fields))]
        return np.array([np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in pairs])

    def picture(self, parameters: np.ndarray, path: Path, zoom: int = 2) -> None:
        """Every second place: measured left and right above fitted left and right."""
        rows = []
        for row in range(0, ROWS):
            cells = []
            for column in range(0, COLUMNS):
                pair = self.pair(parameters, row * COLUMNS + column)
                lines = [np.concatenate([kernel[12:49, 12:49] for kernel in views], 1) for views in pair]
                cells.append(np.pad(np.concatenate(lines, 0), 2, constant_values=np.nan))
            rows.append(np.concatenate(cells, 1))
        sheet = np.concatenate(rows, 0)
        shown = np.where(np.isnan(sheet), 255, np.clip(sheet / np.nanpercentile(sheet, 99.9), 0, 1) ** 0.8 * 235)
        cv2.imwrite(str(path), cv2.resize(shown.astype(np.uint8), None, fx=zoom, fy=zoom, interpolation=cv2.INTER_AREA))


def run_pixel4(folder: Path, table: Path | None, picture: Path | None) -> None:
    pixel4 = Pixel4(folder)
    parameters = pixel4.fit()
    correlations = pixel4.correlations(parameters)
    named = dict(zip((*pixel4.NAMES, "circle of confusion, px"), parameters))
    lines = ["| parameter | fitted |", "|---|---|"]
    lines += [f"| {name} | {value:.3f} |" for name, value in named.items()]
    lines += ["", f"Correlation with the 48 measured pairs: median {np.median(correlations):.3f}, "
              f"lowest {correlations.min():.3f}.", ""]  # fmt: skip
    lines += ["| row \\ column | " + " | ".join(map(str, range(1, COLUMNS + 1))) + " |", "|---" * (COLUMNS + 1) + "|"]
    for row in range(ROWS):
        values = correlations[row * COLUMNS : (row + 1) * COLUMNS]
        lines.append(f"| {row + 1} | " + " | ".join(f"{value:.3f}" for value in values) + " |")
    report(lines, table)
    if picture:
        pixel4.picture(parameters, picture)


# ------------------------------------------------------------------------------------------------------- Canon


class Canon:
    """The poster: f/20 in linear light, the f/4 views, and how near a blurred f/20 picture comes to them."""

    CAMERA = Camera(focal_length_mm=50, f_number=4, focus_distance_m=1, pixel_pitch_um=36 / 768 * 1000)
    NAMES = ("split", "balance", "edge", "stretch", "curvature", "vignetting", "lean", "spherical", "red", "blue")
    BOUNDS = (
        (0.1, -2, 0, -0.5, -0.5, -1, -2, -0.8, -2, -2, 0.7, 0.7),
        (2.0, 2, 1, 0.5, 0.5, 1, 2, 0.8, 2, 2, 1.2, 1.2),
    )
    PLACES = tuple((x, y) for y in (96, 256, 416) for x in (64, 192, 320, 448, 576, 704))
    SIDE = 96

    def __init__(self, folder: Path) -> None:
        def read(distance: str, stop: str, side: str) -> np.ndarray:
            return cv2.imread(str(folder / f"flat_001_{distance}_{stop}_{side}.png"))[..., ::-1] / 255.0

        self.scenes = {}
        for distance in ("0600", "1500"):
            sharp = sum(linear_from_srgb(read(distance, "f20", side)) for side in "lr") / 2
            views = [read(distance, "f4", side) for side in "lr"]
            self.scenes[int(distance) / 1000] = (sharp, views)

    def residual(self, optics: Optics, depth_m: float, x: int, y: int, scale: float = 1.0, size: int = SIDE):
        """[2, size, size, 3]: coded, one gain a colour for both views."""
        sharp, views = self.scenes[depth_m]
        height, width = sharp.shape[:2]
        field = ((x - width / 2) / (width / 2), (y - height / 2) / (width / 2))
        coc = float(self.CAMERA.circle_of_confusion(depth_m)) * scale
        half = optics.reach(coc, field)
        cocs = colour_cocs(np, optics, np.array([coc]))[0]
        kernels = view_kernels(np, optics, cocs, field, half)
        top, left = (max(p - size // 2, 0) for p in (y, x))
        part = np.s_[top : top + size, left : left + size]
        seen = np.stack([
            np.stack([cv2.filter2D(sharp[..., c], -1, side[c][::-1, ::-1])[part] for c in range(3)], -1)
            for side in kernels
        ])  # fmt: skip
        real = np.stack([view[part] for view in views])
        light = linear_from_srgb(real)
        seen = np.clip(seen * (light * seen).sum((0, 1, 2)) / (seen * seen).sum((0, 1, 2)), 0, 1)
        return srgb_from_linear(seen) - real

    def fit(self) -> tuple[Optics, dict[float, float]]:
        """The optics, and the size of the blur over the thin lens's, in front of and behind the focus plane."""

        def optics_of(parameters: np.ndarray) -> Optics:
            return Optics(**{name: float(value) for name, value in zip(self.NAMES, parameters)})

        def residuals(parameters: np.ndarray) -> np.ndarray:
            optics = optics_of(parameters)
            parts = [
                self.residual(optics, depth, x, y, scale)[:, ::2, ::2].ravel()
                for depth, scale in zip(self.scenes, parameters[-2:])
                for x, y in self.PLACES
            ]
            return np.concatenate(parts)

        start = np.array([0.4, 0, 0.1, 0, 0, 0, 0, 0, 0, 0, 1, 1.0])
        found = least_squares(residuals, start, bounds=self.BOUNDS, x_scale=0.2, max_nfev=20).x
        return optics_of(found), dict(zip(self.scenes, found[-2:]))

    def psnr(self, optics: Optics, depth_m: float, x: int, y: int, scale: float = 1.0, size: int = SIDE) -> float:
        return float(-10 * np.log10(np.square(self.residual(optics, depth_m, x, y, scale, size)).mean()))


def run_canon(folder: Path, table: Path | None) -> None:
    canon = Canon(folder)
    optics, scales = canon.fit()
    plain = Optics()
    lines = ["| parameter | fitted |", "|---|---|"]
    lines += [f"| {name} | {value:.3f} |" for name, value in asdict(optics).items() if value != getattr(plain, name)]
    lines += [f"| blur at {depth:g} m over the thin lens's | {scale:.3f} |" for depth, scale in scales.items()]
    lines += ["", "| PSNR, mean over the field | thin lens, split 0.4 | fitted |", "|---|---|---|"]
    for depth, scale in scales.items():
        means = [
            np.mean([canon.psnr(o, depth, x, y, s) for x, y in canon.PLACES])
            for o, s in ((plain, 1.0), (replace(optics), scale))
        ]
        lines.append(f"| {depth:g} m | {means[0]:.2f} dB | {means[1]:.2f} dB |")
    report(lines, table)


def report(lines: list[str], table: Path | None) -> None:
    text = "\n".join(lines) + "\n"
    sys.stdout.write(text)
    if table:
        table.write_text(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("camera", choices=["pixel4", "canon"])
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--table", type=Path, help="write what is printed here, too (Markdown)")
    parser.add_argument("--picture", type=Path, help="pixel4: a picture of measured (above) and fitted kernels (below)")
    args = parser.parse_args()
    if args.camera == "pixel4":
        run_pixel4(args.folder, args.table, args.picture)
    else:
        run_canon(args.folder, args.table)


if __name__ == "__main__":
    main()
