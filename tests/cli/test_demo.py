"""`basicsr demo`: its help, what it refuses in one line, and what it says of its weights. The page: tests/demo."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from ifan_plugin import cli
from ifan_plugin.archs.ifan_arch import IFAN
from ifan_plugin.weights.networks import load_network
from ifan_plugin.zoo import shipped


def refused(capsys: pytest.CaptureFixture, *arguments: object) -> str:
    """The one line on standard error."""
    assert cli.main(["demo", *map(str, arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "experiments" / "IFAN ü" / "models" / "net_g_500.pth"
    path.parent.mkdir(parents=True)
    net = IFAN(width=2, num_steps=1, res_units=1)
    state = net.state_dict()
    torch.save({"hyper_parameters": net.hyper_parameters, "params": state, "params_ema": state}, path)
    return path


def test_help_has_examples(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["demo", "--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert "basicsr demo --weights weights/IFAN.pytorch" in said
    assert "exit status" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max-megapixels", "0"], "--max-megapixels 0: must be more than 0"),
        (["--max-upload-mb", "nan"], "--max-upload-mb nan: must be more than 0"),
        (["--port", "99999"], "--port 99999: must be 1 to 65535"),
        (["--tile", "large"], "--tile large: must be auto, off, or a number of pixels"),
        (["--wieghts", "a.pth"], "unknown flag --wieghts; did you mean '--weights'?"),
        (["--device", "gpu", "--weights", "a.pth"], "device: unknown 'gpu'"),
        (["--weights", "gone.pth"], "gone.pth: "),
        (["--arch", "IFAN"], "needs a checkpoint"),
    ],
)
def test_what_is_refused(capsys, tmp_path, monkeypatch, arguments, message):
    if {"--device", "--weights", "--arch"} & set(arguments):
        pytest.importorskip("gradio", reason="needs gradio (pip install 'gradio>=5')")
    monkeypatch.chdir(tmp_path)
    assert message in refused(capsys, *arguments)


def test_without_any_weights_it_says_what_to_do(capsys, tmp_path, monkeypatch):
    """A package without its own network, in a folder without the quickstart's."""
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    monkeypatch.chdir(tmp_path)
    said = refused(capsys)
    assert "net_g_latest.pth: not found; run ./scripts/quickstart.sh first, here, or give --weights FILE" in said


def test_without_gradio_it_says_how_to_get_it(capsys, weights, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert "needs gradio: pip install 'ifan_plugin[demo]'" in refused(capsys, "--weights", weights)


def test_what_it_says_of_its_weights(weights):
    pytest.importorskip("gradio", reason="needs gradio (pip install 'gradio>=5')")
    from ifan_plugin.demo.choice import loaded_lines

    network = load_network(weights, param_key="params_ema", device="cpu")
    first, second = loaded_lines(network)
    assert first.startswith("Network: IFAN: width 2, num_steps 1")
    assert second == f"Weights: {weights} [params_ema], trained for 500 iterations."
    weights.rename(weights.with_name("mine.pth"))
    network = load_network(weights.with_name("mine.pth"), param_key="params", device="cpu")
    assert loaded_lines(network)[1].endswith("mine.pth [params], how long they were trained isn't known.")


def test_a_taken_port_is_one_line(capsys, weights, tmp_path, monkeypatch):
    pytest.importorskip("gradio", reason="needs gradio (pip install 'gradio>=5')")
    import socket

    monkeypatch.chdir(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = refused(capsys, "--weights", weights, "--device", "cpu", "--port", port)
    assert f"--port {port}: can't serve there: the port is taken by another program" in said


def test_which_networks_the_page_offers(weights, tmp_path, monkeypatch):
    from ifan_plugin.demo.choice import QUICKSTART, find_choices

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ifan_plugin.zoo.networks", dict)  # none ships
    assert find_choices([]) == []
    for path in (Path("weights/b.pth"), Path("weights/a.pytorch"), Path("weights/README.md"), QUICKSTART):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(weights.read_bytes())
    names = [choice.name for choice in find_choices([])]
    assert names == ["a", "b", "the quickstart's network"]
    named = find_choices([weights, Path("weights/b.pth")])
    assert [choice.name for choice in named] == ["net_g_500", "b", "a", "the quickstart's network"]
    assert [choice.name for choice in find_choices([Path("elsewhere/b.pth")])][:1] == ["b (.pth, elsewhere)"]
    assert [choice.name for choice in find_choices([], "DefocusDeconvolution")] == ["DefocusDeconvolution"]
