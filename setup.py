"""Builds fwdgrad_kernels._C, the compiled backends. Metadata is in pyproject.toml.

csrc is free of torch, so the build needs a C++17 compiler and pybind11 and nothing else, and
one build serves every torch release.
"""

import os
import platform
import sys
from pathlib import Path

import pybind11
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
SOURCES = ["csrc/bindings.cpp", "csrc/cpu/fill.cpp", "csrc/cpu/kernels.cpp"]


class BuildExt(build_ext):
    """Chooses flags by compiler."""

    def build_extensions(self) -> None:
        for extension in self.extensions:
            if self.compiler.compiler_type == "msvc":
                extension.extra_compile_args = ["/std:c++17", "/O2", "/openmp"]
                continue
            # Not -ffast-math: NaN and infinity in x must come through, and sums keep their order.
            extension.extra_compile_args = [
                *("-std=c++17", "-O3", "-fvisibility=hidden", "-Wall", "-Wextra"),
                *("-fno-math-errno", "-fno-trapping-math", "-fwrapv"),
            ]
            if platform.machine() in ("x86_64", "AMD64"):
                extension.extra_compile_args.append("-mprefer-vector-width=512")
            if sys.platform != "darwin":  # Apple's clang has no OpenMP runtime
                extension.extra_compile_args.append("-fopenmp")
                extension.extra_link_args = ["-fopenmp"]
        super().build_extensions()


setup(
    ext_modules=[
        Extension(
            "fwdgrad_kernels._C",
            SOURCES,
            include_dirs=[pybind11.get_include()],
            depends=sorted(os.path.relpath(path, ROOT) for path in (ROOT / "csrc").rglob("*.h")),
            language="c++",
        )
    ],
    cmdclass={"build_ext": BuildExt},
)
