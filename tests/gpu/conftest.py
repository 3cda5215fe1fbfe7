"""Everything in this folder needs a CUDA device and the compiled CUDA operator, and says so where it can't run."""

from __future__ import annotations

import pytest

from ifan_plugin.ops import available_backends


@pytest.fixture(autouse=True)
def _cuda_operator() -> None:
    """Skip with the loader's own words."""
    reason = available_backends()["cuda"]
    if reason is not None:
        pytest.skip(f"CUDA operator: {reason}")
