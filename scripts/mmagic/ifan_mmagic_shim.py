"""What MMagic 1.2.0 needs to be importable beside today's torch, numpy and mmcv-lite. Each mend has its reason.

``scripts/mmagic_env.sh`` copies this file into the environment it builds, with a ``.pth`` file that imports it whenever
that environment's Python starts. Then it only watches imports: nothing happens until ``mmagic`` is imported, mends of
other packages last no longer than the import that wants them, and no file of MMagic is changed. IFAN's package itself
doesn't use it.
"""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from types import ModuleType


@contextlib.contextmanager
def older_mmcv() -> Iterator[None]:
    """``mmagic/__init__.py`` refuses mmcv 2.2.0 and later by its version; what it uses of mmcv hasn't changed there."""
    import mmcv

    version, mmcv.__version__ = mmcv.__version__, "2.1.0"
    try:
        yield
    finally:
        mmcv.__version__ = version


@contextlib.contextmanager
def numpy_bool8() -> Iterator[None]:
    """``mmagic/utils/trans_utils.py`` has ``np.bool8`` in a table; numpy 2 dropped that alias of ``np.bool_``."""
    import numpy

    if hasattr(numpy, "bool8"):
        yield
        return
    numpy.bool8 = numpy.bool_
    try:
        yield
    finally:
        del numpy.bool8


@contextlib.contextmanager
def empty_diffusers() -> Iterator[None]:
    """``mmagic/models/archs/__init__.py`` unpacks a pair that is None where diffusers isn't installed.

    An empty stand-in makes the pair two empty lists; it is gone again before anybody else could take it for real.
    """
    if importlib.util.find_spec("diffusers") is not None:
        yield
        return
    package = ModuleType("diffusers")
    package.models, package.pipelines = ModuleType("diffusers.models"), ModuleType("diffusers.pipelines")
    sys.modules["diffusers"] = package
    try:
        yield
    finally:
        del sys.modules["diffusers"]


MENDS: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "mmagic": older_mmcv,
    "mmagic.utils.trans_utils": numpy_bool8,
    "mmagic.models.archs": empty_diffusers,
}
"""Module of MMagic -> what is in place while it is imported."""

STUBS: dict[str, tuple[tuple[str, ...], str]] = {
    "mmagic.models.editors": (
        (),
        "its __init__ imports every editor, and some need mmcv's compiled operators, diffusers or transformers",
    ),
    "mmagic.models.archs.attention_injection": (
        ("AttentionInjection",),
        "it needs diffusers, as of 2023",
    ),
    "mmagic.datasets.transforms.albu_function": (
        ("AlbuCorruptFunction", "PairedAlbuTransForms"),
        "it needs albumentations",
    ),
}
"""Module of MMagic -> the names that are asked of it, and why it can't be imported. Using a name raises ImportError."""


class MendedLoader(importlib.machinery.SourceFileLoader):
    """Runs a module of MMagic with its mend in place."""

    def exec_module(self, module: ModuleType) -> None:
        with MENDS[module.__name__]():
            super().exec_module(module)


class StubLoader(importlib.abc.Loader):
    """Makes a module whose classes say why they can't be used. A package's own submodules can still be imported."""

    def exec_module(self, module: ModuleType) -> None:
        names, reason = STUBS[module.__name__]
        module.__doc__ = f"Replaced by {__name__}: {reason}."
        module.__all__ = list(names)
        for name in names:
            setattr(module, name, unusable(name, module.__name__, reason))


def unusable(name: str, module: str, reason: str) -> type:
    """A class that raises ImportError with the reason when one makes an instance."""

    def refuse(self: object, *_: object, **__: object) -> None:
        raise ImportError(f"{module}.{name} isn't available in this environment: {reason}")

    return type(name, (), {"__init__": refuse, "__module__": module})


class MMagicFinder(importlib.abc.MetaPathFinder):
    """Sees to the modules named in MENDS and STUBS; all others are found as ever."""

    def find_spec(
        self, fullname: str, path: object = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in MENDS and fullname not in STUBS:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.origin is None:
            return None
        if fullname in STUBS:
            stub = importlib.machinery.ModuleSpec(fullname, StubLoader(), origin=spec.origin)
            stub.submodule_search_locations = spec.submodule_search_locations
            return stub
        spec.loader = MendedLoader(fullname, spec.origin)
        return spec


def install() -> None:
    """Watch the imports from now on. Calling it again changes nothing."""
    if not any(isinstance(finder, MMagicFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, MMagicFinder())


install()
