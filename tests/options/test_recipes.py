"""The shipped option files by name, and what the list says of each."""

from __future__ import annotations

import re

import pytest
from helpers import ROOT

from ifan_plugin import cli
from ifan_plugin.common.errors import UserError
from ifan_plugin.options import file as option_file
from ifan_plugin.options import recipes
from ifan_plugin.options.arguments import parse_pipeline_arguments

FILES = sorted(path for path in (ROOT / "options").rglob("*") if path.suffix in recipes.ENDINGS)


def test_every_option_file_is_a_recipe_and_names_are_unique():
    assert sorted(recipes.paths().values()) == FILES
    assert len(recipes.names()) == len(FILES), "two files share a name, and one hides the other"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_header_says_what_hardware_and_time(path):
    recipe = recipes.describe(path)
    assert recipe.what
    assert recipe.reproduces
    assert recipe.hardware
    assert recipe.line.count("; ") >= 1
    assert "\n" not in recipe.line
    assert len(recipe.line) < 260
    assert recipe.line.count("(") == recipe.line.count(")")


@pytest.mark.parametrize(
    "name",
    [
        "train_IFAN_DPDD.yml",
        "train_IFAN_DPDD",
        "options/train_IFAN_DPDD.yml",
        "test_IFAN_DPDD.yml",
        "test/test_IFAN_DPDD",
        "options/test/test_IFAN_DPDD.yml",
        "defocus.yml",
        "benchmark/quickstart.yml",
        "ifan_dpdd.py",
        "mm/ifan_dpdd.py",
    ],
)
def test_names_with_and_without_folder_and_ending(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = recipes.get(name)
    assert found.stem == name.split("/")[-1].split(".")[0]
    assert recipes.option_path(name) == str(found)


def test_a_file_that_is_here_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train_IFAN_DPDD.yml").write_text("name: mine\n")
    assert recipes.option_path("train_IFAN_DPDD.yml") == "train_IFAN_DPDD.yml"
    args = parse_pipeline_arguments(["-opt", "train_IFAN_DPDD.yml"], "train")
    assert option_file.read(args.opt) == {"name": "mine"}


@pytest.mark.parametrize(
    "name", ["../options/train_IFAN_DPDD.yml", "/train_IFAN_DPDD.yml", "none.yml", "", ".", "test"]
)
def test_what_is_no_recipe_stays_as_it_is(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert recipes.option_path(name) == name
    with pytest.raises(UserError, match=r"no recipe .*basicsr recipes lists them"):
        recipes.get(name)


def test_a_file_that_is_missing_leads_to_the_list(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "-opt", "train_IFAN_DPPD.yml"]) == 2
    assert "option file not found: train_IFAN_DPPD.yml (`basicsr recipes` lists" in capsys.readouterr().err


def test_the_command_lists_and_copies(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == recipes.names()
    (line,) = [line for line in lines if line.startswith("train_IFAN_DPDD.yml ")]
    assert re.search(r"25\.37 dB.*GPU of 16 GB.*600,000 iterations", line)

    assert cli.main(["recipes", "copy", "train_IFAN_DPDD.yml"]) == 0
    copied = tmp_path / "train_IFAN_DPDD.yml"
    source = (ROOT / "options/train_IFAN_DPDD.yml").read_text(encoding="utf-8")
    # The first line leads editors to the schema, which stays where it is.
    assert copied.read_text(encoding="utf-8").split("\n", 1)[1] == source.split("\n", 1)[1]
    capsys.readouterr()
    for arguments, message in [
        (["copy", "train_IFAN_DPDD.yml"], "train_IFAN_DPDD.yml: is there already; --overwrite replaces it"),
        (["copy", "train_IFAN_DPD.yml"], "no recipe 'train_IFAN_DPD.yml'; did you mean 'train_IFAN_DPDD.yml'?"),
        (["copy", "test_IFAN_DPDD.yml", "--out", "none/x.yml"], "none/x.yml: can't be written: No such file"),
        (["copy"], "basicsr recipes copy: the following arguments are required: NAME"),
        (["show"], "invalid choice: 'show'"),
    ]:
        assert cli.main(["recipes", *arguments]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert cli.main(["recipes", "copy", "train_IFAN_DPDD.yml", "--overwrite"]) == 0
    (tmp_path / "folder").mkdir()
    assert cli.main(["recipes", "copy", "test_IFAN_DPDD", "--out", "folder"]) == 0
    assert (tmp_path / "folder/test_IFAN_DPDD.yml").is_file()
