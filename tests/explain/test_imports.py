"""fwdgrad uses the public names of fwdgrad_kernels, and no private ones of torch's modules."""

import ast
import doctest
import re
from pathlib import Path

import pytest

import fwdgrad
import fwdgrad_kernels

ROOT = Path(fwdgrad.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
PUBLIC = set(fwdgrad_kernels.__all__)
OF_TORCH = {"_parameters", "_orig_mod", "_NormBase", "_compiled_call_impl"}


def code_of(text):
    """The trees of a file: its own, and those of the examples in its docstrings."""
    tree = ast.parse(text)
    examples = doctest.DocTestParser()
    yield tree
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            for example in examples.get_examples(ast.get_docstring(node) or ""):
                yield ast.parse(example.source)


def faults_of(text):
    """What a file must not have, with its line."""
    for tree in code_of(text):
        for node in ast.walk(tree):
            for fault in faults_at(node):
                yield f"line {node.lineno}: {fault}"


def faults_at(node):
    match node:
        case ast.Import(names=names):
            found = [one.name for one in names if one.name.startswith("fwdgrad_kernels.")]
        case ast.ImportFrom(module="fwdgrad_kernels", names=names):
            found = [one.name for one in names if one.name not in PUBLIC]
        case ast.ImportFrom(module=str(module)) if module.startswith("fwdgrad_kernels."):
            found = [module]
        case ast.Attribute(value=ast.Name(id="fwdgrad_kernels"), attr=name):
            found = [] if name in PUBLIC or re.fullmatch("__.+__", name) else [name]
        case ast.Attribute(attr=name):
            found = [name] if name in OF_TORCH else []
        case ast.Constant(value=str(value)):  # for getattr, or importlib
            found = [value] if value in OF_TORCH or IN_KERNELS.fullmatch(value) else []
        case _:
            found = []
    return found


IN_KERNELS = re.compile(r"fwdgrad_kernels(\.\w+)+")


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(ROOT)) for path in FILES])
def test_a_file_has_public_names_alone(path):
    assert list(faults_of(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "text",
    [
        "import fwdgrad_kernels.spec",
        "import fwdgrad_kernels.spec as spec",
        "from fwdgrad_kernels.spec import NoiseSpec",
        "from fwdgrad_kernels import NoiseSpec, native",
        "import fwdgrad_kernels\nfwdgrad_kernels.native.is_writable",
        "importlib.import_module('fwdgrad_kernels.spec')",
        "def f():\n    from fwdgrad_kernels import reference",
        'def f():\n    """F.\n\n    >>> from fwdgrad_kernels.spec import NoiseSpec\n    """',
        "module._parameters.values()",
        "getattr(module, '_compiled_call_impl', None)",
        "isinstance(module, torch.nn.modules.batchnorm._NormBase)",
    ],
)
def test_what_is_private_is_found(text):
    assert len(list(faults_of(text))) == 1


def test_public_names_are_let_pass():
    text = "import fwdgrad_kernels\nfrom fwdgrad_kernels import NoiseSpec as Spec\n"
    text += "fwdgrad_kernels.backend_for, fwdgrad_kernels.__file__, module.parameters()"
    assert list(faults_of(text)) == []
