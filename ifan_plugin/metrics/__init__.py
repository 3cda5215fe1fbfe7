"""Metrics of restored pictures: with ground truth under the `ifan` protocol, and without.

NIQE, which BasicSR computes, is :func:`ifan_plugin.host.metrics.niqe`.
"""

from ifan_plugin.metrics.full_reference import MetricUnavailableError, lpips, mae, psnr, ssim
from ifan_plugin.metrics.no_reference import sharpness

__all__ = ["MetricUnavailableError", "lpips", "mae", "psnr", "sharpness", "ssim"]
