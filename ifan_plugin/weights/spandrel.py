"""IFAN and DPDNet for the package spandrel: tools built on it then open the authors' and our checkpoints.

    import ifan_plugin.weights.spandrel, spandrel
    ifan_plugin.weights.spandrel.register()
    restore = spandrel.ModelLoader().load_from_file("IFAN.pth").eval()
    sharp = restore(blurred)  # [1, 3, H, W] in [0, 1], any size

spandrel's loader takes the suffixes .pth, .pt, .ckpt and .safetensors: give the authors' `.pytorch` files another
name, or read them with :func:`load_file`. It hands over the weights alone, without the hyper-parameters recorded
beside them, so a file in this package's names is taken for separable filters of 3 taps, and the authors' names stand
for isotropic ones of 3 taps. Where that is wrong (a network trained further with `isotropic: true`), use
:func:`load_file`, which reads what the file records.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spandrel import (
    MAIN_REGISTRY,
    Architecture,
    ArchRegistry,
    ArchSupport,
    ImageModelDescriptor,
    SizeRequirements,
    canonicalize_state_dict,
)
from torch import Tensor

from ifan_plugin.archs.dpdnet_arch import DPDNet as _DPDNet
from ifan_plugin.archs.ifan_arch import IFAN as _IFAN
from ifan_plugin.common import foreign
from ifan_plugin.common.errors import UserError
from ifan_plugin.weights import official

logger = logging.getLogger("ifan_plugin")


class IFANArchitecture(Architecture[_IFAN]):
    """Single and dual-pixel IFAN in the authors' names and in ours; input_channels 9 (centre, left, right) if dual."""

    def __init__(self) -> None:
        super().__init__(id="IFAN", detect=_is_ifan)

    def load(self, state_dict: Mapping[str, Any]) -> ImageModelDescriptor[_IFAN]:
        """The network with these weights.

        Raises:
            UserError: keys or shapes that no IFAN has.
        """
        if official.is_official(state_dict):
            return self.describe(*official.from_official(state_dict, reblur=False)[:2])
        arguments = official.infer_ifan_kwargs(state_dict)
        if arguments["use_filters"] and "fac_taps" not in arguments:
            logger.warning(
                "spandrel hands over an IFAN without its hyper-parameters: separable filters of 3 taps are assumed; "
                "ifan_plugin.weights.spandrel.load_file reads what the file records."
            )
        return self.describe(arguments, state_dict)

    def describe(self, arguments: Mapping[str, Any], params: Mapping[str, Tensor]) -> ImageModelDescriptor[_IFAN]:
        """A descriptor of the network with these hyper-parameters and weights (our names)."""
        network = _IFAN(**arguments)
        built = network.hyper_parameters
        tags = [f"{built['width']}ch"]
        if built["use_filters"]:
            steps = f"N={built['num_steps']}"
            tags.append(steps if built["filter_type"] == "iac" else f"FAC {built['fac_taps']}x{built['fac_taps']}")
            tags += ["isotropic"] if built["isotropic"] else []
        tags += ["dual-pixel"] if built["dual_pixel"] else []
        return _descriptor(self, network, params, tags)


class DPDNetArchitecture(Architecture[_DPDNet]):
    """DPDNet in our names; input_channels 6 (left, right) if dual. The authors' files are Keras's, not PyTorch's."""

    def __init__(self) -> None:
        super().__init__(id="DPDNet", detect=_is_dpdnet)

    def load(self, state_dict: Mapping[str, Any]) -> ImageModelDescriptor[_DPDNet]:
        """The network with these weights."""
        width, in_channels = state_dict["encoder.0.0.weight"].shape[:2]
        return self.describe({"in_channels": in_channels, "width": width}, state_dict)

    def describe(self, arguments: Mapping[str, Any], params: Mapping[str, Tensor]) -> ImageModelDescriptor[_DPDNet]:
        """A descriptor of the network with these hyper-parameters and weights."""
        network = _DPDNet(**arguments)
        tags = [f"{arguments['width']}ch"] + (["dual-pixel"] if network.in_channels == 6 else [])
        return _descriptor(self, network, params, tags)


def register(registry: ArchRegistry = MAIN_REGISTRY) -> list[ArchSupport]:
    """Let `registry` (without one: all of spandrel's loaders) know IFAN and DPDNet. Safe to call again.

    Returns:
        What was added: nothing where both were known.
    """
    ours = [ArchSupport.from_architecture(each) for each in (IFANArchitecture(), DPDNetArchitecture())]
    added: list[ArchSupport] = registry.add(*ours, ignore_duplicates=True)
    return added


def load_file(path: str | Path) -> ImageModelDescriptor:
    """Read a checkpoint of IFAN or DPDNet, of any suffix, with the hyper-parameters it records.

    Args:
        path: one of the authors' files, or of ours (averaged weights, `params_ema`, if there are any).

    Returns:
        spandrel's descriptor of the network, on the CPU.

    Raises:
        UserError: not readable, or neither IFAN nor DPDNet.
    """
    content = foreign.load(path)
    params = canonicalize_state_dict(dict(content))
    recorded = content.get("hyper_parameters")
    try:
        for architecture in (IFANArchitecture(), DPDNetArchitecture()):
            if architecture.detect(params):
                if isinstance(recorded, Mapping) and not official.is_official(params):
                    return architecture.describe(recorded, params)
                return architecture.load(params)
    except (RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"{path}: weights and hyper-parameters don't fit: {' '.join(str(error).split())}") from error
    raise UserError(f"{path}: neither a checkpoint of IFAN nor one of DPDNet; {foreign.described(content)}")


def _is_ifan(state_dict: Mapping[str, Any]) -> bool:
    ours = {"feature_extractor.level1.0.0.weight", "reconstructor.to_image.0.weight"}
    return ours <= state_dict.keys() or official.is_official(state_dict)


def _is_dpdnet(state_dict: Mapping[str, Any]) -> bool:
    keys = {"encoder.0.0.weight", "bottleneck.2.weight", "up.3.weight", "decoder.3.2.weight", "to_image.2.weight"}
    return keys <= state_dict.keys()


def _descriptor(architecture: Any, network: Any, params: Mapping[str, Tensor], tags: list[str]) -> ImageModelDescriptor:
    return ImageModelDescriptor(
        network,
        dict(params),
        architecture=architecture,
        purpose="Restoration",
        tags=tags,
        supports_half=True,
        supports_bfloat16=True,
        scale=1,
        input_channels=network.in_channels,
        output_channels=3,
        size_requirements=SizeRequirements(minimum=network.multiple_of, multiple_of=network.multiple_of),
    )
