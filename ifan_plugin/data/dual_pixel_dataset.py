"""Scenes of one or more views, with or without a sharp picture, as the hosts' loops want them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info

from ifan_plugin.data.augment import AugmentConfig, apply_plan, draw_plan
from ifan_plugin.data.image_io import Region, to_planes
from ifan_plugin.data.layouts import VIEWS, Scene
from ifan_plugin.data.samples import check_common, stack_views
from ifan_plugin.data.sources import SOURCE_LAYOUTS, PictureSource, default_split, open_source
from ifan_plugin.errors import UserError
from ifan_plugin.options import Option


class DualPixelDataset(Dataset):
    """One scene a sample: its defocused views (centre, left, right) and the sharp picture, if there is one.

    A sample is a mapping of

    - ``lq``: float32 [3 * len(views), H, W], RGB in [0, 1], the ``views`` stacked in the order given;
    - ``gt``: float32 [3, H, W], the sharp picture, where there is ground truth;
    - ``left``, ``right``: float32 [3, H, W], those named in ``aux_views``;
    - ``lq_path``, ``gt_path``: str, files of the first view and (with ``gt`` only) of the sharp picture; for
      pictures in an LMDB ``…/center.lmdb/KEY.png``;
    - ``key``: str, the scene's name, for naming results.

    In phase ``train`` H = W = ``patch_size``, augmented as in the paper (:mod:`ifan_plugin.data.augment`).
    Each sample's draws come from a generator seeded with (``seed``, epoch, position) alone: neither the
    number of workers nor the order of reading matters. An index may carry the attributes ``epoch`` and
    ``position`` (:class:`ifan_plugin.data.sampler.EpochIndex`); for a plain int they are 0 and the index
    itself. Scaling never makes a picture smaller than the patch: where ``scale_range`` would allow it, the
    range's lower bound rises to patch_size / min(H, W), and at the least each side is ``patch_size``. Only what
    the patch is made of is read (as far as the encoding allows), given noise and scaled.

    In phases ``val`` and ``test`` pictures are whole, cropped at the bottom and right to a multiple of
    ``crop_multiple`` (the ``ifan`` protocol: 8; 1 leaves them whole). Layout ``pixeldp`` (from files, or from an
    LMDB made of it) is turned 90 degrees counter-clockwise; :meth:`unrotate` turns results back.

    Layout ``lmdb`` reads ``dataroot/{split}/{center,left,right,target}.lmdb``, as ``basicsr lmdb create`` makes
    them, and gives the same samples, bit for bit, as the files they were made of.

    Args:
        opt: the option file's mapping of this data set: ``phase`` (train, val or test), ``name``, the keys in
            ``OPTIONS``, and whatever the host adds, which is left to the host.

    Attributes:
        opt: the mapping as given.
        scenes: list of :class:`ifan_plugin.data.layouts.Scene`.
        bit_depth: 8 or 16, the depth pictures are read at.
        rotate_back: quarter turns counter-clockwise (0 to 3) that turn a result back as its file was.

    Raises:
        UserError: wrong options, missing or unequal folders, pictures that can't be used. Everything that can
            be told from folders and file headers is told at construction (``check: headers``).
    """

    draws_by_position = True  # the bridge needn't seed anything for it

    OPTIONS: ClassVar[dict[str, Option]] = {
        "dataroot": Option(str, is_folder=True),
        "layout": Option(str, "dpdd", choices=SOURCE_LAYOUTS),
        "split": Option(str, None, choices=("train", "val", "test")),
        "views": Option(list, ["center"], choices=VIEWS, items=str),
        "aux_views": Option(list, [], choices=("left", "right"), items=str),
        "bit_depth": Option(int, 8, choices=(8, 16)),
        "patch_size": Option(int, 256, minimum=1),
        "gt_size": Option(int, None, minimum=1),
        "augment": Option((dict, bool), True),
        "seed": Option(int, 0, minimum=0),
        "crop_multiple": Option(int, 8, minimum=1),
        "gt": Option(str, "auto", choices=("auto", "required", "none")),
        "max_images": Option(int, None, minimum=1),
        "check": Option(str, "headers", choices=("headers", "none")),
    }
    """This data set's own keys. ``split`` defaults to the phase (or the layout's only split); ``gt_size`` is
    the host's name for ``patch_size``; ``gt: auto`` uses sharp pictures where there are some, and in training
    requires them; ``max_images`` keeps the first scenes only; ``check: none`` skips reading every header at
    start-up."""

    def __init__(self, opt: dict) -> None:
        self.opt = opt
        options = self.check_options(opt, _place(opt))
        self._source = _open(options)
        self.scenes = self._source.scenes
        self.bit_depth: int = options["bit_depth"]
        self.rotate_back = -self._source.quarter_turns % 4
        self._views: tuple[str, ...] = tuple(options["views"])
        self._aux_views: tuple[str, ...] = tuple(options["aux_views"])
        self._training: bool = options["phase"] == "train"
        self._augment: AugmentConfig = options["augment"]
        self._seed: int = options["seed"]
        self._crop_multiple: int = options["crop_multiple"]
        if options["check"] == "headers":
            self._source.check()
            for index in range(len(self)):
                self._require_sizes(index, self._sizes(index))

    @classmethod
    def check_options(cls, opt: Mapping[str, Any], where: str) -> dict[str, Any]:
        """Check this data set's own keys, and that the folders they name hold what they ask for.

        Args:
            opt: as for the constructor; keys that aren't in ``OPTIONS`` are passed over.
            where: names the place in messages.

        Returns:
            ``opt`` with the defaults filled in: ``split`` and ``gt`` decided by the phase, ``augment`` an
            :class:`ifan_plugin.data.augment.AugmentConfig`.

        Raises:
            UserError: see the class.
        """
        options = check_common(opt, cls.OPTIONS, where)
        if options["split"] is None:
            options["split"] = default_split(options["dataroot"], options["layout"], options["phase"])
        if options["phase"] == "train" and options["gt"] == "auto":
            options["gt"] = "required"  # a host's loss would miss it only much later
        _open(options)
        return options

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor | str]:
        if not 0 <= index < len(self):
            raise IndexError(f"scene {int(index)} of {len(self)}")
        if get_worker_info() is not None:
            cv2.setNumThreads(0)  # workers are parallel already, and OpenCV's threads don't survive a fork
        planes = self._patch(index) if self._training else self._whole(index)
        return self._sample(self.scenes[index], {role: torch.from_numpy(plane) for role, plane in planes.items()})

    def unrotate(self, image: np.ndarray | torch.Tensor) -> np.ndarray | torch.Tensor:
        """Turn a result back to the orientation of its file: an array [H, W, …] or a tensor [..., H, W]."""
        if isinstance(image, torch.Tensor):
            return torch.rot90(image, self.rotate_back, (-2, -1))
        return np.rot90(image, self.rotate_back)

    def _patch(self, index: int) -> dict[str, np.ndarray]:
        """A training sample's pictures, role -> float32 [3, patch_size, patch_size] in [0, 1]."""
        sizes = self._sizes(index)
        self._require_sizes(index, sizes)
        rng = np.random.default_rng([self._seed, getattr(index, "epoch", 0), getattr(index, "position", int(index))])
        plan = draw_plan(*sizes[self._source.roles[0]], self._augment, rng)
        cut = plan.cut()
        images = {role: planes.transpose(1, 2, 0) for role, planes in self._read(index, cut.region).items()}
        return {role: image.transpose(2, 0, 1) for role, image in apply_plan(images, plan, cut, rng).items()}

    def _whole(self, index: int) -> dict[str, np.ndarray]:
        """The scene's pictures, role -> float32 [3, H, W] in [0, 1], cropped to the multiple."""
        pictures = self._read(index)
        self._require_sizes(index, {role: planes.shape[1:] for role, planes in pictures.items()})
        height, width = (side // self._crop_multiple * self._crop_multiple for side in _first(pictures).shape[1:])
        return {role: np.ascontiguousarray(planes[:, :height, :width]) for role, planes in pictures.items()}

    def _read(self, index: int, region: Region | None = None) -> dict[str, np.ndarray]:
        """``region`` of the scene's pictures, role -> float32 [3, H, W] in [0, 1], turned as the layout says."""
        source = self._source
        return {role: to_planes(source.read(index, role, region), self.bit_depth) for role in source.roles}

    def _sample(self, scene: Scene, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor | str]:
        sample: dict[str, torch.Tensor | str] = {
            "lq": stack_views(tensors, self._views),
            "lq_path": str(getattr(scene, self._views[0])),
            "key": scene.key,
        }
        if scene.target is not None:
            sample.update(gt=tensors["target"], gt_path=str(scene.target))
        return sample | {view: tensors[view] for view in self._aux_views}

    def _sizes(self, index: int) -> dict[str, tuple[int, int]]:
        """role -> (height, width) of the scene's pictures, from their headers."""
        return {role: self._source.size(index, role) for role in self._source.roles}

    def _require_sizes(self, index: int, sizes: Mapping[str, tuple[int, int]]) -> None:
        height, width = _first(sizes)
        first = self._source.roles[0]
        for role, (h, w) in sizes.items():
            if (h, w) != (height, width):
                raise UserError(
                    f"{self._source.name(index, role)}: size {h}x{w} differs from {height}x{width} of "
                    f"{self._source.name(index, first)}; a scene's pictures must be equally large"
                )
        need, why = self._crop_multiple, "crop_multiple"
        if self._training:
            need, why = self._augment.patch_size, "patch_size"
        if min(height, width) < need:
            raise UserError(
                f"{self._source.name(index, first)}: size {height}x{width} is too small; "
                f"valid: at least {need} each way ({why})"
            )


def _open(options: Mapping[str, Any]) -> PictureSource:
    return open_source(
        options["dataroot"], options["layout"], options["split"], [*options["views"], *options["aux_views"]],
        options["gt"], options["bit_depth"], options["max_images"],
    )  # fmt: skip


def _first(mapping: Mapping[str, Any]) -> Any:
    return next(iter(mapping.values()))


def _place(opt: Mapping[str, Any]) -> str:
    return f"datasets: {opt.get('phase', '?')} ({opt.get('name', 'unnamed')})"
