"""Packaging of rlpolicy; tool settings are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "rlpolicy" / "__init__.py").read_text()).group(1)

EXTRAS = {
    "mujoco": ["gymnasium[mujoco]>=1.1"],
    "hdf5": ["h5py>=3.8"],
    "wandb": ["wandb>=0.16"],
    "envpool": ["envpool>=1.2"],
    "ray": ["ray>=2.9"],
    "box2d": ["gymnasium[box2d]>=1.1"],
    "export": ["safetensors>=0.4", "onnx>=1.16", "onnxscript>=0.3", "onnxruntime>=1.18"],
    "atari": ["ale-py>=0.10", "opencv-python-headless>=4.5"],  # OpenCV: gymnasium's AtariPreprocessing resizes with it
    "pettingzoo": ["pettingzoo[classic]>=1.24", "mpe2>=1.0"],  # the particle environments have a package of their own
    "video": ["moviepy>=1.0", "pygame>=2.1"],  # gymnasium writes films with one, and draws many frames with the other
    "yaml": ["pyyaml>=6.0"],
    "plot": ["matplotlib>=3.7"],
    "cli": ["shtab>=1.6"],  # completion of commands in the shell
    "docs": [  # the site; the tutorials draw with matplotlib, and films of CartPole with pygame
        *("sphinx>=8.0", "myst-parser>=4.0", "myst-nb>=1.2", "furo>=2024.8", "nbclient>=0.10", "ipykernel>=6.29"),
        *("matplotlib>=3.8", "gymnasium[classic-control]>=1.1"),
    ],
    "test": ["pytest>=7.4", "pytest-cov>=4.1", "pytest-xdist>=3.2", "hypothesis>=6.90", "h5py>=3.8"],
}
EXTRAS["dev"] = [*EXTRAS["test"], "ruff>=0.6", "mypy>=1.11"]
OPTIONAL = (
    "mujoco", "box2d", "atari", "hdf5", "wandb", "envpool", "ray", "export", "video", "pettingzoo", "yaml", "plot",
    "cli",
)  # fmt: skip
EXTRAS["all"] = sorted({req for name in OPTIONAL for req in EXTRAS[name]})

setup(
    name="rlpolicy",
    version=VERSION,
    description="Policies, collectors and trainers for deep reinforcement learning in PyTorch",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    packages=find_packages(include=["rlpolicy", "rlpolicy.*"]),
    package_data={"rlpolicy": ["py.typed"], "rlpolicy.utils.fused": ["kernels.cpp"]},
    python_requires=">=3.11",
    install_requires=["torch>=2.6", "numpy", "gymnasium>=1.1", "tensorboard", "tqdm"],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["rlpolicy = rlpolicy.experiment.cli:main"]},
    classifiers=[
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
