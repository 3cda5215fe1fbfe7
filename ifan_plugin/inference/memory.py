"""How much memory there is, how much a network takes for a pixel, and whether a failure was for want of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ifan_plugin.common import machine

_STATUS = Path("/proc/self/status")
_SHARE = {"cpu": 0.6, "cuda": 0.85}
"""Part of the free memory that a run may take; other programs share the CPU's, and an overdrawn one kills processes."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on the CPU or a device; every other fault is one."""
    return isinstance(error, torch.OutOfMemoryError) or machine.is_out_of_memory(error)


def budget(device: torch.device) -> int | None:
    """Bytes that a run on this device may take now; None where the system doesn't tell."""
    free = free_bytes(device)
    return None if free is None else int(free * _SHARE.get(device.type, 0.6))


def free_bytes(device: torch.device) -> int | None:
    """Bytes that could be allocated now: on the CPU the least of what the system has available, the control groups
    leave and the process's own limit; None where the system doesn't tell."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    if device.type == "mps":
        return max(torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory(), 0)
    found = [bound for bound in (_available(), *_group_bounds(), _own_bound()) if bound is not None]
    return max(min(found), 0) if found else None


def bytes_per_pixel(run: Callable[[Tensor], Tensor], example: Tensor, device: torch.device) -> float | None:
    """Peak memory of one run over `example` by its pixels, in bytes; None where it can't be told.

    Args:
        run: what is measured.
        example: [B, C, h, w]; a small one counts what each run takes into each pixel, so it overestimates a little.
    """
    run(example[..., :64, :64])  # libraries make their buffers at the first call
    _trim()
    peak = PeakMemory(device)
    run(example)
    growth = peak.growth()
    return growth / (example.shape[-2] * example.shape[-1]) if growth else None


class PeakMemory:
    """Growth of the peak memory on a device since it was made, in bytes; on the CPU that of the resident process."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self.before: int | None = torch.cuda.memory_allocated(device)
            return
        try:
            Path("/proc/self/clear_refs").write_text("5")  # the peak is now what is resident
        except OSError:
            self.before = _field(_STATUS, "VmHWM")  # it can't be reset: only growth beyond the old peak shows
        else:
            self.before = _field(_STATUS, "VmRSS")

    def growth(self) -> int | None:
        is_cuda = self.device.type == "cuda"
        after = torch.cuda.max_memory_allocated(self.device) if is_cuda else _field(_STATUS, "VmHWM")
        return None if after is None or self.before is None else max(after - self.before, 0)


def _trim() -> None:
    """Give what was freed back to the system, so that using it again shows in the resident size (glibc alone)."""
    import ctypes

    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return
    trim(0)


def _available() -> int | None:
    return _field(Path("/proc/meminfo"), "MemAvailable")


def _own_bound() -> int | None:
    """What is left below the limit of the process's address space (``ulimit -v``)."""
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    used = _field(_STATUS, "VmSize")
    return None if limit == resource.RLIM_INFINITY or used is None else limit - used


def _group_bounds(root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> list[int]:
    """What each control group that this process is in leaves free, where it has a limit (versions 2 and 1)."""
    if not membership.is_file():
        return []
    bounds = []
    for line in membership.read_text().splitlines():
        _, controllers, name = line.split(":", 2)
        if controllers == "":
            base, names = root, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            base = root / "memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        folder = base / name.lstrip("/")
        for place in (folder, *folder.parents):
            bound = _group_bound(place, *names)
            bounds += [] if bound is None else [bound]
            if place == base:
                break
    return bounds


def _group_bound(folder: Path, limit: str, usage: str, reclaimable: str) -> int | None:
    if not ((folder / limit).is_file() and (folder / usage).is_file()):
        return None
    text = (folder / limit).read_text().strip()
    if not text.isdigit():  # "max"
        return None
    stat = folder / "memory.stat"
    lines = stat.read_text().splitlines() if stat.is_file() else []
    cached = next((int(line.split()[1]) for line in lines if line.split()[0] == reclaimable), 0)
    return int(text) - int((folder / usage).read_text()) + cached


def _field(path: Path, name: str) -> int | None:
    """A field in kB of one of Linux's status files, in bytes."""
    if not path.is_file():
        return None
    for line in path.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return None
