"""The JSON Schema of option files and the page of every option: current, right for the shipped files, and strict."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT

from ifan_plugin import cli
from ifan_plugin.cli import every_option
from ifan_plugin.options import file as option_file
from ifan_plugin.options import recipes

OPTION_FILES = sorted((ROOT / "options").rglob("*.yml"))


def problem(schema: dict[str, Any], options: dict[str, Any]) -> str | None:
    """What a validator of JSON Schema says; None: nothing."""
    fastjsonschema = pytest.importorskip("fastjsonschema", reason="fastjsonschema isn't installed (ifan_plugin[dev])")
    try:
        fastjsonschema.compile(schema, use_default=False)(options)
    except fastjsonschema.JsonSchemaValueException as error:
        return str(error.message)
    return None


def test_the_committed_copies_are_current(tmp_path):
    written = every_option.write(tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in written] == list(every_option.FILES)
    again = "basicsr recipes schema --out options --page docs/options.md"
    for path in written:
        committed = ROOT / "options" / path.relative_to(tmp_path)
        assert committed.read_text(encoding="utf-8") == path.read_text(encoding="utf-8"), again
    assert (ROOT / "docs" / "options.md").read_text(encoding="utf-8") == every_option.page(), again


@pytest.mark.parametrize("path", OPTION_FILES, ids=lambda path: path.relative_to(ROOT / "options").as_posix())
def test_each_option_file_names_its_schema_and_fits_it(path):
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith(recipes.MODELINE)
    schema = (path.parent / first.removeprefix(recipes.MODELINE)).resolve()
    kind = "benchmark/schema.json" if path.parent.name == "benchmark" else "schema.json"
    assert schema == ROOT / "options" / kind
    assert problem(json.loads(schema.read_text(encoding="utf-8")), option_file.read(path)) is None


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("train_IFAN_DPDD.yml", "nam=x"),
        ("train_IFAN_DPDD.yml", "manual_seed=-1"),
        ("train_IFAN_DPDD.yml", "network_x={type: IFAN}"),
        ("train_IFAN_DPDD.yml", "network_g:widht=8"),
        ("train_IFAN_DPDD.yml", "network_g:width=wide"),
        ("train_IFAN_DPDD.yml", "network_g:isotropic=1"),
        ("train_IFAN_DPDD.yml", "network_r:dual_pixel=true"),
        ("train_IFAN_DPDD.yml", "datasets:trian={type: DualPixelDataset}"),
        ("train_IFAN_DPDD.yml", "datasets:train:layout=dpd"),
        ("train_IFAN_DPDD.yml", "datasets:train:views=[middle]"),
        ("train_IFAN_DPDD.yml", "datasets:train:dataroot_depth=x"),
        ("train_IFAN_DPDD.yml", "datasets:train:augment:noise=1"),
        ("train_IFAN_DPDD.yml", "datasets:train:augment:grey_probability=2"),
        ("train_IFAN_DPDD.yml", "path:pretrain_network=x"),
        ("train_IFAN_DPDD.yml", "train:amp=fp8"),
        ("train_IFAN_DPDD.yml", "train:reblur_opt:weight=1"),
        ("train_IFAN_DPDD.yml", "val:kernels=13"),
        ("train_IFAN_DPDD.yml", "val:metrics:psnr:border=1"),
        ("train_IFAN_DPDD.yml", "logger:print_freq=0"),
        ("train_IFAN_simulated.yml", "datasets:train:f_numbers=2"),
        ("benchmark/defocus.yml", "device=gpu"),
        ("benchmark/defocus.yml", "profile:hight=10"),
        ("benchmark/defocus.yml", "datasets:0:layout=dpd"),
        ("benchmark/defocus.yml", "pictures:crop=8"),
    ],
)
def test_the_schema_finds_faults(name, entry):
    path = ROOT / "options" / name
    schema = every_option.schemas()["benchmark/schema.json" if name.startswith("benchmark") else "schema.json"]
    options = option_file.read(path)
    assert problem(schema, copy.deepcopy(options)) is None
    key = entry.partition("=")[0].partition(":")[0]
    option_file.override(options, [entry], known=[key])
    assert problem(schema, options) is not None


def test_networks_and_models_of_others_are_left_alone():
    schema = every_option.schemas()["schema.json"]
    options = option_file.read(ROOT / "options" / "train_IFAN_DPDD.yml")
    options |= {"model_type": "TheirModel", "their_key": 1, "network_g": {"type": "TheirNet", "anything": [1]}}
    options["train"]["their_opt"] = {"type": "L1Loss"}
    assert problem(schema, options) is None


def test_every_option_has_a_word_of_help():
    silent = {
        f"{section.title}: {name}"
        for section in every_option.sections()
        for name in section.keys
        if not section.keys[name].help
    }
    assert not silent


def test_a_copied_recipe_still_finds_its_schema(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("test_IFAN_DPDD.yml", "train_IFAN_DPDD.yml"):
        assert cli.main(["recipes", "copy", name]) == 0
        first, rest = Path(name).read_text(encoding="utf-8").split("\n", 1)
        assert Path(first.removeprefix(recipes.MODELINE)) == ROOT / "options" / "schema.json"
        assert rest == recipes.get(name).read_text(encoding="utf-8").split("\n", 1)[1]


def test_the_command_writes_them(tmp_path, capsys):
    assert cli.main(["recipes", "schema", "--out", str(tmp_path), "--page", str(tmp_path / "all.md")]) == 0
    assert capsys.readouterr().out.count("written to ") == 3
    assert (tmp_path / "all.md").read_text(encoding="utf-8") == every_option.page()
    (tmp_path / "file").touch()
    assert cli.main(["recipes", "schema", "--out", str(tmp_path / "file")]) == 2
    assert capsys.readouterr().err.startswith("basicsr: ")
