"""The page's pictures as HTML: with text for those who don't see them, and nothing that is fetched from elsewhere."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

import cv2
import numpy as np

from ifan_plugin.demo.pictures import as_rgb, as_rgb8
from ifan_plugin.demo.work import Work
from ifan_plugin.metrics import psnr
from ifan_plugin.pictures.kernels import SCALE, EffectiveKernel, FilterInspector, neighbourhood
from ifan_plugin.pictures.visual import (
    ERROR_SCALE,
    colour_bar,
    colour_disparity,
    colour_error,
    error_map,
    kernel_picture,
)

PREVIEW = 960  # px, longer side of the picture to click into
KERNEL_SIDE = 640  # px, of the squares; shown at half of it, so that texts are sharp on any screen
TINY_WEIGHT = 1e-6
"""A kernel without a weight larger than this passes nothing that a float32 result could show."""

FLAT_DISPARITY = 0.02
"""Pixels at 1/8 size: a map that varies by less tells no depth."""

FLAT_KERNEL = 0.05
"""Share of a kernel's weight beside its middle, or of its range in its largest weight, below which nothing is there."""

SHARP_PIXELS = 10**6
"""Pictures up to this size are shown as PNG, larger ones as JPEG, at most :data:`SHOWN_PIXELS` large."""

SHOWN_PIXELS = 8 * 10**6

_MARK = (255, 214, 0)
_MOVE = (
    "const f=this,b=f.closest('.compare'),i=b.querySelector('input'),r=f.getBoundingClientRect();"
    "i.value=Math.round(100*Math.min(Math.max((event.clientX-r.left)/r.width,0),1));"
    "i.dispatchEvent(new Event('input'))"
)
_DRAG = f"if(event.buttons){{{_MOVE}}}"
_INPUT = (
    "const b=this.closest('.compare');b.style.setProperty('--at',this.value+'%');"
    "b.querySelector('output').textContent=this.value+' %'"
)
_LARGE = (
    "const b=this.closest('.compare');this.textContent=b.classList.toggle('large')?'Fit to the page':'Actual pixels'"
)


def data_uri(picture: np.ndarray) -> str:
    """A uint8 RGB picture as a PNG inside a URI."""
    done, encoded = cv2.imencode(".png", np.ascontiguousarray(picture[..., ::-1]))
    if not done:
        raise ValueError(f"no PNG of a picture {list(picture.shape)}")
    return f"data:image/png;base64,{base64.b64encode(encoded.tobytes()).decode()}"


def photo_uri(picture: np.ndarray) -> str:
    """A uint8 RGB picture for the screen: PNG where it is small, else JPEG."""
    pixels = picture.shape[0] * picture.shape[1]
    if pixels <= SHARP_PIXELS:
        return data_uri(picture)
    if pixels > SHOWN_PIXELS:
        picture = _fitted(picture, round(max(picture.shape[:2]) * (SHOWN_PIXELS / pixels) ** 0.5), cv2.INTER_AREA)
    quality = [cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    done, encoded = cv2.imencode(".jpg", np.ascontiguousarray(picture[..., ::-1]), quality)
    if not done:
        raise ValueError(f"no JPEG of a picture {list(picture.shape)}")
    return f"data:image/jpeg;base64,{base64.b64encode(encoded.tobytes()).decode()}"


def compare_html(work: Work) -> str:
    """Before and after in one frame, with a divider that pointer, finger and keyboard move."""
    if work.restored is None:
        return ""
    height, width = work.photo.size
    images = "".join(
        f'<img class="{what}" src="{photo_uri(as_rgb8(pixels))}" alt="{alt}" draggable="false">'
        for what, alt, pixels in (("after", "restored", work.result.pixels), ("before", "blurred", work.photo.pixels))
    )
    tags = "".join(f'<span class="tag {what}">{what}</span>' for what in ("before", "after"))
    return (
        f'<div class="compare" style="--at:50%;--ratio:{width / height:.5f};--width:{width}px"><div class="view">'
        f'<div class="frame" onpointerdown="{_MOVE}" onpointermove="{_DRAG}">{images}<div class="line"></div>{tags}'
        '</div></div><div class="controls"><input type="range" min="0" max="100" value="50" '
        f'aria-label="Where before and after meet, in percent from the left" oninput="{_INPUT}"><output>50 %</output>'
        f'<button type="button" onclick="{_LARGE}">Actual pixels</button></div></div>'
    )


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


def legend(*, signed: bool, texts: Sequence[str]) -> str:
    """A colour bar with texts below it, from its left to its right end."""
    spans = "".join(f"<span>{escape(text)}</span>" for text in texts)
    return f'<div class="legend"><img src="{data_uri(colour_bar(signed=signed))}" alt=""><div>{spans}</div></div>'


def disparity_html(work: Work) -> str:
    """The disparity map, coloured, with its scale."""
    found = work.disparity
    if found is None:
        return note(work.remark or "This network estimates no disparity.")
    if work.blur_size:  # nothing is sharper than in focus, whatever the network rounds to
        found = np.maximum(found, 0.0)
    low, high = float(found.min()), float(found.max())
    where = "" if work.blur_size else f" at 1/{SCALE} size"
    if high - low < FLAT_DISPARITY:  # drawn, it would be white, or its noise in full colours
        return note(
            f"The map is flat, {(low + high) / 2:.2f} pixels{where} everywhere: the network tells nothing "
            "of the depth in this picture.", "problem",
        )  # fmt: skip
    limit = float(np.abs(found).max())
    height, width = work.photo.size
    large = cv2.resize(found, (SCALE * found.shape[1], SCALE * found.shape[0]), interpolation=cv2.INTER_NEAREST)
    large = large[:height, :width]
    if work.blur_size:
        kind, remark, shown = "Diameter of the blur", "It tells no side of the focus", colour_error(large / limit)
        texts = ["0, in focus", f"{limit:.2g} px"]
    else:
        kind, remark = "Disparity map", "Blue and red lie on opposite sides of the focus"
        shown, texts = colour_disparity(large, limit), [f"−{limit:.2g}", "0, in focus", f"+{limit:.2g} px{where}"]
    alt = f"{kind}, from {low:.2f} to {high:.2f} pixels{where}"
    bar = legend(signed=not work.blur_size, texts=texts)
    return row([figure(_fitted(shown, PREVIEW, cv2.INTER_AREA), alt, f"{alt}. {remark}.", "map", bar)])


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
        figures.append(figure(shown, f"Error map {caption}", caption, "map", legend(signed=False, texts=texts)))
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
        first, last = ((round(x * scale[0]), round(y * scale[1])) for x, y in (start, end))
        cv2.rectangle(shown, first, last, colour, thickness)

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
    warning = note(_flatness(kernel.weights), "problem")
    if largest < TINY_WEIGHT:
        warning = note(
            f"These weights let next to nothing through here: the largest is {largest:.1g}. What the layer gives on is "
            "its predicted bias, not the picture's features.",
            "problem",
        )
    return warning + row(figures)


def _flatness(weights: np.ndarray) -> str:
    """A sentence where a kernel does next to nothing; else empty."""
    size = np.abs(weights)
    largest, total = float(size.max()), float(size.sum())
    middle = float(size[weights.shape[0] // 2, weights.shape[1] // 2])
    if largest < TINY_WEIGHT:
        return ""
    if total - middle < FLAT_KERNEL * total:
        return "This kernel changes next to nothing: all its weight stands in the middle."
    if float(weights.max() - weights.min()) < FLAT_KERNEL * largest:
        return "This kernel is flat: all its weights are alike, so it takes a mean and sharpens nothing."
    return ""


def _fitted(picture: np.ndarray, longest: int, interpolation: int) -> np.ndarray:
    scale = longest / max(picture.shape[:2])
    if scale >= 1:
        return picture
    size = max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale))
    return cv2.resize(picture, size, interpolation=interpolation)
