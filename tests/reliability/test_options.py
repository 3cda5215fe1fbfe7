"""Option files that nobody would write: each is refused in one line that names the file, or trains."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import small_options
from reliability.attack import NASTY_NAMES, attack

import ifan_plugin
from ifan_plugin.common.errors import UserError
from ifan_plugin.host import option_check
from ifan_plugin.host.mends import mend_all
from ifan_plugin.options import file as option_file

mend_all()

from basicsr.models import build_model  # noqa: E402 (the host can be imported only once it is mended)

VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 3, 7, 8, 10**6, 10**9, 2**31, 2**63, 2**64, -(2**63), 0.0, -0.5, 0.5, 1e30, 1e-30,
    float("nan"), float("inf"), -float("inf"), "", "x", "none", "mean", "sum", "auto", "../x", "/dev/zero", "/", ".", "~",
    "IFAN", "MSELoss", "L1Loss", "GANLoss", "PerceptualLoss", "CharbonnierLoss", "WeightedTVLoss", "DisparityLoss",
    "ReblurLoss", "DefocusLoss", "Adam", "LBFGS", "SparseAdam", "Muon", "SGD", "CosineAnnealingRestartLR", "DPDNet",
    "ReblurNet", "SpandrelNet", "DefocusDeconvolution", "SRModel", "psnr", "lpips", "ssim", [], [0], [1, 2], [[]], [None],
    [-1], ["left"], ["left", "right"], ["center"] * 3, {}, {"a": 1}, {"type": "IFAN"}, {"type": None}, {"type": []},
    *NASTY_NAMES,
]  # fmt: skip
SNIPPETS = [
    "!!bool maybe", "!!int ''", "!!int x", "!!float abc", "!!float ''", "!!timestamp x", "2001-99-99", "2001-01-01 99:99:99",
    "!!set {a, b}", "!!omap [a: 1]", "!!pairs [a: 1]", "!!binary xyz", "!!binary =", "!!null x", "!!str {a: 1}", "!!seq a",
    "!!map a", "!!map [1]", "!x y", "!!python/name:os.system", "&a [*a]", "&a {b: *a}", "*no", "{? {a: 1} : b}", "{? [a] : b}",
    "{<<: 1}", "{<<: [1]}", "{<<: {a: 1}}", "=", "0o17", "0b", "0x", "1_", "-", "-.inf", ".nan", "1:99", "190:20:30.15",
    "9" * 6000, "0x" + "f" * 6000, "1:" * 3000 + "1", "1e999", "1e-999", "[" * 3000 + "]" * 3000, "{a: " * 3000 + "1" + "}" * 3000,
    "- " * 500 + "1", "'\\x1b[31m'", '"\\x1b[31m"', '"\\u202e"', '"\\0"', '"\\ud800"', "|\n x", ">-\n x", "%x", "@x", "`x",
    "[a, b", "{a: b", "'a", '"a', "a: b: c", "\t1", "? ", "...", "---", "--- 1", "%YAML 9.9",
    "[&a [x,x,x,x,x,x,x,x], &b [*a,*a,*a,*a,*a,*a,*a,*a], &c [*b,*b,*b,*b,*b,*b,*b,*b], &d [*c,*c,*c,*c,*c,*c,*c,*c], "
    "&e [*d,*d,*d,*d,*d,*d,*d,*d], &f [*e,*e,*e,*e,*e,*e,*e,*e], &g [*f,*f,*f,*f,*f,*f,*f,*f], [*g,*g,*g,*g,*g,*g,*g,*g]]",
]  # fmt: skip
KEYS = {
    "optim_g": ["fused", "foreach", "capturable", "differentiable", "amsgrad", "maximize", "weight_decay", "betas", "eps",
                "momentum", "nesterov", "decoupled_weight_decay", "lr"],
    "scheduler": ["periods", "restart_weights", "eta_min", "milestones", "gamma", "restarts"],
    "pixel_opt": ["reduction", "loss_weight", "gan_type", "eps", "layer_weights", "vgg_type"],
    "network_g": ["width", "num_steps", "taps", "res_units", "dual_pixel", "isotropic", "filter_type", "fac_taps"],
}  # fmt: skip


def paths_of(value: Any, path: tuple = ()) -> list[tuple]:
    """The ways to every value in nested mappings and lists."""
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] * bool(path) + [inner for key, member in members for inner in paths_of(member, (*path, key))]


def mutate(options: dict, rng: random.Random) -> None:
    """One thing that is otherwise."""
    way = rng.choice(paths_of(options))
    place = options
    for key in way[:-1]:
        place = place[key]
    last, kind = way[-1], rng.randrange(10)
    if kind == 0:
        del place[last]
    elif kind == 1 and isinstance(place, dict):
        place[rng.choice([f"{last}s", "type", "", 3, None, *NASTY_NAMES[:4]])] = place.pop(last)
    elif kind in (2, 3, 4):
        section, keys = rng.choice(list(KEYS.items()))
        owner = options if section == "network_g" else options.get("train")
        if isinstance(owner, dict) and isinstance(owner.get(section), dict):
            owner[section][rng.choice(keys)] = copy.deepcopy(rng.choice(VALUES))
    else:
        place[last] = copy.deepcopy(rng.choice(VALUES))


def text_of(options: dict, rng: random.Random) -> str:
    """As YAML, with a value that no plain one is, or with letters changed, now and then."""
    kind = rng.randrange(6)
    if kind == 0:
        way = rng.choice(paths_of(options))
        place = options
        for key in way[:-1]:
            place = place[key]
        place[way[-1]] = "SNIPPET"
    text = yaml.safe_dump(options, sort_keys=False, allow_unicode=True)
    if kind == 0:
        text = text.replace("SNIPPET", rng.choice(SNIPPETS), 1)
    elif kind == 1:
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(text))
            text = (
                text[:at]
                + rng.choice("\0\t\r\n:-[]{}&*!|>%@`'\"#?,.0e~\x1b\x85\ufeff")
                + text[at + rng.randint(0, 3) :]
            )
    return text


def case(options: dict, folder: Path, rng: random.Random) -> Callable[[], str | None]:
    """A file read, checked, and where nothing is said against it, its model built and trained for a step."""
    changed = copy.deepcopy(options)
    for _ in range(rng.choice([0, 1, 1, 1, 2, 3])):
        mutate(changed, rng)
    path = folder / "attack.yml"
    path.write_bytes(text_of(changed, rng).encode("utf-8", "surrogatepass"))

    def run() -> None:
        try:
            found = option_file.read(path)
            checked = option_check.check(found, path.name, is_train=True)
        except UserError as error:
            if path.name not in str(error):
                raise AssertionError(f"doesn't name the file: {error}") from error
            raise
        if checked["model_type"] == "IFANModel":
            train_a_step(checked)

    return run


def train_a_step(checked: dict) -> None:
    checked |= {"dist": False, "rank": 0, "world_size": 1, "is_train": True, "num_gpu": 0}
    checked["path"] |= {"models": "", "training_states": "", "experiments_root": ""}
    model = build_model(checked)
    from basicsr.data import build_dataset

    data = build_dataset(checked["datasets"]["train"])
    batch = {name: value[None] for name, value in data[0].items() if hasattr(value, "shape")}
    for iteration in (1, 2):
        model.update_learning_rate(iteration, warmup_iter=checked["train"]["warmup_iter"])
        model.feed_data(batch)
        model.optimize_parameters(iteration)
    model.update_learning_rate(checked["train"]["total_iter"], warmup_iter=checked["train"]["warmup_iter"])


@pytest.mark.slow
def test_two_thousand_option_files(dpdd, tmp_path):
    ifan_plugin.register()
    options = small_options(dpdd)
    faults = attack(lambda rng: case(options, tmp_path, rng), cases=2000, seconds=240)
    assert not faults, "\n".join(faults)
