"""The page's pictures as HTML: with text for those who don't see them, and nothing that is fetched from elsewhere."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

import cv2
import numpy as np

from ifan_plugin.demo.pictures import as_rgb, as_rgb8
from ifan_plugin.demo.work import Work
from ifan_plugin.inspect_filters import SCALE, EffectiveKernel, FilterInspector, neighbourhood
from ifan_plugin.metrics import psnr
from ifan_plugin.visual import ERROR_SCALE, colour_bar, colour_disparity, error_map, kernel_picture

PREVIEW = 960  # px, longer side of the picture to click into
KERNEL_SIDE = 640  # px, of the squares; shown at half of it, so that texts are sharp on any screen
TINY_WEIGHT = 1e-6
"""A kernel without a weight larger than this passes nothing that a float32 result could show."""

_MARK = (255, 214, 0)


def data_uri(picture: np.ndarray) -> str:
    """A uint8 RGB picture as a PNG inside a URI."""
    done, encoded = cv2.imencode(".png", np.ascontiguousarray(picture[..., ::-1]))
    if not done:
        raise ValueError(f"no PNG of a picture {list(picture.shape)}")
    return f"data:image/png;base64,{base64.b64encode(encoded).decode()}"


def figure(picture: np.ndarray, alt: str, caption: str, kind: str = "", below: str = "") -> str:
    """A picture with its caption; ``alt`` is read aloud. ``below``: HTML between the two."""
    height, width = picture.shape[:2]
    return (
        f'<figure class="{kind}"><img src="{data_uri(picture)}" alt="{escape(alt)}" width="{width}" height="{height}">'
        f"{below}<figcaption>{escape(caption)}</figcaption></figure>"
    )


def row(figures: Sequence[str]) -> str:
    """Figures side by side, or below each other where there is no room."""
    return f'<div class="figures">{"".join(figures)}</div>'


def note(text: str, kind: str = "note") -> str:
    """A line of text; ``kind`` "problem" is read aloud at once."""
    role = "alert" if kind == "problem" else "status"
    return f'<p class="{kind}" role="{role}">{escape(text)}</p>' if text else ""


def legend(signed: bool, texts: Sequence[str]) -> str:
    """A colour bar with texts below it, from its left to its right end."""
    spans = "".join(f"<span>{escape(text)}</span>" for text in texts)
    return f'<div class="legend"><img src="{data_uri(colour_bar(signed))}" alt=""><div>{spans}</div></div>'


def disparity_html(work: Work) -> str:
    """The disparity map, coloured, with its scale."""
    found = work.disparity
    if found is None:
        return note(work.remark or "This network estimates no disparity.")
    limit = float(np.abs(found).max())
    height, width = work.photo.size
    large = cv2.resize(found, (SCALE * found.shape[1], SCALE * found.shape[0]), interpolation=cv2.INTER_NEAREST)
    shown = _fitted(colour_disparity(large[:height, :width], limit), PREVIEW, cv2.INTER_AREA)
    alt = f"Disparity map, from {found.min():.2f} to {found.max():.2f} pixels at 1/{SCALE} size"
    texts = [f"−{limit:.2g}", "0, in focus", f"+{limit:.2g} px at 1/{SCALE} size"]
    return row(
        [figure(shown, alt, f"{alt}. Blue and red lie on opposite sides of the focus.", "map", legend(True, texts))]
    )


def error_html(work: Work) -> str:
    """Where the sharp picture is known: how far the blurred and the restored one are from it. Else empty."""
    if work.truth is None or work.restored is None:
        return ""
    figures = []
    for what, pixels in (("before", work.photo.pixels), ("after", work.restored)):
        floats = as_rgb(pixels)
        caption = f"{what}: PSNR {psnr(floats, work.truth):.2f} dB"
        shown = _fitted(error_map(floats, work.truth), PREVIEW // 2, cv2.INTER_AREA)
        texts = ["0", f"{ERROR_SCALE:g} or more"]
        figures.append(figure(shown, f"Error map {caption}", caption, "map", legend(False, texts)))
    text = "Absolute difference from the sharp picture, which is known for this sample; mean of RGB in [0, 1]."
    return note(text) + row(figures)


def preview(work: Work, kernel: EffectiveKernel | None = None) -> np.ndarray:
    """The picture to click into, uint8, at most :data:`PREVIEW` pixels a side; a frame shows what a kernel reaches.

    Small pictures are enlarged by a whole factor, so that places can be hit and frames be seen.
    """
    pixels = as_rgb8(work.photo.pixels)
    factor = max(1, PREVIEW // (2 * max(pixels.shape[:2])))
    shown = _fitted(pixels.repeat(factor, 0).repeat(factor, 1), PREVIEW, cv2.INTER_AREA).copy()
    if kernel is None:
        return shown
    scale = shown.shape[1] / pixels.shape[1], shown.shape[0] / pixels.shape[0]

    def frame(radius: int, thickness: int, colour: tuple[int, int, int]) -> None:
        start = [SCALE * (place - radius) for place in (kernel.column, kernel.row)]
        end = [SCALE * (place + radius + 1) for place in (kernel.column, kernel.row)]
        corners = [(round(x * scale[0]), round(y * scale[1])) for x, y in (start, end)]
        cv2.rectangle(shown, *corners, colour, thickness)

    width = max(1, round(max(shown.shape[:2]) / 400))
    frame(kernel.radius, 4 * width, (0, 0, 0))
    frame(kernel.radius, 2 * width, _MARK)
    frame(0, cv2.FILLED, _MARK)
    return shown


def kernel_html(work: Work, inspector: FilterInspector, kernel: EffectiveKernel) -> str:
    """The kernel beside the part of the picture that it reaches over, and what they are in words."""
    side = 2 * kernel.radius + 1
    of = f"the mean of {inspector.channels} channels" if kernel.channel is None else f"channel {kernel.channel}"
    largest = float(np.abs(kernel.weights).max())
    peak = np.unravel_index(np.abs(kernel.weights).argmax(), kernel.weights.shape)
    where = f"{int(peak[1]) - kernel.radius:+d} columns, {int(peak[0]) - kernel.radius:+d} rows from the middle"
    alt = (
        f"Kernel of {side} x {side} weights, {of}; the largest, {kernel.weights[peak]:.3g}, stands {where}; their sum "
        f"is {kernel.total:.3g}"
    )
    blur = neighbourhood(as_rgb8(work.photo.pixels), kernel)
    blur = cv2.resize(blur, (KERNEL_SIDE, KERNEL_SIDE), interpolation=cv2.INTER_NEAREST)
    at, end = KERNEL_SIDE * kernel.radius // side, KERNEL_SIDE * (kernel.radius + 1) // side
    for thickness, colour in ((8, (0, 0, 0)), (4, _MARK)):
        cv2.rectangle(blur, (at, at), (end, end), colour, thickness)
    place = f"columns {SCALE * kernel.column} to {SCALE * kernel.column + SCALE - 1}, rows {SCALE * kernel.row} to "
    place += f"{SCALE * kernel.row + SCALE - 1}"
    figures = [
        figure(kernel_picture(kernel.weights, KERNEL_SIDE, scale=SCALE, text=1.35), alt, f"{alt}.", "kernel"),
        figure(
            blur,
            f"The picture around {place}, as far as the kernel reaches",
            f"The blurred picture as far as the kernel reaches, {SCALE * side} x {SCALE * side} pixels. The frame: the "
            f"place itself, {place}.",
            "blur",
        ),
    ]
    warning = ""
    if largest < TINY_WEIGHT:
        warning = note(
            f"These weights let next to nothing through here: the largest is {largest:.1g}. What the layer gives on is "
            "its predicted bias, not the picture's features.",
            "problem",
        )
    return warning + row(figures)


def _fitted(picture: np.ndarray, longest: int, interpolation: int) -> np.ndarray:
    scale = longest / max(picture.shape[:2])
    if scale >= 1:
        return picture
    size = max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale))
    return cv2.resize(picture, size, interpolation=interpolation)
