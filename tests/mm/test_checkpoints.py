"""Checkpoints between the hosts: resumed, loaded directly, and converted without a bit lost."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from runner_cases import REBLUR, SMALL, build_runner, small_config, test_config, write_weights

pytest.importorskip("mmengine", reason="mmengine isn't installed (pip install ifan_plugin[mm])")

from mmengine.registry import MODELS
from mmengine.runner import CheckpointLoader

import ifan_plugin
import ifan_plugin.mm
from ifan_plugin import cli
from ifan_plugin.archs.ifan_arch import IFAN
from ifan_plugin.archs.reblur_arch import ReblurNet
from ifan_plugin.common.errors import UserError
from ifan_plugin.common.tensor_files import load_file
from ifan_plugin.host import option_check
from ifan_plugin.host.mends import mend_all
from ifan_plugin.mm.checkpoints import load_from_file, read_params, require_resumable, scoped_loader
from ifan_plugin.weights import conversion, official, runner_files


@pytest.fixture(scope="module")
def trained(dpdd, tmp_path_factory) -> Path:
    """What a Runner with EMA saved: four iterations, of which the second is there as well."""
    folder = tmp_path_factory.mktemp("Läufe mit Pausen")
    config = small_config(dpdd, folder)
    config["custom_hooks"] = [{"type": "EMAHook", "momentum": 0.3}]
    config["model"]["generator"] = SMALL | {"isotropic": True}
    build_runner(config).train()
    return folder / "iter_4.pth"


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_resumed_run_goes_on_as_an_uninterrupted_one(dpdd, trained, tmp_path):
    config = small_config(dpdd, tmp_path)
    config["custom_hooks"] = [{"type": "EMAHook", "momentum": 0.3}]
    config["model"]["generator"] = SMALL | {"isotropic": True}
    loader = CheckpointLoader._schemes[""]
    with scoped_loader():
        assert CheckpointLoader._schemes[""] is load_from_file
        runner = build_runner(config | {"resume": True, "load_from": str(trained.with_name("iter_2.pth"))})
        runner.train()
    assert CheckpointLoader._schemes[""] is loader
    expected, found = (load_from_file(path) for path in (trained, tmp_path / "iter_4.pth"))
    assert same(found["state_dict"], expected["state_dict"])
    assert same(found["ema_state_dict"], expected["ema_state_dict"])
    for name, history in expected["message_hub"]["log_scalars"].items():
        if "time" in name:
            continue
        ours = found["message_hub"]["log_scalars"][name]
        assert type(ours) is type(history)
        np.testing.assert_array_equal(ours.data[0], history.data[0], err_msg=name)
        np.testing.assert_array_equal(ours.data[1], history.data[1], err_msg=name)
    assert len(expected["message_hub"]["log_scalars"]["train/loss"].data[0]) == 4
    assert expected["message_hub"]["log_scalars"]["train/loss"].mean() > 0  # a real one of mmengine's
    assert found["meta"]["iter"] == 4


def test_only_a_whole_training_state_is_resumed(trained, tmp_path):
    """Of a best_*.pth mmengine would go on with a new optimiser and the schedules' first rate."""
    require_resumable(trained, schedulers=True)
    content = torch.load(trained, weights_only=False)
    for key, said in (("optimizer", "optimiser's"), ("message_hub", "message hub's"), ("param_schedulers", "sched")):
        path = tmp_path / f"best_psnr_{key}.pth"
        torch.save({name: value for name, value in content.items() if name != key}, path)
        with pytest.raises(UserError, match=rf"{key}\.pth: holds no {said}.* state, .*; valid: iter_\*\.pth"):
            require_resumable(path, schedulers=True)
    require_resumable(path)  # of a training without schedulers
    torch.save({**content, "meta": {**content["meta"], "iter": "4"}}, path)
    with pytest.raises(UserError, match="meta: iter: must be an integer of 0 or more, not '4'"):
        require_resumable(path)


def malformed(content: dict, fault: str) -> str:
    """Spoil a Runner's checkpoint; gives what is to be said about it."""
    state, scalars = content["state_dict"], content["message_hub"]["log_scalars"]
    if fault == "hyper_parameters":
        state._metadata[""]["hyper_parameters"] = {"generator": "abc"}
        return "hyper_parameters: must be a mapping of mappings, not {'generator': 'abc'}"
    if fault == "text":
        state[next(iter(state))] = "abc"
        return "must be a tensor, not str"
    if fault == "number":
        state[3] = torch.zeros(1)
        return "state_dict: must have names as keys, not 3"
    if fault == "scalars":
        content["message_hub"]["log_scalars"] = [1]
        return "message_hub: log_scalars: must be a mapping, not list"
    history = scalars["train/loss"]
    if fault == "history":
        del history._log_history
    else:
        history._count_history = history._count_history[:-1]
    return "log_scalars: 'train/loss': not a history of mmengine's"


@pytest.mark.parametrize("fault", ["hyper_parameters", "text", "number", "scalars", "history", "counts"])
def test_malformed_checkpoints_are_refused(trained, tmp_path, fault):
    content = torch.load(trained, weights_only=False)
    said = malformed(content, fault)
    path = tmp_path / "stranger's.pth"
    torch.save(content, path)
    readers = [load_from_file]
    if fault in ("hyper_parameters", "text", "number"):  # what the other host reads of it
        readers += [read_params, lambda path: conversion.read_weights(path, network=IFAN)]
    for read in readers:
        with pytest.raises(UserError) as caught:
            read(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert said in str(caught.value)


def test_the_loader_is_put_back_after_a_failure():
    before = dict(CheckpointLoader._schemes)
    with pytest.raises(RuntimeError, match="midway"), scoped_loader():
        raise RuntimeError("midway")
    assert before == CheckpointLoader._schemes


def test_the_hook_does_it_for_other_peoples_start_scripts(dpdd, trained, tmp_path):
    before = dict(CheckpointLoader._schemes)
    config = test_config(dpdd, tmp_path, generator=SMALL | {"isotropic": True})
    config["custom_hooks"] = [{"type": "CheckpointLoaderHook"}]
    runner = build_runner(config | {"load_from": str(trained)})
    assert runner.test()["psnr"] > 5
    assert same(
        runner.model.state_dict(), {k: v for k, v in load_from_file(trained)["state_dict"].items() if "reblur" not in k}
    )
    assert before == CheckpointLoader._schemes


def test_what_would_run_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "touched",))

    for content in ({"state_dict": {}, "meta": Evil()}, {"message_hub": {"log_scalars": {"x": Evil()}}}):
        torch.save(content, tmp_path / "evil.pth")
        with scoped_loader(), pytest.raises(UserError, match="would run code"):
            CheckpointLoader.load_checkpoint(str(tmp_path / "evil.pth"))
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    "value",
    [np.array([None]), np.array(["a"]), np.array([1.0], ">f8"), np.zeros(2, [("a", "f4")]), np.float64],
    ids=["objects", "text", "byte order", "records", "a class"],
)
def test_of_numpy_only_numbers_are_read(tmp_path, value):
    torch.save({"value": value}, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"a\.pth: (not a checkpoint|refused)"):
        load_file(tmp_path / "a.pth")


def test_numbers_of_numpy_are_read_as_they_were(tmp_path):
    numbers = {
        "array": np.arange(6.0).reshape(2, 3).T, "empty": np.zeros((0, 3), np.int8), "bool": np.array([True, False]),
        "nothing": np.array(3, np.uint16), "scalar": np.float32(2.5), "whole": np.int64(-7),
    }  # fmt: skip
    torch.save(numbers, tmp_path / "a.pth")
    found = load_file(tmp_path / "a.pth")
    for name, value in numbers.items():
        np.testing.assert_array_equal(found[name], value, strict=True)


def test_arrays_that_lie_about_their_size_are_refused(tmp_path):
    class Lying:
        def __reduce__(self):
            build, arguments, state = np.zeros(4).__reduce__()
            return build, arguments, (*state[:1], (1 << 40,), *state[2:])

    torch.save({"value": Lying()}, tmp_path / "a.pth")
    with pytest.raises(UserError, match="not a checkpoint"):
        load_file(tmp_path / "a.pth")


# --- loading directly ---------------------------------------------------------------------------------------------


def official_file(folder: Path) -> tuple[Path, dict]:
    net_g, net_r = write_weights(folder)
    params, reblur = (torch.load(path, weights_only=True)["params"] for path in (net_g, net_r))
    torch.save(official.to_official(params, reblur), folder / "IFAN.pytorch")
    return folder / "IFAN.pytorch", params


def test_files_of_every_kind_load_directly(dpdd, tmp_path):
    path, params = official_file(tmp_path)
    net_g = tmp_path / "net_g.pth"
    saved = torch.load(net_g, weights_only=True)
    averaged = {name: value + 1 for name, value in params.items()}
    torch.save(saved | {"params_ema": averaged}, tmp_path / "ema.pth")
    torch.save(params, tmp_path / "bare.pth")
    assert cli.main(["convert", str(net_g), str(tmp_path / "a.safetensors")]) == 0
    for name, expected, isotropic in (
        ("net_g.pth", params, False), ("ema.pth", averaged, False), ("bare.pth", params, False),
        ("a.safetensors", params, False), (path.name, params, True),
    ):  # fmt: skip
        config = test_config(dpdd, tmp_path / "run", generator=SMALL | {"isotropic": isotropic})
        with scoped_loader():
            runner = build_runner(config | {"load_from": str(tmp_path / name)})
            runner.load_or_resume()
        assert same(runner.model.generator.state_dict(), expected), name
        model = MODELS.build(config["model"] | {"pretrained": str(tmp_path / name)})
        assert same(model.generator.state_dict(), expected), name
        last = {"generator": str(tmp_path / name), "param_key": "params"}
        model = MODELS.build(config["model"] | {"pretrained": last})
        assert same(model.generator.state_dict(), params), name
    both = {"generator": str(path), "reblur": str(path)}
    model = MODELS.build(
        {"type": "IFANRestorer", "generator": SMALL | {"isotropic": True}, "reblur": REBLUR, "pretrained": both}
        | {"reblur_loss": {"type": "ReblurLoss"}}
    )
    expected = torch.load(tmp_path / "net_r.pth", weights_only=True)["params"]
    assert same(model.reblur.state_dict(), expected)
    assert same(read_params(tmp_path / "ema.pth", param_key="params_ema")[0], averaged)


def test_a_training_config_takes_the_generator_alone(dpdd, tmp_path):
    """As testing with it does, and training that starts from ``load_from``; the averaging hook is strict."""
    net_g, _ = write_weights(tmp_path)
    config = small_config(dpdd, tmp_path / "run") | {"load_from": str(net_g)}
    config["custom_hooks"] = [{"type": "EMAHook", "strict_load": True}]
    runner = build_runner(config)
    before = {name: value.clone() for name, value in runner.model.reblur.state_dict().items()}
    with scoped_loader():
        runner.call_hook("before_run")
        runner.load_or_resume()
    hook = next(hook for hook in runner.hooks if type(hook).__name__ == "EMAHook")
    for model in (runner.model, hook.ema_model.module):
        assert same(model.generator.state_dict(), torch.load(net_g, weights_only=True)["params"])
        assert same(model.reblur.state_dict(), before)


@pytest.mark.parametrize(
    ("generator", "file", "message"),
    [
        (SMALL | {"width": 8}, "net_g.pth", "doesn't fit IFAN (generator) as the config builds it: "),
        (SMALL | {"use_disparity": False}, "net_g.pth", "unknown key disparity_estimator."),
        (SMALL, "net_r.pth", "missing key "),
        (SMALL | {"isotropic": True}, "net_g.pth", "was trained with isotropic=False, and the config's generator has"),
        (SMALL, "IFAN.pytorch", "was trained with isotropic=True"),
        (SMALL, "none.pth", "none.pth: no such file"),
        (SMALL, "cut.pth", "cut.pth: not a checkpoint, or cut short"),
        (SMALL, "numbers.pth", "numbers.pth: not a checkpoint of a network: 'params' is a int"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(dpdd, tmp_path, generator, file, message):
    """mmengine itself would log it, and measure random weights."""
    official_file(tmp_path)
    (tmp_path / "cut.pth").write_bytes((tmp_path / "net_g.pth").read_bytes()[:-200])
    torch.save({"params": 3}, tmp_path / "numbers.pth")
    runner = build_runner(
        test_config(dpdd, tmp_path / "run", generator=generator) | {"load_from": str(tmp_path / file)}
    )
    with scoped_loader(), pytest.raises(UserError) as caught:
        runner.test()
    for text in (str(caught.value), *_pretrained_error(generator, tmp_path / file)):
        assert message in text
        assert str(tmp_path / file) in text
        assert "\n" not in text


def _pretrained_error(generator: dict, path: Path) -> list[str]:
    with pytest.raises(UserError) as caught:
        MODELS.build({"type": "IFANRestorer", "generator": generator, "pretrained": str(path)})
    return [str(caught.value)]


def test_only_a_training_state_is_resumed_from(trained, tmp_path):
    require_resumable(trained)
    net_g, _ = write_weights(tmp_path)
    with pytest.raises(UserError, match=r"net_g\.pth: holds weights, no training state of mmengine's"):
        require_resumable(net_g)


# --- mmengine's file in BasicSR, and conversion -------------------------------------------------------------------


def basicsr_model(options: dict, path: Path, **keys):
    """The host's model as a training option file starts it."""
    ifan_plugin.register()
    mend_all()
    from basicsr.models import build_model

    options["path"] = {"pretrain_network_g": str(path), "pretrain_network_r": str(path)} | keys
    opt = option_check.check(options, "f.yml", is_train=True)
    return build_model(opt | {"dist": False, "rank": 0, "world_size": 1, "is_train": True, "root_path": "."})


def test_basicsr_starts_from_mmengines_file(trained, options):
    content = torch.load(trained, weights_only=False)  # what the test itself has written
    averaged = basicsr_model(copy.deepcopy(options), trained)
    assert same({f"generator.{name}": value for name, value in averaged.net_g.state_dict().items()}
                | {f"reblur.{name}": value for name, value in averaged.net_r.state_dict().items()},
                dict(content["state_dict"]))  # fmt: skip
    model = basicsr_model(options, trained, param_key_g="params", param_key_r="params")
    last = content["ema_state_dict"]  # mmengine keeps the last weights there, and the averaged ones in state_dict
    assert same({f"module.generator.{name}": value for name, value in model.net_g.state_dict().items()}
                | {f"module.reblur.{name}": value for name, value in model.net_r.state_dict().items()}
                | {"steps": last["steps"]}, dict(last))  # fmt: skip
    assert model.net_g.hyper_parameters["isotropic"] is True  # the file says it, the options don't
    options["network_g"]["isotropic"] = False
    with pytest.raises(UserError, match="isotropic is True in the checkpoint, but False was asked for"):
        basicsr_model(options, trained)


def test_basicsr_refuses_a_file_without_the_network(tmp_path, options):
    write_weights(tmp_path)
    assert cli.main(["convert", str(tmp_path / "net_g.pth"), str(tmp_path / "mm.pth"), "--to", "mmengine"]) == 0
    with pytest.raises(UserError, match=r"mm\.pth: has no reblurring network"):
        basicsr_model(options, tmp_path / "mm.pth")


def test_basicsrs_file_to_mmengine_and_back(tmp_path, capsys):
    net_g, net_r = write_weights(tmp_path, isotropic=True)
    content, reblur = (torch.load(path, weights_only=True) for path in (net_g, net_r))
    content["params_ema"] = {name: value * 2 for name, value in content["params"].items()}
    torch.save(content, net_g)
    mm, back, back_r = tmp_path / "läuft.pth", tmp_path / "back.pth", tmp_path / "back_r.pth"
    for key in ("params", "params_ema"):
        arguments = ["--to", "mmengine", "--param-key", key, "--reblurring", str(net_r), "--overwrite"]
        assert cli.main(["convert", str(net_g), str(mm), *arguments]) == 0
        state = torch.load(mm, weights_only=True)["state_dict"]  # a file that mmengine reads without our loader, too
        assert {name.split(".")[0] for name in state} == {"generator", "reblur"}
        assert cli.main(["convert", str(mm), str(back), "--reblurring", str(back_r), "--overwrite"]) == 0
        found = torch.load(back, weights_only=True)
        assert same(found["params"], content[key])
        assert found["hyper_parameters"] == content["hyper_parameters"]
        assert same(torch.load(back_r, weights_only=True)["params"], reblur["params"])
    printed = capsys.readouterr().out
    assert f"{mm}: a file of mmengine's, params\n" in printed
    assert "ReblurNet: " in printed


def test_both_sets_of_weights_at_once(trained, tmp_path):
    net_g, mm, back = tmp_path / "net_g.pth", tmp_path / "mm.pth", tmp_path / "back.pth"
    assert cli.main(["convert", str(trained), str(net_g), "--param-key", "both"]) == 0
    ours = torch.load(net_g, weights_only=True)
    expected = runner_files.as_ours(torch.load(trained, weights_only=False), "generator", "x")
    assert same(ours["params"], expected["params"])
    assert same(ours["params_ema"], expected["params_ema"])
    assert not same(ours["params"], ours["params_ema"])
    assert cli.main(["convert", str(net_g), str(mm), "--to", "mmengine", "--param-key", "both"]) == 0
    averaged = {f"generator.{name}": value for name, value in ours["params_ema"].items()}
    assert same(dict(load_from_file(mm)["state_dict"]), averaged)
    assert cli.main(["convert", str(mm), str(back), "--param-key", "both"]) == 0
    found = torch.load(back, weights_only=True)
    assert same(found["params"], ours["params"])
    assert same(found["params_ema"], ours["params_ema"])
    for out in ("a.safetensors", "a.pytorch"):
        assert cli.main(["convert", str(mm), str(tmp_path / out), "--param-key", "both"]) == 2
        assert not (tmp_path / out).exists()


def test_a_runners_own_file_is_converted(trained, tmp_path, capsys):
    content = torch.load(trained, weights_only=False)
    out, out_r = tmp_path / "net_g.pth", tmp_path / "net_r.pth"
    assert cli.main(["convert", str(trained), str(out), "--param-key", "params"]) == 0
    assert "it has params_ema, too (--param-key params_ema) and the reblurring network, too (--reblurring FILE)" in (
        capsys.readouterr().out
    )
    last = runner_files.as_ours(content, "generator", "x")["params"]
    found = torch.load(out, weights_only=True)
    assert same(found["params"], last)
    assert found["hyper_parameters"]["isotropic"] is True  # nothing but the Runner's file has said it
    arguments = ["--param-key", "params_ema", "--reblurring", str(out_r), "--overwrite"]
    assert cli.main(["convert", str(trained), str(out), *arguments]) == 0
    assert same(
        {f"generator.{name}": value for name, value in torch.load(out, weights_only=True)["params"].items()}
        | {f"reblur.{name}": value for name, value in torch.load(out_r, weights_only=True)["params"].items()},
        dict(content["state_dict"]),
    )
    weights = conversion.read_weights(out_r, network=ReblurNet)
    assert weights.hyper_parameters["num_steps"] == 2


def test_histories_without_mmengine(trained):
    """What BasicSR's users, who may not have mmengine, read: stand-ins with the numbers."""
    history = load_file(trained)["message_hub"]["log_scalars"]["train/loss"]
    assert type(history) is runner_files.History
    assert len(history._log_history) == 4
    assert not hasattr(history, "mean")
