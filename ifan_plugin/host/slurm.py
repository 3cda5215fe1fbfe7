"""Ranks that Slurm started."""

from __future__ import annotations

import os
import subprocess

from ifan_plugin.common.errors import UserError


def slurm_environment(port: int | None) -> None:
    """Translate Slurm's variables into those of ``torch.distributed``."""
    for name in ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_NODELIST"):
        if name not in os.environ:
            raise UserError(f"--launcher slurm: {name} is not set; start with srun")
    if "MASTER_ADDR" not in os.environ:
        command = ["scontrol", "show", "hostnames", os.environ["SLURM_NODELIST"]]
        try:
            hosts = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        except (OSError, subprocess.CalledProcessError) as error:
            raise UserError(f"--launcher slurm: can't ask scontrol for the first node: {error}") from error
        os.environ["MASTER_ADDR"] = hosts[0]
    os.environ["MASTER_PORT"] = str(port or os.environ.get("MASTER_PORT", 29500))
    os.environ["WORLD_SIZE"] = os.environ["SLURM_NTASKS"]
    os.environ["RANK"] = os.environ["SLURM_PROCID"]
    os.environ["LOCAL_RANK"] = os.environ.get("SLURM_LOCALID", "0")
