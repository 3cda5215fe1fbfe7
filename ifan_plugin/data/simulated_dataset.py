"""Sharp pictures and their depth, blurred while they are loaded: for people with RGB-D and no dual-pixel camera."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, cast

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info

from ifan_plugin.common.errors import UserError
from ifan_plugin.data import device_patches
from ifan_plugin.data.augment import AugmentConfig, apply_plan, draw_plan
from ifan_plugin.data.coc_files import check_coc_option, cut_coc
from ifan_plugin.data.device_patches import as_float
from ifan_plugin.data.layouts import VIEWS
from ifan_plugin.data.lenses import ABUOLAIM, Lens, draw_lens
from ifan_plugin.data.samples import COMMON_OPTIONS, augment_of, check_common, say_pairing, stack_views
from ifan_plugin.data.variants import Variants
from ifan_plugin.images.image_io import has_alpha, read_header, require_opaque, require_rgb, to_float
from ifan_plugin.options.schema import Option
from ifan_plugin.simulation.depth import invent_depth
from ifan_plugin.simulation.depth_pictures import FolderOptions, depth_size, paired_files, read_sharp_and_depth
from ifan_plugin.simulation.optics import Optics
from ifan_plugin.simulation.presets import OPTICS_NAMES
from ifan_plugin.simulation.sensor import SENSOR_PRESETS
from ifan_plugin.simulation.simulator import simulate_dual_pixel

# Tell the random numbers of each part from those of the augmentation and of the lens (1, 2, 3), so that one doesn't
# change what others draw.
_DEPTH_STREAM, _NOISE_STREAM, _DETAIL_STREAM = 4, 5, 6
_TRIALS = 10  # places for a patch with enough detail
_POSITIVE: dict[str, Any] = {"minimum": 1e-6}
_RANGE: dict[str, Any] = {"kind": (list, float), "items": float, **_POSITIVE}
_ON_DEVICE = tuple(name for name in OPTICS_NAMES if name != "abuolaim")


class SharpScene(NamedTuple):
    """One scene: its name, its sharp picture and its depth (None: invented)."""

    key: str
    sharp: Path
    depth: Path | None


class SimulatedDualPixelDataset(Dataset):
    """One scene a sample: what a dual-pixel camera would see of it, simulated when it is asked for.

    Samples are mappings as :class:`ifan_plugin.data.dual_pixel_dataset.DualPixelDataset` gives them (``lq``, ``gt``,
    ``left``, ``right``, ``lq_path``, ``gt_path``, ``key``; float32 [3 or 3 * len(views), H, W], RGB in [0, 1]); both
    paths are the sharp picture's. The optics are those of ``basicsr simulate``
    (:mod:`ifan_plugin.simulation.simulator`), and what comes out is rounded as its files
    would be: a scene seen by the same camera gives the same sample.

    In phase ``train`` each sample is seen by a camera of its own, drawn from (``seed``, epoch, position) like the
    augmentation, and only what the patch needs is simulated. With ``on_device: true`` not even that: samples are sharp
    patches, their circle of confusion and what was drawn, and the model blurs them where the network is
    (:func:`ifan_plugin.data.device_patches.finish`), many times faster on a GPU.

    In ``val`` and ``test`` each scene has a fixed camera,
    drawn from (``seed``, its name), and pictures are whole, cropped to a multiple of ``crop_multiple``: seconds a
    picture, so for large validation sets ``basicsr simulate`` beforehand is the better way.

    Args:
        opt: the option file's mapping of this data set: ``phase`` (train, val or test), ``name``, the keys in
            ``OPTIONS``, and whatever the host adds, which is left to the host.

    Attributes:
        opt: the mapping as given.
        scenes: list of :class:`SharpScene`, in sorted order.
        pairing: by which rule pictures and depth were paired, for people.
        bit_depth: 8 or 16, the depth samples are rounded to.

    Raises:
        UserError: wrong options, missing folders, pictures without depth or too small, told at construction as far
            as file headers tell it; the rest when a scene is read.
    """

    draws_by_position = True  # the bridge needn't seed anything for it

    OPTIONS: ClassVar[dict[str, Option]] = {
        "dataroot_sharp": Option(str, is_folder=True, help="folder of sharp pictures"),
        "dataroot_depth": Option(str, None, is_folder=True, help="folder of their depth"),
        "depth_kind": Option(
            str,
            "depth",
            choices=("depth", "disparity", "invented"),
            help="what is stored: metres, disparity in pixels, or nothing",
        ),
        "depth_scale": Option(float, 1.0, **_POSITIVE, help="factor on what is stored"),
        "focal_px": Option(float, None, **_POSITIVE, help="of the stereo pair that gave disparity, pixels"),
        "baseline_m": Option(float, None, **_POSITIVE, help="of the stereo pair, metres"),
        "doffs_px": Option(float, 0.0, help="disparity at infinity, pixels"),
        "focal_length_mm": Option(
            default=[35.0, 70.0], **_RANGE, help="of the lens, millimetres: a number or [lower, upper]"
        ),
        "f_number": Option(default=[2.0, 8.0], **_RANGE, help="a number or [lower, upper]"),
        "focus_distance_m": Option(
            default=None, **_RANGE, help="metres: a number or [lower, upper]; drawn from the depth"
        ),
        "max_coc_px": Option(
            float, 30.0, minimum=0.1, maximum=90.0, help="largest circle of confusion; beyond it the aperture is closed"
        ),
        "pixel_pitch_um": Option(float, None, **_POSITIVE, help="micrometres from pixel to pixel"),
        "camera": Option(str, "random", choices=OPTICS_NAMES, help="form of the blur"),
        "sensor": Option(
            str, "none", choices=(*SENSOR_PRESETS, "random"), help="highlights, noise, mosaic, tone curve, JPEG"
        ),
        "motion": Option(bool, False, help="sharp and blurred picture lie a little apart; training"),
        "on_device": Option(bool, False, help="the model makes the blur; training"),
        "sharp_share": Option(
            float, 0.0, minimum=0.0, maximum=1.0, help="share of samples that aren't blurred at all; training"
        ),
        "min_detail": Option(
            float,
            0.0,
            minimum=0.0,
            help="least mean squared Laplacian of a patch, 8-bit grey: below it another place is tried; training",
        ),
        "variants": Option(
            int, None, minimum=1, help="blur each picture so often, keep that and cut patches from it; training"
        ),
        "variant_size": Option(int, 192, minimum=8, help="side of each variant, pixels"),
        "keep_in_memory": Option(bool, False, help="each worker keeps the pictures that it has read"),
        "psf_order": Option(default=None, **_RANGE, help="of camera abuolaim's blur: picked of these"),
        "psf_cutoff": Option(default=None, **_RANGE, help="of camera abuolaim's blur: picked of these"),
        "psf_beta": Option(default=None, maximum=1.0, **_RANGE, help="of camera abuolaim's blur: picked of these"),
        "layer_step": Option(float, 0.5, minimum=0.05, help="pixels of blur from one layer to the next"),
        "coc": Option(bool, False, help="the circle of confusion, too; for defocus_opt; on_device always gives it"),
        **COMMON_OPTIONS,
    }
    """This data set's own keys. ``dataroot_sharp`` and ``dataroot_depth`` are folders as ``basicsr simulate --sharp
    --depth`` takes them, and ``depth_kind`` to ``doffs_px`` say how depth is stored, as its flags do.

    The camera: ``focal_length_mm`` (drawn uniformly), ``f_number`` (uniformly in its logarithm), ``focus_distance_m``
    (uniformly in its inverse) are ``[lower, upper]`` or one number; without a focus distance one is drawn, uniformly
    in inverse depth, between the 5th and the 95th percentile of the scene's. Where the largest circle of confusion
    would exceed ``max_coc_px``, the aperture is closed until it doesn't. ``pixel_pitch_um`` as in ``basicsr
    simulate``. ``layer_step`` is fixed: see :mod:`ifan_plugin.simulation.simulator`.

    ``depth_kind: invented`` needs no ``dataroot_depth``: each sample has a depth made up for it, and cut-outs laid in
    front (:mod:`ifan_plugin.simulation.depth`); its largest circle of confusion is drawn, too, from a tenth of
    ``max_coc_px`` to all of it.

    ``camera``: the form of the blur, a measured one or ``random`` (:mod:`ifan_plugin.simulation.presets`); with
    ``abuolaim`` one each of ``psf_order``, ``psf_cutoff``, ``psf_beta`` is picked a sample. ``sensor``: highlights,
    noise, mosaic, tone curve, JPEG (:mod:`ifan_plugin.simulation.sensor`). ``motion: true``: sharp and blurred picture
    lie up to half a pixel apart and differ by up to 3 % in exposure, as real pairs do; training only.

    Two keys for training on plain photographs, whose depth is invented or whose blur is made on the device:
    ``min_detail`` looks for another place, ten times at most, where a photograph shows little detail, because what
    isn't sharp can't teach; ``sharp_share`` of the samples aren't blurred, so that a network learns to leave sharp
    pictures alone.

    ``on_device: true`` (training only): the model makes the blur. The augmentation's noise is left out then; ``sensor``
    has some. ``coc: true`` (training only): samples have ``coc``, float32 [1, H, W], the signed circle of confusion in
    pixels; with on_device the model always has it. ``keep_in_memory: true``: each worker keeps what it has read,
    for sets that fit.

    ``variants: n`` (training, with ``depth_kind: invented``): each picture is blurred ``n`` times, at ``variant_size``
    px a side, when it is first asked for; that is kept, and patches are cut from it. On a CPU, where the blur costs as
    much as training on it, that is nearly twice as fast. Each data loader's worker keeps its own: n times 0.5 MB a
    picture at 192 px, so one worker is best.

    The others are those of DualPixelDataset."""

    def __init__(self, opt: dict) -> None:
        self.opt = opt
        options = self.check_options(opt, f"datasets: {opt.get('phase', '?')} ({opt.get('name', 'unnamed')})")
        self.scenes, self.pairing = _find(options)
        self.bit_depth: int = options["bit_depth"]
        self._options = options
        self._views: tuple[str, ...] = tuple(options["views"])
        self._aux_views: tuple[str, ...] = tuple(options["aux_views"])
        self._training: bool = options["phase"] == "train"
        self._augment: AugmentConfig = options["augment"]
        self._seed: int = options["seed"]
        self._variants: Variants | None = None
        if options["variants"] is not None:
            self._variants = Variants(
                self._variant, count=options["variants"], size=options["variant_size"],
                levels=255 if self.bit_depth == 8 else 65535,
            )  # fmt: skip
        self._kept: dict[SharpScene, tuple[np.ndarray, np.ndarray | None, float]] = {}
        self._folder_options = FolderOptions(
            **{key: options[key] for key in ("depth_kind", "depth_scale", "focal_px", "baseline_m", "doffs_px")},
            pixel_pitch_um=options["pixel_pitch_um"],
        )
        # Only a disparity set's pitch depends on the lens: it follows from focal_px, so that the angle of view is real.
        self._pitch_per_mm = options["depth_kind"] == "disparity" and options["pixel_pitch_um"] is None
        if options["check"] == "headers":
            for scene in self.scenes:
                self._check_headers(scene)
            require_opaque([scene.sharp for scene in self.scenes if has_alpha(read_header(scene.sharp))])
        say_pairing(self)

    @classmethod
    def check_options(cls, opt: Mapping[str, Any], where: str) -> dict[str, Any]:  # noqa: C901 (a rule a line)
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
        for key, default in ABUOLAIM.items():
            if opt.get(key) is not None and options["camera"] != "abuolaim":
                raise UserError(f"{where}: {key}: is only used with camera: abuolaim")
            given = default if options[key] is None else options[key]
            options[key] = given if isinstance(given, list) else [given]
            if not options[key]:
                raise UserError(f"{where}: {key}: give at least one number")
        if options["depth_kind"] == "invented" and options["dataroot_depth"] is not None:
            raise UserError(f"{where}: dataroot_depth: isn't used with depth_kind: invented; leave one out")
        if options["depth_kind"] != "invented" and options["dataroot_depth"] is None:
            raise UserError(f"{where}: 'dataroot_depth' is missing; without depth, set depth_kind: invented")
        check_coc_option(options, where)
        if options["on_device"] and options["phase"] != "train":
            raise UserError(f"{where}: on_device: is for training; leave it out in phase {options['phase']}")
        if options["on_device"] and options["camera"] == "abuolaim":
            raise UserError(f"{where}: on_device: isn't there for camera: abuolaim; valid: {', '.join(_ON_DEVICE)}")
        _check_variants(options, where)
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
        key = [self._seed, getattr(index, "epoch", 0), getattr(index, "position", int(index))]
        if self._variants is not None:
            sample = self._variants.patch(int(index), self._seed, key, augment_of(index, self._augment).patch_size)
            return {name: value for name, value in sample.items() if name != "coc" or self._options["coc"]}
        sharp, depth, pitch_um = self._read(scene)
        self._check_size(scene, *sharp.shape[:2])
        named = {"lq_path": str(scene.sharp), "gt_path": str(scene.sharp), "key": scene.key}
        if self._training:
            augment = augment_of(index, self._augment)
            if self._options["on_device"]:
                return self._hand_over(scene, sharp, depth, pitch_um, key, augment) | named
            if depth is None:  # invented for the patch alone
                handed_over = self._hand_over(scene, sharp, depth, pitch_um, key, augment)
                sample = device_patches.finish_one(handed_over) | named
                return {name: value for name, value in sample.items() if name != "coc" or self._options["coc"]}
            sharp = as_float(sharp)
            lens = self._draw(scene, depth, pitch_um, key)
            images = self._patch(sharp, depth, lens, key, augment)
        else:
            multiple = self._options["crop_multiple"]
            sharp = as_float(sharp)
            key = self._key_of(scene)
            if depth is None:
                sharp, depth = invent_depth(sharp, np.random.default_rng([*key, _DEPTH_STREAM]))
            height, width = (side // multiple * multiple for side in depth.shape)
            images = self._simulate(sharp, depth, self._draw(scene, depth, pitch_um, key), key)
            images = {role: image[:height, :width] for role, image in images.items()}
        tensors = {role: torch.from_numpy(np.ascontiguousarray(i.transpose(2, 0, 1))) for role, i in images.items()}
        sample = {"lq": stack_views(tensors, self._views), "gt": tensors["target"]} | named
        return sample | {name: tensors[name] for name in (*self._aux_views, "coc") if name in tensors}

    def _read(self, scene: SharpScene) -> tuple[np.ndarray, np.ndarray | None, float]:
        if scene not in self._kept:
            sharp, depth, pitch_um = read_sharp_and_depth(scene.sharp, scene.depth, self._folder_options)
            if not self._options["keep_in_memory"]:
                return sharp, depth, pitch_um
            small = np.rint(sharp * 255).astype(np.uint8)
            exact = np.array_equal(small / np.float32(255), sharp)  # read from 8 bits
            self._kept[scene] = (small if exact else sharp, depth, pitch_um)
        return self._kept[scene]

    def _key_of(self, scene: SharpScene) -> list[int]:
        """By name, so that a scene's camera doesn't change when others join the folder."""
        return [self._seed, zlib.crc32(scene.key.encode())]

    def lens(self, index: int, depth: np.ndarray, pitch_um: float) -> Lens:
        """The fixed camera of scene ``index`` in validation; ``depth`` in metres, H x W, and the pixel pitch."""
        scene = self.scenes[index]
        return self._draw(scene, depth, pitch_um, self._key_of(scene))

    def _draw(self, scene: SharpScene, depth: np.ndarray, pitch_um: float, key: list[int]) -> Lens:
        focal_px = self._folder_options.focal_px if self._pitch_per_mm else None
        try:
            return draw_lens(self._options, depth, pitch_um, key, training=self._training, focal_px=focal_px)
        except UserError as error:
            raise UserError(f"{scene.depth or scene.sharp}: {error}") from None

    def _simulate(
        self,
        sharp: np.ndarray,
        depth: np.ndarray,
        lens: Lens,
        key: list[int],
        region: tuple[int, int, int, int] | None = None,
    ) -> dict[str, np.ndarray]:
        """Role -> float32 [H, W, 3], whole or of one region, rounded as the files of ``basicsr simulate``."""
        seen = simulate_dual_pixel(
            sharp, depth, lens.camera, optics=lens.optics, layer_step=self._options["layer_step"], region=region,
            light=lens.light, rng=np.random.default_rng([*key, _NOISE_STREAM]),
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

    def _patch(
        self, sharp: np.ndarray, depth: np.ndarray, lens: Lens, key: list[int], augment: AugmentConfig
    ) -> dict[str, np.ndarray]:
        """What is trained on: simulated where the augmentation's patch lies, and augmented."""
        rng = np.random.default_rng(key)
        height, width = depth.shape
        plan = draw_plan(height, width, augment, rng)
        cut = plan.cut()
        images = apply_plan(self._simulate(sharp, depth, lens, key, cut.region), plan, cut, rng)
        if not self._options["coc"]:
            return images
        coc = lens.camera.circle_of_confusion(depth).astype(np.float32)
        return images | {"coc": cut_coc(coc, plan, cut).transpose(1, 2, 0)}

    def _variant(self, index: int, key: list[int]) -> dict[str, Any]:
        """A variant of scene ``index``, blurred."""
        scene = self.scenes[index]
        sharp, depth, pitch_um = self._read(scene)
        self._check_size(scene, *sharp.shape[:2])
        large = replace(self._augment, patch_size=self._options["variant_size"])
        sample = device_patches.finish_one(self._hand_over(scene, sharp, depth, pitch_um, key, large))
        return sample | {"lq_path": str(scene.sharp), "gt_path": str(scene.sharp), "key": scene.key}

    def _hand_over(
        self,
        scene: SharpScene,
        sharp: np.ndarray,
        depth: np.ndarray | None,
        pitch_um: float,
        key: list[int],
        config: AugmentConfig,
    ) -> dict[str, Any]:
        """A sharp patch and what it is seen through, for :func:`ifan_plugin.data.device_patches.finish`."""
        options = self._options
        height, width = sharp.shape[:2]
        reach = device_patches.reach_of(options["camera"], options["max_coc_px"])
        context = device_patches.CONTEXT * reach
        for trial in range(_TRIALS):
            drawn = np.random.default_rng([*key, _DETAIL_STREAM, trial] if trial else key)
            plan = draw_plan(height, width, config, drawn)
            patch, near, field = device_patches.cut_patch(sharp, depth, plan, context)
            if not options["min_detail"] or detail(patch[context:-context, context:-context]) >= options["min_detail"]:
                break
        if near is None:
            patch, near = invent_depth(patch, np.random.default_rng([*key, _DEPTH_STREAM]))
        # A picture that was shrunk has larger pixels; the lens is drawn for the picture as it is now.
        lens = self._draw(scene, near if depth is None else depth, pitch_um * plan.whole[0] / plan.size[0], key)
        return device_patches.hand_over(
            patch, lens.camera.circle_of_confusion(near).astype(np.float32), cast(Optics, lens.optics), lens.light,
            f"{','.join(self._views)}|{','.join(self._aux_views)}", 255 if self.bit_depth == 8 else 65535, field=field,
            reach=reach, context=context, layer_step=options["layer_step"],
            seed=int(np.random.default_rng([*key, _NOISE_STREAM]).integers(2**62)),
        )  # fmt: skip

    def _check_headers(self, scene: SharpScene) -> None:
        header = read_header(scene.sharp)
        require_rgb(header, scene.sharp)
        self._check_size(scene, header.height, header.width)
        if scene.depth is None:
            return
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
            if self._variants is not None:
                need, why = self._options["variant_size"], "variant_size"
        if min(height, width) < need:
            raise UserError(
                f"{scene.sharp}: size {width}x{height} is too small; valid: at least {need} each way ({why})"
            )


def detail(patch: np.ndarray) -> float:
    """Mean squared Laplacian of a picture's grey levels, 0 to 255: some 40 where a photograph is sharp.

    Args:
        patch: float [H, W, 3] in [0, 1].
    """
    grey = cv2.cvtColor(np.asarray(patch, np.float32), cv2.COLOR_RGB2GRAY) * 255
    return float(np.square(cv2.Laplacian(grey, cv2.CV_32F)).mean())


def _check_variants(options: Mapping[str, Any], where: str) -> None:
    if options["variants"] is None:
        return
    if options["phase"] != "train":
        raise UserError(f"{where}: variants: is for training; leave it out in phase {options['phase']}")
    if options["on_device"] or options["depth_kind"] != "invented":
        raise UserError(f"{where}: variants: needs depth_kind: invented, and on_device: false: they are made once")
    if options["variant_size"] < options["patch_size"]:
        raise UserError(
            f"{where}: variant_size: must be at least the patch_size, {options['patch_size']}, "
            f"not {options['variant_size']}"
        )


def _find(options: Mapping[str, Any]) -> tuple[list[SharpScene], str]:
    sharp, depth = (options[name] and Path(options[name]).expanduser() for name in ("dataroot_sharp", "dataroot_depth"))
    pairs, rule = paired_files(sharp, depth, names=("dataroot_sharp", "dataroot_depth"), pairing=options["pairing"])
    return [SharpScene(picture.stem, picture, path) for picture, path in pairs][: options["max_images"]], rule


def _range(value: Any, where: str) -> tuple[float, float] | None:
    if value is None:
        return None
    bounds = tuple(float(bound) for bound in (value if isinstance(value, list) else [value, value]))
    if len(bounds) != 2 or bounds[0] > bounds[1]:
        raise UserError(f"{where}: must be a number or [lower, upper], not {value}")
    return bounds
