"""The GPU backends, where there is no GPU too: Triton's interpreter, and csrc/cuda built as C++."""

import dataclasses
import importlib.util
import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest
import torch

from fwdgrad_kernels import Grid, Labels, cuda
from fwdgrad_kernels.testing import CASES, case_id, linear

ROOT = Path(__file__).parents[2]
ON_CPU = Path(__file__).parent / "cuda_on_cpu"
REAL = torch.cuda.is_available()
DEVICE = "cuda" if REAL else "cpu"
BACKENDS = ("cuda", "triton")
EVERY = (*BACKENDS, "cpu", "reference")
SIGNS = ("rademacher", "hadamard")
# Triton's interpreter takes about 10 ms a program, and more for a grid: one case of each kind. What
# goes over the elements reads draws of features from a table: one of these kinds in turn.
FEATURE_KINDS = ("hadamard", "normal", "cauchy")
FEW = ("7", "1025", "2500", "3x17x19", "2x3x5x33", "37x60", "3x50", "5x9x11", "5x7x9")
FEW += ("2x9x1", "2x40x64")


def marks_of(values):
    """Of a test with these parameters: slow, where one is a backend without its GPU."""
    return pytest.mark.slow if not REAL and any(name in values for name in BACKENDS) else ()


def marked(backends):
    """Backends as parameters."""
    return [pytest.param(name, marks=marks_of([name])) for name in backends]


def on_every_backend(cases, turn):
    """Parametrises a test by (any_backend, case); Triton's interpreter has each third case."""
    rows = [
        pytest.param(name, case, id=f"{name}-{case_id(case)}", marks=marks_of([name]))
        for number, case in enumerate(cases)
        for name in EVERY
        if REAL or name != "triton" or number % 3 == turn
    ]
    return pytest.mark.parametrize(("any_backend", "case"), rows, indirect=["any_backend"])


def cases(backend):
    """Those of ``CASES`` that a backend has the time for, and what its own launches turn on."""
    few = backend == "triton" and not REAL
    more = [
        ((2, 33, 36), {"block": (9, 11)}),  # tiles of rows
        ((3, 19, 21), {"block": 11, **linear(3, 3, share_channels=True)}),
        ((2, 33, 3), linear(5, 3)),  # strips of rows
    ]
    some = [case for case in CASES if not few or case_id(case).split("-")[0] in FEW]
    return [(shape, on_device(options)) for shape, options in some + more]


def on_device(options):
    """A spec's keyword arguments with its labels, or order, where the tests' tensors are."""
    features = options.get("features")
    if isinstance(features, Grid) and features.order is not None:
        features = dataclasses.replace(features, order=features.order.to(DEVICE))
        return {**options, "features": features}
    if not isinstance(features, Labels):
        return options
    return {**options, "features": Labels(features.mask.to(DEVICE))}


def cases_and_kinds(kinds):
    """(backend, case, kind): of the tests of every distribution and of a Hadamard design."""
    for backend in BACKENDS:
        for number, case in enumerate(cases(backend)):
            grouped = "features" in case[1]
            few = grouped and backend == "triton" and not REAL
            some = FEATURE_KINDS[number % 3 :][:1] if few else kinds_in_turn(number, kinds)
            yield from ((backend, case, kind) for kind in kinds if kind in some)


def kinds_in_turn(number, kinds):
    """Those that a case goes through: both kinds of signs and, in turn, two of the others.

    What a distribution is and where its draws go are computed apart.
    """
    smooth = [kind for kind in kinds if kind not in SIGNS]
    two = smooth[number % len(smooth)], smooth[(number + 1) % len(smooth)]
    return [kind for kind in kinds if kind in (*SIGNS, *two)]


def build_on_cpu(folder, *flags):
    """Compiles csrc/cuda as C++ and loads the module."""
    import torch.utils.cpp_extension as extension

    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        pytest.skip("no C++ compiler")
    includes = [ON_CPU, sysconfig.get_paths()["include"], *extension.include_paths()]
    command = [compiler, "-std=c++17", "-O1", "-fPIC", "-fwrapv", "-fvisibility=hidden", *flags]
    command += ["-DCUDA_ON_CPU", '-DFWDGRAD_CUDA_ARCHITECTURES="none"']
    command += [f"-I{path}" for path in includes]
    objects, running = [], []
    for source in sorted((ROOT / "csrc/cuda").glob("*.c*")):
        objects.append(str(folder / f"{source.name}.o"))
        made = [*command, "-x", "c++", "-c", str(source), "-o", objects[-1]]
        running.append(subprocess.Popen(made, stderr=subprocess.PIPE, text=True))
    for process in running:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    path = folder / "_cuda.so"
    subprocess.run([compiler, "-shared", *flags, *objects, "-o", str(path)], check=True)
    # Not under the name of the module for GPUs: pybind11 keeps one module of a name.
    spec = importlib.util.spec_from_file_location("cuda_on_cpu._cuda", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def use(backend, request):
    """Makes a backend usable for one test."""
    if backend in ("cpu", "reference"):
        if REAL:
            pytest.skip("tensors are on a GPU here")
    elif backend == "triton":
        pytest.importorskip("triton")
    elif not REAL:
        module = request.getfixturevalue("cuda_on_cpu")
        request.getfixturevalue("monkeypatch").setattr(cuda, "module", module)
    elif cuda.missing():
        pytest.fail(f"there is a GPU, but: {cuda.missing()}")
    return backend
