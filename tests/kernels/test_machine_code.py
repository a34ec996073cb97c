"""What nvcc makes of csrc/cuda: registers, and what the loops over samples hold."""

import functools
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from fwdgrad_kernels import cuda

NVCC = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(NVCC is None, reason="no nvcc: the CUDA kernels are not built"),
]

TARGETS = {"80", "86", "89", "90", "100", "120"}
READ = ("sm_90", "sm_120")  # whose loops are looked at: reading machine code takes seconds
OF_DOUBLES = re.compile("(elements|lattice|chunks|grid)Id")


@functools.cache
def dumped(*options):
    """What cuobjdump says of the built module; Triton brings one."""
    import triton as package

    beside = Path(package.__file__).parent / "backends/nvidia/bin"
    tool = shutil.which("cuobjdump") or shutil.which("cuobjdump", path=str(beside))
    command = [tool, *options, cuda.module.__file__]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def resources():
    """(architecture, kernel, registers, bytes of stack and local memory) of the built module."""
    rows, architecture = [], None
    for line in dumped("-res-usage").splitlines():
        if match := re.search(r"^arch = sm_(\d+)", line):
            architecture = match[1]
        elif match := re.search(r"Function (\w+):", line):
            name = match[1]
        elif match := re.search(r"REG:(\d+) STACK:(\d+) .*LOCAL:(\d+)", line):
            rows.append((architecture, name, int(match[1]), int(match[2]) + int(match[3])))
    return rows


@functools.cache
def loops(architecture):
    """Of each kernel, the instructions of each loop: from where a branch leads back to, to it."""
    found = {}
    for function in dumped("-sass", "-arch", architecture).split("Function : ")[1:]:
        name, code = function.split("\n", 1)
        lines = re.findall(r"/\*([0-9a-f]{4,})\*/\s+(?:@\S+\s+)?(.*?);", code)
        at = {int(address, 16): line for line, (address, _) in enumerate(lines)}
        found[name] = []
        for end, (address, instruction) in enumerate(lines):
            back = re.match(r"BRA\b.*0x([0-9a-f]+)", instruction)
            if back and int(back[1], 16) < int(address, 16):
                inside = lines[at[int(back[1], 16)] : end + 1]
                found[name].append([instruction.split()[0] for _, instruction in inside])
    return found


def philox_calls(loop):
    """How many are in it: a call is twenty wide products, of which one can be hoisted."""
    return round(sum(".WIDE" in instruction for instruction in loop) / 20)


def test_machine_code_spills_nothing_and_keeps_to_its_budget():
    """64 registers where speed is memory's, 128 elsewhere: 4 and 2 blocks of 256 threads."""
    rows = resources()
    names = {name for _, name, _, _ in rows}
    # perturb: 6 distributions x 3 types, dense; 4 types, and 3 of images whose planes are side by
    # side, for all else of elements; 4 types, and 3 of three planes, for features; 3 types x 3 for
    # the signs of linear grids. accumulate: 5 distributions x with squares or without, dense; 2
    # types x with or without for elements, for features and for expand; 2 for adding up. Draws: 3,
    # and 2 for their order. Scales: 4. Placements: 2.
    dense, lattices = 6 * 3 + 5 * 2, 4 + 3 + 4 + 3 + 3 * 3 + 3 * 2 * 2
    assert len(names) == dense + lattices + 2 + 3 + 2 + 4 + 2
    assert {row[0] for row in rows} == TARGETS
    for architecture, name, registers, local in rows:
        assert local == 0, (architecture, name)
        assert registers <= (64 if "dense" in name else 128), (architecture, name)


def test_the_module_is_small():
    assert Path(cuda.module.__file__).stat().st_size < 16e6


@pytest.mark.parametrize("architecture", READ)
def test_no_loop_computes_in_double_precision_or_divides(architecture):
    """Nor converts one float to another, but two to a word: a fraction of the other rates."""
    seen = Counter()
    for name, found in loops(architecture).items():
        if OF_DOUBLES.search(name):
            continue
        for instruction in (instruction for loop in found for instruction in loop):
            seen[instruction] += 1
            kind = instruction.split(".")[0]
            assert not re.fullmatch("D(ADD|MUL|FMA|SETP|MNMX)|F2F|LDL|STL", kind), (name, kind)
            # A division of 64 bits converts its divisor, or calls what does; so do exact quotients.
            assert not re.match(r"I2F\.[US]64", instruction), (name, instruction)
            assert kind != "CALL" or "scale_elements" in name, (name, instruction)
    assert seen.total() > 10_000
    # What is asserted to be absent has these names.
    assert any("DFMA" in loop for found in loops(architecture).values() for loop in found)
    assert "I2F.U64" in dumped("-sass", "-arch", architecture)


@pytest.mark.parametrize("architecture", READ)
@pytest.mark.parametrize(
    ("kernel", "elements", "budget", "calls"),
    [
        ("perturb_denseIfLNS_12DistributionE0ELi4E", 4, 50, 1),
        ("accumulate_denseILNS_12DistributionE0ELb0ELi4E", 4, 46, 1),
        ("accumulate_denseILNS_12DistributionE0ELb1ELi4E", 4, 46, 1),  # with squares
        ("perturb_linearIfLi3ELb0E", 12, 18, 0),
        ("perturb_linearIfLi3ELb1E", 12, 18, 0),  # channels last
    ],
)
def test_instructions_an_element(architecture, kernel, elements, budget, calls):
    """Of normal noise, its sums, and regions: in the loop over samples, both signs counted."""
    (found,) = (found for name, found in loops(architecture).items() if kernel in name)
    over_samples = [loop for loop in found if len(loop) > 50]
    if "accumulate" in kernel:
        over_samples = [min(over_samples, key=len)]  # within that over chunks
    assert over_samples
    for loop in over_samples:
        assert len(loop) <= budget * elements, Counter(loop)
        assert philox_calls(loop) == calls


@pytest.mark.parametrize(
    ("kernel", "read", "written"),
    [
        ("perturb_denseIfLNS_12DistributionE0ELi4E", "128", "128"),
        ("perturb_denseINS_8BFloat16ELNS_12DistributionE0ELi8E", "128", "128"),
        ("perturb_elementsIfLi3E", "128", "128"),
        ("perturb_elementsINS_8BFloat16ELi3E", "64", "64"),
        ("perturb_linearIfLi3ELb0E", None, "128"),
        ("perturb_linearINS_8BFloat16ELi3ELb1E", None, "64"),
    ],
)
def test_memory_is_accessed_in_16_bytes(kernel, read, written):
    """Or in 8, where a thread has 24 of an image's pixels."""
    functions = dumped("-sass", "-arch", "sm_90").split("Function : ")
    (code,) = (text for text in functions if kernel in text[:300])
    assert read is None or f"LDG.E.{read}" in code
    # With both signs; perturb_elements has one loop for them.
    assert len(re.findall(rf"STG\.E\.{written} ", code)) >= (1 if "elements" in kernel else 2)
