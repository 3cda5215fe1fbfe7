"""The package's data sets as mmengine has them, and the transforms they and other data sets can use."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from mmengine.dataset import Compose
from mmengine.logging import MMLogger
from mmengine.structures import BaseDataElement
from torch.utils.data import Dataset

from ifan_plugin.common.errors import UserError
from ifan_plugin.common.words import counted
from ifan_plugin.data import dual_pixel_dataset, simulated_dataset
from ifan_plugin.data.augment import AugmentConfig, augment
from ifan_plugin.data.device_patches import finish_one
from ifan_plugin.data.sampler import EpochIndex
from ifan_plugin.metrics.protocols import protocol_named
from ifan_plugin.options.schema import nearest

PICTURES = {"gt": "gt_img", "left": "left", "right": "right", "coc": "coc"}
"""Role in our samples -> field of a data sample; ``lq`` becomes ``inputs``."""

Transform = Callable[[dict[str, Any]], dict[str, Any]]


class PackRestoration:
    """A transform: one of our samples to what mmengine's loops and models take.

    ``{"lq": [C, H, W], "gt": [3, H, W], "left", "right", "coc", "key", "lq_path", "gt_path", …}`` (``lq`` and strings
    where they are, RGB in [0, 1]) becomes ``{"inputs": [C, H, W], "data_samples": sample}``: the sample's fields are
    ``gt_img``, ``left``, ``right`` and ``coc``, its meta information everything else: ``key``, ``img_path``,
    ``gt_path``, ``views``, ``bit_depth``, ``rotate_back``, ``channel_order``.
    """

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Raises :class:`KeyError` without ``lq``."""
        rest = {name: value for name, value in sample.items() if name not in ("lq", "lq_path", *PICTURES)}
        packed = BaseDataElement(metainfo={"img_path": sample.get("lq_path"), "channel_order": "RGB", **rest})
        for role, field in PICTURES.items():
            if role in sample:
                packed.set_field(sample[role], field)
        return {"inputs": sample["lq"], "data_samples": packed}

    def __repr__(self) -> str:
        return "PackRestoration()"


class AugmentDefocus:
    """A transform: the paper's augmentation (:mod:`ifan_plugin.data.augment`) for other people's data sets.

    :class:`DualPixelDataset` has it built in, reads only the part that a patch is made of, and needs no such transform.

    Args:
        keys: role (``center``, ``left``, ``right``, ``target``) -> name in the results of an array [H, W, 3]: float32
            RGB in [0, 1], or uint8 or uint16, which become that.
        patch_size: side of the random crop, in pixels.
        seed: None draws from NumPy's generator, which mmengine seeds in each worker; a number makes the draw depend on
            it and on the results' ``sample_idx`` alone.
        **options: as in :class:`ifan_plugin.data.augment.AugmentConfig`.

    Raises:
        UserError: an unknown option or role, or a value that doesn't fit.
    """

    def __init__(self, keys: Mapping[str, str], patch_size: int = 256, seed: int | None = None, **options: Any) -> None:
        for role in keys:
            if role not in ("center", "left", "right", "target"):
                raise UserError(
                    f"AugmentDefocus: keys: unknown role '{role}'; "
                    f"{nearest(role, ('center', 'left', 'right', 'target'))}"
                )
        self.keys, self.seed = dict(keys), seed
        self.config = AugmentConfig.from_options(options, patch_size, "AugmentDefocus")

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """New results with the pictures cut to [patch_size, patch_size, 3], float32 in [0, 1].

        Raises:
            UserError: pictures smaller than the patch, or of unequal sizes.
            KeyError: a picture isn't there.
        """
        images = {role: _unit(results[name]) for role, name in self.keys.items()}
        sizes = {image.shape[:2] for image in images.values()}
        if len(sizes) > 1 or min(min(size) for size in sizes) < self.config.patch_size:
            shown = " and ".join(f"{width}x{height}" for height, width in sorted(sizes))
            raise UserError(
                f"AugmentDefocus: a scene's pictures must be equally large, at least {self.config.patch_size} pixels "
                f"each way (patch_size), not {shown}"
            )
        key = np.random.randint(2**31) if self.seed is None else [self.seed, int(results.get("sample_idx", 0))]
        cut = augment(images, self.config, np.random.default_rng(key))
        return {**results, **{name: np.ascontiguousarray(cut[role]) for role, name in self.keys.items()}}

    def __repr__(self) -> str:
        return f"AugmentDefocus(keys={self.keys}, seed={self.seed}, {self.config})"


def _unit(image: np.ndarray) -> np.ndarray:
    """float32 in [0, 1]."""
    scale = np.iinfo(image.dtype).max if image.dtype.kind == "u" else 1
    return image.astype(np.float32) / np.float32(scale)


class _Wrapped(Dataset):
    """One of the package's data sets behind mmengine's conventions: keyword arguments, ``pipeline``, ``metainfo``.

    Attributes of the data set itself are passed through.
    """

    wrapped: type[dual_pixel_dataset.DualPixelDataset] | type[simulated_dataset.SimulatedDualPixelDataset]

    def __init__(
        self,
        phase: str = "train",
        pipeline: Sequence[dict[str, Any] | Transform] = ({"type": "PackRestoration"},),
        protocol: str | None = None,
        **options: Any,
    ) -> None:
        place = f"{type(self).__name__} ({phase})"
        known = {"name", *self.wrapped.OPTIONS}
        for key in options:
            if key not in known:
                raise UserError(f"{place}: unknown key '{key}'; {nearest(key, {*known, 'phase', 'pipeline'})}")
        options = {"name": phase, **_plain(options), "phase": phase}
        self._protocol = None
        if protocol is not None:
            self._protocol = protocol_named(protocol, f"{place}: protocol")
            if phase == "train":
                raise UserError(f"{place}: protocol: valid in phases val and test only")
            self._protocol.fill(options, place)
        self.dataset = self.wrapped(options)
        if self.dataset.pairing and MMLogger._instance_dict:  # a run's log, if there is a run
            line = f"{options['name']}: {counted(len(self.dataset), 'scene')}, paired {self.dataset.pairing}."
            MMLogger.get_current_instance().info(line)
        self.pipeline = Compose([dict(each) if isinstance(each, Mapping) else each for each in pipeline])
        self.metainfo = {
            "dataset_type": type(self).__name__,
            "name": options["name"],
            "views": tuple(options.get("views", ("center",))),
            "aux_views": tuple(options.get("aux_views", ())),
            "bit_depth": self.dataset.bit_depth,
            "protocol": protocol,
        }
        self._draws = phase == "train"
        self._takes_seed = self._draws and "seed" not in options
        self._every_sample = {
            "views": self.metainfo["views"],
            "bit_depth": self.dataset.bit_depth,
            "rotate_back": getattr(self.dataset, "rotate_back", 0),
        }

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if self._draws and not hasattr(index, "epoch"):  # with the number alone every epoch would draw the same
            index = EpochIndex(index, 0, np.random.randint(2**31))
        if self._takes_seed and hasattr(index, "seed"):  # the run's, which resuming may have changed by now
            self.dataset._seed = index.seed
        # Data sets with on_device: true are finished here, on the CPU; mmengine's models take finished samples.
        sample = {**finish_one(self.dataset[index]), **self._every_sample, "sample_idx": int(index)}
        if self._protocol is not None and "gt" in sample:
            for role in {"lq", *PICTURES} & sample.keys():
                sample[role] = self._protocol.prepared(sample[role])
        return self.pipeline(sample)

    def __getattr__(self, name: str) -> Any:
        if name == "dataset" or name.startswith("__"):  # not there yet while it is being unpickled
            raise AttributeError(name)
        return getattr(self.dataset, name)


class DualPixelDataset(_Wrapped):
    """:class:`ifan_plugin.data.dual_pixel_dataset.DualPixelDataset` for mmengine: the same samples, bit for bit.

    With :class:`ifan_plugin.mm.sampler.EpochSampler` a training sample's draws follow from seed, epoch and place as in
    BasicSR; where the options have no ``seed``, it is the sampler's, by default the Runner's. Other samplers give
    plain numbers; the draws then come from NumPy's generator, which mmengine seeds.

    Args:
        phase: ``train``, ``val`` or ``test``.
        pipeline: transforms (of the registry TRANSFORMS, or callables) from that class's samples, with ``sample_idx``,
            ``views``, ``bit_depth`` and ``rotate_back`` beside, to the loop's; the default packs them.
        protocol: name of an evaluation protocol (:data:`ifan_plugin.metrics.protocols.PROTOCOLS`), which sets what
            the options leave open and resizes where it says so. Not in phase ``train``.
        **options: that class's own (``dataroot``, ``layout``, ``views``, ``patch_size``, ``augment``, ``seed``, …).

    Raises:
        UserError: as that class does, or an unknown key.
    """

    wrapped = dual_pixel_dataset.DualPixelDataset


class SimulatedDualPixelDataset(_Wrapped):
    """:class:`ifan_plugin.data.simulated_dataset.SimulatedDualPixelDataset` for mmengine. Arguments and errors as in
    :class:`DualPixelDataset`, the options being that class's."""

    wrapped = simulated_dataset.SimulatedDualPixelDataset


def _plain(value: Any) -> Any:
    """A config's mappings and tuples as the option checks want them: dicts and lists."""
    if isinstance(value, Mapping):
        return {key: _plain(member) for key, member in value.items()}
    return [_plain(member) for member in value] if isinstance(value, (list, tuple)) else value
