"""Everything in this folder needs a CUDA device and the compiled operator, and says so where it can't run."""

from __future__ import annotations

import pytest
from gpu.device import DEVICE

from ifan_plugin.ops import available_backends


@pytest.fixture(autouse=True)
def _compiled_operator() -> None:
    """Skip with the loader's own words."""
    reason = available_backends()[DEVICE.type]
    if reason is not None:
        pytest.skip(f"{DEVICE.type.upper()} operator: {reason}")
