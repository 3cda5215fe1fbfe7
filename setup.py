"""What pyproject.toml can't say: the compiled operator, the recipes' place in the wheel, links of the README.

Environment:
    IFAN_NO_EXT=1             compile nothing; without it an installation fails where the CPU operator can't be compiled
    IFAN_NO_CUDA=1            compile for the CPU alone
    FORCE_CUDA=1              fail where the CUDA operator can't be compiled (default: it is, where a toolkit is found)
    CUDA_HOME                 the toolkit (default: the one whose nvcc is on the PATH, or /usr/local/cuda)
    TORCH_CUDA_ARCH_LIST      GPUs to compile for (default: those of this machine; without one, 8.0 and 9.0)
    MAX_JOBS                  compilers at once (default: 2)
    IFAN_PROJECT_URL          where the project is published: the README's relative links in the metadata start there
Compiling needs torch 2.10 or later. pip fetches it for the build; where it is installed already, pip install
--no-build-isolation uses that one, whose CUDA should be the toolkit's.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
SOURCES = "ifan_plugin/ops/csrc"
OLDEST_TORCH = (2, 10)
STABLE_ABI = "-DTORCH_TARGET_VERSION=0x020a000000000000ULL"
WITHOUT = (
    "install a C++ compiler (g++, or one named by CXX), or set IFAN_NO_EXT=1 to go without: the operator then runs"
    " from PyTorch, several times slower"
)


def wanted(name: str) -> bool:
    """Whether an environment variable says yes."""
    return os.environ.get(name, "0").lower() not in ("", "0", "false", "no", "off")


def tell(message: str) -> None:
    sys.stderr.write(f"ifan_plugin: {message}\n")


def go_without(what: str, reason: str, required: bool) -> None:
    """Say that something isn't compiled, or stop: pip hides what a build that succeeds says."""
    if required:
        raise SystemExit(f"ifan_plugin: {what} can't be compiled: {reason}; {WITHOUT}")
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
    compiler = os.environ.get("CXX", "cl" if sys.platform == "win32" else "g++").split()[0]
    if shutil.which(compiler) is None:
        return f"no C++ compiler found (tried {compiler})"
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


def extensions() -> dict:  # noqa: C901 (one build a branch)
    """`setup`'s arguments for what can be compiled here."""
    if wanted("IFAN_NO_EXT"):
        tell("nothing is compiled: IFAN_NO_EXT is set")
        return {}
    need_cuda = wanted("FORCE_CUDA")
    reason = no_extension()
    if reason:
        go_without("the IAC operator", reason, required=True)
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
        )
    ]
    if with_cuda:
        modules.append(
            CUDAExtension(
                "ifan_plugin._C_cuda",
                [f"{SOURCES}/pytorch/cuda/{name}" for name in ("iac_cuda.cu", "epilogue_cuda.cu")],
                extra_compile_args={
                    "cxx": [*optimise, STABLE_ABI, "-DUSE_CUDA"],
                    "nvcc": ["-O3", "-std=c++17", STABLE_ABI, "-DUSE_CUDA"],
                },
                py_limited_api=True,
                optional=not need_cuda,
            )
        )

    class BuildOptional(BuildExtension):
        """A compiler that fails takes the CUDA extension away, unless that was demanded; the CPU's must be there."""

        def build_extensions(self) -> None:
            # Before anything is compiled torch looks at the compiler and the toolkit, and may raise.
            while self.extensions:
                try:
                    return super().build_extensions()
                except Exception as error:
                    if not self.extensions[-1].optional:
                        tell(f"the IAC operator can't be compiled; {WITHOUT}")
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


class BuildWithRecipes(build_py):
    """Copies the option files into the wheel, as `ifan_plugin/recipes`; a checkout's are read where they are."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib) / "ifan_plugin" / "recipes"
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(HERE / "options", target, ignore=shutil.ignore_patterns("__pycache__"))


def readme() -> str:
    """README.md for a package index, which can't follow relative links: made absolute, or taken away."""
    text = (HERE / "README.md").read_text(encoding="utf-8")
    home = os.environ.get("IFAN_PROJECT_URL", "").rstrip("/")
    picture, link = r"!\[([^\]]*)\]\((?!https?:)([^)]+)\)\n?", r"(?<!!)\[([^\]]*)\]\((?!https?:|#)([^)]+)\)"
    if home:
        text = re.sub(picture, lambda found: f"![{found[1]}]({home}/raw/HEAD/{found[2]})\n", text)
        return re.sub(link, lambda found: f"[{found[1]}]({home}/blob/HEAD/{found[2]})", text)
    return re.sub(link, r"\1", re.sub(picture, "", text))


built = extensions()
setup(
    long_description=readme(),
    long_description_content_type="text/markdown",
    **{**built, "cmdclass": {"build_py": BuildWithRecipes, **built.get("cmdclass", {})}},
)
