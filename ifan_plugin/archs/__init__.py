"""Networks: IFAN, the reblurring network that trains it, and those it is compared with."""

from ifan_plugin.archs.conventional_arch import DefocusDeconvolution, DMENetDeconvolution
from ifan_plugin.archs.convir_arch import ConvIR
from ifan_plugin.archs.dmenet_arch import DMENet
from ifan_plugin.archs.dpdnet_arch import DPDNet
from ifan_plugin.archs.gkmnet_arch import GKMNet
from ifan_plugin.archs.ifan_arch import IFAN
from ifan_plugin.archs.kpac_arch import KPAC
from ifan_plugin.archs.reblur_arch import ReblurNet

__all__ = [
    "IFAN",
    "KPAC",
    "ConvIR",
    "DMENet",
    "DMENetDeconvolution",
    "DPDNet",
    "DefocusDeconvolution",
    "GKMNet",
    "ReblurNet",
]
