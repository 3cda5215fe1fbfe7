"""Scenes of one or more views, with or without a sharp picture, as the hosts' loops want them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info

from ifan_plugin.common.errors import UserError
from ifan_plugin.data.augment import AugmentConfig, apply_plan, draw_plan
from ifan_plugin.data.coc_files import check_coc_option, coc_files, cut_coc, read_coc
from ifan_plugin.data.layouts import Scene
from ifan_plugin.data.samples import COMMON_OPTIONS, augment_of, check_common, say_pairing, stack_views
from ifan_plugin.data.set_options import LAYOUT_NAMES, check_sets, open_sets
from ifan_plugin.images.image_io import Region, to_planes
from ifan_plugin.options.schema import Option


class DualPixelDataset(Dataset):
    """One scene a sample: its defocused views (centre, left, right) and the sharp picture, if there is one.

    A sample is a mapping of

    - ``lq``: float32 [3 * len(views), H, W], RGB in [0, 1], the ``views`` stacked in the order given;
    - ``gt``: float32 [3, H, W], the sharp picture, where there is ground truth;
    - ``left``, ``right``: float32 [3, H, W], those named in ``aux_views``;
    - ``coc``: float32 [1, H, W], with ``coc: true``: the signed circle of confusion in pixels, of simulated scenes;
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

    ``more`` adds other sets, with layouts of their own, in training each with its ``weight``; ``folders`` (role ->
    folder below ``dataroot``) serves for data that lie in no known layout.

    Args:
        opt: the option file's mapping of this data set: ``phase`` (train, val or test), ``name``, the keys in
            ``OPTIONS``, and whatever the host adds, which is left to the host.

    Attributes:
        opt: the mapping as given.
        scenes: list of :class:`ifan_plugin.data.layouts.Scene`.
        pairing: by which rule the folders' pictures were paired, for people; empty where there is one folder.
        bit_depth: 8 or 16, the depth pictures are read at.
        rotate_back: quarter turns counter-clockwise (0 to 3) that turn a result back as its file was.

    Raises:
        UserError: wrong options, missing or unequal folders, pictures that can't be used. Everything that can
            be told from folders and file headers is told at construction (``check: headers``).
    """

    draws_by_position = True  # the bridge needn't seed anything for it

    OPTIONS: ClassVar[dict[str, Option]] = {
        "dataroot": Option(str, is_folder=True, help="folder of the data set"),
        "layout": Option(str, "dpdd", choices=LAYOUT_NAMES, help="how folders and files are arranged"),
        "folders": Option(dict, None, help="in place of a layout: center, left, right, target and their folders"),
        "weight": Option(int, 1, minimum=1, help="how often a scene comes in an epoch, beside those of more"),
        "more": Option(list, None, items=dict, help="sets beside it: dataroot, layout, split, folders, weight"),
        "split": Option(str, None, choices=("train", "val", "test"), help="which part; the phase's own"),
        "coc": Option(bool, False, help="also the circle of confusion that simulate --save-coc wrote; for defocus_opt"),
        "gt": Option(
            str,
            "auto",
            choices=("auto", "required", "none"),
            help="sharp pictures: used where there are some, demanded, or left out",
        ),
        "white_level": Option(int, None, minimum=255, maximum=65535, help="what is white in 16-bit files; 65535"),
        **COMMON_OPTIONS,
    }
    """This data set's own keys. ``split`` defaults to the phase (or the layout's only split); ``gt_size`` is the
    host's name for ``patch_size``; ``gt: auto`` uses sharp pictures where there are some, and in training requires
    them; ``pairing: order`` pairs the n-th pictures of all folders, whatever their names say
    (:mod:`ifan_plugin.images.pairing`); ``white_level: 4095`` scales 12-bit values in 16-bit files; ``max_images``
    keeps the first scenes only; ``check: none`` skips reading every header at start-up; ``coc: true`` (training, layout
    dpdd) reads ``{split}_coc``, which ``basicsr simulate --save-coc`` writes, for the loss ``defocus_opt``."""

    def __init__(self, opt: dict) -> None:
        self.opt = opt
        options = self.check_options(opt, _place(opt))
        self._source = open_sets(options)
        self.scenes = self._source.scenes
        self.pairing = self._source.pairing
        self.bit_depth: int = options["bit_depth"]
        self.rotate_back = -self._source.quarter_turns % 4
        self._views: tuple[str, ...] = tuple(options["views"])
        self._aux_views: tuple[str, ...] = tuple(options["aux_views"])
        self._training: bool = options["phase"] == "train"
        self._augment: AugmentConfig = options["augment"]
        self._seed: int = options["seed"]
        self._crop_multiple: int = options["crop_multiple"]
        self._coc_files = coc_files(self.scenes) if options["coc"] else None
        if options["check"] == "headers":
            self._source.check()
            for index in range(len(self)):
                self._require_sizes(index, self._sizes(index))
        say_pairing(self, self._source.note() if options["check"] == "headers" else None)

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
        check_sets(options, where)
        if options["phase"] == "train" and options["gt"] == "auto":
            options["gt"] = "required"  # a host's loss would miss it only much later
        check_coc_option(options, where)
        source = open_sets(options)
        if options["coc"]:
            coc_files(source.scenes)
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
        """A training sample's pictures, role -> float32 [3, patch_size, patch_size] in [0, 1]; and ``coc``."""
        sizes = self._sizes(index)
        self._require_sizes(index, sizes)
        rng = np.random.default_rng([self._seed, getattr(index, "epoch", 0), getattr(index, "position", int(index))])
        plan = draw_plan(*sizes[self._source.roles[0]], augment_of(index, self._augment), rng)
        cut = plan.cut()
        images = {role: planes.transpose(1, 2, 0) for role, planes in self._read(index, cut.region).items()}
        planes = {role: image.transpose(2, 0, 1) for role, image in apply_plan(images, plan, cut, rng).items()}
        if self._coc_files is not None:
            coc = read_coc(self._coc_files[index])
            if coc.shape != plan.whole:
                raise UserError(
                    f"{self._coc_files[index]}: size {coc.shape[1]}x{coc.shape[0]} differs from {plan.whole[1]}x"
                    f"{plan.whole[0]} of its scene's pictures"
                )
            planes["coc"] = cut_coc(coc, plan, cut)
        return planes

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
        return sample | {name: tensors[name] for name in (*self._aux_views, "coc") if name in tensors}

    def _sizes(self, index: int) -> dict[str, tuple[int, int]]:
        """role -> (height, width) of the scene's pictures, from their headers."""
        return {role: self._source.size(index, role) for role in self._source.roles}

    def _require_sizes(self, index: int, sizes: Mapping[str, tuple[int, int]]) -> None:
        height, width = _first(sizes)
        first = self._source.roles[0]
        for role, (h, w) in sizes.items():
            if (h, w) != (height, width):
                raise UserError(
                    f"{self._source.name(index, role)}: size {w}x{h} differs from {width}x{height} of "
                    f"{self._source.name(index, first)}; a scene's pictures must be equally large"
                )
        need, why = self._crop_multiple, "crop_multiple"
        if self._training:
            need, why = self._augment.patch_size, "patch_size"
        if min(height, width) < need:
            raise UserError(
                f"{self._source.name(index, first)}: size {width}x{height} is too small; "
                f"valid: at least {need} each way ({why})"
            )


def _first(mapping: Mapping[str, Any]) -> Any:
    return next(iter(mapping.values()))


def _place(opt: Mapping[str, Any]) -> str:
    return f"datasets: {opt.get('phase', '?')} ({opt.get('name', 'unnamed')})"
