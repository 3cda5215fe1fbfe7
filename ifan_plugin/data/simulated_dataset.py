"""Sharp pictures and their depth, blurred while they are loaded: for people with RGB-D and no dual-pixel camera."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info

from ifan_plugin.data.augment import AugmentConfig, apply_plan, draw_plan
from ifan_plugin.data.depth_pictures import FolderOptions, depth_size, paired_files, read_sharp_and_depth
from ifan_plugin.data.image_io import read_header, require_rgb, to_float
from ifan_plugin.data.layouts import VIEWS
from ifan_plugin.data.samples import check_common, stack_views
from ifan_plugin.data.simulator import Camera, simulate_dual_pixel
from ifan_plugin.errors import UserError
from ifan_plugin.options import Option

_CAMERA_STREAM = 1  # tells the camera's random numbers from those of the augmentation
_POSITIVE = {"minimum": 1e-6}
_RANGE = {"kind": (list, float), "items": float, **_POSITIVE}


class SharpScene(NamedTuple):
    """One scene: its name, its sharp picture and its depth."""

    key: str
    sharp: Path
    depth: Path


class Lens(NamedTuple):
    """A camera, and the shape of its blur: keyword arguments of :func:`ifan_plugin.data.simulator.psf`."""

    camera: Camera
    psf_shape: dict[str, float]


class SimulatedDualPixelDataset(Dataset):
    """One scene a sample: what a dual-pixel camera would see of it, simulated when it is asked for.

    Samples are mappings as :class:`ifan_plugin.data.dual_pixel_dataset.DualPixelDataset` gives them (``lq``, ``gt``,
    ``left``, ``right``, ``lq_path``, ``gt_path``, ``key``; float32 [3 or 3 * len(views), H, W], RGB in [0, 1]); both
    paths are the sharp picture's. The optics are those of ``basicsr simulate`` (:mod:`ifan_plugin.data.simulator`),
    and what comes out is rounded as its files would be: a scene seen by the same camera gives the same sample.

    In phase ``train`` each sample is seen by a camera of its own, drawn from (``seed``, epoch, position) like the
    augmentation, and only what the patch needs is simulated. In ``val`` and ``test`` each scene has a fixed camera,
    drawn from (``seed``, its name), and pictures are whole, cropped to a multiple of ``crop_multiple``: seconds a
    picture, so for large validation sets ``basicsr simulate`` beforehand is the better way.

    Args:
        opt: the option file's mapping of this data set: ``phase`` (train, val or test), ``name``, the keys in
            ``OPTIONS``, and whatever the host adds, which is left to the host.

    Attributes:
        opt: the mapping as given.
        scenes: list of :class:`SharpScene`, in sorted order.
        bit_depth: 8 or 16, the depth samples are rounded to.

    Raises:
        UserError: wrong options, missing folders, pictures without depth or too small, told at construction as far
            as file headers tell it; the rest when a scene is read.
    """

    draws_by_position = True  # the bridge needn't seed anything for it

    OPTIONS: ClassVar[dict[str, Option]] = {
        "dataroot_sharp": Option(str, is_folder=True),
        "dataroot_depth": Option(str, is_folder=True),
        "depth_kind": Option(str, "depth", choices=("depth", "disparity")),
        "depth_scale": Option(float, 1.0, **_POSITIVE),
        "focal_px": Option(float, None, **_POSITIVE),
        "baseline_m": Option(float, None, **_POSITIVE),
        "doffs_px": Option(float, 0.0),
        "focal_length_mm": Option(default=[35.0, 70.0], **_RANGE),
        "f_number": Option(default=[2.0, 8.0], **_RANGE),
        "focus_distance_m": Option(default=None, **_RANGE),
        "max_coc_px": Option(float, 20.0, minimum=0.1, maximum=90.0),
        "pixel_pitch_um": Option(float, None, **_POSITIVE),
        "psf_order": Option(default=[3, 6, 9], **_RANGE),
        "psf_cutoff": Option(default=[2.0, 2.5], **_RANGE),
        "psf_beta": Option(default=[0.1, 0.2], maximum=1.0, **_RANGE),
        "layer_step": Option(float, 0.5, minimum=0.05),
        "views": Option(list, ["center"], choices=VIEWS, items=str),
        "aux_views": Option(list, [], choices=("left", "right"), items=str),
        "bit_depth": Option(int, 8, choices=(8, 16)),
        "patch_size": Option(int, 256, minimum=1),
        "gt_size": Option(int, None, minimum=1),
        "augment": Option((dict, bool), True),
        "seed": Option(int, 0, minimum=0),
        "crop_multiple": Option(int, 8, minimum=1),
        "max_images": Option(int, None, minimum=1),
        "check": Option(str, "headers", choices=("headers", "none")),
    }
    """This data set's own keys. ``dataroot_sharp`` and ``dataroot_depth`` are folders as ``basicsr simulate --sharp
    --depth`` takes them, and ``depth_kind`` to ``doffs_px`` say how depth is stored, as its flags do.

    The camera: ``focal_length_mm`` (drawn uniformly), ``f_number`` (uniformly in its logarithm), ``focus_distance_m``
    (uniformly in its inverse) are ``[lower, upper]`` or one number; without a focus distance one is drawn, uniformly
    in inverse depth, between the 5th and the 95th percentile of the scene's. Where the largest circle of confusion
    would exceed ``max_coc_px``, the aperture is closed until it doesn't. ``pixel_pitch_um`` as in ``basicsr
    simulate``. One each of ``psf_order``, ``psf_cutoff``, ``psf_beta`` is picked a sample, ``layer_step`` is fixed:
    see :mod:`ifan_plugin.data.simulator`. The others are those of DualPixelDataset."""

    def __init__(self, opt: dict) -> None:
        self.opt = opt
        options = self.check_options(opt, f"datasets: {opt.get('phase', '?')} ({opt.get('name', 'unnamed')})")
        self.scenes = _find(options)
        self.bit_depth: int = options["bit_depth"]
        self._options = options
        self._views: tuple[str, ...] = tuple(options["views"])
        self._aux_views: tuple[str, ...] = tuple(options["aux_views"])
        self._training: bool = options["phase"] == "train"
        self._augment: AugmentConfig = options["augment"]
        self._seed: int = options["seed"]
        self._folder_options = FolderOptions(
            **{key: options[key] for key in ("depth_kind", "depth_scale", "focal_px", "baseline_m", "doffs_px")},
            pixel_pitch_um=options["pixel_pitch_um"],
        )
        # Only a disparity set's pitch depends on the lens: it follows from focal_px, so that the angle of view is real.
        self._pitch_per_mm = options["depth_kind"] == "disparity" and options["pixel_pitch_um"] is None
        if options["check"] == "headers":
            for scene in self.scenes:
                self._check_headers(scene)

    @classmethod
    def check_options(cls, opt: Mapping[str, Any], where: str) -> dict[str, Any]:
        """Check this data set's own keys, and that the folders they name hold pictures with depth.

        Args:
            opt: as for the constructor; keys that aren't in ``OPTIONS`` are passed over.
            where: names the place in messages.

        Returns:
            ``opt`` with the defaults filled in: ranges as (lower, upper), ``augment`` an
            :class:`ifan_plugin.data.augment.AugmentConfig`.

        Raises:
            UserError: see the class.
        """
        options = check_common(opt, cls.OPTIONS, where)
        for key in ("focal_length_mm", "f_number", "focus_distance_m"):
            options[key] = _range(options[key], f"{where}: {key}")
        for key in ("psf_order", "psf_cutoff", "psf_beta"):
            options[key] = options[key] if isinstance(options[key], list) else [options[key]]
            if not options[key]:
                raise UserError(f"{where}: {key}: give at least one number")
        if options["focus_distance_m"] and options["focus_distance_m"][0] * 1000 <= options["focal_length_mm"][1]:
            raise UserError(
                f"{where}: focus_distance_m: must be beyond the focal length, {options['focal_length_mm'][1]:g} mm, "
                f"not {options['focus_distance_m'][0]:g} m"
            )
        stereo = ("focal_px", "baseline_m")
        for key in stereo if options["depth_kind"] == "disparity" else ():
            if options[key] is None:
                raise UserError(f"{where}: '{key}' is missing; depth_kind: disparity needs the stereo pair's")
        for key in () if options["depth_kind"] == "disparity" else (*stereo, "doffs_px"):
            if opt.get(key) is not None:
                raise UserError(f"{where}: {key}: is only used with depth_kind: disparity")
        _find(options)
        return options

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor | str]:
        if not 0 <= index < len(self):
            raise IndexError(f"scene {int(index)} of {len(self)}")
        if get_worker_info() is not None:
            cv2.setNumThreads(0)  # workers are parallel already, and OpenCV's threads don't survive a fork
        scene = self.scenes[index]
        sharp, depth, pitch_um = read_sharp_and_depth(scene.sharp, scene.depth, self._folder_options)
        self._check_size(scene, *depth.shape)
        if self._training:
            key = [self._seed, getattr(index, "epoch", 0), getattr(index, "position", int(index))]
            lens = self._draw(scene, depth, pitch_um, np.random.default_rng([*key, _CAMERA_STREAM]))
            images = self._patch(sharp, depth, lens, key)
        else:
            multiple = self._options["crop_multiple"]
            height, width = (side // multiple * multiple for side in depth.shape)
            images = self._simulate(sharp, depth, self.lens(index, depth, pitch_um))
            images = {role: image[:height, :width] for role, image in images.items()}
        tensors = {role: torch.from_numpy(np.ascontiguousarray(i.transpose(2, 0, 1))) for role, i in images.items()}
        sample = {
            "lq": stack_views(tensors, self._views), "gt": tensors["target"],
            "lq_path": str(scene.sharp), "gt_path": str(scene.sharp), "key": scene.key,
        }  # fmt: skip
        return sample | {view: tensors[view] for view in self._aux_views}

    def lens(self, index: int, depth: np.ndarray, pitch_um: float) -> Lens:
        """The fixed camera of scene ``index`` in validation; ``depth`` in metres, H x W, and the pixel pitch."""
        scene = self.scenes[index]
        # By name, so that a scene's camera doesn't change when others join the folder.
        rng = np.random.default_rng([self._seed, zlib.crc32(scene.key.encode()), _CAMERA_STREAM])
        return self._draw(scene, depth, pitch_um, rng)

    def _draw(self, scene: SharpScene, depth: np.ndarray, pitch_um: float, rng: np.random.Generator) -> Lens:
        """A camera by chance; always six numbers, so that one option doesn't change what the others draw."""
        options, (focal, stop, focus, *shape) = self._options, rng.random(6)
        focal_mm = _between(options["focal_length_mm"], focal)
        low, high = options["f_number"]
        f_number = float(low * (high / low) ** stop)
        if options["focus_distance_m"]:
            nearest, farthest = options["focus_distance_m"]
            inverse = (1 / farthest, 1 / nearest)
        else:
            step = max(1, min(depth.shape) // 256)  # a sample of the pixels will do
            inverse = np.percentile(1 / depth[::step, ::step], [5, 95])
        focus_m = float(1 / _between(inverse, focus))
        if self._pitch_per_mm:
            pitch_um = focal_mm / self._folder_options.focal_px * 1000
        try:
            camera = Camera(focal_mm, f_number, focus_m, pitch_um)
        except UserError as error:
            raise UserError(f"{scene.depth}: {error}") from None
        # The blur grows with the distance from the focus plane, so it is largest at one of the ends.
        largest = float(np.abs(camera.circle_of_confusion(np.array([depth.min(), depth.max()]))).max())
        if largest > options["max_coc_px"]:
            camera = Camera(focal_mm, f_number * largest / options["max_coc_px"], focus_m, pitch_um)
        picked = {
            name: options[f"psf_{name}"][int(u * len(options[f"psf_{name}"]))]
            for name, u in zip(("order", "cutoff", "beta"), shape)
        }
        return Lens(camera, picked)

    def _simulate(
        self, sharp: np.ndarray, depth: np.ndarray, lens: Lens, region: tuple[int, int, int, int] | None = None
    ) -> dict[str, np.ndarray]:
        """Role -> float32 [H, W, 3], whole or of one region, rounded as the files of ``basicsr simulate``."""
        layer_step = self._options["layer_step"]
        seen = simulate_dual_pixel(
            sharp, depth, lens.camera, **lens.psf_shape, layer_step=layer_step, region=region
        )  # fmt: skip
        if region is not None:
            top, left, height, width = region
            sharp = sharp[top : top + height, left : left + width]
        roles = {*self._views, *self._aux_views}
        images = {role: getattr(seen, role) for role in VIEWS if role in roles} | {"target": sharp}
        return {
            role: to_float(np.rint(image * np.float32(65535)).astype(np.uint16), self.bit_depth)
            for role, image in images.items()
        }

    def _patch(self, sharp: np.ndarray, depth: np.ndarray, lens: Lens, key: list[int]) -> dict[str, np.ndarray]:
        """What is trained on: simulated where the augmentation's patch lies, and augmented."""
        rng = np.random.default_rng(key)
        plan = draw_plan(*depth.shape, self._augment, rng)
        cut = plan.cut()
        return apply_plan(self._simulate(sharp, depth, lens, cut.region), plan, cut, rng)

    def _check_headers(self, scene: SharpScene) -> None:
        header = read_header(scene.sharp)
        require_rgb(header, scene.sharp)
        self._check_size(scene, header.height, header.width)
        size = depth_size(scene.depth)
        if size is not None and size != (header.height, header.width):
            raise UserError(
                f"{scene.depth}: is {size[1]}x{size[0]}, but {scene.sharp.name} is {header.width}x{header.height}; "
                "sizes must be equal"
            )

    def _check_size(self, scene: SharpScene, height: int, width: int) -> None:
        need, why = self._options["crop_multiple"], "crop_multiple"
        if self._training:
            need, why = self._augment.patch_size, "patch_size"
        if min(height, width) < need:
            raise UserError(
                f"{scene.sharp}: size {height}x{width} is too small; valid: at least {need} each way ({why})"
            )


def _find(options: Mapping[str, Any]) -> list[SharpScene]:
    folders = (Path(options[name]).expanduser() for name in ("dataroot_sharp", "dataroot_depth"))
    pairs = paired_files(*folders, names=("dataroot_sharp", "dataroot_depth"))
    return [SharpScene(sharp.stem, sharp, depth) for sharp, depth in pairs][: options["max_images"]]


def _range(value: Any, where: str) -> tuple[float, float] | None:
    if value is None:
        return None
    bounds = tuple(float(bound) for bound in (value if isinstance(value, list) else [value, value]))
    if len(bounds) != 2 or bounds[0] > bounds[1]:
        raise UserError(f"{where}: must be a number or [lower, upper], not {value}")
    return bounds


def _between(bounds: tuple[float, float], u: float) -> float:
    return float(bounds[0] + (bounds[1] - bounds[0]) * u)
