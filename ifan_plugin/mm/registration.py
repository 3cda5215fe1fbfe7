"""Which class stands in which of mmengine's registries, and under which name."""

from __future__ import annotations

from mmengine import registry
from mmengine.registry import Registry

from ifan_plugin.archs import IFAN, KPAC, ConvIR, DPDNet, GKMNet, ReblurNet
from ifan_plugin.common.errors import UserError
from ifan_plugin.host import optimizers
from ifan_plugin.losses import DefocusLoss, DisparityLoss, FilterBiasLoss, FrequencyLoss, ReblurLoss
from ifan_plugin.metrics.lpips_loss import LPIPSLoss
from ifan_plugin.mm import (
    checkpoints,
    data,
    distributed,
    hooks,
    loops,
    metrics,
    model,
    optim,
    pictures,
    preprocess,
    sampler,
    stopping,
)
from ifan_plugin.ops import IAC
from ifan_plugin.options.schema import nearest


def register_all(scope: str = "mmengine") -> None:
    """Put the package's classes into mmengine's registries under their own names. Calling it again changes nothing.

    In the root registries they are found from every scope (``default_scope = "mmagic"``, say), unless that scope has a
    class of the same name, which none of the OpenMMLab packages has.

    Args:
        scope: whose registries; those below mmengine's root exist once their package has been imported.

    Raises:
        UserError: there is no such scope, or another package's class stands under one of the names already.
    """
    for root, members in _members():
        target = _of_scope(root, scope)
        for name, member in members.items():
            target.import_from_location()
            standing = target.module_dict.get(name)
            if standing is None:
                target.register_module(name=name, module=member)
            elif standing is not member:
                raise UserError(
                    f"mmengine's registry '{target.name}' (scope {scope}) has a class '{name}' already, of "
                    f"{standing.__module__}: ifan_plugin.mm can't be used beside it"
                )


def _of_scope(root: Registry, scope: str) -> Registry:
    if scope == root.scope:
        return root
    if scope not in root.children:
        raise UserError(f"register_all: unknown scope '{scope}'; {nearest(scope, {root.scope, *root.children})}")
    return root.children[scope]


def _members() -> list[tuple[Registry, dict[str, type]]]:
    """Registry -> name -> class. Imported here, so that this module can be read without loading them all."""
    groups = (
        (
            registry.MODELS,
            (
                IFAN, ReblurNet, ConvIR, DPDNet, GKMNet, KPAC, IAC, DisparityLoss, DefocusLoss, ReblurLoss,
                FilterBiasLoss, FrequencyLoss, LPIPSLoss,
                model.PixelLoss, model.IFANRestorer, preprocess.RestorationPreprocessor,
            ),
        ),
        (registry.DATASETS, (data.DualPixelDataset, data.SimulatedDualPixelDataset)),
        (registry.TRANSFORMS, (data.AugmentDefocus, data.PackRestoration)),
        (registry.DATA_SAMPLERS, (sampler.EpochSampler,)),
        (registry.METRICS, (metrics.RestorationMetrics,)),
        (registry.LOOPS, (loops.ResumableTrainLoop,)),
        (
            registry.HOOKS,
            (
                hooks.AsideCheckpointHook, hooks.BasicSREMAHook, hooks.FiniteGradientHook, hooks.ProgressBarHook,
                hooks.ThroughputHook, optim.ScheduleFreeHook,
                pictures.RestorationVisualizationHook, checkpoints.CheckpointLoaderHook, stopping.StopHook,
            ),
        ),
        (registry.OPTIM_WRAPPERS, (optim.BF16OptimWrapper,)),
        (registry.PARAM_SCHEDULERS, (optim.WarmupCosineRestartLR,)),
        (registry.MODEL_WRAPPERS, (distributed.AnyDeviceDistributedDataParallel,)),
    )  # fmt: skip
    found: list[tuple[Registry, dict[str, type]]] = [
        (target, {member.__name__: member for member in members}) for target, members in groups
    ]
    registry.OPTIMIZERS.import_from_location()  # mmengine's own names are its own
    others: dict[str, type] = {name: kind for name, kind in optimizers.of_library().items() if _is_free(name, kind)}
    return [*found, (registry.OPTIMIZERS, others)]


def _is_free(name: str, kind: type) -> bool:
    return registry.OPTIMIZERS.module_dict.get(name) in (None, kind)
