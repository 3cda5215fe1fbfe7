"""Files of tensors: what is read of them, and that nothing in them runs."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from ifan_plugin.common.errors import UserError
from ifan_plugin.common.tensor_files import load_file


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


def test_load_file(tmp_path: Path) -> None:
    params = {"a": torch.arange(3.0), "b": torch.ones(2, 2)}
    torch.save(params, tmp_path / "a.pytorch")
    torch.save(params, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    save_file(params, tmp_path / "a.safetensors")
    for name in ("a.pytorch", "old.pth", "a.safetensors"):
        loaded = load_file(tmp_path / name)
        assert loaded.keys() == params.keys()
        assert all(torch.equal(loaded[key], value) for key, value in params.items())


def test_safetensors_with_hyper_parameters_are_like_our_own_files(tmp_path: Path) -> None:
    path, params = tmp_path / "a.safetensors", {"a": torch.arange(3.0)}
    save_file(params, path, metadata={"hyper_parameters": '{"width": 4, "isotropic": true}'})
    loaded = load_file(path)
    assert loaded.keys() == {"params", "hyper_parameters"}
    assert loaded["hyper_parameters"] == {"width": 4, "isotropic": True}
    assert torch.equal(loaded["params"]["a"], params["a"])
    save_file(params, path, metadata={"hyper_parameters": "{width: 4}"})
    with pytest.raises(UserError, match="not a checkpoint, or cut short") as error:
        load_file(path)
    one_line(error)


class Malicious:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("writer", ["torch.save", "old torch.save", "pickle"])
def test_code_is_refused_and_doesnt_run(writer: str, tmp_path: Path) -> None:
    touched, path = tmp_path / "touched", tmp_path / "bad.pytorch"
    content = {"module.Network.conv1_1.0.weight": Malicious(touched)}
    if writer == "pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=writer == "torch.save")
    with pytest.raises(UserError) as error:
        load_file(path)
    message = one_line(error)
    assert not touched.exists()
    assert str(path) in message
    assert "refused" in message
    assert "would run code" in message
    assert f"{os.system.__module__}.system" in message


def test_a_pickled_module_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "module.pth")
    with pytest.raises(UserError, match=r"names the global torch\.nn\.modules\.linear\.Linear"):
        load_file(tmp_path / "module.pth")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_files_that_are_no_checkpoint(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"net{suffix}"
    with pytest.raises(UserError, match="no such file") as error:
        load_file(path)
    one_line(error)
    params = {"a": torch.rand(100, 100)}
    if suffix == ".pth":
        torch.save(params, path)
    else:
        save_file(params, path)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:-30], whole[:5], b"", b"hello\nworld\n" * 50, bytes(999)):
        path.write_bytes(content)
        with pytest.raises(UserError, match="not a checkpoint, or cut short") as error:
            load_file(path)
        assert str(path) in one_line(error)


def test_a_folder_and_a_list(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="can't be read: Is a directory"):
        load_file(tmp_path)
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    with pytest.raises(UserError, match="holds a list"):
        load_file(tmp_path / "list.pth")
