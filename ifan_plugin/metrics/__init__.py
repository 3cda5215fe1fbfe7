"""Float metrics of restored pictures, under the `ifan` protocol."""

from ifan_plugin.metrics.full_reference import MetricUnavailableError, lpips, mae, psnr, ssim

__all__ = ["MetricUnavailableError", "lpips", "mae", "psnr", "ssim"]
