"""The conventional baseline as a network: a defocus map from edges, or from DMENet, then deconvolution by it.

It is the pipeline that learned methods are compared with: the blur at edges after Zhuo & Sim (Pattern Recognition
2011) and EBDB (Karaali & Jung, IEEE TIP 2018), a guided filter or closed-form matting to have it everywhere, and
non-blind deconvolution after Krishnan & Fergus (NIPS 2009). Written from the papers: its figures are its own, not
those published for JNB or EBDB.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ifan_plugin.archs.dmenet_arch import DMENet
from ifan_plugin.common.errors import UserError
from ifan_plugin.conventional import deconvolution, edge_blur, propagation
from ifan_plugin.conventional.psf import SHAPES
from ifan_plugin.images.color import linear_from_srgb, srgb_from_linear
from ifan_plugin.options.schema import Option, check_mapping

_LINEAR_LUMINANCE = np.array([0.2126, 0.7152, 0.0722], np.float32)  # ITU-R BT.709, of linear light
_CODED_LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, of coded values

_OPTIONS = {
    "psf": Option(str, choices=SHAPES),
    "edge_model": Option(str, choices=SHAPES),
    "propagation": Option(str, choices=propagation.METHODS),
    "method": Option(str, choices=deconvolution.METHODS),
    "noise": Option(float, minimum=0.001, maximum=1),
    "max_sigma": Option(float, minimum=0.5, maximum=20),
    "threshold": Option(float, minimum=0.3, maximum=20),
}


class DefocusDeconvolution(nn.Module):
    """Defocus-map estimation and spatially varying deconvolution, without learning. Works on the CPU.

    Slopes are compared, and pictures deconvolved, in linear light (sRGB decoded), where a lens blurs; edges are
    looked for in coded values, which show those in the dark.

    Args:
        psf: blur that is undone, ``disk`` (what a lens without aberrations does) or ``gaussian``.
        edge_model: blur that edges are measured by. ``gaussian`` is Zhuo & Sim's closed form. ``disk`` is exact for
            lone edges of a disk's blur, but in textured pictures, whose edges measure too sharp, the larger
            sigma that ``gaussian`` finds for the same edge comes nearer to the truth.
        propagation: ``guided`` (fast) or ``matting`` (closed-form, solved at a reduced size, slower).
        method: ``hyper_laplacian`` or ``wiener`` (faster, rings more).
        noise: what the deconvolution takes for noise, as a standard deviation of values in [0, 1]; more is more
            cautious. It stands for the errors of the map, too, so it is larger than a camera's.
        max_sigma: standard deviation of the largest blur that is told apart and undone, px (a disk's radius is twice
            that).
        threshold: px; pixels whose sigma is no larger come back exactly as they are.

    Attributes:
        multiple_of, in_channels: any size, RGB.
        sees_whole_picture: the blur between edges is filled in from all of them, so that tiles differ from the whole.
        hyper_parameters: the arguments it was built with.

    Raises:
        UserError: an argument outside its range.
    """

    multiple_of = 1
    in_channels = 3
    sees_whole_picture = True

    def __init__(
        self,
        psf: str = "disk",
        edge_model: str = "gaussian",
        propagation: str = "guided",
        method: str = "hyper_laplacian",
        noise: float = 0.04,
        max_sigma: float = 6.0,
        threshold: float = 0.6,
    ) -> None:
        super().__init__()
        self.hyper_parameters = {
            "psf": psf, "edge_model": edge_model, "propagation": propagation, "method": method, "noise": noise,
            "max_sigma": max_sigma, "threshold": threshold,
        }  # fmt: skip
        name = type(self).__name__
        check_mapping(self.hyper_parameters, _OPTIONS, name)
        if not threshold < max_sigma:
            raise UserError(f"{name}: threshold: must be below max_sigma ({max_sigma}), not {threshold}")
        self.psf, self.edge_model, self.propagation, self.method = psf, edge_model, propagation, method
        self.noise, self.max_sigma, self.threshold = noise, max_sigma, threshold

    @torch.no_grad()
    def forward(self, lq: Tensor) -> Tensor:
        """The restored picture.

        Args:
            lq: [B, 3, H, W], RGB, sRGB-coded, in [0, 1] (values beyond are clipped); any size, device and float type.

        Returns:
            [B, 3, H, W] in [0, 1], on the device and of the type of ``lq``; computed on the CPU in float32, and
            without gradients.

        Raises:
            ValueError: another shape, not a float type, or values that aren't finite.
        """
        pictures = self._pictures(lq)
        restored = [self._restore(picture, sigma) for picture, sigma in zip(pictures, self._sigmas(pictures))]
        return torch.stack([torch.from_numpy(each.transpose(2, 0, 1)) for each in restored]).to(lq.device, lq.dtype)

    @torch.no_grad()
    def defocus_map(self, lq: Tensor) -> Tensor:
        """How blurred each place is.

        Args:
            lq: as in :meth:`forward`.

        Returns:
            [B, 1, H, W], float32, on the device of ``lq``: the blur's standard deviation along an axis, px, from 0
            to ``max_sigma``. 0 everywhere where the picture has no edges.

        Raises:
            ValueError: as :meth:`forward`.
        """
        maps = self._sigmas(self._pictures(lq))
        return torch.stack([torch.from_numpy(each)[None] for each in maps]).to(lq.device)

    @staticmethod
    def _pictures(lq: Tensor) -> list[np.ndarray]:
        """Each picture as float32 [H, W, 3]."""
        if lq.dim() != 4 or lq.shape[1] != 3 or 0 in lq.shape:
            raise ValueError(f"lq must be [B, 3, H, W] (RGB) and not empty, got {list(lq.shape)}")
        if not lq.is_floating_point():
            raise ValueError(f"lq must be of a float type, with values in [0, 1], not {lq.dtype}")
        pictures = lq.detach().float().cpu()
        if not torch.isfinite(pictures).all():
            count = int((~torch.isfinite(pictures)).sum())
            raise ValueError(f"lq has {count} values that are NaN or infinite; all must be in [0, 1]")
        return list(pictures.clamp(0, 1).permute(0, 2, 3, 1).contiguous().numpy())

    def _sigmas(self, pictures: list[np.ndarray]) -> list[np.ndarray]:
        """Each picture's defocus map, float32 [H, W] from 0 to `max_sigma`."""
        return [self._from_edges(picture) for picture in pictures]

    def _from_edges(self, picture: np.ndarray) -> np.ndarray:
        coded = picture @ _CODED_LUMINANCE
        linear = linear_from_srgb(picture) @ _LINEAR_LUMINANCE
        found = edge_blur.estimate(linear, coded, self.edge_model, self.max_sigma)
        return propagation.propagate(found, coded, self.propagation)

    def _restore(self, picture: np.ndarray, sigma: np.ndarray) -> np.ndarray:
        linear = deconvolution.deconvolve_by_map(
            linear_from_srgb(picture), sigma, self.psf, self.method, self.noise, self.threshold
        )
        blurred = sigma > self.threshold
        return np.where(blurred[..., None], srgb_from_linear(linear.clip(0, 1)), picture).astype(np.float32)


class MapOutputs(NamedTuple):
    """What a training step of a defocus map compares, under the names that IFAN's has."""

    result: Tensor  # the blurred picture itself: deconvolution has no gradient
    lq_disparity: Tensor  # the map, [B, 1, H, W], px
    warped_right: None = None
    left_small: None = None


class DMENetDeconvolution(DefocusDeconvolution):
    """The same deconvolution by the map of a network: DMENet (Lee et al., CVPR 2019) in place of edges.

    Training teaches the map alone, by :class:`ifan_plugin.losses.DefocusMapLoss` on simulated data; validation and
    tests restore pictures by it.

    Args:
        width: DMENet's, channels of its first block (paper: 64).
        psf, method, noise, max_sigma, threshold: as :class:`DefocusDeconvolution`.

    Attributes:
        map_network: the :class:`DMENet`.
        hyper_parameters: the arguments it was built with.

    Raises:
        UserError, ValueError: an argument outside its range.
    """

    def __init__(
        self,
        width: int = 64,
        psf: str = "disk",
        method: str = "hyper_laplacian",
        noise: float = 0.04,
        max_sigma: float = 6.0,
        threshold: float = 0.6,
    ) -> None:
        super().__init__(psf=psf, method=method, noise=noise, max_sigma=max_sigma, threshold=threshold)
        for key in ("edge_model", "propagation"):
            del self.hyper_parameters[key]
        self.map_network = DMENet(width)
        self.hyper_parameters = {"width": width, **self.hyper_parameters}

    def training_outputs(self, lq: Tensor, left: Tensor | None = None, right: Tensor | None = None) -> MapOutputs:
        """The map of `lq` [B, 3, H, W] in [0, 1], with gradients; `left` and `right` aren't used."""
        return MapOutputs(lq, self.map_network(lq))

    def _sigmas(self, pictures: list[np.ndarray]) -> list[np.ndarray]:
        like = self.map_network.to_map.weight
        found = []
        for picture in pictures:
            sigma = self.map_network(torch.from_numpy(picture).permute(2, 0, 1)[None].to(like))
            found.append(sigma[0, 0].clamp(max=self.max_sigma).float().cpu().numpy())
        return found
