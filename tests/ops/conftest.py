"""What the tests of the operators share."""

from __future__ import annotations

import pytest
from ops.host_shim.driver import Shim, build


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Shim:
    """The CUDA kernels, built for the CPU."""
    return Shim(build(tmp_path_factory.mktemp("shim")))
