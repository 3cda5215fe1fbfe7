"""Names in mmengine's registries: there, ours, never taken from somebody else, and only where mmengine is wanted."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from helpers import ROOT

pytest.importorskip("mmengine", reason="mmengine isn't installed (pip install ifan_plugin[mm])")

from mmengine import registry

from ifan_plugin.archs.ifan_arch import IFAN
from ifan_plugin.archs.reblur_arch import ReblurNet
from ifan_plugin.common.errors import UserError
from ifan_plugin.losses import DisparityLoss, ReblurLoss
from ifan_plugin.mm import register_all
from ifan_plugin.ops import IAC


def test_the_packages_own_classes_stand_under_their_names():
    for name, member in (
        ("IFAN", IFAN), ("ReblurNet", ReblurNet), ("IAC", IAC), ("DisparityLoss", DisparityLoss),
        ("ReblurLoss", ReblurLoss),
    ):  # fmt: skip
        assert registry.MODELS.get(name) is member
    assert registry.MODELS.get("IFANRestorer").__module__ == "ifan_plugin.mm.model"
    assert registry.DATASETS.get("DualPixelDataset").wrapped.__name__ == "DualPixelDataset"
    for target, names in (
        (registry.DATASETS, ("SimulatedDualPixelDataset",)),
        (registry.TRANSFORMS, ("PackRestoration", "AugmentDefocus")),
        (registry.METRICS, ("RestorationMetrics",)),
        (registry.DATA_SAMPLERS, ("EpochSampler",)),
    ):
        assert all(name in target for name in names)
    layer = registry.MODELS.build({"type": "IAC", "num_steps": 2, "taps": 5})
    assert (layer.num_steps, layer.taps) == (2, 5)


def test_they_are_found_from_another_packages_scope():
    child = registry.Registry("model", parent=registry.MODELS, scope="somebodys")
    try:
        assert child.get("IFAN") is IFAN
    finally:
        registry.MODELS.children.pop("somebodys")


def test_again_changes_nothing():
    before = {target.name: dict(target.module_dict) for target in (registry.MODELS, registry.METRICS)}
    register_all()
    assert before == {target.name: target.module_dict for target in (registry.MODELS, registry.METRICS)}


def test_somebody_elses_class_is_not_replaced(monkeypatch):
    class Other:
        pass

    monkeypatch.setitem(registry.METRICS.module_dict, "RestorationMetrics", Other)
    with pytest.raises(
        UserError, match=r"registry 'metric' .* has a class 'RestorationMetrics' already, of .*test_reg"
    ):
        register_all()
    assert registry.METRICS.get("RestorationMetrics") is Other


def test_an_unknown_scope_is_refused():
    with pytest.raises(UserError, match=r"unknown scope 'mmengin'; did you mean 'mmengine'\?"):
        register_all("mmengin")


def test_neither_the_package_nor_the_other_host_is_paid_for():
    """That ``basicsr train`` doesn't import mmengine is looked at in a real run: tests/mm/test_parity.py."""
    program = """
import sys
import ifan_plugin
assert not any(name.startswith(("torch", "basicsr", "mmengine")) for name in sys.modules)
import ifan_plugin.mm
assert "mmengine" in sys.modules
assert "basicsr" not in sys.modules
"""
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", program]
    found = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240, check=False)
    assert found.returncode == 0, found.stderr
