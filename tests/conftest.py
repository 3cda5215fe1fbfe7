"""Fixtures that several tests share."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import small_options, write_dpdd


@pytest.fixture(scope="session", autouse=True)
def no_cached_programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What a user of this machine exported for another runtime isn't taken, nor anything put beside it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IFAN_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def dpdd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of 5 training, 3 validation and 3 test scenes, 64x48. Read only."""
    return write_dpdd(tmp_path_factory.mktemp("dpdd"), {"train": 5, "val": 3, "test": 3})


@pytest.fixture
def options(dpdd: Path) -> dict:
    """Options of a tiny training run, free to be changed."""
    return copy.deepcopy(small_options(dpdd))
