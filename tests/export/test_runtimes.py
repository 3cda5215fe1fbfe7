"""Networks on ONNX Runtime and OpenVINO: torch's results, an export made once, and the cache that keeps it."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import python_path

import ifan_plugin
from ifan_plugin import cli
from ifan_plugin.archs.ifan_arch import IFAN
from ifan_plugin.common.errors import UserError
from ifan_plugin.export import runtimes
from ifan_plugin.export.program import TOLERANCE
from ifan_plugin.inference import run_network
from ifan_plugin.photos.read_write import Photo, read_photo, write_photo
from ifan_plugin.weights.networks import Network, load_network


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    net = IFAN(width=4, num_steps=2, res_units=1)
    path = tmp_path_factory.mktemp("Gewichte") / "net_g.pth"
    torch.save({"params": net.state_dict(), "hyper_parameters": net.hyper_parameters}, path)
    return path


# An export takes half a minute of processor time: one of them is enough by default.
@pytest.fixture(scope="module", params=["openvino", pytest.param("onnxruntime", marks=pytest.mark.slow)])
def exported(request, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Network]]:
    """A runtime, and the network on it; its program is in the cache folder, which is another for each."""
    for name in (request.param, "onnx", "onnxscript"):
        pytest.importorskip(name, reason=f"{name} isn't installed")
    told: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IFAN_CACHE", str(tmp_path_factory.mktemp("Zwischenablage") / "neu"))
        yield request.param, runtimes.running_on(load_network(weights, device="cpu"), request.param, tell=told.append)
        assert len(told) == 1
        assert request.param in told[0]


@pytest.fixture
def no_export(monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise UserError("an export was begun")

    monkeypatch.setattr(runtimes, "export_network", refuse)


def picture(height: int = 40, width: int = 56, batch: int = 1) -> torch.Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("how", [{}, {"tile": 16}, {"ensemble": True}], ids=str)
def test_pictures_are_torchs(exported, how):
    _, network = exported
    done: list[tuple[int, int]] = []
    lq = picture(48, 85)
    found = run_network(network.net, lq, **how, program=network.program, progress=lambda *step: done.append(step))
    expected = run_network(network.net, lq, **how)
    assert expected.std() > 0.05
    assert (found - expected).abs().max() <= TOLERANCE
    assert done[-1][0] == done[-1][1] > (1 if how else 0)


@pytest.mark.parametrize("size", [(8, 40), (40, 56, 2)])
def test_what_the_program_was_not_made_for_is_left_to_the_network(exported, size):
    _, network = exported
    assert torch.equal(network.program(picture(*size)), network.net(picture(*size)))


def test_signals_arrive_behind_programs_that_are_gone(exported):
    """In a process of its own: a signal whose handler has lost its stack ends it."""
    runtime, _ = exported
    (path,) = (path for path in runtimes.cache_folder().iterdir() if path.name.startswith(runtime))
    program = (
        "import faulthandler, gc, signal, sys\n"
        "from pathlib import Path\n"
        "from ifan_plugin.export.runtimes import RUNTIMES\n"
        "faulthandler.enable()\n"
        "runner = RUNTIMES[sys.argv[1]][1]\n"
        "first, second = runner(Path(sys.argv[2])), runner(Path(sys.argv[2]))\n"
        "del first; gc.collect()\n"
        "del second; gc.collect()\n"
        "signal.signal(signal.SIGTERM, lambda *_: print('arrived'))\n"
        "signal.raise_signal(signal.SIGTERM)\n"
    )
    command = [sys.executable, "-c", program, runtime, str(path)]
    env = {**os.environ, "PYTHONPATH": python_path()}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=120)
    assert (done.returncode, done.stdout) == (0, "arrived\n"), done.stderr


def test_the_export_is_made_once(exported, weights, no_export):
    runtime, network = exported
    again = load_network(weights, device="cpu")
    for asked in (runtime, "auto"):
        found = runtimes.running_on(again, asked)
        assert torch.equal(found.program(picture()), network.program(picture()))
        assert found.place.startswith(f"cpu by {runtime} ")
    assert runtimes.running_on(found, "torch").place == "cpu by torch"


@pytest.mark.parametrize("change", ["weights", "views", "version", "damage", "foreign"])
def test_what_is_damaged_or_of_something_else_is_not_taken(exported, weights, no_export, change, monkeypatch, tmp_path):
    runtime, _ = exported
    network = load_network(weights, device="cpu")
    (path,) = runtimes.cache_folder().iterdir()
    copied = tmp_path / path.name
    copied.write_bytes(path.read_bytes())
    monkeypatch.setenv("IFAN_CACHE", str(tmp_path))
    assert runtimes.running_on(network, "auto").program is not None
    if change == "weights":
        network.net.reconstructor.to_image[0].bias[0] += 1e-6
    elif change == "views":
        network = dataclasses.replace(network, views=("left",))
    elif change == "version":
        monkeypatch.setattr(runtimes, "__version__", "0.0.1")
    elif change == "damage":
        copied.write_bytes(copied.read_bytes()[:-1] + b"!")
    else:
        copied.write_text("something else")
    assert runtimes.running_on(network, "auto").program is None
    with pytest.raises(UserError, match="an export was begun"):
        runtimes.running_on(network, runtime)


def test_restore_and_deblur_say_and_take_it(exported, weights, no_export, tmp_path, capsys):
    runtime, network = exported
    image = np.random.default_rng(0).integers(0, 256, (36, 44, 3)).astype(np.uint8)
    by_torch = ifan_plugin.restore(image, weights, device="cpu").astype(int)
    assert np.abs(ifan_plugin.restore(image, network) - by_torch).max() <= 1
    assert np.abs(ifan_plugin.restore(image, weights, device="cpu", runtime=runtime) - by_torch).max() <= 1
    write_photo(tmp_path / "a.png", Photo(image, "png"))
    arguments = ["deblur", tmp_path / "a.png", "--out", tmp_path / "out", "--weights", weights, "--device", "cpu"]
    assert cli.main([*map(str, arguments), "--runtime", runtime]) == 0
    assert f"; on cpu by {runtime} " in capsys.readouterr().err
    assert np.abs(read_photo(tmp_path / "out" / "a.png").pixels - by_torch).max() <= 1


def test_another_precision_is_refused(exported):
    runtime, network = exported
    with pytest.raises(UserError, match=f"{runtime} .* computes in fp32 alone, not in bf16"):
        run_network(network.net, picture(), precision="bf16", program=network.program)
    with pytest.raises(UserError, match="not on cpu in bf16; give device cpu and precision fp32, or runtime torch"):
        runtimes.running_on(network, runtime, "bf16")


def test_out_of_memory_is_known_for_what_it_is(exported, monkeypatch):
    _, network = exported

    def fail(lq: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("Failed to allocate memory for requested buffer of size 1")

    monkeypatch.setattr(network.program, "_run", fail)
    with pytest.raises(UserError, match="out of memory at a picture of 56x40"):
        run_network(network.net, picture(), program=network.program)


def test_a_folder_that_cannot_be_written_is_refused(weights, monkeypatch, tmp_path):
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason=f"{name} isn't installed")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("IFAN_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"file: programs can't be kept there: .*; IFAN_CACHE names another folder"):
        runtimes.running_on(load_network(weights, device="cpu"), "onnxruntime")


@pytest.mark.parametrize("asked", runtimes.RUNTIMES)
def test_missing_packages_are_named(weights, asked, monkeypatch, tmp_path):
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == asked else there(name, *rest))
    network = load_network(weights, device="cpu")
    extra = runtimes.RUNTIMES[asked][0]
    with pytest.raises(UserError) as refusal:
        runtimes.running_on(network, asked)
    assert str(refusal.value) == f"runtime: {asked} needs {asked}: pip install 'ifan_plugin[{extra}]'"
    monkeypatch.setenv("IFAN_CACHE", str(tmp_path / "none"))
    assert runtimes.running_on(network, "auto").program is None


def test_unknown_runtimes_are_refused(weights):
    with pytest.raises(UserError, match=r"runtime: unknown 'onnx'; .*onnxruntime"):
        ifan_plugin.restore(np.zeros((16, 16, 3), np.uint8), weights, device="cpu", runtime="onnx")


def test_where_programs_are_kept(monkeypatch):
    monkeypatch.delenv("IFAN_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/a b/cache")
    assert runtimes.cache_folder() == Path("/a b/cache/ifan_plugin")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert runtimes.cache_folder() == Path.home() / ".cache" / "ifan_plugin"


def test_the_commands_offer_all():
    from ifan_plugin.cli import deblur, demo

    for parser in (deblur.build_parser(), demo.build_parser()):
        (offered,) = (action.choices for action in parser._actions if action.dest == "runtime")
        assert tuple(offered) == runtimes.CHOICES
