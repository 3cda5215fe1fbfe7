"""Metrics that BasicSR computes, against its own functions, and how they join their protocol."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers import ROOT
from skimage import data

import ifan_plugin
from ifan_plugin.host.metrics import niqe
from ifan_plugin.metrics import MetricUnavailableError

ifan_plugin.register()

from basicsr.metrics.niqe import calculate_niqe  # noqa: E402 (the host can be imported only once it is mended)


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """uint8 [200, 300, 3], RGB, of unequal channels."""
    return data.astronaut()[:200, 100:400]


def as_tensor(photo: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(photo.astype(np.float32) / 255).permute(2, 0, 1)[None]


def test_niqe_is_the_hosts(photo):
    expected = calculate_niqe(np.ascontiguousarray(photo[..., ::-1]), crop_border=0)
    assert 1 < expected < 20
    assert niqe(as_tensor(photo)) == expected
    assert niqe(photo) == expected
    assert niqe(as_tensor(photo) + 0.3 / 255) == expected, "rounded to 8 bits"
    assert niqe(as_tensor(photo), crop_border=3) == calculate_niqe(photo[..., ::-1], crop_border=3)
    assert niqe(photo[..., ::-1]) != expected, "the order of the channels matters"


def test_niqe_without_texture_is_undefined_and_of_small_pictures_unavailable(photo, recwarn):
    assert math.isnan(niqe(np.zeros((200, 200, 3))))
    assert not [w for w in recwarn if issubclass(w.category, RuntimeWarning)]
    with pytest.raises(MetricUnavailableError, match="niqe: a picture of 191x100 is too small; it needs two blocks"):
        niqe(photo[:100, :191])
    assert niqe(photo[:100, :192]) > 0
    with pytest.raises(MetricUnavailableError, match="188x96"):
        niqe(photo[:100, :192], crop_border=2)


def test_the_protocol_of_basicsr_says_what_it_needs():
    program = """
import torch
import ifan_plugin
from ifan_plugin.metrics import MetricUnavailableError
from ifan_plugin.metrics.protocols import measure
picture = torch.rand(3, 16, 16)
assert measure("ifan", picture, picture)["mae"] == 0
try:
    measure("basicsr", picture, picture)
except MetricUnavailableError as error:
    assert str(error) == "protocol 'basicsr' needs BasicSR: call ifan_plugin.register() first"
else:
    raise AssertionError
ifan_plugin.register()
assert measure("basicsr", picture, picture)["mae"] == 0
"""
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    found = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=240)
    assert found.returncode == 0, found.stderr
