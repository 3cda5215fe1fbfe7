"""Packaging. The compiled operator is optional: without it the package is pure Python and runs from its twin.

Environment:
    IFAN_NO_EXT=1             compile nothing
    IFAN_NO_CUDA=1            compile for the CPU alone
    IFAN_REQUIRE_EXT=1        fail where the CPU operator can't be compiled (default: say why and go on without)
    FORCE_CUDA=1              fail where the CUDA operator can't be compiled (default: it is, where a toolkit is found)
    CUDA_HOME                 the toolkit (default: the one whose nvcc is on the PATH, or /usr/local/cuda)
    TORCH_CUDA_ARCH_LIST      GPUs to compile for (default: those of this machine; without one, 8.0 and 9.0)
    MAX_JOBS                  compilers at once (default: 2)
Compiling needs the torch it will run with, 2.10 or later: pip install --no-build-isolation.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"', (HERE / "ifan_plugin" / "__init__.py").read_text(), re.M)[1]
SOURCES = "ifan_plugin/ops/csrc"
OLDEST_TORCH = (2, 10)
STABLE_ABI = "-DTORCH_TARGET_VERSION=0x020a000000000000ULL"

EXTRAS = {
    "demo": ["gradio>=5.50"],
    "raw": ["rawpy>=0.21"],
    "mm": ["mmengine>=0.10.7", "mmcv-lite>=2.2.0"],
    "benchmark": ["lpips>=0.1.4", "safetensors", "spandrel>=0.4"],
    "onnx": ["onnx", "onnxscript", "onnxruntime"],
    "dev": ["onnx", "onnxscript", "onnxruntime", "pytest>=8", "pytest-timeout>=2", "ruff>=0.8", "safetensors", "wheel"],
}
EXTRAS["all"] = sorted({requirement for extra in EXTRAS.values() for requirement in extra})


def wanted(name: str) -> bool:
    """Whether an environment variable says yes."""
    return os.environ.get(name, "0").lower() not in ("", "0", "false", "no", "off")


def tell(message: str) -> None:
    sys.stderr.write(f"ifan_plugin: {message}\n")


def go_without(what: str, reason: str, required: bool) -> None:
    """Say that something isn't compiled, or stop where the user demanded it."""
    if required:
        raise SystemExit(f"ifan_plugin: {what} can't be compiled: {reason}")
    tell(f"{what} isn't compiled: {reason}")


def no_extension() -> str | None:
    """Why nothing at all can be compiled, or None."""
    try:
        import torch
    except ImportError as error:
        return f"torch can't be imported ({error}); to compile: pip install --no-build-isolation"
    found = tuple(int(number) for number in re.findall(r"\d+", torch.__version__)[:2])
    if found < OLDEST_TORCH:
        return f"it needs torch {OLDEST_TORCH[0]}.{OLDEST_TORCH[1]} or later, this is {torch.__version__}"
    compiler = os.environ.get("CXX", "cl" if sys.platform == "win32" else "c++").split()[0]
    if shutil.which(compiler) is None and shutil.which("g++") is None:
        return f"no C++ compiler found (tried {compiler}, g++)"
    return None


def find_toolkit() -> tuple[Path | None, str]:
    """The CUDA toolkit's folder, or None and the reason. `nvcc` on the PATH may be a wrapper: it is asked."""
    named = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    if named:
        if is_toolkit(Path(named)):
            return Path(named), ""
        return None, f"CUDA_HOME={named} has no bin/nvcc and include/cuda_runtime.h"
    candidates = []
    nvcc = shutil.which("nvcc")
    if nvcc:
        candidates += [Path(nvcc).resolve().parents[1], *toolkit_of(nvcc)]
    candidates.append(Path("/usr/local/cuda"))
    for home in candidates:
        if is_toolkit(home):
            return home.resolve(), ""
    return None, "no CUDA toolkit found (nvcc and its headers); set CUDA_HOME"


def toolkit_of(nvcc: str) -> list[Path]:
    """The folder that nvcc itself uses, as its dry run prints it."""
    try:
        shown = subprocess.run([nvcc, "--dryrun", "-x", "cu", os.devnull], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return []
    found = re.search(r"^#\$ TOP=(.+)$", shown.stderr, re.M)
    return [Path(found[1].strip())] if found else []


def is_toolkit(home: Path) -> bool:
    has_nvcc = any((home / "bin" / name).is_file() for name in ("nvcc", "nvcc.exe"))
    return has_nvcc and (home / "include" / "cuda_runtime.h").is_file()


def no_cuda() -> str | None:
    """Why the CUDA operator can't be compiled, or None; then the environment is set for torch's build helper."""
    import torch

    if wanted("IFAN_NO_CUDA"):
        return "IFAN_NO_CUDA is set"
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    if not (HERE / SOURCES / "pytorch" / "cuda" / "iac_cuda.cu").is_file():
        return "its source isn't in this tree"
    home, reason = find_toolkit()
    if home is None:
        return reason
    # Before torch.utils.cpp_extension is imported, which reads it.
    os.environ["CUDA_HOME"] = str(home)
    if not os.environ.get("TORCH_CUDA_ARCH_LIST") and not torch.cuda.is_available():
        os.environ["TORCH_CUDA_ARCH_LIST"] = "8.0;9.0"
    return None


def extensions() -> dict:
    """`setup`'s arguments for what can be compiled here."""
    if wanted("IFAN_NO_EXT"):
        tell("nothing is compiled: IFAN_NO_EXT is set")
        return {}
    need_cuda, need_cpu = wanted("FORCE_CUDA"), wanted("IFAN_REQUIRE_EXT") or wanted("FORCE_CUDA")
    reason = no_extension()
    if reason:
        go_without("the IAC operator", reason, need_cpu)
        return {}
    reason = no_cuda()
    if reason:
        go_without("the IAC operator for CUDA", reason, need_cuda)
    with_cuda = reason is None

    from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension

    os.environ.setdefault("MAX_JOBS", "2")
    # Without traps a product may be computed that a comparison then drops: the activation is vectorised without masks.
    optimise = (
        ["/O2", "/std:c++17"]
        if sys.platform == "win32"
        else ["-O3", "-std=c++17", "-fno-trapping-math", "-fvisibility=hidden", "-g0"]
    )
    modules = [
        CppExtension(
            "ifan_plugin._C",
            [f"{SOURCES}/pytorch/iac.cpp", f"{SOURCES}/pytorch/cpu/iac_cpu.cpp"],
            extra_compile_args={"cxx": [*optimise, STABLE_ABI]},
            py_limited_api=True,
            optional=not need_cpu,
        )
    ]
    if with_cuda:
        modules.append(
            CUDAExtension(
                "ifan_plugin._C_cuda",
                [f"{SOURCES}/pytorch/cuda/iac_cuda.cu"],
                extra_compile_args={
                    "cxx": [*optimise, STABLE_ABI, "-DUSE_CUDA"],
                    "nvcc": ["-O3", "-std=c++17", STABLE_ABI, "-DUSE_CUDA"],
                },
                py_limited_api=True,
                optional=not need_cuda,
            )
        )

    class BuildOptional(BuildExtension):
        """A compiler that fails takes only its own extension away, unless that was demanded."""

        def build_extensions(self) -> None:
            # Before anything is compiled torch looks at the compiler and the toolkit, and may raise.
            while self.extensions:
                try:
                    return super().build_extensions()
                except Exception as error:
                    if not self.extensions[-1].optional:
                        raise
                    go_without(self.extensions.pop().name, f"{type(error).__name__}: {error}", required=False)

        def build_extension(self, ext) -> None:
            try:
                super().build_extension(ext)
            except Exception as error:
                if not ext.optional:
                    raise
                go_without(ext.name, f"{type(error).__name__}: {error}", required=False)

        def get_export_symbols(self, ext) -> list[str]:
            return []  # libraries that register operators, not Python modules: no PyInit function

    return {
        "ext_modules": modules,
        "cmdclass": {"build_ext": BuildOptional},
        "options": {"bdist_wheel": {"py_limited_api": "cp310"}},
    }


setup(
    name="ifan_plugin",
    version=VERSION,
    description="IFAN single-image defocus deblurring (CVPR 2021) as a plug-in for BasicSR and mmengine",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["ifan_plugin", "ifan_plugin.*"]),
    package_data={"ifan_plugin.benchmark": ["page.html", "page.css", "page.js", "published.json"]},
    install_requires=[
        "basicsr==1.4.2",
        "torch>=2.6",
        "torchvision>=0.21",
        "lmdb",
        "numpy",
        "opencv-python",
        "addict",
        "scikit-image",
        "scipy",
        "pillow>=10",
        "tifffile",
        "pyyaml",
        "tqdm",
    ],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["basicsr = ifan_plugin.cli:main"]},
    **extensions(),
)
