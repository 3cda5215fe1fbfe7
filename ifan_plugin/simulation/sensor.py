"""Light and sensor: highlights beyond white, noise of the raw, mosaic, tone curve, JPEG, and motion between two shots.

Element by element, so that one formula serves NumPy and PyTorch; what looks at neighbours (mosaic, JPEG, motion) is in
:mod:`ifan_plugin.simulation.sensor_torch`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from types import MappingProxyType, ModuleType
from typing import Any

import numpy as np

from ifan_plugin.common.errors import UserError

Normal = Callable[[tuple[int, ...]], Any]
"""Gives standard normal numbers of a shape."""

_CLIPPED = 0.9  # linear light from which a pixel may have been brighter than the picture can tell
SHOT_AT_ISO_100 = 1.6e-5  # variance over signal, linear, of a full-frame pixel that holds some 60,000 electrons
READ_AT_ISO_100 = 6e-5  # standard deviation, linear: 4 electrons


@dataclass(frozen=True)
class LightAndSensor:
    """What happens to light before and after the lens. The defaults change nothing.

    Args:
        highlights: how many times brighter than white what is clipped is taken to have been; 1: not brighter.
        iso: sensitivity; shot and read noise grow with it. 0: no noise.
        mosaic: whether the sensor sees one colour a pixel (Bayer, RGGB), and the others are interpolated.
        tone: contrast of the camera's tone curve over the sRGB curve, in [0, 0.8].
        jpeg: quality, 1 to 100; 0: no JPEG.
        shift_x, shift_y: px, how far the blurred picture lies from the sharp one (at most 1).
        exposure: brightness of the blurred picture over the sharp one.

    Raises:
        UserError: a value outside its range.
    """

    highlights: float = 1.0
    iso: float = 0.0
    mosaic: bool = False
    tone: float = 0.0
    jpeg: int = 0
    shift_x: float = 0.0
    shift_y: float = 0.0
    exposure: float = 1.0

    def __post_init__(self) -> None:
        for name, low, high in (
            ("highlights", 1, 100), ("iso", 0, 409600), ("tone", 0, 0.8), ("jpeg", 0, 100), ("shift_x", -1, 1),
            ("shift_y", -1, 1), ("exposure", 0.5, 2),
        ):  # fmt: skip
            if not low <= getattr(self, name) <= high:
                raise UserError(f"{name} is {getattr(self, name)}; it must be from {low} to {high}")

    def as_tuple(self) -> tuple[float, ...]:
        """The values in order, as they travel to the device."""
        return tuple(float(getattr(self, field.name)) for field in fields(self))

    @classmethod
    def from_tuple(cls, values: Any) -> LightAndSensor:
        """The reverse of :meth:`as_tuple`."""
        made: dict[str, Any] = dict(zip((field.name for field in fields(cls)), (float(value) for value in values)))
        return cls(**made | {"mosaic": bool(made["mosaic"]), "jpeg": round(made["jpeg"])})

    @property
    def spatial(self) -> bool:
        """Whether a part looks at neighbours: mosaic, JPEG or a shift."""
        return bool(self.mosaic or self.jpeg or self.shift_x or self.shift_y)

    def radiance(self, xp: ModuleType, coded: Any) -> Any:
        """Linear light of a coded picture with the colours last ([..., 3]); clipped pixels get an invented radiance."""
        linear = decode(xp, coded, self.tone)
        if self.highlights > 1:
            brightest = xp.maximum(xp.maximum(linear[..., :1], linear[..., 1:2]), linear[..., 2:])
            beyond = xp.clip((brightest - _CLIPPED) / (1 - _CLIPPED), 0.0, 1.0)
            linear = linear * (1 + (self.highlights - 1) * beyond * beyond)
        return linear

    def read_out(self, xp: ModuleType, view: Any, normal: Normal | None) -> Any:
        """What the sensor makes of one view's linear light: clipped at white, and noisy. Half of the light is its."""
        view = xp.clip(view * self.exposure, 0.0, 1.0)
        if self.iso and normal is not None:
            gain = self.iso / 100
            variance = 2 * SHOT_AT_ISO_100 * gain * view + (2 * READ_AT_ISO_100 * gain) ** 2
            view = view + xp.sqrt(variance) * normal(tuple(view.shape))
        return view

    def develop(self, xp: ModuleType, view: Any) -> Any:
        """Coded picture of a view's linear light."""
        return encode(xp, xp.clip(view, 0.0, 1.0), self.tone)


IDEAL = LightAndSensor()

SENSOR_PRESETS = MappingProxyType({
    "none": IDEAL,
    "camera": LightAndSensor(highlights=4.0, iso=400.0, mosaic=True),
    "phone": LightAndSensor(highlights=4.0, iso=3200.0, mosaic=True, tone=0.3, jpeg=92),
})  # fmt: skip
"""Fixed values by name, for ``basicsr simulate --sensor``."""

RANDOM_SENSOR = MappingProxyType({
    "highlights": (1.0, 8.0),  # log-uniform; lamps and speculars are more, but clip after the blur anyway
    "iso": (100.0, 6400.0),  # log-uniform
    "tone": (0.0, 0.5),
    "jpeg": (50, 98),  # in half of the samples; phones and the web have the lower ones
})  # fmt: skip
"""What ``sensor: random`` draws from."""
MAX_SHIFT, MAX_EXPOSURE = 0.5, 0.03  # px and a fraction: what real pairs (DPDD) differ by


def draw_sensor(rng: np.random.Generator, kind: str, *, motion: bool) -> LightAndSensor:
    """Light and sensor of one training sample; always as many numbers are drawn.

    Args:
        kind: ``none``, another name in SENSOR_PRESETS, or ``random``.
        motion: whether sharp and blurred picture may lie a fraction of a pixel apart and differ in exposure.
    """
    u = rng.random(9)
    light = SENSOR_PRESETS.get(kind, IDEAL)
    if kind == "random":
        (h0, h1), (i0, i1), (t0, t1), (q0, q1) = RANDOM_SENSOR.values()
        light = LightAndSensor(
            highlights=h0 * (h1 / h0) ** u[0], iso=i0 * (i1 / i0) ** u[1], mosaic=bool(u[2] < 0.5),
            tone=t0 + (t1 - t0) * u[3], jpeg=round(q0 + (q1 - q0) * u[5]) if u[4] < 0.5 else 0,
        )  # fmt: skip
    if motion:
        shift = (2 * u[6:8] - 1) * MAX_SHIFT
        light = replace(
            light, shift_x=float(shift[0]), shift_y=float(shift[1]), exposure=1 + (2 * float(u[8]) - 1) * MAX_EXPOSURE
        )
    return light


def decode(xp: ModuleType, coded: Any, tone: float = 0.0) -> Any:
    """Linear light of coded values: the tone curve undone, then sRGB's (IEC 61966-2-1)."""
    if tone:
        wanted, coded = coded, coded * 1.0
        for _ in range(6):  # Newton's method; the curve rises everywhere
            coded = coded - (_curve(coded, tone) - wanted) / (1 + tone * (6 * coded - 6 * coded * coded - 1))
    # The exponent's base is kept from 0, where its gradient isn't finite.
    return xp.where(coded <= 0.04045, coded / 12.92, ((xp.clip(coded, 0.04045, None) + 0.055) / 1.055) ** 2.4)


def encode(xp: ModuleType, linear: Any, tone: float = 0.0) -> Any:
    """Coded values of linear light: sRGB's curve, then the tone curve."""
    coded = xp.where(linear <= 0.0031308, linear * 12.92, 1.055 * xp.clip(linear, 0.0031308, None) ** (1 / 2.4) - 0.055)
    return _curve(coded, tone) if tone else coded


def _curve(coded: Any, tone: float) -> Any:
    """An S about the middle: darker below, brighter above; 0 and 1 stay."""
    return coded + tone * (coded * coded * (3 - 2 * coded) - coded)
