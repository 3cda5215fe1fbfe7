"""What several tests need: a small DPDD-like data set, an option file for it, and the command in a fresh process."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import yaml

ROOT = Path(__file__).resolve().parents[1]


@contextlib.contextmanager
def ctrl_c_heard() -> Iterator[None]:
    """SIGINT interrupts this process, and those that it starts within: a job in the background of a shell ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def write_dpdd(root: Path, scenes: dict[str, int], height: int = 48, width: int = 64, seed: int = 0) -> Path:
    """A data set in DPDD's layout, 16-bit PNG: smooth sharp pictures, blurred ones, left and right shifted by a pixel."""
    rng = np.random.default_rng(seed)
    for split, count in scenes.items():
        for number in range(count):
            coarse = rng.random((height // 8 + 1, width // 8 + 1, 3))
            sharp = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).clip(0, 1)
            sharp = (0.8 * sharp + 0.2 * rng.random((height, width, 1))).clip(0, 1)
            center = cv2.GaussianBlur(sharp, (5, 5), 1.2)
            views = {
                f"{split}_c/target": (sharp, f"1P0A{2 * number:04d}"),
                f"{split}_c/source": (center, f"1P0A{2 * number + 1:04d}"),
                f"{split}_l/source": (np.roll(center, 1, 1), f"1P0A{2 * number + 1:04d}_L"),
                f"{split}_r/source": (np.roll(center, -1, 1), f"1P0A{2 * number + 1:04d}_R"),
            }
            for folder, (picture, stem) in views.items():
                path = root / folder / f"{stem}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                assert cv2.imwrite(str(path), np.round(picture[..., ::-1] * 65535).astype(np.uint16))
    return root


def write_lmdb(folder: Path, pictures: dict[str, np.ndarray], encoding: str = "png", **facts) -> Path:
    """A database of uint8 or uint16 RGB pictures by key, written without the package's own writer."""
    import lmdb

    folder.mkdir(parents=True)
    environment = lmdb.open(str(folder), map_size=2**26)
    lines = []
    with environment.begin(write=True) as transaction:
        for key, pixels in pictures.items():
            png = cv2.imencode(".png", pixels[..., ::-1])[1]
            transaction.put(key.encode(), pixels.tobytes() if encoding == "raw" else png.tobytes())
            lines.append(f"{key}.png ({pixels.shape[0]},{pixels.shape[1]},3) {'raw' if encoding == 'raw' else 1}\n")
    environment.close()
    bits = next(iter(pictures.values())).dtype.itemsize * 8
    info = {"encoding": encoding, "bit_depth": bits, "count": len(pictures)} | facts
    (folder / "info.json").write_text(json.dumps(info), encoding="utf-8")
    (folder / "meta_info.txt").write_text("".join(lines), encoding="utf-8")
    return folder


def small_options(data: Path) -> dict:
    """Options of a tiny IFAN with all its losses on the data set of :func:`write_dpdd`."""
    dataset = {"type": "DualPixelDataset", "dataroot": str(data), "bit_depth": 16}
    return {
        "name": "small",
        "model_type": "IFANModel",
        "num_gpu": 0,
        "manual_seed": 3,
        "datasets": {
            "train": dataset
            | {
                "name": "train_set", "aux_views": ["left", "right"], "patch_size": 32,
                "batch_size_per_gpu": 2, "num_worker_per_gpu": 0,
            },
            "val": dataset | {"name": "val_set"},
        },
        "network_g": {"type": "IFAN", "width": 4, "num_steps": 2, "res_units": 1},
        "network_r": {"type": "ReblurNet", "num_steps": 2},
        "path": {},
        "train": {
            "total_iter": 4,
            "optim_g": {"type": "RAdam", "lr": 1e-3},
            "scheduler": {"type": "MultiStepLR", "milestones": [3], "gamma": 0.5},
            "pixel_opt": {"type": "MSELoss"},
            "disparity_opt": {"type": "DisparityLoss"},
            "reblur_opt": {"type": "ReblurLoss"},
            "grad_clip": 0.5,
        },
        "val": {"val_freq": 4, "save_img": False, "pbar": False, "metrics": {"psnr": {"type": "psnr"}}},
        "logger": {"print_freq": 1, "save_checkpoint_freq": 2, "use_tb_logger": False},
    }  # fmt: skip


def write_options(folder: Path, options: dict, name: str = "small.yml") -> Path:
    """Write an option file."""
    path = folder / name
    path.write_text(yaml.safe_dump(options, sort_keys=False))
    return path


def python_path() -> str:
    """PYTHONPATH of a process that is to import this tree, and what the tests themselves were given by it."""
    return os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))


def basicsr(*arguments: object, cwd: Path, timeout: float = 240, **environment: str) -> subprocess.CompletedProcess:
    """Run ``basicsr …`` (as ``python -m ifan_plugin``) in a process of its own, on one thread."""
    env = {**os.environ, "PYTHONPATH": python_path(), "OMP_NUM_THREADS": "1", **environment}
    command = [sys.executable, "-m", "ifan_plugin", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=timeout)


_HOLDER = """
import sys, time
from pathlib import Path
from ifan_plugin.common.locks import only_run
with only_run(Path(sys.argv[1]), "x"):
    print("held", flush=True)
    time.sleep(60)
"""


def hold(lock: Path) -> subprocess.Popen:
    """A process that holds a run's lock; to be killed."""
    env = {**os.environ, "PYTHONPATH": python_path()}
    process = subprocess.Popen([sys.executable, "-c", _HOLDER, str(lock)], stdout=subprocess.PIPE, text=True, env=env)
    assert process.stdout.readline() == "held\n"
    return process
