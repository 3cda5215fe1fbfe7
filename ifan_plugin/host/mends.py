"""The bridge to BasicSR 1.4.2: the only place that mends it. Each mend is one function with its reason.

The loops themselves stay the host's.
"""

from __future__ import annotations

import logging
import math
import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch

from ifan_plugin.common import foreign
from ifan_plugin.common.errors import UserError
from ifan_plugin.common.files import save_atomically, written_aside
from ifan_plugin.common.locks import only_run
from ifan_plugin.common.stopping import shield_worker
from ifan_plugin.data import progressive
from ifan_plugin.data.sampler import ResumableSampler, SeededDataset, seed_everything
from ifan_plugin.host import (
    archives,
    interruptions,
    optimizers,
    option_check,
    progress,
    ranks,
    resuming,
    schedules,
    states,
)
from ifan_plugin.host.current import Run
from ifan_plugin.host.importing import prepare
from ifan_plugin.host.registry import load_plugins
from ifan_plugin.host.slurm import slurm_environment
from ifan_plugin.options import file as option_file
from ifan_plugin.options.arguments import parse_pipeline_arguments

HOST_VERSION = "1.4.2"


def _is_of_this_run(model: Any) -> bool:
    """Whether a model was built of the options that were read last, of which it has a copy."""
    key = "training_states"
    return Run.options is not None and model.opt["path"].get(key) == Run.options["path"].get(key)


def run_locks() -> ExitStack:
    """What a run holds until it ends."""
    return Run.locks


def mend_distributed() -> None:
    """The host takes the rank modulo the number of GPUs and hands DDP a GPU: neither works with gloo on CPUs.

    Without a GPU the process group is gloo's and DDP gets no device; with GPUs it is NCCL's, on ``LOCAL_RANK``.
    """
    from basicsr.models import base_model
    from basicsr.utils import options

    def init_dist(launcher: str, backend: str = "nccl", port: int | None = None, **kwargs: Any) -> None:
        if launcher == "slurm":
            slurm_environment(port)
        missing = [v for v in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if v not in os.environ]
        if missing:
            raise UserError(
                f"--launcher {launcher}: {missing[0]} is not set; start with torchrun --nproc_per_node=N -m ifan_plugin"
            )
        if backend == "nccl":
            local = int(os.environ.get("LOCAL_RANK", os.environ["RANK"]))
            torch.cuda.set_device(local % torch.cuda.device_count())
        torch.distributed.init_process_group(backend=backend, **kwargs)
        ranks.meet()

    def model_to_device(self: Any, net: torch.nn.Module) -> torch.nn.Module:
        net = net.to(self.device)
        if self.opt["dist"]:
            devices = [torch.cuda.current_device()] if self.device.type == "cuda" else None
            unused = self.opt.get("find_unused_parameters", False)
            return torch.nn.parallel.DistributedDataParallel(net, device_ids=devices, find_unused_parameters=unused)
        return torch.nn.DataParallel(net) if self.opt["num_gpu"] > 1 else net

    options.init_dist = init_dist
    base_model.BaseModel.model_to_device = model_to_device


def mend_options() -> None:
    """The host reads YAML with a loader that builds objects and runs ``--force_yml`` through ``exec``.

    Ours reads safely, checks everything before anything is built, and gives back what the host's would. The copy of the
    file in the experiment is written from what was read: the host's copying fails when it is given that copy again.
    """
    from basicsr import test, train
    from basicsr.utils import options
    from basicsr.utils.dist_util import master_only

    def parse_options(root_path: str, is_train: bool = True) -> tuple[dict[str, Any], Any]:
        args = parse_pipeline_arguments(sys.argv[1:], "train" if is_train else "test")
        opt = option_file.read_with_overrides(args.opt, args.force_yml)
        load_plugins(opt.get("plugins"), str(args.opt), args.plugin)
        opt = option_check.check(opt, Path(args.opt).name, is_train=is_train, distributed=args.launcher != "none")
        Run.option_text = Path(args.opt).read_text(encoding="utf-8")
        Run.model_type = opt["model_type"]
        progress.set_verbose(verbose=args.verbose)
        if args.debug and not opt["name"].startswith("debug"):
            opt["name"] = f"debug_{opt['name']}"
        if opt["num_gpu"] == "auto":
            opt["num_gpu"] = torch.cuda.device_count()
        opt["dist"] = args.launcher != "none"
        if opt["dist"]:
            parameters = dict(opt.get("dist_params") or {})
            if opt["num_gpu"] == 0:  # the host's files ask for nccl, which CPUs don't have
                parameters["backend"] = "gloo"
            options.init_dist(args.launcher, **parameters)
        opt["rank"], opt["world_size"] = options.get_dist_info()
        options.set_random_seed(opt["manual_seed"] + opt["rank"])
        opt["auto_resume"], opt["is_train"] = args.auto_resume, is_train
        opt["path"].pop("root", None)  # run() has read it
        _add_output_paths(opt, Path(root_path))
        Run.seed, Run.rank = opt["manual_seed"], opt["rank"]
        Run.options, Run.kept, Run.changes = opt, resuming.snapshot(opt), []
        if opt["rank"] == 0:
            folder = Path(opt["path"]["experiments_root" if is_train else "results_root"])
            lock = folder.with_name(f".{folder.name}.lock")  # beside it: the host moves the folder away
            Run.locks.enter_context(only_run(lock, f"{folder}: name '{opt['name']}'"))
        return opt, args

    @master_only
    def copy_opt_file(opt_file: str, experiments_root: str) -> None:
        # From memory: the file may be this very copy, or have been moved away with the old experiment.
        head = f"# GENERATE TIME: {time.asctime()}\n# CMD:\n# {' '.join(sys.argv)}\n\n"
        with written_aside(Path(experiments_root) / Path(opt_file).name) as file:
            file.write((head + Run.option_text).encode())

    for module in (train, test, options):
        module.parse_options = parse_options
    train.copy_opt_file = copy_opt_file


def _add_output_paths(opt: dict[str, Any], root: Path) -> None:
    """The host's folders below ``root``, and its shorter rhythm for experiments named ``debug…``."""
    opt["root_path"] = str(root)
    kind = "experiments" if opt["is_train"] else "results"
    folder = root / kind / opt["name"]
    opt["path"] |= {
        f"{kind}_root": str(folder), "log": str(folder), "visualization": str(folder / "visualization"),
    }  # fmt: skip
    if opt["is_train"]:
        opt["path"] |= {"models": str(folder / "models"), "training_states": str(folder / "training_states")}
        if "debug" in opt["name"]:
            opt["logger"] |= {"print_freq": 1, "save_checkpoint_freq": 8}
            if "val" in opt:
                opt["val"]["val_freq"] = 8


def mend_resume() -> None:
    """``load_resume_state`` needs a GPU, looks below the working directory, and falls for a state without its network.

    Ours looks in this experiment's own folder, maps to the CPU, takes the newest state that is whole, and says which.
    What the option file says otherwise than it did is applied or refused (:mod:`ifan_plugin.host.resuming`).
    """
    from basicsr import train
    from basicsr.models.base_model import BaseModel

    def load_resume_state(opt: dict[str, Any]) -> dict[str, Any] | None:
        asked = opt["path"].get("resume_state")
        Run.resume_state, Run.iteration, Run.saved = None, 0, 0
        if opt["auto_resume"]:
            candidates = states.newest_first(Path(opt["path"]["training_states"]))
        else:
            candidates = [Path(asked)] if asked else []
        path, state = states.choose(candidates, opt) if opt["rank"] == 0 else (None, None)
        if opt["dist"]:  # one rank chooses, or ranks that see other files would train apart
            chosen = [path]
            torch.distributed.broadcast_object_list(chosen, src=0)
            path = chosen[0]
        if path is None:
            return None
        if state is None:
            reason, state = states.read(path, opt)
            if state is None:
                raise UserError(f"rank {opt['rank']} can't resume from what rank 0 chose: {reason}")
        opt["path"]["resume_state"] = str(path)
        Run.changes = resuming.compare(state.get("options"), Run.kept, str(path))
        train.check_resume(opt, state["iter"])
        for network in [key for key in opt if key.startswith("network_")]:
            opt["path"][f"param_key_{network.removeprefix('network_')}"] = (
                "params"  # training goes on with the last ones
            )
        Run.resume_state, Run.iteration, Run.saved = state, state["iter"], state["iter"]
        return state

    def resume_training(self: Any, resume_state: dict[str, Any]) -> None:
        changes = Run.changes if _is_of_this_run(self) else []
        resuming.resume_optimizers(self, resume_state, changes, update_learning_rate)

    update_learning_rate = BaseModel.update_learning_rate  # without what follows
    train.load_resume_state = load_resume_state
    BaseModel.resume_training = resume_training


def mend_sampling() -> None:
    """The host restarts an interrupted epoch, and ends early where an epoch isn't a whole number of batches.

    (It counts an epoch's iterations rounded up, drops the last partial batch, and stops after the counted epochs; with
    less data than one batch it trains on nothing, without a word.) Ours fills the last batch from the epoch's start
    and continues in mid-epoch; the place goes into the training state. Random numbers of networks and of other people's
    data sets follow from (seed, iteration) and (seed, epoch, position), so those resume exactly, too.
    """
    from basicsr import train
    from basicsr.models import base_model

    def sampler_factory(dataset: Any, num_replicas: int, rank: int, ratio: float = 1) -> ResumableSampler:
        if len(dataset) == 0:
            raise UserError(f"data set {dataset.opt.get('name', '')}: has no samples")
        Run.sampler = ResumableSampler(dataset, num_replicas, rank, ratio, seed=Run.seed)
        return Run.sampler

    build_dataloader = train.build_dataloader

    def build_and_note_batch(dataset: Any, dataset_opt: dict[str, Any], **kwargs: Any) -> Any:
        sampler = kwargs.get("sampler")
        if sampler is None or dataset_opt.get("num_worker_per_gpu") == 0:  # then there are no workers to persist
            dataset_opt = {**dataset_opt, "persistent_workers": False}
        if isinstance(sampler, ResumableSampler) and not getattr(dataset, "draws_by_position", False):
            dataset = SeededDataset(dataset, Run.seed)
        loader = build_dataloader(dataset, dataset_opt, **kwargs)
        loader.worker_init_fn = partial(shield_worker, loader.worker_init_fn)
        if isinstance(sampler, ResumableSampler):
            sampler.set_batch_size(loader.batch_size, dataset_opt["batch_size_per_gpu"])
            sampler.last_iteration = Run.iteration
            sampler.stages = progressive.check(dataset_opt.get("progressive"), "datasets: train: progressive")
            if sampler.stages is not None:
                loader = progressive.staged_loader(loader, sampler)
            if Run.resume_state is not None:
                reason = sampler.resume(Run.resume_state.get("position") or {})
                if reason:  # epochs have another length now: the host counts from the state's epoch on
                    Run.resume_state["epoch"] = Run.resume_state["iter"] // sampler.iters_per_epoch
                    logging.getLogger("basicsr").warning(f"The interrupted epoch is begun anew: {reason}.")
        return loader

    update_learning_rate = base_model.BaseModel.update_learning_rate  # with mend_warm_up

    def update_and_note_iteration(self: Any, current_iter: int, warmup_iter: int = -1) -> None:
        Run.iteration = current_iter
        if Run.sampler is not None:
            Run.sampler.start_iteration(current_iter)
            seed_everything(Run.seed, current_iter, Run.rank)
        update_learning_rate(self, current_iter, warmup_iter=warmup_iter)

    train.EnlargedSampler = sampler_factory
    train.build_dataloader = build_and_note_batch
    base_model.BaseModel.update_learning_rate = update_and_note_iteration


def mend_saving() -> None:
    """The host writes checkpoints in place, and after three failed tries logs a warning and goes on training.

    Ours writes aside, flushes to the disk and renames; a failure ends the run. States are a model's own extras
    (``extra_state``) and the place in the data beside the host's fields.
    """
    from basicsr.models.base_model import BaseModel
    from basicsr.utils.dist_util import master_only

    @master_only
    def save_network(self: Any, net: Any, net_label: str, current_iter: int, param_key: Any = "params") -> None:
        nets = net if isinstance(net, list) else [net]
        keys = param_key if isinstance(param_key, list) else [param_key]
        if len(nets) != len(keys):
            raise ValueError("net and param_key must have the same length")
        saved = {}
        for each, key in zip(nets, keys):
            bare = self.get_bare_model(each)
            state = bare.state_dict()
            if hasattr(bare, "hyper_parameters"):  # what shapes don't tell, such as isotropic
                saved["hyper_parameters"] = dict(bare.hyper_parameters)
            saved[key] = {name.removeprefix("module."): tensor.cpu() for name, tensor in state.items()}
        if net_label == "net_g" and getattr(self, "blur_unit", None):
            saved["blur_unit"] = self.blur_unit
        stamp = "latest" if current_iter == -1 else current_iter
        save_atomically(saved, Path(self.opt["path"]["models"]) / f"{net_label}_{stamp}.pth")

    @master_only
    def save_training_state(self: Any, epoch: int, current_iter: int) -> None:
        if current_iter == -1:
            return
        state = {
            "epoch": epoch,
            "iter": current_iter,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "schedulers": [scheduler.state_dict() for scheduler in self.schedulers],
        }
        if Run.sampler is not None:
            state["position"] = Run.sampler.state_dict(current_iter)
        if _is_of_this_run(self):
            state["options"] = Run.kept
        if hasattr(self, "extra_state"):
            state["extra"] = self.extra_state()
        save_atomically(state, Path(self.opt["path"]["training_states"]) / f"{current_iter}.state")
        Run.saved = current_iter

    BaseModel.save_network = save_network
    BaseModel.save_training_state = save_training_state


def mend_loading() -> None:
    """The host's models take a checkpoint's ``params`` alone, and with ``strict: false`` go on though nothing fits.

    Ours finds the weights wherever a file has them, prefers the averaged ones unless told, and refuses what has no
    name in common. (:class:`ifan_plugin.models.ifan_model.IFANModel` does the same, and knows the authors' files.)
    """
    from basicsr.models.base_model import BaseModel
    from basicsr.utils import get_root_logger

    def load_network(self: Any, net: Any, load_path: str, strict: bool = True, param_key: Any = "params") -> None:
        net, names = self.get_bare_model(net), self.get_bare_model(net).state_dict().keys()
        content = foreign.load(load_path, names)
        if param_key == "params" and not any(key.startswith("param_key_") for key in self.opt["path"]):
            param_key = None  # nobody asked for it: it is what the host's models ask for unless told
        key = foreign.choose(content, param_key)
        there = [name for name in foreign.PARAM_KEYS if name in content]
        key = there[0] if there and key not in content else key
        params = content if key is None or key not in content else content[key]
        params = {name: value for name, value in params.items() if isinstance(value, torch.Tensor)}
        get_root_logger().info(f"Loading {type(net).__name__} model from {load_path}, with param key: [{key}].")
        for line in foreign.load_into(net, params, load_path, strict=strict):
            get_root_logger().warning(line)

    BaseModel.load_network = load_network


def mend_optimizers() -> None:
    """``BaseModel.get_optimizer`` knows Adam alone; IFAN trains with RAdam. Ours knows torch's and a library's."""
    from basicsr.models.base_model import BaseModel

    def get_optimizer(self: Any, optim_type: str, params: Any, lr: float, **kwargs: Any) -> torch.optim.Optimizer:
        if not math.isfinite(lr):
            raise UserError(f"train: optim_g: lr must be a finite number, not {lr}")
        optimizer = cast(Callable[..., torch.optim.Optimizer], optimizers.named(optim_type, "train: optim_g"))
        return optimizer(params, lr=lr, **kwargs)

    BaseModel.get_optimizer = get_optimizer


def mend_validation_warning() -> None:
    """The loop warns at every validation that several sets work with SRModel alone; with our model they do work."""

    def keep(record: logging.LogRecord) -> bool:
        ours = Run.model_type in ("IFANModel", "SRModel")
        return not (ours and "Multiple validation datasets are *only* supported" in record.getMessage())

    logging.getLogger("basicsr").addFilter(keep)


def mend_prefetching() -> None:
    """With ``prefetch_mode: cpu`` an error while reading kills the host's thread, and training waits for ever.

    Ours hands the error over, so that it is raised where the batch was wanted.
    """
    from basicsr.data.prefetch_dataloader import PrefetchGenerator

    def run(self: Any) -> None:
        try:
            for item in self.generator:
                self.queue.put(item)
            self.queue.put(None)
        except Exception as error:  # noqa: BLE001 (raised again in __next__)
            self.queue.put(error)

    take = PrefetchGenerator.__next__

    def next_item(self: Any) -> Any:
        item = take(self)
        if isinstance(item, Exception):
            raise item
        return item

    PrefetchGenerator.run = run
    PrefetchGenerator.__next__ = next_item


MENDS: tuple[Callable[[], None], ...] = (
    mend_distributed, mend_options, archives.mend_archives, schedules.mend_warm_up, mend_resume, mend_sampling,
    mend_saving, mend_loading, mend_optimizers, mend_prefetching, mend_validation_warning, *progress.MENDS,
    *interruptions.MENDS,
)  # fmt: skip
"""What is applied once the host is imported, which :mod:`ifan_plugin.host.importing` makes possible."""

_done: set[str] = set()


def mend_all() -> None:
    """Apply every mend, once."""
    prepare()
    for mend in MENDS:
        if mend.__name__ not in _done:
            mend()
            _done.add(mend.__name__)
