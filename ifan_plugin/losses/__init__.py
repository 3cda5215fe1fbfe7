"""What IFAN's training adds to the deblurring loss."""

from ifan_plugin.losses.disparity_loss import DisparityLoss, area_downsample, warp_by_disparity
from ifan_plugin.losses.reblur_loss import ReblurLoss

__all__ = ["DisparityLoss", "ReblurLoss", "area_downsample", "warp_by_disparity"]
