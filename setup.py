"""Packaging. The compiled operator is optional: without it the package is pure Python and runs from its twin."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"', (HERE / "ifan_plugin" / "__init__.py").read_text(), re.M)[1]

EXTRAS = {
    "mm": ["mmengine>=0.10.7", "mmcv-lite>=2.2.0"],
    "benchmark": ["lpips>=0.1.4"],
    "dev": ["pytest>=8", "pytest-timeout>=2", "ruff>=0.8", "wheel"],
}
EXTRAS["all"] = sorted({requirement for extra in EXTRAS.values() for requirement in extra})

setup(
    name="ifan_plugin",
    version=VERSION,
    description="IFAN single-image defocus deblurring (CVPR 2021) as a plug-in for BasicSR and mmengine",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["ifan_plugin", "ifan_plugin.*"]),
    install_requires=[
        "basicsr==1.4.2",
        "torch>=2.6",
        "torchvision>=0.21",
        "lmdb",
        "numpy",
        "opencv-python",
        "addict",
        "scikit-image",
        "pyyaml",
        "tqdm",
    ],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["basicsr = ifan_plugin.cli:main"]},
)
