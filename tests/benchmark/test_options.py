"""The benchmark's option file: each mistake in one line, before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from ifan_plugin.benchmark import options
from ifan_plugin.common.errors import UserError
from ifan_plugin.options import file as option_file

FILES = sorted((Path(__file__).parents[2] / "options" / "benchmark").glob("*.yml"))


def content() -> dict:
    return {
        "name": "b",
        "device": "cpu",
        "models": [{"name": "blurred", "type": "blurred input"}, {"name": "IFAN", "type": "IFAN", "width": 8}],
        "datasets": [{"name": "d", "type": "DualPixelDataset", "dataroot": "somewhere"}],
    }


def changed(place: str, value: object) -> dict:
    changed = content()
    option_file.override(changed, [f"{place}={value}"], options.TOP_OPTIONS)
    return changed


def test_defaults():
    checked = options.check(content(), "b.yml")
    assert checked.profile == options.Profile(720, 1280, 5, 60.0)
    assert checked.metrics == ("psnr", "ssim", "mae")
    assert checked.models[1].arguments == {"width": 8}
    assert checked.pictures.chosen(["a", "b", "c"]) == ["a", "b"]


def test_named_pictures():
    checked = options.check(changed("pictures", "{keys: [c, a]}"), "b.yml")
    assert checked.pictures.chosen(["a", "b", "c"]) == ["a", "c"]


@pytest.mark.parametrize(
    ("place", "value", "expected"),
    [
        ("name", "a/b", "name: must be fit for a folder's name"),
        ("protocol", "ifann", "did you mean 'ifan'?"),
        ("metrics", "[psnr, sim]", "did you mean 'ssim'?"),
        ("metrics", "[]", "metrics: is empty"),
        ("models", "[]", "models: is empty"),
        ("datasets:0:name", "..", "datasets: 0: name: must be fit"),
        ("datasets:0:views", "[left]", "views: are chosen to fit each model"),
        ("device", "gpu", "device: must be one of 'auto', 'cpu', 'cuda'"),
        ("profile", "{heigth: 8}", "profile: unknown key 'heigth'; did you mean 'height'?"),
        ("profile", "{runs: 0}", "runs: must be at least 1"),
        ("pictures", "{crop: 4}", "crop: must be at least 16"),
        ("models:1:name", "blurred", "'blurred' is given twice"),
        ("models:1:views", "[middle]", "views: unknown item 'middle'"),
        ("models:1:views", "[left, left]", "at most once"),
        ("models:0:path", "x.pth", "blurred input takes none but name and type"),
    ],
)
def test_mistakes(place, value, expected):
    with pytest.raises(UserError) as caught:
        options.check(changed(place, value), "b.yml")
    message = str(caught.value)
    assert message.startswith("b.yml: ")
    assert expected in message
    assert "\n" not in message


def test_a_name_that_is_a_number():
    models = content()
    models["models"][1]["name"] = 3  # --force_yml models:1:name=3 is the text 3
    with pytest.raises(UserError, match="name: must be a string, not 3; text that YAML takes for something else"):
        options.check(models, "b.yml")


def test_unknown_key_at_the_top():
    with pytest.raises(UserError, match="unknown key 'modles'; did you mean 'models'"):
        options.check({**content(), "modles": []}, "b.yml")
    with pytest.raises(UserError, match="unknown key 'modles'; did you mean 'models'"):
        changed("modles", "1")


def test_metric_that_the_protocol_lacks():
    with pytest.raises(UserError, match="unknown 'lpips' under protocol 'basicsr'"):
        options.check({**content(), "protocol": "basicsr", "metrics": ["lpips"]}, "b.yml")


def test_only():
    checked = options.check(content(), "b.yml")
    assert [model.name for model in options.chosen_models(checked, ["IFAN"])] == ["IFAN"]
    with pytest.raises(UserError, match=r"--only IFA: no such model; did you mean 'IFAN'\?"):
        options.chosen_models(checked, ["IFA"])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_shipped_files(path):
    checked = options.check(option_file.read(path), path.name)
    assert checked.name == path.stem
    assert checked.models[0].is_blurred or not checked.datasets
    assert f"basicsr benchmark -opt options/benchmark/{path.name}" in path.read_text(encoding="utf-8")


def test_there_are_shipped_files():
    assert [path.name for path in FILES] == [
        "defocus.yml",
        "quickstart.yml",
        "real_dpdd.yml",
        "rivals.yml",
        "simulated.yml",
    ]
