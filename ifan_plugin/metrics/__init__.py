"""Metrics of restored pictures: with ground truth under the `ifan` protocol, and without."""

from ifan_plugin.metrics.full_reference import MetricUnavailableError, lpips, mae, psnr, ssim
from ifan_plugin.metrics.no_reference import niqe, sharpness

__all__ = ["MetricUnavailableError", "lpips", "mae", "niqe", "psnr", "sharpness", "ssim"]
