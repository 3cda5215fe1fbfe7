"""Several processes on CPUs: what mmengine's launcher assumes of GPUs, put right."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import is_distributed
from mmengine.model import MMDistributedDataParallel
from torch import Tensor, nn

from ifan_plugin.common.errors import UserError
from ifan_plugin.host.slurm import slurm_environment
from ifan_plugin.mm.steps import train_step
from ifan_plugin.models.training_step import lay_out

LAUNCHERS = ("none", "pytorch", "slurm", "mpi")

_NEEDED = {
    "pytorch": (("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"), "torchrun --nproc_per_node=N"),
    "slurm": (("SLURM_PROCID", "SLURM_NTASKS", "SLURM_NODELIST"), "srun python"),
    "mpi": (
        ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "MASTER_ADDR"),
        "mpirun -n N python",
    ),
}


class AnyDeviceDistributedDataParallel(MMDistributedDataParallel):
    """mmengine's wrapper, for models on CPUs as well: it hands DDP a GPU, which a model on a CPU mustn't have.

    Args:
        module: the model, on its device.
        device_ids: as the Runner gives them; left aside where the model isn't on a GPU.
        **kwargs: those of ``MMDistributedDataParallel``.
    """

    def __init__(self, module: nn.Module, device_ids: list[int] | None = None, **kwargs: Any) -> None:
        on_cpu = all(parameter.device.type == "cpu" for parameter in module.parameters())
        kwargs.setdefault("broadcast_buffers", False)  # as the Runner has it
        lay_out(module)
        super().__init__(module=module, device_ids=None if on_cpu else device_ids, **kwargs)

    def train_step(self, data: Any, optim_wrapper: Any) -> dict[str, Tensor]:
        """One training step, of this package's model :func:`ifan_plugin.mm.steps.train_step`, else mmengine's."""
        if not hasattr(self.module, "accumulate"):
            return super().train_step(data, optim_wrapper)
        return train_step(self, self.module, data, optim_wrapper)


def prepare(config: Config, launcher: str) -> None:
    """Check that the launcher has set what is needed, and choose the wrapper; without a GPU start gloo's process group.

    Args:
        config: its ``launcher``, ``model_wrapper_cfg`` and, without a GPU, ``env_cfg`` are set here.
        launcher: one of ``LAUNCHERS``.

    Raises:
        UserError: the launcher's environment variables aren't there.
    """
    config.launcher = launcher
    if launcher == "none":
        return
    names, command = _NEEDED[launcher]
    missing = [name for name in names if name not in os.environ]
    if missing:
        raise UserError(
            f"--launcher {launcher}: {missing[0]} is not set; start with {command} -m ifan_plugin.mm … --launcher "
            f"{launcher}"
        )
    wrapper = config.get("model_wrapper_cfg") or {"find_unused_parameters": config.get("find_unused_parameters", False)}
    if wrapper.get("type", "MMDistributedDataParallel") == "MMDistributedDataParallel":
        config.model_wrapper_cfg = {**wrapper, "type": "AnyDeviceDistributedDataParallel"}
    if torch.cuda.is_available():  # the Runner does the rest
        return
    if launcher == "slurm":
        slurm_environment(None)
    elif launcher == "mpi":
        for ours, theirs in (("RANK", "RANK"), ("WORLD_SIZE", "SIZE"), ("LOCAL_RANK", "LOCAL_RANK")):
            os.environ[ours] = os.environ[f"OMPI_COMM_WORLD_{theirs}"]
        os.environ.setdefault("MASTER_PORT", "29500")
    options = dict(config.get("env_cfg", {}).get("dist_cfg", {}))
    if not is_distributed():  # the Runner's own start asks for a GPU; it leaves alone a group that is there
        seconds = options.get("timeout")
        arguments: dict[str, Any] = {} if seconds is None else {"timeout": timedelta(seconds=seconds)}
        torch.distributed.init_process_group("gloo", **arguments)
    config.merge_from_dict({"env_cfg": {"dist_cfg": {**options, "backend": "gloo"}}})
