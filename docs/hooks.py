"""What mkdocs needs beside its settings: files from outside docs/, notebooks, methods' signatures.

Pages link tables in ``benchmarks/results`` and programs in ``examples`` as they lie in the
repository. ``on_files`` takes those files into the site, and ``on_page_markdown`` turns links to
them, and theirs into ``docs/``, into links of the site. A notebook is a page, too.
"""

from __future__ import annotations

import json
import posixpath
import re
from pathlib import Path
from typing import Any

import griffe
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
OUTSIDE = (
    "CHANGELOG.md",
    "benchmarks/results/**/*.md",
    "benchmarks/results/*.png",
    "benchmarks/*.py",
    "examples/*.py",
)
EXAMPLE = re.compile(r"^Example:$", re.MULTILINE)
PROMPTS = re.compile(r"^>>> .+?(?=\n\n|\Z)", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<=\]\()(?!https?:|data:|#)([^)\s#]+)")
NOTEBOOK = re.compile(r"^(docs/notebooks/.*)\.ipynb$")


def on_files(files: Any, config: Any) -> Any:
    """Adds the files from outside docs/, each under its path in the repository, and notebooks."""
    for pattern in OUTSIDE:
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            files.append(File.generated(config, name, abs_src_path=str(path)))
    for path in sorted((ROOT / "docs/notebooks").glob("*.ipynb")):
        name = f"notebooks/{path.stem}.md"
        files.append(File.generated(config, name, content=page_of(path)))
    return files


def page_of(path: Path) -> str:
    """A notebook as Markdown: its texts, code, and what that printed and drew."""
    parts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
        for output in cell.get("outputs", []):
            if output["output_type"] == "stream":
                parts.append(f"```text\n{''.join(output['text'])}```")
            else:
                parts.append(f"![a figure](data:image/png;base64,{output['data']['image/png']})")
    return "\n\n".join(parts)


def in_repository(uri: str) -> str:
    """Where a page of the site lies in the repository."""
    return uri if (ROOT / uri).is_file() else f"docs/{uri}"


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """A page whose links between docs/ and the rest of the repository are the site's."""
    uri = page.file.src_uri
    here = posixpath.dirname(in_repository(uri))

    def of_site(found: re.Match[str]) -> str:
        target = NOTEBOOK.sub(r"\1.md", posixpath.normpath(posixpath.join(here, found[1])))
        return posixpath.relpath(target.removeprefix("docs/"), posixpath.dirname(uri) or ".")

    return LINK.sub(of_site, markdown)


class Docstrings(griffe.Extension):
    """Lets docstrings and methods be seen as they are meant."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Prompts are code, and a class tells of its arguments itself."""
        if obj.name == "__init__":
            obj.docstring = None
        if obj.docstring is not None:
            obj.docstring.value = EXAMPLE.sub("Examples:", obj.docstring.value)
            obj.docstring.value = PROMPTS.sub(r"```pycon\n\g<0>\n```", obj.docstring.value)

    def on_class_instance(self, *, cls: griffe.Class, **_: Any) -> None:
        """A class with ``@method`` is a dataclass."""
        for decorator in cls.decorators:
            if decorator.callable_path == "fwdgrad.methods.base.method":
                decorator.value = griffe.ExprName(
                    "dataclass", parent=griffe.ExprName("dataclasses")
                )
