"""Builds the compiled backends, fwdgrad_kernels._C and ._cuda. Metadata is in pyproject.toml.

csrc is free of torch, so one build serves every torch release; it needs a C++17 compiler and
pybind11's headers, of which torch brings some where there is no package. Where nvcc is found, the
CUDA kernels are built too: FWDGRAD_CUDA=1 insists on them, FWDGRAD_CUDA=0 skips them, and
TORCH_CUDA_ARCH_LIST names other architectures than the default ones ("8.6 9.0+PTX").
"""

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
CPU_SOURCES = [
    "csrc/bindings.cpp",
    *(f"csrc/cpu/{part}.cpp" for part in ("fill", "grid", "hadamard", "kernels")),
]
CUDA_SOURCES = [
    "csrc/cuda/bindings.cpp",
    *(f"csrc/cuda/{op}.cu" for op in ("accumulate", "draw", "expand", "place", "scale")),
    *(f"csrc/cuda/{op}.cu" for op in ("perturb", "perturb_features")),
]
# Machine code for these where nvcc knows them, and PTX of the first, from which the driver makes
# code for any later GPU.
ARCHITECTURES = "8.0+PTX 8.6 8.9 9.0 10.0 12.0"


def pybind11_headers() -> str:
    try:
        import pybind11

        return pybind11.get_include()
    except ImportError:
        torch = importlib.util.find_spec("torch")
        if torch is None or not torch.submodule_search_locations:
            raise RuntimeError("the build needs pybind11: pip install pybind11") from None
        return str(Path(torch.submodule_search_locations[0]) / "include")


def find_nvcc() -> str | None:
    homes = [os.environ.get(name) for name in ("CUDA_HOME", "CUDA_PATH")]
    folders = [str(Path(home) / "bin") for home in (*homes, "/usr/local/cuda") if home]
    return next(
        filter(None, (shutil.which("nvcc", path=path) for path in (folders[0], None, folders[-1]))),
        None,
    )


def architectures(nvcc: str) -> list[tuple[str, str]]:
    """(virtual, real) targets for -gencode: ("compute_90", "sm_90"); for PTX the first twice."""
    wanted = os.environ.get("TORCH_CUDA_ARCH_LIST", "").replace(";", " ").split()
    listed = subprocess.run([nvcc, "--list-gpu-arch"], capture_output=True, text=True, check=True)
    known = listed.stdout.split()
    targets = []
    for name in wanted or ARCHITECTURES.split():
        match = re.fullmatch(r"(\d+)\.(\d+[af]?)(\+PTX)?", name)
        if not match:
            raise RuntimeError(
                f"TORCH_CUDA_ARCH_LIST must be numbers such as '8.6 9.0+PTX', got {name!r}"
            )
        number = match[1] + match[2]
        if not wanted and f"compute_{number}" not in known:
            continue
        targets.append((f"compute_{number}", f"sm_{number}"))
        if match[3]:
            targets.append((f"compute_{number}", f"compute_{number}"))
    return targets


class BuildExt(build_ext):
    """Chooses flags by compiler, and builds CUDA sources by nvcc."""

    def build_extension(self, extension: Extension) -> None:
        if extension.name.endswith("_cuda"):
            return self.build_cuda(extension)
        if self.compiler.compiler_type == "msvc":
            extension.extra_compile_args = ["/std:c++17", "/O2", "/openmp"]
        else:
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
        super().build_extension(extension)

    def build_cuda(self, extension: Extension) -> None:
        setting = os.environ.get("FWDGRAD_CUDA", "")
        if setting not in ("", "0", "1"):
            raise RuntimeError(f"FWDGRAD_CUDA must be 0 or 1, got {setting!r}")
        nvcc = find_nvcc()
        if setting == "0" or nvcc is None:
            why = "FWDGRAD_CUDA=0" if setting == "0" else "no nvcc in CUDA_HOME or on the PATH"
            if setting == "1":
                raise RuntimeError(f"FWDGRAD_CUDA=1 asks for the CUDA kernels, but there is {why}")
            extension.optional = True
            print(f"fwdgrad_kernels: built for the CPU, without CUDA kernels ({why})")
            return
        try:
            self.compile_cuda(extension, nvcc)
        except (subprocess.CalledProcessError, OSError) as error:
            if setting == "1":
                raise
            extension.optional = True
            print(f"fwdgrad_kernels: built for the CPU, the CUDA kernels failed to build ({error})")

    def compile_cuda(self, extension: Extension, nvcc: str) -> None:
        targets = architectures(nvcc)
        listed = ", ".join(real.replace("compute_", "PTX ") for _, real in targets)
        listed = listed.replace("sm_", "")
        # Arithmetic is IEEE's but for the square root and quotient that distributions.h names.
        gencode = [f"-gencode=arch={virtual},code={real}" for virtual, real in targets]
        device = ["-std=c++17", "-O3", "--threads=0", "-Xcompiler=-fPIC,-fvisibility=hidden"]
        device += gencode
        linked = ["-cudart=static", "-Xlinker=--exclude-libs,ALL", *gencode]
        host = ["-std=c++17", "-O2", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra"]
        host += [f"-I{path}" for path in (*extension.include_dirs, *self.include_dirs)]
        host.append(f"-DFWDGRAD_CUDA_ARCHITECTURES='\"{listed}\"'")
        folder = Path(self.build_temp).resolve() / "cuda"
        folder.mkdir(parents=True, exist_ok=True)
        result = Path(self.get_ext_fullpath(extension.name)).resolve()
        result.parent.mkdir(parents=True, exist_ok=True)
        compiler = os.environ.get("CXX", "c++")
        rules = {
            ".cu": f"{nvcc} {' '.join(device)} -MD -MF $out.d -c $in -o $out",
            ".cpp": f"{compiler} {' '.join(host)} -MD -MF $out.d -c $in -o $out",
            # cudart linked statically: the module imports where there is no driver.
            ".so": f"{nvcc} -shared {' '.join(linked)} $in -o $out",
        }
        objects = {str(folder / (Path(s).name + ".o")): ROOT / s for s in extension.sources}
        steps = [(Path(source).suffix, [str(source)], out) for out, source in objects.items()]
        steps.append((".so", list(objects), str(result)))
        if shutil.which("ninja"):
            text = "".join(
                f"rule r{kind[1:]}\n  command = {command}\n"
                + ("" if kind == ".so" else "  depfile = $out.d\n  deps = gcc\n")
                for kind, command in rules.items()
            )
            text += "".join(f"build {out}: r{kind[1:]} {' '.join(i)}\n" for kind, i, out in steps)
            (folder / "build.ninja").write_text(text)
            # nvcc compiles for all architectures at once already.
            subprocess.run(["ninja", "-j2", "-C", str(folder)], check=True)
        else:
            for kind, inputs, out in steps:
                command = rules[kind].replace("$in", " ".join(inputs)).replace("$out", out)
                subprocess.run(command, shell=True, check=True)


HEADERS = sorted(os.path.relpath(path, ROOT) for path in (ROOT / "csrc").rglob("*.h"))
setup(
    ext_modules=[
        Extension(
            f"fwdgrad_kernels.{name}",
            sources,
            include_dirs=[pybind11_headers()],
            depends=HEADERS,
            language="c++",
        )
        for name, sources in (("_C", CPU_SOURCES), ("_cuda", CUDA_SOURCES))
    ],
    cmdclass={"build_ext": BuildExt},
)
