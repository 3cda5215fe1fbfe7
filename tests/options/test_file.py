"""Option files: read without running code, overridden without exec, checked as a whole before anything is built."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from helpers import ROOT, small_options

import ifan_plugin
from ifan_plugin.common.errors import UserError
from ifan_plugin.host import option_check
from ifan_plugin.options import file as option_file

ifan_plugin.register()


def one_line(error: pytest.ExceptionInfo) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


# --- reading ---------------------------------------------------------------------------------------------------------


def test_numbers_people_write_are_numbers(tmp_path):
    path = tmp_path / "a.yml"
    path.write_text("a: 1e-4\nb: 1.5E+3\nc: !!float 1e-8\nd: 6e5\ne: x1e5\nf: 2021\n")
    assert option_file.read(path) == {"a": 1e-4, "b": 1500.0, "c": 1e-8, "d": 6e5, "e": "x1e5", "f": 2021}


MULTIPLIED = "a: &a [0, 0, 0, 0, 0, 0, 0, 0]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 8)}]\n" for before, name in zip("abcdefg", "bcdefgh")
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: !!python/object/apply:os.system ['touch owned']\n", "line 1: not valid YAML here"),
        ("a: 1\nb: [1, 2\n", "line 3"),
        ("a: 1\nb: 2\na: 3\n", "line 3: not valid YAML here: 'a' is given twice"),
        ("a: !!bool maybe\n", "line 1: not valid YAML here: 'maybe' isn't what its tag !!bool says"),
        ("a: 1\nb: 2001-99-99\n", "line 2: not valid YAML here: '2001-99-99' isn't what its tag !!timestamp says"),
        ("a: !!set {x, y}\n", "line 1: not valid YAML here"),
        (f"a: {'9' * 6000}\n", "line 1: not valid YAML here"),
        (f"a: 0x{'f' * 6000}\n", "line 1: not valid YAML here: an integer of more than 64 bits"),
        (f"a: {'[' * 3000}\n", "line 1: not valid YAML here: nested more than 50 deep"),
        ("a: &a [*a]\n", "line 1: not valid YAML here: an anchor holds itself"),
        (MULTIPLIED, "not valid YAML here: more than 100,000 values, those that anchors repeat among them"),
        ("- 1\n", "must be a YAML mapping"),
        ("", "must be a YAML mapping"),
    ],
)
def test_bad_files(tmp_path, text, message, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.yml").write_text(text)
    with pytest.raises(UserError, match=r"^a\.yml") as caught:
        option_file.read("a.yml")
    assert message in one_line(caught)
    assert not Path("owned").exists()


def test_files_that_are_not_there_or_not_text(tmp_path):
    with pytest.raises(UserError, match=r"option file not found: .*none\.yml"):
        option_file.read(tmp_path / "none.yml")
    (tmp_path / "b.yml").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(UserError, match="can't be read"):
        option_file.read(tmp_path / "b.yml")
    with pytest.raises(UserError, match="can't be read"):
        option_file.read(tmp_path)


# --- overriding ------------------------------------------------------------------------------------------------------


def test_overrides():
    options = {"name": "a", "train": {"lr": 1, "steps": [1, 2]}, "path": None}
    option_file.override(
        options,
        [
            "train:lr=1e-3",
            "train:steps:1=7",
            "train:new=true",
            "path:pretrain_network_g=a=b.pth",
            "name=none",
            "train:l=[3, x]",
        ],
    )
    assert options == {
        "name": None,
        "train": {"lr": 1e-3, "steps": [1, 7], "new": True, "l": [3, "x"]},
        "path": {"pretrain_network_g": "a=b.pth"},
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x #2", "x #2"), ("#1", "#1"), ("2024_11_26", "2024_11_26"), ("2024-11-26", "2024-11-26"), ("on", "on"),
        ("No", "No"), ("12:30:00", "12:30:00"), ("[raw]/x", "[raw]/x"), ("{a}/b", "{a}/b"), ("@x", "@x"), ("`x", "`x"),
        ("%x", "%x"), ("*x", "*x"), ("&x", "&x"), ("!x", "!x"), ("a: b", "a: b"), ("- x", "- x"), ("0x1F", "0x1F"),
        ("007", "007"), ("1e3", "1e3"), ("'x #2'", "x #2"), ('"on"', "on"), ("none", None), ("~/x", "~/x"), ("a=b", "a=b"),
        ("'", "'"), ("C:\\x", "C:\\x"), ("> x", "> x"), ("| x", "| x"), ("=", "="), ("true", "true"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("key", ["name", "path:pretrain_network_g", "datasets:train:dataroot"])
def test_text_stays_text(key, text, expected):
    options = {"name": "a", "path": {}, "datasets": {"train": {"dataroot": "x"}}}
    option_file.override(options, [f"{key}={text}"])
    *places, last = key.split(":")
    for place in places:
        options = options[place]
    assert options[last] == expected


@pytest.mark.parametrize(
    ("current", "text", "expected"),
    [
        ("auto", "0", 0), ("auto", "256", 256), ("auto", "false", False), ("auto", "x #2", "x #2"), ("auto", "on", "on"),
        ("auto", "[1, 2]", [1, 2]), ("auto", "@x", "@x"), ("auto", "2024_11_26", "2024_11_26"), (4, "400_000", 400000),
        (4, "1e-4", 1e-4), (None, "on", True), (None, "[center, left]", ["center", "left"]), (None, "x #2", "x #2"),
        (None, "{a: 1}", {"a": 1}), (None, "2024-11-26", "2024-11-26"),
    ],
)  # fmt: skip
def test_other_options_are_yamls(current, text, expected):
    options = {"train": {"thing": current}}
    option_file.override(options, [f"train:thing={text}"])
    assert options["train"]["thing"] == expected
    assert type(options["train"]["thing"]) is type(expected)


@pytest.mark.parametrize(("current", "text"), [(4, "5 #6"), (None, "[raw]/x"), (4, "@x"), (True, "on # x")])
def test_what_would_be_cut_says_how_to_quote(current, text):
    with pytest.raises(UserError, match="if it is text, put it into quotes: thing=") as caught:
        option_file.override({"train": {"thing": current}}, [f"train:thing={text}"])
    assert text in one_line(caught)


def test_text_that_a_file_gives_as_something_else(options):
    options["name"] = 20241126
    with pytest.raises(UserError, match=r"f: name: must be a string, not 20241126; text that YAML takes for .+ quotes"):
        option_check.check(options, "f", is_train=True)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("train", "must have the form"),
        ("=3", "must have the form"),
        ("trian:lr=3", "no key 'trian'; did you mean 'train'?"),
        ("train:lr:x=3", "'train:lr' has no keys"),
        ("train:steps:5=3", "must be an index from 0 to 1"),
        ("nmae=3", "unknown key 'nmae'; did you mean 'name'?"),
        ("train:lr=!!python/name:os.system", "not valid YAML"),
    ],
)
def test_bad_overrides(entry, message):
    options = {"name": "a", "train": {"lr": 1, "steps": [1, 2]}}
    before = copy.deepcopy(options)
    with pytest.raises(UserError) as caught:
        option_file.override(options, [entry])
    assert message in one_line(caught)
    assert entry in str(caught.value)
    assert options == before


# --- checking --------------------------------------------------------------------------------------------------------


def changed(options: dict, path: str, value: object = None) -> dict:
    *places, last = path.split(":")
    place = options
    for name in places:
        place = place[name]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return options


def test_a_good_file_is_filled_in(options):
    checked = option_check.check(options, "f", is_train=True)
    assert checked["network_r"]["filter_channels"] == 2 * 16 * 7
    assert checked["network_r"]["width"] == 4
    assert checked["datasets"]["train"]["phase"] == "train"
    assert checked["datasets"]["train"]["seed"] == 3
    assert checked["train"]["grad_clip"] == 0.5


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("model_type", "IFANmodel", "f: model_type: unknown type 'IFANmodel'; did you mean 'IFANModel'?"),
        ("model_type", None, "f: 'model_type' is missing"),
        ("name", None, "f: 'name' is missing"),
        ("name", "a/b", "f: name: must be fit for a folder's name, not 'a/b'"),
        ("tarin", {"total_iter": 3}, "f: unknown key 'tarin'"),
        ("network_d", {"type": "IFAN"}, "f: unknown key 'network_d'"),
        ("num_gpu", "all", "f: num_gpu: must be a number or auto, not 'all'"),
        ("num_gpu", -1, "f: num_gpu: must be at least 0, not -1"),
        ("num_gpu", 99, "f: num_gpu: 99 GPUs asked for"),
        ("network_g:type", "IFUN", "f: network_g: type: unknown type 'IFUN'; did you mean 'IFAN'?"),
        ("network_g:type", None, "f: network_g: 'type' is missing"),
        ("network_g:widht", 4, "f: network_g: unknown key 'widht'; did you mean 'width'?"),
        ("network_g:width", "4", "f: network_g: width: must be an integer, not '4'"),
        ("network_g:taps", 4, "f: network_g: "),
        ("network_g", None, "f: 'network_g' is missing"),
        (
            "network_g:dual_pixel",
            True,
            "f: datasets: train: views: network_g with dual_pixel: true needs [center, left",
        ),
        ("network_g:use_disparity", False, "f: train: disparity_opt: network_g has use_disparity: false"),
        ("network_r", None, "f: train: reblur_opt is there and network_r isn't"),
        ("train:reblur_opt", None, "f: network_r is there and train: reblur_opt isn't"),
        ("network_r:filter_channels", 5, "f: network_r: filter_channels: must be 224"),
        ("datasets:train:type", "DualPixelDatasets", "f: datasets: train: type: unknown type"),
        ("datasets:train:dataroot", "/no/where", "f: datasets: train: dataroot: folder not found: /no/where"),
        ("datasets:train:dataroot", None, "f: datasets: train: 'dataroot' is missing"),
        ("datasets:train:pach_size", 32, "f: datasets: train: unknown key 'pach_size'; did you mean 'patch_size'?"),
        ("datasets:train:batch_size_per_gpu", None, "f: datasets: train: 'batch_size_per_gpu' is missing"),
        (
            "datasets:train:views",
            ["centre"],
            "f: datasets: train: views: unknown item 'centre'; did you mean 'center'?",
        ),
        ("datasets:train", None, "f: datasets: 'train' is missing"),
        ("datasets:test", {"type": "x"}, "f: datasets: test: unknown phase; basicsr train takes train, val"),
        ("datasets:val:name", None, "f: datasets: val: 'name' is missing"),
        ("train", None, "f: 'train' is missing"),
        ("train:total_iter", None, "f: train: total_iter: must be an integer or a number, not nothing"),
        ("train:total_its", 1, "f: train: unknown key 'total_its'; did you mean 'total_iter'?"),
        ("train:amp", "bf8", "f: train: amp: must be one of 'bf16', 'fp16', not 'bf8'"),
        ("train:optim_g:type", "RAdams", "f: train: optim_g: unknown type 'RAdams'; did you mean 'RAdam'?"),
        ("train:optim_g:learning", 1, "f: train: optim_g: unknown key 'learning'"),
        ("train:optim_g:lr", "fast", "f: train: optim_g: lr: must be a number, not 'fast'"),
        ("train:scheduler:type", "Cosine", "f: train: scheduler: unknown type 'Cosine'"),
        ("train:scheduler:milestone", [3], "f: train: scheduler: unknown key 'milestone'; did you mean 'milestones'?"),
        ("train:pixel_opt:type", "MSE", "f: train: pixel_opt: type: unknown type 'MSE'"),
        (
            "train:pixel_opt:loss_weigth",
            1.0,
            "f: train: pixel_opt: unknown key 'loss_weigth'; did you mean 'loss_weight'?",
        ),
        ("val:metrics:psnr:type", "pnsr", "f: val: metrics: psnr: type: unknown type 'pnsr'; did you mean 'psnr'?"),
        ("val:metrics:psnr:bettr", "lower", "f: val: metrics: psnr: unknown key 'bettr'; did you mean 'better'?"),
        ("val:metrics:psnr:better", "low", "f: val: metrics: psnr: better: must be one of 'higher', 'lower'"),
        ("val:save_disparities", True, "f: val: unknown key 'save_disparities'; did you mean 'save_disparity'?"),
        ("path:pretrain_network_g", "/no/w.pth", "f: path: pretrain_network_g: file not found: /no/w.pth"),
        (
            "path:pretrain_netwrok_g",
            "x",
            "f: path: unknown key 'pretrain_netwrok_g'; did you mean 'pretrain_network_g'?",
        ),
        ("train:optim_g:lr", None, "f: train: optim_g: lr: must be a number, not nothing"),
        ("train:optim_g:betas", 0.9, "f: train: optim_g: "),
        ("train:optim_g:type", ["Adam"], "f: train: optim_g: must be a name, not ['Adam']"),
        ("train:scheduler:milestones", 5, "f: train: scheduler: "),
        ("train:pixel_opt:loss_weight", "a", "f: train: pixel_opt: loss_weight: must be a number, not 'a'"),
        ("train:pixel_opt:reduction", "maen", "f: train: pixel_opt: "),
        ("val:metrics:psnr:type", "calculate_psnr", "f: val: metrics: psnr: 'crop_border' is missing"),
        ("datasets:train:patch_size", 20, "f: datasets: train: patch_size: must be a multiple of 8, not 20"),
        ("datasets:train:prefetch_mode", "cuda", "f: datasets: train: prefetch_mode: cuda needs a GPU and pin_memory"),
        ("datasets:val:name", "../x", "f: datasets: val: name: must be fit for a folder's name, not '../x'"),
        ("datasets:val:name", "train_set", "f: datasets: val: name: 'train_set' is that of train, too"),
        ("val:suffix", "../x", "f: val: suffix: must be fit for a folder's name, not '../x'"),
        ("network_g:num_steps", 2**21, "f: network_g: num_steps must be at most 1,048,576, got 2,097,152"),
        ("network_g:width", 10**6, "f: network_g: its parameters take "),
        ("network_g:res_units", 10**9, "f: network_g: res_units must be at most 1,000"),
        ("network_g:width", 10**30, "f: network_g: width must be at most"),
        ("train:total_iter", float("inf"), "f: train: total_iter: must be finite, not inf"),
        ("train:grad_clip", float("nan"), "f: train: grad_clip: must be finite, not nan"),
        ("train:optim_g:capturable", True, "f: train: optim_g: "),
        ("train:optim_g", {"type": "Adam", "lr": 1e-4, "fused": True, "foreach": True}, "f: train: optim_g: "),
        ("train:optim_g", {"type": "Adam", "lr": 1e-4, "differentiable": True}, "f: train: optim_g: "),
        ("train:optim_g", {"type": "LBFGS", "lr": 1e-4}, "f: train: optim_g: "),
        ("train:optim_g", {"type": "SparseAdam", "lr": 1e-4}, "f: train: optim_g: "),
        (
            "train:scheduler",
            {"type": "CosineAnnealingRestartLR", "periods": [0]},
            "f: train: scheduler: periods: must be 1 or more",
        ),
        (
            "train:scheduler",
            {"type": "CosineAnnealingRestartLR", "periods": [2]},
            "f: train: scheduler: periods: end at iteration 2, and total_iter is 4",
        ),
        ("train:scheduler:gamma", "x", "f: train: scheduler: "),
        (
            "train:pixel_opt:reduction",
            "none",
            "f: train: pixel_opt: MSELoss must give one number, not a tensor of [1, 3, 256",
        ),
        (
            "train:pixel_opt",
            {"type": "PerceptualLoss", "layer_weights": {}},
            "f: train: pixel_opt: type: PerceptualLoss",
        ),
        (
            "train:pixel_opt",
            {"type": "GANLoss", "gan_type": "vanilla"},
            "f: train: pixel_opt: type: GANLoss doesn't compare",
        ),
        ("train:reblur_opt:type", "MSELoss", "f: train: reblur_opt: type: MSELoss doesn't compare what this is for"),
        ("train:disparity_opt:type", "ReblurLoss", "f: train: disparity_opt: type: ReblurLoss doesn't compare"),
        (
            "train:perceptual_opt",
            {"type": "ReblurLoss"},
            "f: train: perceptual_opt: type: ReblurLoss doesn't compare what this is for; valid: LPIPSLoss, Perceptual",
        ),
        ("network_r:type", "IFAN", "f: network_r: type: must be ReblurNet, not IFAN"),
        ("network_g:use_filters", False, "f: train: disparity_opt: network_g has use_filters: false"),
        ("logger:print_frq", 1, "f: logger: unknown key 'print_frq'; did you mean 'print_freq'?"),
        ("logger:print_freq", 0, "f: logger: print_freq: must be at least 1, not 0"),
    ],
)
def test_slips_are_found_before_anything_is_built(options, path, value, message):
    if path == "num_gpu" and torch.cuda.device_count() >= 99:
        pytest.skip("a lot of GPUs")
    with pytest.raises(UserError) as caught:
        option_check.check(changed(options, path, value), "f", is_train=True)
    assert one_line(caught).startswith(message)


def test_a_perceptual_loss_may_give_several_terms_or_fetch_its_network(options, monkeypatch):
    from basicsr.utils.registry import LOSS_REGISTRY

    class TwoTerms(torch.nn.L1Loss):
        def forward(self, restored, sharp):
            return super().forward(restored, sharp), None

    monkeypatch.setitem(LOSS_REGISTRY._obj_map, "TwoTerms", TwoTerms)
    for loss in ({"type": "TwoTerms"}, {"type": "PerceptualLoss", "layer_weights": {"conv5_4": 1.0}}):
        options["train"]["perceptual_opt"] = loss
        option_check.check(copy.deepcopy(options), "f", is_train=True)


def test_another_networks_losses_are_refused(options):
    options["network_g"] = {"type": "SRVGGNetCompact", "upscale": 1}
    with pytest.raises(UserError, match="disparity_opt: needs network_g of type IFAN, not SRVGGNetCompact"):
        option_check.check(options, "f", is_train=True)


def test_a_training_file_can_be_tested_as_it_is_but_for_its_data(options):
    options["datasets"] = {"test": {**options["datasets"]["val"], "name": "t"}}
    checked = option_check.check(options, "f", is_train=False)
    assert "network_r" not in checked
    options["datasets"]["train"] = {"type": "x"}
    with pytest.raises(UserError, match="train: unknown phase; basicsr test takes val, test"):
        option_check.check(options, "f", is_train=False)


def test_a_merged_mapping_may_be_overridden(tmp_path):
    path = tmp_path / "a.yml"
    path.write_text("a: &a {name: x, size: 1}\nb:\n  <<: *a\n  name: y\n")
    assert option_file.read(path)["b"] == {"name": "y", "size": 1}


def test_no_seed_is_seed_zero_and_ranks_may_see_fewer_gpus(options, monkeypatch):
    options["manual_seed"] = None
    assert option_check.check(copy.deepcopy(options), "f", is_train=True)["manual_seed"] == 0
    options["num_gpu"] = 8
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert option_check.check(copy.deepcopy(options), "f", is_train=True, distributed=True)["num_gpu"] == 8
    with pytest.raises(UserError, match="only 1 found"):
        option_check.check(options, "f", is_train=True)


@pytest.mark.parametrize("asked", [2, "auto"])
def test_a_compiled_training_on_two_gpus_wants_two_processes(options, monkeypatch, asked):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    options["num_gpu"] = asked
    options["train"]["compile"] = True
    with pytest.raises(
        UserError, match=r"train: compile: needs a process for each GPU .*--nproc_per_node=2 .*num_gpu: 1"
    ):
        option_check.check(copy.deepcopy(options), "f", is_train=True)
    option_check.check(copy.deepcopy(options), "f", is_train=True, distributed=True)
    options["num_gpu"] = 1
    option_check.check(options, "f", is_train=True)


# --- the files we ship -----------------------------------------------------------------------------------------------

# Those of benchmarks have keys of their own: tests/benchmark/test_options.py.
SHIPPED = sorted(path for path in (ROOT / "options").rglob("*.yml") if path.parent.name != "benchmark")


def test_there_are_option_files():
    assert {"train_IFAN_DPDD.yml", "train_IFAN_dual_DPDD.yml", "train_IFAN_16bit_DPDD.yml", "test_IFAN_CUHK.yml"} <= {
        p.name for p in SHIPPED
    }


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.name)
def test_every_shipped_file_says_what_it_is_and_checks(path, dpdd, tmp_path, monkeypatch):
    """Each file opens with what it reproduces, and passes the check once its data and weights are there."""
    head = path.read_text().partition("\nname:")[0]
    for word in ("Data:", "Hardware:", f"basicsr {'test' if 'test' in path.parts[-2] else 'train'} -opt options/"):
        assert word in head
    is_train = "train" in path.name
    monkeypatch.chdir(tmp_path)
    options = option_file.read(path)
    for dataset in options["datasets"].values():
        if dataset["type"] == "SimulatedDualPixelDataset":
            make_rgbd(Path(dataset["dataroot_sharp"]), dataset.get("dataroot_depth"), dpdd)
            continue
        roots = [Path(each["dataroot"]) for each in (dataset, *dataset.get("more", ()))]
        layout = dataset["layout"]
        for root in roots:
            root.mkdir(parents=True, exist_ok=True)
        links = {
            "dpdd": {p.name: p for p in dpdd.iterdir()},
            "realdof": {"source": dpdd / "test_c/source", "target": dpdd / "test_c/target"},
            "pixeldp": {f"test_{v}": dpdd / f"test_{v}" for v in "clr"},
            "cuhk": {p.name: p for p in (dpdd / "test_c/source").iterdir()},
            "folder": {p.name: p for p in (dpdd / "test_c/source").iterdir()},
            "lfdof": {
                f"{part}_data/{name}": target
                for part in ("train", "test")
                for name, target in [
                    ("input/scene", dpdd / "test_c/source"),
                    ("ground_truth/scene.png", next((dpdd / "test_c/target").iterdir())),
                ]
            },
        }[layout]
        if dataset.get("coc"):  # what simulate --save-coc writes, nearly
            links["train_coc"] = dpdd / "train_c/source"
        for root in roots:
            for name, target in links.items():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                if not (root / name).exists():
                    (root / name).symlink_to(target)
    if options["path"]["pretrain_network_g"]:
        from ifan_plugin.archs.ifan_arch import IFAN

        weights = Path(options["path"]["pretrain_network_g"])
        weights.parent.mkdir(parents=True)
        said = {
            key: value for key, value in options["network_g"].items() if key in ("num_steps", "res_units", "dual_pixel")
        }
        width = options["network_g"].get("width", 8)
        torch.save({"params": IFAN(**{"num_steps": 4, **said}, width=width).state_dict()}, weights)
    if options["path"].get("pretrain_network_r"):
        Path(options["path"]["pretrain_network_r"]).touch()  # read when the network is built
    checked = option_check.check(options, path.name, is_train=is_train)
    if options["path"]["pretrain_network_g"]:
        found = checked["network_g"]
        assert (found["width"], found["num_steps"]) == (width, said.get("num_steps", 4)), "read from the weights"


def make_rgbd(sharp: Path, depth: str | None, dpdd: Path) -> None:
    sharp.parent.mkdir(parents=True)
    sharp.symlink_to(dpdd / "test_c/target")
    if depth is not None:
        Path(depth).mkdir()
        for path in sharp.iterdir():
            np.save(Path(depth) / f"{path.stem}.npy", np.ones((48, 64)))


@pytest.mark.parametrize("name", ["CUHK", "PixelDP", "RealDOF", "folder", "DPDD", "dual_DPDD", "16bit_DPDD"])
def test_every_set_has_a_file_and_those_without_ground_truth_ask_for_nothing_that_needs_it(name):
    options = option_file.read(ROOT / f"options/test/test_IFAN_{name}.yml")
    types = {metric["type"] for metric in options["val"]["metrics"].values()}
    with_truth = options["datasets"]["test"]["layout"] in ("dpdd", "realdof")
    assert types == ({"psnr", "ssim", "mae", "lpips"} if with_truth else {"niqe", "sharpness"})
    assert options["val"]["save_img"] is True


def test_the_documented_sizes_are_the_papers():
    """The overrides in the head of train_IFAN_DPDD.yml: N, M and patch size of each model of the paper."""
    import re

    text = (ROOT / "options/train_IFAN_DPDD.yml").read_text()
    found = {
        int(n): (int(g), int(r), int(patch))
        for n, g, r, patch in re.findall(
            r"N = +(\d+): .*network_g:num_steps=(\d+) +network_r:num_steps=(\d+) +datasets:train:patch_size=(\d+)", text
        )
    }
    assert found == {8: (8, 8, 256), 26: (26, 9, 512), 35: (35, 17, 576), 44: (44, 17, 704)}


def test_yaml_dump_of_options_reads_back(tmp_path, dpdd):
    path = tmp_path / "a.yml"
    path.write_text(yaml.safe_dump(small_options(dpdd)))
    assert option_file.read(path) == small_options(dpdd)
