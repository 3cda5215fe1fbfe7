"""SpandrelNet: any image-to-image network that the package spandrel knows, as an architecture of the host."""

from __future__ import annotations

import importlib
import inspect
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ifan_plugin import zoo
from ifan_plugin.common import foreign
from ifan_plugin.common.errors import UserError
from ifan_plugin.options.schema import check_call, nearest

if TYPE_CHECKING:
    from spandrel import Architecture, ArchRegistry, ModelDescriptor

_PREFIX = "network."
# What constructors of other people's networks raise on hyper-parameters that can't be.
_BAD_ARGUMENTS = (
    TypeError, ValueError, AssertionError, LookupError, AttributeError, ArithmeticError, RuntimeError,
    NotImplementedError,
)  # fmt: skip


class _Known(NamedTuple):
    """A network class, and what reads its checkpoints."""

    architecture: Architecture
    network_class: type[nn.Module]


class SpandrelNet(nn.Module):
    """A network of `spandrel` (NAFNet, SwinIR, Uformer, …; with `spandrel_extra_arches` also Restormer, MPRNet, …).

    Built from a checkpoint file, whose architecture and hyper-parameters are detected, or from the name of an
    architecture and the hyper-parameters of its class, with random weights. Its state dict has the architecture's own
    keys: files of its authors load into it, and files it is saved to open in spandrel.

    Files are read here, tensors alone, and only then given to spandrel. (Its own reader is restricted likewise, but
    takes `.pt` files for TorchScript programs first.)

    Args:
        path: a checkpoint (.pth, .safetensors, …): of the architecture's authors, or saved by our loops, which records
            what it was built with. Alone, or with `architecture` and `arguments`, which must then fit it.
        architecture: a network class of spandrel, such as NAFNet, or an architecture's id, where it has one class only.
        arguments: its hyper-parameters, as its class names them; the rest has the class's defaults.
        param_key: which weights of the file to take, where it has several: `params` or `params_ema`. Without it,
            spandrel's choice: `params_ema` if there.

    Attributes:
        multiple_of: sizes the network works at; `forward` pads others.
        in_channels: channels of `lq`.
        hyper_parameters: `architecture` and `arguments` that build this network again; they go into its checkpoints.
        network: the network itself, as spandrel built it.

    Raises:
        UserError: spandrel isn't installed; neither `path` nor `architecture`; an unknown architecture or argument; a
            file that can't be read, of no known architecture or of other hyper-parameters; a network that isn't one
            of image to RGB image of the same size (super-resolution, inpainting).
    """

    def __init__(
        self,
        path: str | None = None,
        architecture: str | None = None,
        arguments: dict[str, Any] | None = None,
        param_key: str | None = None,
    ) -> None:
        super().__init__()
        self.check_options({"path": path, "architecture": architecture, "arguments": arguments}, "SpandrelNet")
        registry = spandrel_registry()
        if path is None:
            found = _networks(registry)[architecture or ""]
            where = f"SpandrelNet: {architecture}"
            network = _construct(found.network_class, arguments or {}, f"{where}: arguments")
            described = _describe(found.architecture, network.state_dict(), where)
        else:
            path = where = str(Path(zoo.located(path)).expanduser())
            network, described = _load(registry, path, architecture, arguments or {}, param_key)
        _require_restoration(described, where)
        self.network = network.requires_grad_(True)
        self.in_channels: int = described.input_channels
        self.multiple_of: int = described.size_requirements.multiple_of
        self.hyper_parameters = {
            "architecture": type(network).__name__,
            "arguments": _recordable(_hyper_parameters(network)),
        }
        self._size = described.size_requirements
        # Not public, but the public call fixes evaluation mode and inference tensors, with which nothing trains.
        self._call: Callable[[nn.Module, Tensor], Tensor] = described._call_fn
        # An architecture's own way to be called may, and DRUNet's does, count on a batch of one picture.
        self._one_by_one = described._call_fn.__module__ != type(described).__module__
        self.register_state_dict_post_hook(_without_prefix)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_with_prefix)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_post_hook(_name_as_in_file)  # type: ignore[no-untyped-call]

    @classmethod
    def check_options(cls, options: Mapping[str, Any], where: str) -> None:
        """Check the constructor's arguments as far as names go, before anything is built.

        Raises:
            UserError: as the constructor.
        """
        path, architecture, arguments = (options.get(key) for key in ("path", "architecture", "arguments"))
        if path is None and architecture is None:
            raise UserError(f"{where}: give path (a checkpoint file), or architecture (and its arguments)")
        if path is not None and not Path(zoo.located(path)).expanduser().is_file():
            raise UserError(f"{where}: path: {zoo.not_found(path)}")
        if arguments is not None and architecture is None:
            raise UserError(f"{where}: arguments: need architecture, whose hyper-parameters they are")
        known = _networks(spandrel_registry())
        if architecture is not None and architecture not in known:
            more = "" if "Restormer" in known else " (there are more with pip install spandrel_extra_arches)"
            raise UserError(f"{where}: architecture: unknown '{architecture}'; {nearest(architecture, known)}{more}")
        if architecture is not None and arguments is not None:
            if not isinstance(arguments, Mapping):
                kind = type(arguments).__name__
                raise UserError(
                    f"{where}: arguments: must be a mapping of {architecture}'s hyper-parameters, not {kind}"
                )
            check_call(known[architecture].network_class, arguments, f"{where}: {architecture}: arguments")

    def forward(self, lq: Tensor) -> Tensor:
        """The restored image.

        Args:
            lq: [B, in_channels, H, W] in [0, 1], any size: padded inside by its last row and column up to what the
                network works at.

        Returns:
            [B, 3, H, W], in eval mode clipped to [0, 1], in training not.

        Raises:
            ValueError: another shape.
        """
        if lq.dim() != 4 or lq.shape[1] != self.in_channels or 0 in lq.shape[2:]:
            name = self.hyper_parameters["architecture"]
            raise ValueError(f"{name}: lq must be [B, {self.in_channels}, H, W], got {list(lq.shape)}")
        height, width = lq.shape[-2:]
        right, bottom = self._size.get_padding(width, height)
        padded = F.pad(lq, (0, right, 0, bottom), mode="replicate") if right or bottom else lq
        parts = padded.split(1) if self._one_by_one and len(padded) > 1 else [padded]
        restored = torch.cat([self._call(self.network, part) for part in parts])[..., :height, :width]
        return restored if self.training else restored.clamp(0, 1)


def spandrel_registry() -> ArchRegistry:
    """All architectures at hand: spandrel's, those of `spandrel_extra_arches` where installed, and ours (so that their
    files are told apart). A copy: spandrel's own registry stays as it is.

    Raises:
        UserError: spandrel isn't installed.
    """
    try:
        import spandrel
    except ImportError as error:
        raise UserError(
            f"SpandrelNet needs the package spandrel: pip install 'ifan_plugin[benchmark]' ({error})"
        ) from error
    from ifan_plugin.weights.spandrel import register

    registry = spandrel.MAIN_REGISTRY.copy()
    try:
        from spandrel_extra_arches import EXTRA_REGISTRY
    except ImportError:
        extra = []  # optional, and a name that only it knows is answered with where to get it
    else:
        extra = list(EXTRA_REGISTRY)
    registry.add(*extra, ignore_duplicates=True)
    register(registry)
    return registry


def _networks(registry: ArchRegistry) -> dict[str, _Known]:
    """Network class name -> class and architecture; so too the architecture's id, where it has one class only.

    Some have several classes (KBNet: KBNet_s, KBNet_l).
    """
    found: dict[str, _Known] = {}
    for support in registry:
        module = importlib.import_module(type(support.architecture).__module__)
        members = [getattr(module, name) for name in getattr(module, "__all__", ())]
        members = [each for each in members if inspect.isclass(each) and issubclass(each, nn.Module)]
        for member in members:
            found[member.__name__] = _Known(support.architecture, member)
        if len(members) == 1:
            found.setdefault(str(support.architecture.id), _Known(support.architecture, members[0]))
    return found


def _construct(network_class: type[nn.Module], arguments: Mapping[str, Any], where: str) -> nn.Module:
    try:
        return network_class(**arguments)
    except _BAD_ARGUMENTS as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{where}: {network_class.__name__} can't be built with them: {reason}") from error


def _describe(architecture: Architecture, params: Mapping[str, Tensor], where: str) -> ModelDescriptor:
    """What spandrel says of a network with these weights: scale, channels, sizes, how it is called."""
    try:
        return architecture.load(dict(params))
    except _BAD_ARGUMENTS as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{where}: spandrel finds no network of this kind with such weights: {reason}") from error


def _load(
    registry: ArchRegistry,
    path: str,
    architecture: str | None,
    arguments: Mapping[str, Any],
    param_key: str | None,
) -> tuple[nn.Module, ModelDescriptor]:
    import spandrel

    content = foreign.load(path)
    if param_key is not None:
        if not isinstance(content.get(param_key), dict):
            raise UserError(
                f"{path}: param_key: the file has no '{param_key}'; {nearest(param_key, list(content)[:20])}"
            )
        params = content[param_key]
    else:
        params = content
    params = spandrel.canonicalize_state_dict(params)
    if not params or not all(isinstance(value, Tensor) for value in params.values()):
        raise UserError(f"{path}: holds no weights alone that spandrel could read")
    known = _networks(registry)
    asked = None if architecture is None else known[architecture].network_class.__name__
    recorded = content.get("hyper_parameters")
    if isinstance(recorded, Mapping) and recorded.get("architecture") in known:
        found = known[recorded["architecture"]]
        network = _construct(found.network_class, recorded.get("arguments") or {}, path)
        _check_asked(path, asked, arguments, network)
        described = _describe(found.architecture, network.state_dict(), path)
        _fill(network, params, path)
        return network, described
    support, params = _detect(registry, params, path)
    if support is None:
        raise UserError(
            f"{path}: no architecture known to spandrel has such weights (the first: {next(iter(params))}); "
            f"{foreign.described(content)}"
        )
    if type(support.architecture).__module__.startswith("ifan_plugin."):
        name = support.architecture.id
        raise UserError(f"{path}: is a checkpoint of {name}: use type: {name}, and the file as its checkpoint")
    described = _describe(support.architecture, params, path)
    network = described.model
    _check_asked(path, asked, {}, network)
    if arguments:  # not all hyper-parameters show in the weights: those that were given stand
        network = _construct(type(network), {**_hyper_parameters(network), **arguments}, f"{path}: arguments")
        _fill(network, params, path)
    return network, described


def _detect(registry: ArchRegistry, params: dict[str, Tensor], path: str) -> tuple[Any, dict[str, Tensor]]:
    """The architecture that has such weights, or has them without the part that begins all names; None where none."""
    for start in ("", _common_start(params)):
        bare = {name.removeprefix(start): value for name, value in params.items()}
        support = next((each for each in registry.architectures("detection") if each.detect(bare)), None)
        if support is not None:
            if start:
                logging.getLogger("ifan_plugin").warning(f"{path}: '{start}' left out of the names")
            return support, bare
    return None, params


def _common_start(params: Mapping[str, Tensor]) -> str:
    """The attribute that all names begin with, such as ``model.``; empty where they have none in common."""
    starts = {name.partition(".")[0] for name in params}
    return f"{starts.pop()}." if len(starts) == 1 else ""


def _check_asked(path: str, asked: str | None, arguments: Mapping[str, Any], network: nn.Module) -> None:
    found = type(network).__name__
    if asked not in (None, found):
        raise UserError(f"{path}: is a {found}, but architecture: {asked} was asked for")
    for key, value in arguments.items():
        there = _hyper_parameters(network).get(key)
        if _plain(there) != _plain(value):
            raise UserError(f"{path}: {found}'s {key} is {there} in the checkpoint, but {value} was asked for")


def _hyper_parameters(network: nn.Module) -> Mapping[str, Any]:
    """What spandrel's own decorator notes of a network's construction."""
    return cast(Mapping[str, Any], network.hyperparameters)


def _fill(network: nn.Module, params: Mapping[str, Tensor], path: str) -> None:
    try:
        network.load_state_dict(params)
    except RuntimeError as error:
        lines = [" ".join(line.split()) for line in str(error).splitlines()[1:]]
        raise UserError(f"{path}: doesn't fit the {type(network).__name__} asked for: {lines[0][:200]}") from error


def _require_restoration(described: ModelDescriptor, where: str) -> None:
    import spandrel

    if not isinstance(described, spandrel.ImageModelDescriptor):
        raise UserError(f"{where}: fills masked regions (inpainting); only networks of image to image serve here")
    if described.scale != 1:
        raise UserError(f"{where}: enlarges pictures {described.scale} times; only networks of scale 1 serve here")
    if described.output_channels != 3:
        raise UserError(f"{where}: gives {described.output_channels} channels, not the 3 of a restored RGB picture")


def _plain(value: Any) -> Any:
    """Tuples as the lists that YAML gives."""
    return [_plain(each) for each in value] if isinstance(value, (list, tuple)) else value


def _recordable(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Those that are numbers, strings and lists of them, which a checkpoint may hold to be read without running code.

    The others are classes of layers, which option files can't give: they have the class's defaults.
    """

    def is_plain(value: Any) -> bool:
        if isinstance(value, list):
            return all(is_plain(each) for each in value)
        return value is None or type(value) in (bool, int, float, str)

    return {key: _plain(value) for key, value in arguments.items() if is_plain(_plain(value))}


# The adapter's own level doesn't show in state dicts. Functions, not methods: a copied adapter mustn't act on this one.


def _without_prefix(module: nn.Module, state_dict: dict[str, Any], prefix: str, local_metadata: Any) -> None:
    for key in [key for key in state_dict if key.startswith(prefix + _PREFIX)]:
        state_dict[prefix + key.removeprefix(prefix + _PREFIX)] = state_dict.pop(key)


def _with_prefix(module: nn.Module, state_dict: dict[str, Any], prefix: str, *unused: Any) -> None:
    for key in [key for key in state_dict if key.startswith(prefix)]:
        state_dict[prefix + _PREFIX + key.removeprefix(prefix)] = state_dict.pop(key)


def _name_as_in_file(module: nn.Module, found: Any) -> None:
    """Missing and unexpected keys without the adapter's level, if this is the module that is loaded."""
    for keys in found:
        keys[:] = [key.removeprefix(_PREFIX) for key in keys]
