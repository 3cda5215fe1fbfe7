"""IFAN: single-image (or dual-pixel) defocus deblurring by filters predicted for each pixel.

Lee et al., Iterative Filter Adaptive Network for Single Image Defocus Deblurring,
CVPR 2021 (arXiv 2108.13610).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ifan_plugin.archs.ifan_parts import FilterPredictor, Reconstructor, disparity_estimator
from ifan_plugin.archs.layers import (
    NEGATIVE_SLOPE,
    Encoder,
    channels_last,
    check_hyper_parameters,
    first_convolution,
    he_init,
    stress_differences,
    xavier_init,
)
from ifan_plugin.losses.disparity_loss import area_downsample, warp_by_disparity
from ifan_plugin.ops import IAC, iac_step
from ifan_plugin.ops import filter_channels as iac_channels
from ifan_plugin.ops.fac import FAC, fac_filter_channels
from ifan_plugin.ops.padding import pad_to_multiple


class IFANOutputs(NamedTuple):
    """What the training losses need. None: this network, or this call of it, doesn't have it."""

    result: Tensor  # [B, 3, H, W], the restored image, not clipped
    filters: Tensor | None  # [B, filter_channels, H/8, W/8], for the reblurring network
    disparity: Tensor | None  # [B, 1, H/8, W/8], the right view's, in pixels at 1/8 size
    warped_right: Tensor | None  # [B, 3, H/8, W/8], the right view, warped to the left one
    left_small: Tensor | None  # [B, 3, H/8, W/8], the left view, area-downsampled
    embedding: Tensor | None = None  # [B, 4*width, H/8, W/8], what the layer `to_filters` made the filters of
    lq_disparity: Tensor | None = None  # [B, 1, H/8, W/8], the map that the filters were predicted with


class IFAN(nn.Module):
    """Iterative Filter Adaptive Network (paper, the network's figure and section).

    The filter encoder sees how each place is blurred; from it come a disparity map and, per pixel and
    channel, `num_steps` small separable filters, which IAC applies to the features of the image at 1/8 size.
    The reconstructor turns the deblurred features back into an image.

    Args:
        width: channels at full size (ch in the paper); 2, 4 and 4 times that at 1/2, 1/4 and 1/8.
        num_steps: filters a pixel and channel (N in the paper: 8, 17, 26, 35 or 44).
        taps: length k of each 1-D filter, odd.
        res_units: residual units a block in the disparity estimator and the filter predictor.
        dual_pixel: take the 9-channel stack centre, left, right instead of the 3-channel centre view.
        isotropic: apply the vertical filters in both directions, as the released checkpoints were trained.
        use_disparity: ablation. False: no disparity estimator; the filters come from the encoder alone.
        use_filters: ablation. False: the plain network, image to features to image, and no disparity either.
        filter_type: `iac`, or `fac` for the layer that the paper compares with (Zhou et al., ICCV 2019): one 2-D filter
            a pixel and channel instead of the steps. num_steps, taps and isotropic mean nothing then. A bias is
            predicted with it and a LeakyReLU follows, as with IAC: our choice, the paper doesn't say.
        fac_taps: side k of FAC's filters, odd. It predicts 4*width*(k*k + 1) channels: at k = 11 and width 32 15,616,
            858 MiB for a 1280x720 photo in float32 and about as much as IAC with N = 17 (15,232), which reaches 35
            pixels instead of 11. Without gradients a sixteenth of them is held at a time.
        filter_init: what the first filters are, before training. `xavier`: the paper's, nearly zero, so that their
            product over all steps lets next to nothing through, and hardly a gradient: a short training then leaves
            them so and works through the skips alone. `identity`: the same about filters that pass the features on.
        weight_init: what the convolutions' weights are, before training. `xavier`: the paper's. `he`: normal with
            variance 2 / (1.01 fan_in), with which short trainings leave their first plateau sooner.

    Attributes:
        half_precision: its layers are convolutions alone, so that with weights and picture in a half type it computes
            what autocast would, but for the picture's rounding.
        multiple_of: sizes the network works at; `forward` pads others, `training_outputs` refuses them.
        in_channels: channels of `lq`, 3 or 9.
        hyper_parameters: the arguments it was built with but for `filter_init` and `weight_init`; they go into its
            checkpoints.

    Raises:
        ValueError: hyper-parameters out of their range; dual_pixel without use_filters, where nothing would
            see the left and right views.
    """

    multiple_of = 8
    half_precision = True

    def __init__(
        self,
        width: int = 32,
        num_steps: int = 17,
        taps: int = 3,
        res_units: int = 2,
        *,
        dual_pixel: bool = False,
        isotropic: bool = False,
        use_disparity: bool = True,
        use_filters: bool = True,
        filter_type: str = "iac",
        fac_taps: int = 11,
        filter_init: str = "xavier",
        weight_init: str = "xavier",
    ) -> None:
        super().__init__()
        check_hyper_parameters(taps, width=width, num_steps=num_steps, res_units=res_units)
        if filter_type not in ("iac", "fac"):
            raise ValueError(f"filter_type must be iac or fac, got {filter_type!r}")
        if filter_init not in ("xavier", "identity"):
            raise ValueError(f"filter_init must be xavier or identity, got {filter_init!r}")
        if weight_init not in ("xavier", "he"):
            raise ValueError(f"weight_init must be xavier or he, got {weight_init!r}")
        if isinstance(fac_taps, bool) or not isinstance(fac_taps, int) or fac_taps < 1 or fac_taps % 2 == 0:
            raise ValueError(f"fac_taps must be a positive odd integer, got {fac_taps!r}")
        if dual_pixel and not use_filters:
            raise ValueError("dual_pixel needs use_filters: the plain network looks at the centre view only")
        deep = 4 * width
        self.hyper_parameters: dict[str, Any] = {
            "width": width, "num_steps": num_steps, "taps": taps, "res_units": res_units, "dual_pixel": dual_pixel,
            "isotropic": isotropic, "use_disparity": use_disparity, "use_filters": use_filters,
            "filter_type": filter_type, "fac_taps": fac_taps,
        }  # fmt: skip
        self.filter_init, self.weight_init = filter_init, weight_init
        self.dual_pixel = dual_pixel
        self.use_filters = use_filters
        self.use_disparity = use_disparity and use_filters
        self.in_channels = 9 if dual_pixel else 3
        self._filter_channels = 0
        if use_filters and filter_type == "fac":
            self._filter_channels = fac_filter_channels(deep, fac_taps, bias=True)
        elif use_filters:
            self._filter_channels = iac_channels(deep, num_steps, taps)

        self.feature_extractor = Encoder(3, width)
        if self.use_filters:
            self.filter_encoder = Encoder(6 if dual_pixel else 3, width)
        if self.use_disparity:
            self.disparity_estimator = disparity_estimator(deep, res_units)
        if self.use_filters:
            self.filter_predictor = FilterPredictor(
                deep, self._filter_channels, res_units, use_disparity=self.use_disparity
            )
            if filter_type == "fac":
                self.fac = FAC(fac_taps, bias=True, negative_slope=NEGATIVE_SLOPE)
            else:
                self.iac = IAC(num_steps, taps, isotropic=isotropic)
        self.reconstructor = Reconstructor(width)
        self.init_weights()

    def init_weights(self) -> None:
        """Xavier-uniform with gain 1, gain 1.5 in the filter predictor's last stage; biases zero (see filter_init).

        With `weight_init` he: normal with variance 2 / (1.01 fan_in); the last layer of each residual unit, of the
        filters and of the image smaller, so that the network begins near to the picture that it was given. The filter
        encoder's first layer ignores flat areas, and differences between the colours count 4 times, between the views
        of a dual-pixel camera 8 times: they are a hundredth of the picture, and tell near from far.
        """
        if self.weight_init == "he":
            he_init(self)
            if self.use_filters:
                nn.init.normal_(self.filter_predictor.to_filters.weight, 0, 0.01)
                views = 2 if self.dual_pixel else 1
                stress_differences(first_convolution(self.filter_encoder).weight, views)
            first_convolution(self.feature_extractor).weight.detach().mul_(2)
            first_convolution(self.reconstructor.to_image).weight.detach().mul_(0.1)
        else:
            xavier_init(self)
            if self.use_filters:
                xavier_init(self.filter_predictor.trunk, gain=1.5)
                xavier_init(self.filter_predictor.to_filters, gain=1.5)
        if not self.use_filters:
            return
        if self.filter_init == "identity":  # one at the middle tap of each filter, whatever the picture
            bias = self.filter_predictor.to_filters.bias.detach()
            size = self.fac.taps**2 if hasattr(self, "fac") else self.iac.taps
            weights = bias.numel() - self.biases_of(bias[None]).shape[1]
            bias[:weights].view(-1, size)[:, size // 2] = 1

    @property
    def filter_channels(self) -> int:
        """Channels of the predicted filters, num_steps * 4*width * (2*taps + 1), or 4*width * (fac_taps**2 + 1) with
        `filter_type` fac; 0 without filters."""
        return self._filter_channels

    def biases_of(self, filters: Tensor) -> Tensor:
        """The biases among the predicted filters: [B, num_steps*4*width, …], FAC's [B, 4*width, …].

        Args:
            filters: all of them, [B, filter_channels, …], as ``training_outputs`` gives them.
        """
        layer = self.fac if hasattr(self, "fac") else self.iac
        weights = layer.taps**2 if hasattr(self, "fac") else 2 * layer.taps
        return filters[:, filters.shape[1] * weights // (weights + 1) :]

    def forward(self, lq: Tensor) -> Tensor:
        """The restored image.

        Args:
            lq: the centre view [B, 3, H, W], or with `dual_pixel` centre, left, right [B, 9, H, W]; RGB in
                [0, 1]; H, W >= 8, any size: padded inside to multiples of 8 by its last row and column.

        Returns:
            [B, 3, H, W], in eval mode clipped to [0, 1], in training not.

        Raises:
            ValueError: another shape, or smaller than 8 pixels.
        """
        height, width = lq.shape[-2:]
        padded = self._padded(lq)
        if torch.is_grad_enabled():
            filters = self.filter_predictor(*self._blur_features(padded)) if self.use_filters else None
            result = self._restore(padded, filters)
        else:
            result = self._restore_in_parts(padded)
        result = result[..., :height, :width]
        return result if self.training else result.clamp(0, 1)

    def training_outputs(self, lq: Tensor, left: Tensor | None = None, right: Tensor | None = None) -> IFANOutputs:
        """The restored image and what the losses need beside it. Nothing is clipped or detached.

        Args:
            lq: as in `forward`, but H and W multiples of 8.
            left, right: the two views [B, 3, H, W] in [0, 1], both or neither. The dual-pixel network has
                them in `lq` and doesn't look at these.

        Returns:
            IFANOutputs. `disparity`, `warped_right` and `left_small` are None without views or without a
            disparity estimator, `lq_disparity` without the latter; `filters` is None in the plain network.

        Raises:
            ValueError: shapes that don't fit, or only one of the views.
        """
        self._check(lq)
        if lq.shape[2] % self.multiple_of or lq.shape[3] % self.multiple_of:
            raise ValueError(
                f"training needs H and W that are multiples of {self.multiple_of}, got {list(lq.shape[2:])}"
            )
        if self.dual_pixel:
            left, right = lq[:, 3:6], lq[:, 6:9]
        elif (left is None) != (right is None):
            raise ValueError("give both views, left and right, or neither")
        elif left is not None and right is not None and not (left.shape == right.shape == lq.shape):
            raise ValueError(f"left and right must be {list(lq.shape)}, got {list(left.shape)} and {list(right.shape)}")
        lq = channels_last(lq)
        if not self.use_filters:
            return IFANOutputs(self._restore(lq, None), None, None, None, None)

        features, disparity = self._blur_features(lq)
        lq_disparity = disparity
        embedding = self.filter_predictor.embed(features, disparity)
        filters = self.filter_predictor.to_filters(embedding)
        result = self._restore(lq, filters)
        if disparity is None or left is None or right is None:
            return IFANOutputs(result, filters, None, None, None, embedding, lq_disparity)
        if not self.dual_pixel:  # the dual-pixel network's own map is the right view's already
            disparity = self.disparity_estimator(self.filter_encoder(channels_last(right))[-1])
        warped_right = warp_by_disparity(area_downsample(right, 8), disparity)
        left_small = area_downsample(left, 8)
        return IFANOutputs(result, filters, disparity, warped_right, left_small, embedding, lq_disparity)

    def disparity(self, lq: Tensor) -> Tensor:
        """The disparity map the filters are predicted with, to look at.

        Args:
            lq: as in `forward`.

        Returns:
            [B, 1, ceil(H/8), ceil(W/8)], in pixels at 1/8 size, signed.

        Raises:
            ValueError: as `forward`, or the network has no disparity estimator.
        """
        if not self.use_disparity:
            raise ValueError("this network was built without a disparity estimator")
        disparity = self._blur_features(self._padded(lq))[1]
        assert disparity is not None  # there is an estimator
        return disparity

    def _check(self, lq: Tensor) -> None:
        if lq.dim() != 4 or lq.shape[1] != self.in_channels:
            views = "centre, left, right" if self.dual_pixel else "RGB"
            raise ValueError(f"lq must be [B, {self.in_channels}, H, W] ({views}), got {list(lq.shape)}")
        if min(lq.shape[2:]) < self.multiple_of:
            raise ValueError(f"H and W must be at least {self.multiple_of}, got {list(lq.shape[2:])}")

    def _padded(self, lq: Tensor) -> Tensor:
        """`lq` with its last row and column repeated up to multiples of 8."""
        self._check(lq)
        return channels_last(pad_to_multiple(lq, self.multiple_of))

    def _blur_features(self, lq: Tensor) -> tuple[Tensor, Tensor | None]:
        """The filter encoder's features and the disparity map made of them, at 1/8 size."""
        if self.dual_pixel:
            views = torch.cat([lq[:, 6:9], lq[:, 3:6]], 1)  # the checkpoints expect right, left
        else:
            views = lq
        features = self.filter_encoder(views)[-1]
        return features, self.disparity_estimator(features) if self.use_disparity else None

    def _restore_in_parts(self, lq: Tensor) -> Tensor:
        """The unclipped result without gradients: nobody needs the filters afterwards, so a part of them is all that
        is ever held, and what was used is let go."""
        embedding = None
        if self.use_filters:
            embedding = self.filter_predictor.embed(*self._blur_features(lq))
        center = lq[:, :3]
        # Not `*skips, features`: under torch 2.11 torch.compile makes that a tuple, and skips are taken out of a list.
        skips = list(self.feature_extractor(center))
        features = skips.pop()
        if embedding is not None:
            by_parts = self._fac_by_channels if hasattr(self, "fac") else self._iac_by_steps
            features = by_parts(features, embedding)
            del embedding
        return self.reconstructor(features, skips).add_(center)

    def _iac_by_steps(self, features: Tensor, embedding: Tensor) -> Tensor:
        """IAC with each step's filters predicted when it is their turn: 1/num_steps of the memory, the same result."""
        iac, channels = self.iac, features.shape[1]
        features, embedding = features.contiguous(), embedding.contiguous()
        overwrite = not (torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export())
        held = None
        for step in range(iac.num_steps):
            filters = self.filter_predictor.step_filters(embedding, step, channels, iac.num_steps, held)
            held = filters if overwrite else None
            act = iac.act_last or step < iac.num_steps - 1
            features = iac_step(
                features, *filters, iac.taps, iac.negative_slope, act=act, isotropic=iac.isotropic, backend=iac.backend
            )
        return features

    def _fac_by_channels(self, features: Tensor, embedding: Tensor) -> Tensor:
        """FAC with its filters predicted for a sixteenth of the channels at a time."""
        count = features.shape[1]
        size = -(-count // 16)
        return torch.cat(
            [
                self.fac(part, self.filter_predictor.channel_filters(embedding, first, part.shape[1], count))
                for first, part in zip(range(0, count, size), features.split(size, 1))
            ],
            1,
        )

    def _filtered(self, features: Tensor, filters: Tensor) -> Tensor:
        """The features of the image, deblurred by all the filters at once."""
        features = features.contiguous()
        return self.fac(features, filters) if hasattr(self, "fac") else self.iac(features, filters)

    def _restore(self, lq: Tensor, filters: Tensor | None) -> Tensor:
        """The unclipped result."""
        center = lq[:, :3]
        # Not `*skips, features`: under torch 2.11 torch.compile makes that a tuple, and skips are taken out of a list.
        skips = list(self.feature_extractor(center))
        features = skips.pop()
        if filters is not None:
            features = self._filtered(features, filters)
        return center + self.reconstructor(features, skips)
