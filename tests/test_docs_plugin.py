"""docs/plugin.md as a reader tries it: its network and its option file, through the commands it names."""

from __future__ import annotations

import re

import cv2
import numpy as np
import pytest
import yaml
from helpers import ROOT, basicsr

from ifan_plugin.common.errors import UserError

PAGE = (ROOT / "docs" / "plugin.md").read_text(encoding="utf-8")
FLAG = "--plugin"


def block(language: str) -> str:
    return re.search(rf"```{language}\n(.*?)```", PAGE, re.S)[1]


@pytest.fixture(scope="module")
def trained(dpdd, tmp_path_factory):
    """The page's network, trained for two iterations on small data."""
    folder = tmp_path_factory.mktemp("plugin")
    (folder / "my_net.py").write_text(block("python"))
    options = yaml.safe_load(block("yaml"))
    for data in options["datasets"].values():
        data["dataroot"] = str(dpdd)
    options["datasets"]["train"] |= {"patch_size": 32, "num_worker_per_gpu": 0}
    options["train"]["total_iter"] = options["val"]["val_freq"] = 2
    options["logger"] = {"print_freq": 1, "save_checkpoint_freq": 2, "use_tb_logger": False}
    (folder / "my_net.yml").write_text(yaml.safe_dump(options))
    done = basicsr("train", "-opt", "my_net.yml", "--plugin", "my_net.py", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_network_is_short():
    assert len([line for line in block("python").splitlines() if line.strip()]) <= 15


@pytest.mark.slow
def test_every_command_that_the_page_names_takes_the_flag(trained):
    cv2.imwrite(str(trained / "photo.png"), np.full((40, 56, 3), 90, np.uint8))
    for line in block("bash").splitlines():
        command, *arguments = line.split()[1:]
        if command in ("deblur", "export"):
            arguments = [argument.replace("photo.jpg", "photo.png") for argument in arguments]
            done = basicsr(command, *arguments, cwd=trained)
            assert done.returncode == 0, done.stderr
    assert (trained / "sharp" / "photo.png").is_file()
    assert (trained / "my_net.onnx").is_file()


def test_an_option_file_alone_runs_no_file_beside_it_but_says_how(trained):
    done = basicsr("train", "-opt", trained / "my_net.yml", cwd=trained.parent)
    assert done.returncode == 2
    assert f"add --plugin {trained / 'my_net.py'}" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("absent.py", "absent.py: no such file"),
        ("folder/absent", "folder/absent: no such file"),
        ("my-net.py", "can't import a file of this name"),
        ("my-net", "must be the name of an installed module"),
        ("json.py", "another module is called json"),
        ("nowhere_installed", "nowhere_installed' can't be loaded: ModuleNotFoundError"),
        ("broken.py", "'broken' can't be loaded: ZeroDivisionError"),
    ],
)
def test_what_no_plugin_can_be(entry, message, tmp_path, monkeypatch):
    from ifan_plugin.host.registry import load_plugins

    for name, text in (("my-net.py", ""), ("json.py", ""), ("broken.py", "1 / 0\n")):
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*__import__("sys").path])
    with pytest.raises(UserError) as caught:
        load_plugins(None, FLAG, [entry])
    assert message in str(caught.value)


def test_a_package_in_a_folder_is_taken(tmp_path, monkeypatch):
    from ifan_plugin.host.registry import load_plugins

    package = tmp_path / "their_package_of_nets"
    package.mkdir()
    (package / "__init__.py").write_text("from . import nets\n")
    (package / "nets.py").write_text("loaded = True\n")
    monkeypatch.setattr("sys.path", [*__import__("sys").path])
    assert load_plugins(None, FLAG, [str(package)])[-1] == "their_package_of_nets"
