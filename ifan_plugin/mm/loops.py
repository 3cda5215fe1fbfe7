"""The training loop on mmengine's Runner that resumes at once, and draws the numbers that BasicSR's loop draws here."""

from __future__ import annotations

from typing import Any, cast

from mmengine.runner import IterBasedTrainLoop
from torch import nn
from torch.utils.data import DataLoader

from ifan_plugin.common.errors import UserError
from ifan_plugin.data import progressive
from ifan_plugin.data.sampler import seed_everything
from ifan_plugin.mm.sampler import EpochSampler


class ResumableTrainLoop(IterBasedTrainLoop):
    """``IterBasedTrainLoop`` whose resumed run goes on exactly as an uninterrupted one, without reading old batches.

    mmengine's own loop, on resuming, reads every batch that it has already trained on. Here the sampler starts behind
    them, and before each iteration Python's, NumPy's and torch's generators are seeded from (seed, iteration, rank), as
    in BasicSR's loop. Where the configs of sampler and data set have no seed of their own, they have the Runner's, on
    resuming the resumed run's. Validation follows every ``val_interval`` iterations and the last one. A checkpoint
    is written before the validation behind its iteration: a run that resumes from it validates there first, so that
    the best so far misses none.

    Args:
        runner: the Runner.
        dataloader: a loader, or the mapping to build one from. Its sampler must be an :class:`EpochSampler`, which is
            told the loader's ``batch_size``.
        max_iters: iterations of the whole training.
        **kwargs: ``val_begin``, ``val_interval``, ``dynamic_intervals``, as ``IterBasedTrainLoop`` takes them.

    Raises:
        UserError: another sampler.
    """

    def __init__(self, runner: Any, dataloader: DataLoader | dict, max_iters: int, **kwargs: Any) -> None:
        self._runners_seed = False
        if isinstance(dataloader, dict):
            self._runners_seed = dataloader.get("sampler", {}).get("seed") is None
            if dataloader.get("sampler", {}).get("type") == EpochSampler.__name__:
                dataloader["sampler"]["batch_size"] = dataloader.get("batch_size", 1)
            apart = runner._randomness_cfg.get("diff_rank_seed", False)  # mmengine's own loops read it there, too
            dataloader = runner.build_dataloader(dataloader, seed=runner.seed, diff_rank_seed=apart)
        dataloader = cast(DataLoader, dataloader)
        sampler = dataloader.sampler
        given = getattr(dataloader.dataset, "opt", {}).get("progressive")
        if not isinstance(sampler, EpochSampler):
            raise UserError(
                "train_dataloader: sampler: must be of type EpochSampler for train_cfg of type ResumableTrainLoop, "
                f"not {type(sampler).__name__}"
            )
        self._seed_sampler(runner, sampler)
        self.sampler = sampler
        sampler.stages = progressive.check(given, "train_dataloader: dataset: progressive")
        if sampler.stages is not None:
            progressive.check_batch(given, sampler.batch_size, "train_dataloader", "batch_size")
            dataloader = progressive.staged_loader(dataloader, sampler)
        super().__init__(runner, dataloader, max_iters, **kwargs)

    def _seed_sampler(self, runner: Any, sampler: EpochSampler) -> None:
        """Give the sampler the Runner's seed, unless it has its own. All ranks must have the same order."""
        if self._runners_seed:
            apart = runner._randomness_cfg.get("diff_rank_seed", False)
            sampler.seed = runner.seed - (runner.rank if apart else 0)

    def run(self) -> nn.Module:
        """Train up to ``max_iters``. Returns the Runner's model."""
        runner = self.runner
        runner.call_hook("before_train")
        runner.call_hook("before_train_epoch")  # all of an iteration-based training is one epoch to mmengine
        if self._iter > 0:
            self._lengthen_schedules()
            self._seed_sampler(runner, self.sampler)
            self.sampler.start_at(self._iter)
            self.dataloader_iterator = iter(self.dataloader)
            self._decide_current_val_interval()
            if runner.val_loop is not None and self._validates_now():
                runner.val_loop.run()
        while self._iter < self._max_iters and not self.stop_training:
            seed_everything(runner.seed, self._iter + 1, runner.rank)
            runner.model.train()
            self.run_iter(next(self.dataloader_iterator))  # counts on
            self._decide_current_val_interval()
            if runner.val_loop is not None and self._validates_now():
                runner.val_loop.run()
        runner.call_hook("after_train_epoch")
        runner.call_hook("after_train")
        return runner.model

    def _lengthen_schedules(self) -> None:
        """Let schedules that end with the training end with this one, which may be longer than the resumed one was.

        mmengine saves their end among their state, and beyond it the learning rate would stay as it is.
        """
        schedulers, configs = self.runner.param_schedulers, self.runner.cfg.get("param_scheduler")
        configs = [configs] if isinstance(configs, dict) else configs or []
        if not isinstance(schedulers, list) or len(schedulers) != len(configs):
            return
        for scheduler, config in zip(schedulers, configs):
            ends_with_training = isinstance(config, dict) and "end" not in config and not scheduler.by_epoch
            if not ends_with_training or scheduler.end >= self._max_iters:
                continue
            missed = scheduler._global_step >= scheduler.end
            scheduler.end = self._max_iters
            if missed:  # the step behind the old run's last iteration lay beyond its end, and wasn't made
                scheduler._global_step -= 1
                scheduler.step()

    def _validates_now(self) -> bool:
        is_due = self._iter % self.val_interval == 0 or self._iter == self._max_iters
        return is_due and self._iter >= self.val_begin
