"""``options/benchmark/rivals.yml``: its networks have as many parameters as their papers say."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from helpers import ROOT

from ifan_plugin.benchmark import options
from ifan_plugin.weights import spandrel_arch

pytest.importorskip("spandrel", reason="needs spandrel (pip install 'ifan_plugin[rivals]')")
pytest.importorskip("spandrel_extra_arches", reason="needs spandrel_extra_arches (pip install 'ifan_plugin[rivals]')")

PUBLISHED = {  # in millions
    "NAFNet-32": 17.1, "NAFNet-64": 67.9, "Uformer-T": 5.23, "Uformer-B": 50.88, "SCUNet": 17.94, "DRUNet": 32.64,
    "Restormer": 26.13, "FFTformer": 16.6, "MPRNet": 20.1, "GRL-B": 19.81,
}  # fmt: skip


@pytest.fixture(scope="module")
def rows() -> dict[str, options.Model]:
    path = Path(ROOT) / "options/benchmark/rivals.yml"
    checked = options.check(yaml.safe_load(path.read_text(encoding="utf-8")), path.name)
    return {model.name: model for model in checked.models}


@pytest.mark.parametrize(("name", "millions"), PUBLISHED.items())
def test_parameters_are_as_published(rows, name, millions):
    arguments = rows[name].arguments
    known = spandrel_arch._networks(spandrel_arch.spandrel_registry())[arguments["architecture"]]
    net = known.network_class(**arguments["arguments"])
    assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(millions, rel=0.01)
