"""What trainings add to the deblurring loss."""

from ifan_plugin.losses.defocus_loss import DefocusLoss, DefocusMapLoss
from ifan_plugin.losses.disparity_loss import DisparityLoss, area_downsample, warp_by_disparity
from ifan_plugin.losses.filter_bias_loss import FilterBiasLoss
from ifan_plugin.losses.frequency_loss import FrequencyLoss
from ifan_plugin.losses.reblur_loss import ReblurLoss

__all__ = [
    "DefocusLoss",
    "DefocusMapLoss",
    "DisparityLoss",
    "FilterBiasLoss",
    "FrequencyLoss",
    "ReblurLoss",
    "area_downsample",
    "warp_by_disparity",
]
