"""mmengine's configs for our command: reading without running code, overriding, and checking."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("mmengine", reason="mmengine isn't installed (pip install ifan-plugin[mm])")

import yaml
from mmengine.config import Config
from runner_cases import small_config

from ifan_plugin.common.errors import UserError
from ifan_plugin.mm import config as configs


@pytest.fixture
def config(dpdd, tmp_path) -> Config:
    """A whole config that is right."""
    return Config(small_config(dpdd, tmp_path) | {"val_evaluator": [{"type": "RestorationMetrics"}]})


def fails(call, *arguments) -> str:
    with pytest.raises(UserError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- reading ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".py", ".yml", ".yaml", ".json"])
def test_all_kinds_of_file_say_the_same(config, tmp_path, ending):
    path = tmp_path / f"ein Kännchen{ending}"
    options = config.to_dict()
    if ending == ".py":
        path.write_text("".join(f"{key} = {value!r}\n" for key, value in options.items()), encoding="utf-8")
    else:
        path.write_text(json.dumps(options) if ending == ".json" else yaml.safe_dump(options), encoding="utf-8")
    found = configs.read(path)
    assert found.to_dict() == options
    assert found.filename == str(path)
    configs.check(found, path.name, "train")


def test_data_never_runs_code(tmp_path):
    mark = tmp_path / "ran"
    cases = {
        "tag.yml": f"model: !!python/object/apply:os.system ['touch {mark}']",
        "type.yml": f"model: {{type: os.system, command: 'touch {mark}'}}",
        "type.json": json.dumps({"val_evaluator": [{"type": "subprocess.run", "args": f"touch {mark}"}]}),
        "constructor.json": json.dumps({"optim_wrapper": {"constructor": "os.system"}}),
        "runner.yml": "runner_type: os.system",
        "ema.yml": "custom_hooks: [{type: EMAHook, ema_type: os.system}]",
        "scope.json": json.dumps({"model": {"type": "IFAN", "_scope_": "os.path"}}),
        "default.yml": "default_scope: os.path",
        "base.yml": "_base_: base.py",
        "import.yml": f"custom_imports: {{imports: ['{tmp_path}/x.py']}}\nmodel: {{type: IFAN}}",
    }
    (tmp_path / "base.py").write_text(f"import os\nos.system('touch {mark}')\n")
    said = {}
    for name, text in cases.items():
        (tmp_path / name).write_text(text)
        said[name] = fails(configs.read, tmp_path / name)
        assert name in said[name]
    assert not mark.exists()
    assert "must be a registered name, not os.system" in said["type.yml"]
    assert "val_evaluator: 0: type" in said["type.json"]
    for name, place in (
        ("constructor.json", "optim_wrapper: constructor"), ("runner.yml", "runner_type"),
        ("ema.yml", "custom_hooks: 0: ema_type"), ("scope.json", "model: _scope_"), ("default.yml", "default_scope"),
    ):  # fmt: skip
        assert f"{name}: {place}: must be a registered name, not os." in said[name]
    assert "valid in .py configs only" in said["base.yml"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("gone.py", None, "config not found"),
        ("a.toml", "", "must end in .py, .yml, .yaml, .json"),
        ("a.py", "model = dict(\n", "line 1: not valid Python here"),
        ("a.py", "model = dict(type=foo)\n", "failed while it was read: NameError: name 'foo' is not defined"),
        ("a.json", "{", "not valid JSON: Expecting property name"),
        ("a.json", "[]", "must be a mapping"),
        ("a.yml", "a: [", "line 1: not valid YAML here"),
        ("a.py", "custom_imports = dict(imports=['nosuchmodule'])", "custom_imports: 'nosuchmodule' can't be imported"),
        ("a.py", "custom_imports = 3", "custom_imports: must be dict"),
        ("a.yml", "filename: x", "filename is reserved"),
    ],
)
def test_what_cant_be_read_is_one_line(tmp_path, name, text, message):
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    assert message in fails(configs.read, path)


# --- --cfg-options ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3), ("-1e-4", -1e-4), ("1_000", 1000), ("true", True), ("False", False), ("None", None), ("abc", "abc"),
        ("1,2", [1, 2]), ("[1, 2]", [1, 2]), ("[1]", [1]), ("[]", []), ("(0.9,0.99)", (0.9, 0.99)), ("a,", ["a"]),
        ("[(1,2),[a, true]]", [(1, 2), ["a", True]]), ("/data/with space/Ä", "/data/with space/Ä"), ("'3'", "3"),
        ("'a, b'", "a, b"), ("'[1'", "[1"), ("it's", "it's"), ("['a, b',c]", ["a, b", "c"]), ("", ""),
        ("__import__('os')", "__import__('os')"),
    ],
)  # fmt: skip
def test_values(text, value):
    found = configs.parse_value(text, "w")
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("text", ["[1", "1]", "(1]", "[(1)", "'a, b"])
def test_brackets_without_partner(text):
    assert "has no partner" in fails(configs.parse_value, text, "w")


def test_overriding(config):
    configs.override(
        config,
        ["train_cfg.max_iters=9", "model.generator.width=8", "param_scheduler.0.milestones=[2,4]",
         "model.reblur=None", "log_level=ERROR", "load_from=a b.pth", "optim_wrapper.optimizer.betas=(0.9,0.99)"],
    )  # fmt: skip
    assert config.train_cfg.max_iters == 9
    assert (config.model.generator.width, config.model.reblur) == (8, None)
    assert config.param_scheduler[0].milestones == [2, 4]
    assert (config.log_level, config.load_from) == ("ERROR", "a b.pth")
    assert config.optim_wrapper.optimizer.betas == (0.9, 0.99)
    assert config.train_dataloader.batch_size == 2


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("train_cfg", "must have the form key.subkey=value"),
        ("trian_cfg.max_iters=1", "unknown key 'trian_cfg'; did you mean 'train_cfg'?"),
        ("model.generater.width=1", "no key 'generater'; did you mean 'generator'?"),
        ("param_scheduler.3.gamma=1", "'3' must be an index from 0 to 0"),
        ("work_dir.x=1", "'work_dir' has no keys"),
        ("width=8", "'width' is a name of the config file's own and has had its effect already"),
        ("model.type=os.system", "dotted names need a .py config"),
        ("optim_wrapper.constructor=os.system", "dotted names need a .py config"),
        ("runner_type=os.system", "dotted names need a .py config"),
        ("default_scope=os.path", "dotted names need a .py config"),
        ("model._scope_=os.path", "dotted names need a .py config"),
        ("custom_hooks.0.ema_type=os.system", "dotted names need a .py config"),
        ("custom_imports.imports=antigravity", "custom_imports is valid in the config file only"),
    ],
)
def test_overrides_that_would_do_nothing_are_refused(config, entry, message):
    config.width, config.custom_hooks = 4, [{"type": "EMAHook"}]
    assert message in fails(configs.override, config, [entry])
    assert entry in fails(configs.override, config, [entry])


# --- checking -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["model.type=IFANRestorr"], "model: unknown type 'IFANRestorr'; did you mean 'IFANRestorer'?"),
        (["model.generatr=1"], "model: unknown key 'generatr'; did you mean 'generator'?"),
        (["model=3"], "model: must be a dict with a type, not 3"),
        (["model=None"], "'model' is missing"),
        (["train_cfg.max_iter=5"], "train_cfg: unknown key 'max_iter'; did you mean 'max_iters'?"),
        (["train_cfg.max_iters=many"], "train_cfg: max_iters: must be an integer, not 'many'"),
        (["train_cfg.val_interval=0"], "val_interval: must be at least 1"),
        (["train_dataloader.num_worker=1"], "train_dataloader: unknown key 'num_worker'; did you mean 'num_workers'?"),
        (["train_dataloader.batch_size=0"], "batch_size: must be at least 1"),
        (["train_dataloader.sampler.type=EpochSample"], "sampler: unknown type 'EpochSample'"),
        (["train_dataloader.sampler.ration=1"], "sampler: unknown key 'ration'; did you mean 'ratio'?"),
        (["train_dataloader.dataset.type=DualPixel"], "dataset: unknown type 'DualPixel'; did you mean 'DualPixelDataset'?"),
        (["train_dataloader.dataset=None"], "dataset: must be a dict with a type"),
        (["optim_wrapper.optimizer.type=Radam"], "optimizer: unknown type 'Radam'; did you mean 'RAdam'?"),
        (["optim_wrapper.optimizer.weight_decy=1"], "unknown key 'weight_decy'; did you mean 'weight_decay'?"),
        (["optim_wrapper.optimizer.lr=-1"], "lr: must be at least 0"),
        (["optim_wrapper.type=BF16OptimWraper"], "did you mean 'BF16OptimWrapper'?"),
        (["param_scheduler.0.type=MultiStep"], "param_scheduler: 0: unknown type 'MultiStep'; did you mean 'MultiStepLR'?"),
        (["default_hooks.checkpoint.intervall=1"], ""),  # CheckpointHook itself takes any name
        (["val_evaluator.0.metric=psnr"], "val_evaluator: 0: unknown key 'metric'; did you mean 'metrics'?"),
        (["val_cfg=None"], "'val_cfg' is missing (val_dataloader is there; val_dataloader, val_cfg, val_evaluator"),
        (["train_cfg=None", "train_dataloader=None", "optim_wrapper=None"], "'train_dataloader' is missing (train needs it"),
        (["randomness.sead=1"], "randomness: unknown key 'sead'; did you mean 'seed'?"),
        (["train_dataloader.dataset.views=[left]"], "train_dataloader: dataset: views: a generator with dual_pixel: False needs ['center'], not ['left']"),
        (["val_dataloader.dataset.views=[left,right]"], "val_dataloader: dataset: views: a generator with dual_pixel: False"),
        (["test_dataloader.dataset.views=[right]"], "test_dataloader: dataset: views: a generator with dual_pixel: False"),
        (["model.generator.dual_pixel=true"], "dual_pixel: True needs ['center', 'left', 'right'], not ['center']"),
        (["train_dataloader.dataset.patch_size=60"], "dataset: patch_size: must be a multiple of 8, not 60"),
        (["train_dataloader.sampler.ratio=0"], "train_dataloader: sampler: ratio: must be greater than 0, not 0"),
        (["train_dataloader.sampler.ratio=much"], "sampler: ratio: must be a number, not 'much'"),
        (["train_dataloader.sampler.seed=-1"], "sampler: seed: must be at least 0, not -1"),
        (["optim_wrapper.clip_grad.max_nrm=1"], "clip_grad: unknown key 'max_nrm'; did you mean 'max_norm'?"),
        (["optim_wrapper.clip_grad.max_norm=much"], "clip_grad: max_norm: must be a number, not 'much'"),
        (["optim_wrapper.clip_grad.type=valeu"], "clip_grad: type: must be norm or value, not 'valeu'"),
        (["optim_wrapper.clip_grad.type=value"], "clip_grad: unknown key 'max_norm'; valid: clip_value"),
        (["optim_wrapper.clip_grad=0.5"], "clip_grad: must be a dict such as dict(max_norm=0.5), not 0.5"),
        (["log_processor.by_epch=1"], "log_processor: unknown key 'by_epch'; did you mean 'by_epoch'?"),
        (["log_processor.type=LogProcesor"], "log_processor: unknown type 'LogProcesor'"),
        (["visualizer.type=Visualiser"], "visualizer: unknown type 'Visualiser'; did you mean 'Visualizer'?"),
        (["visualizer=on"], "visualizer: must be a dict with a type, not 'on'"),
        (["randomness.seed=-1"], "randomness: seed: must be at least 0, not -1"),
        (["randomness=None"], "randomness: must be a mapping"),
        (["custom_hooks=[EMAHook]"], "custom_hooks: must be a dict with a type, not 'EMAHook'"),
    ],
)  # fmt: skip
def test_checking(config, changes, message):
    config.visualizer = {"type": "Visualizer"}
    configs.override(config, changes)
    if not message:
        configs.check(config, "f.py", "train")
        return
    said = fails(configs.check, config, "f.py", "train")
    assert said.startswith("f.py: ")
    assert message in said


def test_randomness_without_a_seed(config):
    config.randomness = {}  # mmengine would end in a TypeError; None is a seed by chance
    assert "f.py: randomness: 'seed' is missing" in fails(configs.check, config, "f.py", "train")
    config.randomness = {"seed": None}
    configs.check(config, "f.py", "train")


def test_views_that_fit(config):
    config.model.generator.dual_pixel = True
    for loop in ("train", "val", "test"):
        config[f"{loop}_dataloader"].dataset.views = ("center", "left", "right")
    configs.check(config, "f.py", "train")
    config.model.generator = {"type": "DPDNet"}  # which takes any
    config.val_dataloader.dataset.views = ["left", "right"]
    configs.check(config, "f.py", "train")


def test_a_misspelt_name_at_the_top(config):
    config.train_dataloder = config.pop("train_dataloader")
    assert "f.py: unknown key 'train_dataloder'; did you mean 'train_dataloader'?" in fails(
        configs.check, config, "f.py", "test"
    )


def test_a_metric_outside_a_list_is_no_metric_to_mmengine(config):
    config.val_evaluator = {"type": "RestorationMetrics", "metrics": ["psnr"]}
    assert "val_evaluator: put the metric into a list" in fails(configs.check, config, "f.py", "train")


def test_save_best_of_a_figure_that_wont_be_measured(config):
    config.default_hooks.checkpoint.save_best = "psnrr"
    assert "save_best: val_evaluator doesn't measure 'psnrr'; did you mean 'psnr'?" in fails(
        configs.check, config, "f", "train"
    )
    config.default_hooks.checkpoint.save_best = ["psnr", "mae"]
    configs.check(config, "f", "train")


def test_names_of_the_files_own_and_other_packages_keys_are_left_alone(config):
    config.batch, config.dataset_type = 2, "X"
    config.optim_wrapper = {"constructor": "Somebody's", "generator": {"optimizer": {"type": "Adam", "lr": 1}}}
    config.param_scheduler = {"generator": [{"type": "MultiStepLR", "milestones": [1]}]}
    configs.check(config, "f", "train")


def test_every_option_file_of_mmengine_can_be_checked(tmp_path):
    """The files in options/mm: what they need is registered, for both commands."""
    from helpers import ROOT

    for path in sorted(Path(ROOT, "options", "mm").glob("*.py")):
        if "mmagic" not in path.name:  # that one needs MMagic's own classes
            for name in ("train", "test"):
                configs.check(configs.read(path), path.name, name)
