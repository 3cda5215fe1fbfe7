"""`basicsr convert`: every way and back, bit for bit; what it prints, and what it refuses in one line."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ifan_plugin import cli
from ifan_plugin.archs.ifan_arch import IFAN
from ifan_plugin.archs.reblur_arch import ReblurNet
from ifan_plugin.common.errors import UserError
from ifan_plugin.common.tensor_files import load_file
from ifan_plugin.weights import official
from ifan_plugin.weights.conversion import FORMATS, read_weights, write_weights

SMALL = {"width": 4, "num_steps": 2, "res_units": 1}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Names with spaces and letters beyond ASCII, as people have them."""
    path = tmp_path / "Gewichte für Tests"
    path.mkdir()
    return path


def with_odd_bits(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same parameters, with values that a conversion through numbers would change: NaN's payload, -0, denormals."""
    first = next(iter(state.values())).view(-1)
    first.view(torch.int32)[:3] = torch.tensor([0x7FC12345, -(2**31), 1], dtype=torch.int32)
    return state


def ours(folder: Path, name: str = "net_g.pth", **options: Any) -> tuple[Path, dict]:
    """A file as training saves it, with averaged weights."""
    torch.manual_seed(1)
    network, averaged = IFAN(**{**SMALL, **options}), IFAN(**{**SMALL, **options})
    content = {
        "hyper_parameters": dict(network.hyper_parameters),
        "params": with_odd_bits(network.state_dict()),
        "params_ema": with_odd_bits(averaged.state_dict()),
    }
    torch.save(content, folder / name)
    return folder / name, content


def official_file(
    folder: Path, name: str = "IFAN.pytorch", reblurring: bool = True, **options: Any
) -> tuple[Path, dict]:
    torch.manual_seed(2)
    network = IFAN(**{**SMALL, **options})
    reblur = ReblurNet(network.filter_channels, 4, 2, res_units=1).state_dict() if reblurring else None
    content = official.to_official(with_odd_bits(network.state_dict()), reblur)
    torch.save(content, folder / name)
    return folder / name, content


def convert(*arguments: object) -> int:
    return cli.main(["convert", *map(str, arguments)])


def refused(capsys: pytest.CaptureFixture, *arguments: object) -> str:
    """The one line that a wrong call ends in."""
    assert convert(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err.strip().removeprefix("basicsr: ")


def require_same_bits(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert tensor.dtype == other[name].dtype
        assert tensor.shape == other[name].shape
        bits = torch.int16 if tensor.element_size() == 2 else torch.int32
        assert torch.equal(tensor.contiguous().view(bits), other[name].contiguous().view(bits)), name


@pytest.mark.parametrize("way", [".pth", ".safetensors", ".pt"])
@pytest.mark.parametrize("options", [{}, {"dual_pixel": True}, {"num_steps": 3, "use_disparity": True}], ids=str)
def test_the_authors_file_and_back(folder, way, options):
    if way == ".pth":
        path, content = official_file(folder, reblurring=False, **options)
    else:
        path, content = official_file(folder, reblurring=True, **options)
    there, reblur, back = folder / f"there{way}", folder / f"reblurring{way}", folder / "back.pytorch"
    extra = () if way == ".pth" else ("--reblurring", reblur)
    assert convert(path, there, *extra) == 0
    assert convert(there, back, *extra) == 0
    require_same_bits(content, torch.load(back, weights_only=True))


@pytest.mark.parametrize(
    "options",
    [{}, {"isotropic": True}, {"dual_pixel": True}, {"taps": 5}, {"use_disparity": False}, {"use_filters": False}],
    ids=str,
)
@pytest.mark.parametrize("param_key", ["params", "params_ema"])
def test_our_file_to_safetensors_and_back(folder, options, param_key):
    path, content = ours(folder, **options)
    there, back = folder / "there.safetensors", folder / "back.pth"
    assert convert(path, there, "--param-key", param_key) == 0
    assert convert(there, back) == 0
    found = torch.load(back, weights_only=True)
    assert found.keys() == {"params", "hyper_parameters"}
    assert found["hyper_parameters"] == content["hyper_parameters"]
    assert list(found["hyper_parameters"]), "they say what shapes don't"
    require_same_bits(content[param_key], found["params"])


def test_our_file_to_the_authors_keys_and_back(folder):
    path, content = ours(folder, isotropic=True)
    assert convert(path, folder / "theirs.pytorch") == 0
    assert official.is_official(torch.load(folder / "theirs.pytorch", weights_only=True))
    assert convert(folder / "theirs.pytorch", folder / "back.pth") == 0
    found = torch.load(folder / "back.pth", weights_only=True)
    require_same_bits(content["params_ema"], found["params"])
    assert IFAN(**found["hyper_parameters"]).hyper_parameters == content["hyper_parameters"]


def test_what_the_map_is_comes_along(folder):
    """The shipped network's is the size of the blur, in units of 5 px; a copy's, and a copy of a copy's, too."""
    from ifan_plugin.weights.networks import load_network

    for source, target in (("ifan_small", "copy.pth"), (folder / "copy.pth", "back.safetensors")):
        assert convert(source, folder / target) == 0
        assert load_network(folder / target, device="cpu").blur_unit == 5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_types_are_kept(folder, dtype):
    params = IFAN(**SMALL).to(dtype).state_dict()
    torch.save({"params": params}, folder / "half.pth")
    assert convert(folder / "half.pth", folder / "half.safetensors", "--isotropic", "true") == 0
    assert convert(folder / "half.safetensors", folder / "half.pytorch") == 0
    assert convert(folder / "half.pytorch", folder / "again.pth") == 0
    require_same_bits(params, torch.load(folder / "again.pth", weights_only=True)["params"])


def test_strided_and_shared_tensors_go_into_safetensors(folder):
    params = IFAN(**SMALL).state_dict()
    weight = params["filter_encoder.level1.0.0.weight"]
    params["filter_encoder.level1.0.0.weight"] = weight.to(memory_format=torch.channels_last)
    params["feature_extractor.level1.0.0.weight"] = weight
    params["disparity_estimator.3.bias"] = torch.zeros(1).expand(1)
    torch.save({"params": params}, folder / "a.pth")
    assert convert(folder / "a.pth", folder / "a.safetensors") == 0
    require_same_bits(params, load_file(folder / "a.safetensors")["params"])


def test_what_it_prints(folder, capsys):
    path, content = official_file(folder)
    assert convert(path, folder / "out.safetensors") == 0
    count = sum(tensor.numel() for name, tensor in content.items() if ".Network." in name)
    assert capsys.readouterr().out.splitlines() == [
        f"{path}: a file with the IFAN authors' keys",
        "IFAN: width 4, num_steps 2, taps 3, res_units 1, dual_pixel false, isotropic true, use_disparity true, "
        f"use_filters true; {count:,} parameters, float32",
        "it has the reblurring network, too (--reblurring FILE)",
        f"written to {folder / 'out.safetensors'} (safetensors)",
    ]
    with safe_open(folder / "out.safetensors", framework="pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["hyper_parameters"]) == official.from_official(content).arch_kwargs
    assert (metadata["format"], metadata["arch"]) == ("pt", "IFAN")

    path, _ = ours(folder)
    assert convert(path, folder / "out.pytorch") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{path}: a file of ours, params_ema"
    assert "isotropic false" in lines[1]
    assert lines[2] == "it has params, too (--param-key params)"
    assert lines[3] == "note: the authors' code, as released, applies isotropic filters; these are separable"


def test_what_the_shapes_do_not_tell_may_be_said(folder, capsys):
    bare = IFAN(**SMALL).state_dict()
    torch.save({f"module.{name}": tensor for name, tensor in bare.items()}, folder / "bare.pth")
    assert convert(folder / "bare.pth", folder / "unsaid.pth") == 0
    assert "note: nothing says whether the filters are isotropic" in capsys.readouterr().out
    assert "isotropic" not in torch.load(folder / "unsaid.pth", weights_only=True)["hyper_parameters"]
    for value in ("true", "false"):
        assert convert(folder / "bare.pth", folder / "said.pth", "--isotropic", value, "--overwrite") == 0
        saved = torch.load(folder / "said.pth", weights_only=True)
        assert saved["hyper_parameters"]["isotropic"] is (value == "true")
        require_same_bits(bare, saved["params"])
    path, _ = official_file(folder)
    assert convert(path, folder / "separable.pth", "--isotropic", "false") == 0
    assert torch.load(folder / "separable.pth", weights_only=True)["hyper_parameters"]["isotropic"] is False
    capsys.readouterr()
    message = refused(capsys, folder / "said.pth", folder / "x.pth", "--isotropic", "true")
    assert "isotropic is False in the checkpoint, but True was asked for" in message


@pytest.mark.parametrize("kind", FORMATS)
def test_what_is_there_is_kept(folder, capsys, kind):
    path, _ = ours(folder)
    out = folder / ("out.safetensors" if kind == "safetensors" else "out.ckpt")
    out.write_bytes(b"mine")
    message = refused(capsys, path, out, "--to", kind)
    assert message == f"{out}: is there already; give another name, or add --overwrite"
    assert out.read_bytes() == b"mine"
    assert convert(path, out, "--to", kind, "--overwrite") == 0
    assert load_file(out)
    assert sorted(p.name for p in folder.iterdir()) == sorted(["net_g.pth", out.name]), "no remains"


def test_a_failed_conversion_leaves_nothing(folder, capsys, monkeypatch):
    path, _ = ours(folder)
    (folder / "out.safetensors").write_bytes(b"mine")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ifan_plugin.common.files.os.fsync", full)
    for out in ("out.safetensors", "out.pth"):
        assert "No space left on device" in refused(capsys, path, folder / out, "--overwrite")
    assert (folder / "out.safetensors").read_bytes() == b"mine"
    assert sorted(p.name for p in folder.iterdir()) == ["net_g.pth", "out.safetensors"]


def test_a_file_may_take_its_own_place(folder):
    path, content = ours(folder)
    assert convert(path, path, "--param-key", "params_ema", "--overwrite") == 0
    require_same_bits(content["params_ema"], torch.load(path, weights_only=True)["params"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"hello", "not a checkpoint, or cut short"),
        ([torch.zeros(1)], "holds a list, not a dict of parameters"),
        ({}, "holds no parameters"),
        (
            {"params": {"conv.weight": torch.zeros(3, 3)}},
            "no IFAN checkpoint: missing key feature_extractor.level1.0.0.weight",
        ),
        ({"epoch": 3, "iter": 4}, "not a checkpoint of a network: 'epoch' is a int"),
        ({"params": IFAN(**SMALL).state_dict() | {"more": torch.zeros(1)}}, "no IFAN checkpoint: unknown key more"),
        (
            {"params": IFAN(**SMALL).state_dict() | {"disparity_estimator.3.bias": torch.zeros(2)}},
            "disparity_estimator.3.bias is [2], expected [1]",
        ),
        (
            {"params": IFAN(**SMALL).state_dict(), "hyper_parameters": {"num_steps": 3}},
            "num_steps is 2 in the checkpoint, but 3 was asked for",
        ),
        (
            {"params": IFAN(**SMALL).state_dict(), "hyper_parameters": {"numsteps": 3}},
            "hyper_parameters: unknown key 'numsteps'; did you mean 'num_steps'?",
        ),
        (
            {"params": IFAN(**SMALL).state_dict(), "hyper_parameters": {"isotropic": "yes"}},
            "hyper_parameters: isotropic: must be true or false",
        ),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_other_files_are_refused(folder, capsys, content, message):
    path = folder / "in.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    said = refused(capsys, path, folder / "out.safetensors")
    assert said.startswith(f"{path}: ")
    assert message in said
    assert not (folder / "out.safetensors").exists()


def test_help_names_the_kinds(capsys):
    from ifan_plugin.cli.convert import FORMATS as OFFERED

    assert OFFERED == FORMATS
    with pytest.raises(SystemExit) as caught:
        convert("--help")
    assert caught.value.code == 0
    said = capsys.readouterr().out
    assert all(kind in said for kind in FORMATS)
    assert "exit status" in said


def test_wrong_calls(folder, capsys):
    path, _ = ours(folder)
    theirs, _ = official_file(folder, reblurring=False)
    out = folder / "x.pth"
    for arguments, message in (
        ((path, folder / "x.bin"), "x.bin: unknown ending '.bin'; valid: .pth (ifan_plugin)"),
        ((path, folder / "x"), "x: unknown ending ''; valid: .pth"),
        ((path, out, "--to", "safetensors"), "a file of kind safetensors needs the ending .safetensors"),
        ((path, folder / "x.safetensors", "--to", "official"), "a file of kind official can't have the ending"),
        ((folder / "none.pth", out), "none.pth: no such file"),
        ((path, folder / "no folder" / "x.pth"), "no folder: folder not found"),
        ((path, folder, "--to", "official"), "is a folder; give a file's name"),
        ((path, out, "--to", "onnx"), "invalid choice: 'onnx'"),
        ((path, out, "--parm-key", "params"), "unknown flag --parm-key; did you mean '--param-key'?"),
        ((theirs, out, "--param-key", "params_ema"), "has the authors' keys, and no 'params_ema'"),
        ((path, out, "--taps", "4", "--isotropic", "maybe"), "invalid choice: 'maybe'"),
        ((theirs, out, "--taps", "4"), "taps must be odd and positive, got 4"),
        ((path, out, "--reblurring", folder / "r.pth"), "--reblurring: "),
        ((theirs, out, "--reblurring", folder / "r.pth"), "has no reblurring network"),
        ((path, folder / "x.pytorch", "--reblurring", path), "no ReblurNet checkpoint: missing key trunk.0.0.weight"),
    ):
        assert message in refused(capsys, *arguments), arguments
    assert sorted(p.name for p in folder.iterdir()) == ["IFAN.pytorch", "net_g.pth"]


def test_the_reblurring_networks_file(folder, capsys):
    path, _ = official_file(folder)
    (folder / "r.pth").write_bytes(b"mine")
    assert "r.pth: is there already" in refused(capsys, path, folder / "g.pth", "--reblurring", folder / "r.pth")
    assert "is OUT itself" in refused(capsys, path, folder / "g.pth", "--reblurring", folder / "g.pth")
    assert "the ending must be" in refused(capsys, path, folder / "g.pth", "--reblurring", folder / "g.pytorch")
    assert not (folder / "g.pth").exists()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"filter_type": "fac", "fac_taps": 3}, "filter_type: fac; valid for official: filter_type: iac"),
        ({"use_disparity": False}, "use_disparity: false; valid for official: use_disparity: true"),
        ({"use_filters": False}, "use_filters: false; valid for official: use_filters: true"),
    ],
    ids=lambda value: "" if isinstance(value, str) else str(value),
)
@pytest.mark.parametrize("bare", [False, True], ids=["said", "by the shapes"])
def test_networks_the_authors_do_not_have_are_not_written_with_their_keys(folder, capsys, options, named, bare):
    path, content = ours(folder, **options)
    if bare:
        torch.save(content["params"], path)
    reblur = folder / "net_r.pth"
    torch.save({"params": ReblurNet(4, 4, 2, res_units=1).state_dict()}, reblur)
    for more in ((), ("--reblurring", reblur)):
        message = refused(capsys, path, folder / "x.pytorch", *more)
        assert message.startswith(f"{path}: the authors' files have no network with {named}")
    assert sorted(p.name for p in folder.iterdir()) == ["net_g.pth", "net_r.pth"]
    with pytest.raises(UserError, match="the authors' files have no network with"):
        write_weights(folder / "x.pytorch", "official", read_weights(path))


def test_taps_the_authors_keys_do_not_tell_are_printed(folder, capsys):
    """N=7, k=5 has the shapes of N=11, k=3."""
    path, content = ours(folder, num_steps=7, taps=5, isotropic=True)
    assert convert(path, folder / "k5.pytorch") == 0
    said = capsys.readouterr().out
    assert "note: OUT can't say it: read it with --taps 5, or in an option file network_g: taps: 5\n" in said
    assert convert(folder / "k5.pytorch", folder / "back.pth", "--taps", "5") == 0
    back = torch.load(folder / "back.pth", weights_only=True)
    assert content["hyper_parameters"].items() >= back["hyper_parameters"].items()
    assert {"num_steps": 7, "taps": 5}.items() <= back["hyper_parameters"].items()
    require_same_bits(content["params_ema"], back["params"])

    path, content = ours(folder, taps=5)
    assert convert(path, folder / "separable.pytorch") == 0
    assert "--taps 5 --isotropic false, or in an option file network_g: taps: 5, isotropic: false\n" in (
        capsys.readouterr().out
    )
    path, content = ours(folder, isotropic=True)
    assert convert(path, folder / "k3.pytorch") == 0
    assert "OUT can't say it" not in capsys.readouterr().out


def test_what_would_be_read_back_as_another_network_is_not_written(folder):
    path, _ = ours(folder, isotropic=True)
    weights = read_weights(path)
    other = dataclasses.replace(weights, hyper_parameters=weights.hyper_parameters | {"num_steps": 9})
    with pytest.raises(UserError, match="num_steps is 9, but a file with the authors' keys would be read as 2"):
        write_weights(folder / "x.pytorch", "official", other)
    assert not (folder / "x.pytorch").exists()


def reblurring(folder: Path, said: bool = True, **changed: Any) -> Path:
    """A reblurring network of SMALL's, 4*4 channels x 2 steps x (2*3 + 1), or with something changed."""
    options = {"filter_channels": 224, "width": 4, "num_steps": 2, "taps": 3, "res_units": 1, **changed}
    options.setdefault("isotropic", True)
    content = {"params": ReblurNet(**options).state_dict()}
    torch.save(content | ({"hyper_parameters": options} if said else {}), folder / "net_r.pth")
    return folder / "net_r.pth"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"filter_channels": 112}, "filter_channels 112, but {} has filter_channels 224"),
        ({"filter_channels": 112, "said": False}, "filter_channels 112, but {} has filter_channels 224"),
        ({"taps": 5}, "taps 5, but {} has taps 3"),
        ({"isotropic": False}, "isotropic false, but {} has isotropic true"),
    ],
    ids=str,
)
def test_another_networks_reblurring_is_not_merged(folder, capsys, changed, message):
    path, _ = ours(folder, isotropic=True)
    file = reblurring(folder, **changed)
    said = refused(capsys, path, folder / "x.pytorch", "--reblurring", file)
    assert said == f"{file}: a reblurring network with {message.format(path)}; valid: the one that was trained with it"
    assert not (folder / "x.pytorch").exists()
    with pytest.raises(UserError, match="a reblurring network with"):
        write_weights(folder / "x.pytorch", "official", read_weights(path), read_weights(file, network=ReblurNet))


@pytest.mark.parametrize("said", [True, False])
@pytest.mark.parametrize("options", [{}, {"taps": 5}, {"isotropic": False}], ids=str)
def test_its_own_reblurring_is_merged(folder, said, options):
    path, content = ours(folder, **{"isotropic": True, **options})
    file = reblurring(folder, said, filter_channels=IFAN(**{**SMALL, **options}).filter_channels, **options)
    assert convert(path, folder / "x.pytorch", "--reblurring", file) == 0
    merged = torch.load(folder / "x.pytorch", weights_only=True)
    back = official.from_official(merged, options.get("taps", 3))
    require_same_bits(content["params_ema"], back.params)
    require_same_bits(torch.load(file, weights_only=True)["params"], back.reblur_params)


def test_a_reblurring_network_may_know_more_than_the_other(folder):
    """Of a bare IFAN nobody knows whether it is isotropic: nothing to compare."""
    torch.save(IFAN(**SMALL).state_dict(), folder / "bare.pth")
    assert convert(folder / "bare.pth", folder / "x.pytorch", "--reblurring", reblurring(folder, isotropic=False)) == 0


def test_code_in_a_file_does_not_run(folder, capsys):
    import os

    class Evil:
        def __reduce__(self):
            return os.system, (f"touch '{folder / 'owned'}'",)

    torch.save({"params": Evil()}, folder / "evil.pth")
    assert "refused" in refused(capsys, folder / "evil.pth", folder / "out.pth")
    assert not (folder / "owned").exists()


def test_safetensors_of_others_are_read(folder):
    """The authors' keys in a safetensors file, and our keys without metadata."""
    _, content = official_file(folder, reblurring=False)
    save_file(content, folder / "theirs.safetensors")
    assert convert(folder / "theirs.safetensors", folder / "a.pth") == 0
    assert torch.load(folder / "a.pth", weights_only=True)["hyper_parameters"]["isotropic"] is True
    save_file(IFAN(**SMALL).state_dict(), folder / "bare.safetensors", metadata={"format": "pt"})
    assert convert(folder / "bare.safetensors", folder / "b.pth") == 0
