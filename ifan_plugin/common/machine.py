"""What this machine is, and what it lacks."""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import re
import shutil
import threading
import time
from pathlib import Path

from ifan_plugin.common.files import NO_ROOM, reason

SHARED_MEMORY = Path("/dev/shm")
_MISSING_LIBRARY = re.compile(r"(lib[\w.+-]+?\.so[.\d]*): cannot open shared object file")
_OPENCVS_LIBRARIES = ("libGL", "libEGL", "libgthread", "libglib", "libSM", "libICE", "libXext", "libXrender", "libX11")
_SHARED_MEMORY_ERROR = re.compile(r"out of shared memory|shared memory limit|/torch_|shared memory object|shm")


def processor() -> str:
    """The processor's name."""
    with contextlib.suppress(OSError):  # other systems than Linux
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return " ".join(line.split(":", 1)[1].split())
    return platform.processor() or platform.machine()


def usable_cores() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_size() -> int | None:
    """Bytes of this machine's memory; None where the system doesn't tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def end_with_parent() -> None:
    """From now on, end this process within a second of its parent's end, even if that was killed."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="end_with_parent").start()


_OUT_OF_MEMORY = (
    "DefaultCPUAllocator", "out of memory", "std::bad_alloc", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED",
    # What torch 2.11 says of a compiled operator's allocation, of which nothing else can fail.
    '"aten::new_empty"',
)  # fmt: skip


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, by its type or PyTorch's words."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)


def explain(error: BaseException) -> str | None:
    """One line that says what to do, for faults of the machine and not of the program; None for any other.

    Known are a system library that isn't installed (OpenCV without libGL), shared memory too small for the workers that
    load data, as in containers, memory of any other kind, a full or read-only disk, what may not be read or written,
    and names longer than the file system takes.
    """
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM) and error.filename:
        return f"{error.filename}: permission denied"
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return f"{str(error.filename)[:80]}…: is longer than a file's name may be"
    missing = _MISSING_LIBRARY.search(text)
    if missing and isinstance(error, ImportError | OSError):
        if missing[1].startswith(_OPENCVS_LIBRARIES):
            return (
                f"OpenCV can't be loaded: this machine has no {missing[1]}; apt-get install libgl1 libglib2.0-0, or"
                " pip uninstall opencv-python and pip install opencv-python-headless"
            )
        return f"{missing[1]}, which a package needs, isn't installed on this machine ({text})"
    worker_died = "DataLoader worker" in text and ("Bus error" in text or "shared memory" in text)
    no_space = "No space left on device" in text or "unable to mmap" in text or "unable to allocate" in text
    if isinstance(error, OSError | RuntimeError) and (
        worker_died or (no_space and _SHARED_MEMORY_ERROR.search(text) is not None)
    ):
        return (
            f"the workers that load data ran out of shared memory ({shared_memory()}); start the container with"
            " --shm-size=8g or --ipc=host, or load without workers (num_worker_per_gpu: 0; in mmengine num_workers=0)"
        )
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return f"{error.filename or 'a file'}: can't be written: {reason(error)}; df -h shows how full the disks are"
    if is_out_of_memory(error):
        asked = re.search(r"(?:[Tt]ried to allocate|you tried to allocate) ([\d.]+ \w+)", text)
        return (
            f"out of memory{f' ({asked[1]} more were asked for)' if asked else ''}; to train, make batches or patches"
            " smaller (batch_size_per_gpu, patch_size) or set amp; to restore, take tiles (--tile auto, val: tile)"
        )
    return None


def shared_memory_size() -> int:
    """Bytes of shared memory; 0 where there is none."""
    try:
        return shutil.disk_usage(SHARED_MEMORY).total
    except OSError:
        return 0


def shared_memory() -> str:
    """How large shared memory is, in words."""
    try:
        usage = shutil.disk_usage(SHARED_MEMORY)
    except OSError:
        return f"there is no {SHARED_MEMORY}"
    return f"{SHARED_MEMORY}: {usage.free / 2**20:,.0f} of {usage.total / 2**20:,.0f} MiB free"
