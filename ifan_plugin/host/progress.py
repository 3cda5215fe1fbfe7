"""What a training run shows and keeps: networks as tables of their parts, time left, validations, the best weights."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ifan_plugin.common import stopping
from ifan_plugin.common.errors import UserError
from ifan_plugin.host import interruptions
from ifan_plugin.host.current import Run
from ifan_plugin.host.curves import Curves
from ifan_plugin.options.schema import nearest

if TYPE_CHECKING:
    from torch import nn

logger = logging.getLogger("basicsr")

BEST = "best"
"""``net_g_best.pth`` holds the weights of the best validation."""


class _Shown:
    verbose: bool = False


def set_verbose(*, verbose: bool) -> None:
    """Whether networks are told layer by layer (``-v``)."""
    _Shown.verbose = verbose


def parts_table(net: nn.Module) -> list[str]:
    """A line a part: its name, class, number of parameters and share of all.

    The parts are the network's children; of one that only wraps another, the other's.
    """
    path, inner = "", net
    while len(children := list(inner.named_children())) == 1 and len(list(children[0][1].children())) > 1:
        path, inner = f"{path}{children[0][0]}.", children[0][1]
    counts = [(f"{path}{name}", type(part).__name__, _count(part)) for name, part in children]
    rest = _count(net) - sum(count for _, _, count in counts)
    if rest > 0:  # parameters of its own, or of a wrapper
        counts.append(("(its own)", "", rest))
    total = max(_count(net), 1)
    names = max((len(name) for name, _, _ in counts), default=0)
    kinds = max((len(kind) for _, kind, _ in counts), default=0)
    return [f"{name:<{names}}  {kind:<{kinds}}  {count:>12,}  {count / total:>6.1%}" for name, kind, count in counts]


def _count(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def mend_network_listing() -> None:
    """The host logs every layer of every network, hundreds of lines before the first that says something.

    Ours is a table of parts; ``-v`` gives the layers, too.
    """
    from basicsr.models.base_model import BaseModel

    def print_network(self: Any, net: nn.Module) -> None:
        bare = self.get_bare_model(net)
        more = "" if _Shown.verbose else " (-v shows every layer)"
        lines = [f"Network: {type(bare).__name__}, with parameters: {_count(bare):,}{more}", *parts_table(bare)]
        if _Shown.verbose:
            lines += str(bare).splitlines()
        logger.info("\n\t".join(lines))

    BaseModel.print_network = print_network


def mend_time_left() -> None:
    """The host's ``eta`` leaves one iteration too many out: the last line of a run says ``-1 day, 23:59:47``.

    Ours counts right, and says how many images a second are trained on and how much of the GPU's memory that took.
    """
    from basicsr import train

    class MessageLogger(train.MessageLogger):
        """With the iterations that are left counted right, images a second, and the GPU's memory."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self.max_iters += 1  # it takes one more away than have been done

        def __call__(self, log_vars: dict[str, Any]) -> None:
            seconds = log_vars.get("time")
            if Run.images and seconds:
                log_vars["images/s"] = Run.images * _world_size() / seconds
            if torch.cuda.is_available() and torch.cuda.is_initialized():
                log_vars["GPU GiB"] = torch.cuda.max_memory_allocated() / 2**30
            super().__call__(log_vars)

    train.MessageLogger = MessageLogger


def _world_size() -> int:
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def mend_last_validation() -> None:
    """The host validates once more when training ends, though it may just have done so with the same weights."""
    from basicsr import train

    build_model = train.build_model

    def build(opt: dict[str, Any]) -> Any:
        model = build_model(opt)
        validate, done = model.validation, set()

        def validation(dataloader: Any, current_iter: int, tb_logger: Any, save_img: bool = False) -> None:
            current_iter = min(current_iter, opt["train"]["total_iter"])  # the loop has counted on when it ends
            name = dataloader.dataset.opt["name"]
            if (name, current_iter) in done:
                logger.info(f"The latest weights are those of iteration {current_iter}, validated on {name} above.")
                return
            try:
                validate(dataloader, current_iter, tb_logger, save_img)
            except stopping.AskedToStop as asked:  # the resumed run validates anew
                interruptions.stop(model, current_iter, asked.number)
            done.add((name, current_iter))

        model.validation = validation
        return model

    train.build_model = build


def mend_best() -> None:
    """The host notes which validation was the best, and keeps its weights by chance alone.

    Ours writes ``net_g_best.pth``: the best so far by the metric that ``val: save_best`` names, on the first set.
    """
    from basicsr.models.base_model import BaseModel

    update = BaseModel._update_best_metric_result

    def update_and_keep(self: Any, dataset_name: str, metric: str, val: float, current_iter: int) -> None:
        update(self, dataset_name, metric, val, current_iter)
        best = self.best_metric_results[dataset_name][metric]
        if not self.is_train or best["iter"] != current_iter or metric != chosen_metric(self.opt["val"]):
            return
        if dataset_name != _first_set(self.opt["datasets"]) or self.opt["rank"] != 0:
            return
        averaged = hasattr(self, "net_g_ema")
        nets, keys = ([self.net_g, self.net_g_ema], ["params", "params_ema"]) if averaged else (self.net_g, "params")
        self.save_network(nets, "net_g", BEST, keys)
        logger.info(f"Best {metric} so far on {dataset_name}: these weights are kept in net_g_{BEST}.pth.")

    BaseModel._update_best_metric_result = update_and_keep


def chosen_metric(val: Mapping[str, Any]) -> str | None:
    """The metric that tells which weights are the best: ``save_best``, or the first there is; None: none does."""
    asked, metrics = val.get("save_best", True), val.get("metrics") or {}
    return asked if isinstance(asked, str) else next(iter(metrics), None) if asked else None


def check_best(val: Mapping[str, Any], where: str) -> None:
    """Check ``val: save_best``. Raises :class:`UserError` for a metric that isn't computed."""
    asked, metrics = val.get("save_best"), val.get("metrics") or {}
    if isinstance(asked, str) and asked not in metrics:
        raise UserError(f"{where}: save_best: '{asked}' isn't among the metrics; {nearest(asked, metrics)}")


def _first_set(datasets: Mapping[str, Mapping[str, Any]]) -> str | None:
    return next((data["name"] for key, data in datasets.items() if key.partition("_")[0] == "val"), None)


def mend_curves() -> None:
    """A full disk ends the host's training in a traceback of TensorBoard's thread. Ours goes on without curves."""
    from basicsr import train
    from basicsr.utils.dist_util import master_only

    make = train.init_tb_logger

    @master_only
    def init_tb_logger(log_dir: str) -> Curves:
        return Curves(lambda: make(log_dir=log_dir), Path(log_dir))

    train.init_tb_logger = init_tb_logger


MENDS = (mend_curves, mend_network_listing, mend_time_left, mend_last_validation, mend_best)
