"""The page of several inputs' maps: every one with its class, score and reliability."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import quote

from fwdgrad.explanation import Explanation
from fwdgrad.meaning import score_name
from fwdgrad.report.page import MARK
from fwdgrad.report.style import STYLE
from fwdgrad.report.text import escape

_MARKED = re.compile(r'<p class="text".*?</p>|<table>.*?</table>', re.DOTALL)
_STYLE = """
body { max-width: 80rem; }
.maps { display: grid; gap: 2rem 1.5rem; margin: 0; padding: 0; max-width: none; list-style: none;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 24rem), 1fr)); }
.maps h2 { margin: 0 0 .4rem; font-size: 1rem; }
.maps a { color: inherit; }
.maps figure + figure { margin-top: 1rem; }
.maps img { background: #fff; }
.maps figcaption { margin-top: .3rem; }
.of { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
.text { white-space: pre-wrap; color: var(--ink); }
.text span { border-radius: 3px; }
.marked { max-height: 20rem; overflow: auto; overflow-wrap: normal; }
.marked td div { font-size: .6rem; }
.marked th, .marked td { width: auto; padding: .1rem .6rem .1rem 0; border: 0; }
"""


def index_page(maps: Iterable[Mapping[Path, Path]], failed: Mapping[str, str]) -> str | None:
    """A page of the maps of several inputs, each in a folder beside it.

    Args:
        maps: of each input its maps' files, each with its picture or page.
        failed: inputs without a map, and why.

    Returns:
        A complete HTML document without scripts, which shows the pictures in the folders and
        refers to nothing else; whatever names and labels contain is escaped. None where there is
        nothing to show.
    """
    entries = [entry for one in maps if (entry := _entry(one))]
    if not (entries or failed):
        return None
    title = f"{len(entries)} explained" + f", {len(failed)} failed" * bool(failed)
    reasons = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(reason)}</td></tr>\n'
        for name, reason in failed.items()
    )
    lost = f"<section>\n<h2>Failed</h2>\n<table>\n{reasons}</table>\n</section>\n" if failed else ""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'{MARK}\n<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src 'self' file:; style-src 'unsafe-inline'\">\n"
        f"<title>{title}</title>\n<style>{STYLE}{_STYLE}</style>\n</head>\n<body>\n"
        f"<header>\n<h1>{title}</h1>\n<p>Red increases the score, blue decreases it. Near 1 the "
        "reliability says that other samples would give the same map.</p>\n</header>\n<main>\n"
        f'{lost}<ul class="maps">\n{"".join(entries)}</ul>\n</main>\n</body>\n</html>\n'
    )


def _entry(files: Mapping[Path, Path]) -> str:
    """The maps of an input; nothing where there are none."""
    figures, name = [], ""
    for saved, shown in files.items():
        try:
            found = Explanation.load(saved)
            photo = found.provenance.get("photo")
            name = str(photo["name"]) if isinstance(photo, dict) else saved.parent.name
            figures.append(_figure(found, saved, shown, name))
        except (OSError, ValueError, KeyError):  # deleted since
            continue
    if not figures:
        return ""
    return f"<li>\n<h2>{escape(name)}</h2>\n{''.join(figures)}</li>\n"


def report_beside(saved: Path) -> Path:
    """Where the report of a map lies.

    >>> report_beside(Path("maps/cat/explanation-281.safetensors")).name
    'report-281.html'
    """
    return saved.with_name(f"report{saved.stem.removeprefix('explanation')}.html")


def _figure(found: Explanation, saved: Path, shown: Path, name: str) -> str:
    label = escape(found.provenance.get("label", f"class {found.target}"))
    link = quote(f"{shown.parent.name}/{shown.name}")
    if shown.suffix == ".png":
        what = f"{escape(name)}, and its map for {label}"
        inside = f'<a href="{link}"><img src="{link}" alt="{what}" loading="lazy"></a>'
    else:
        marked = _MARKED.search(shown.read_text(encoding="utf-8"))
        inside = f'<div class="marked" tabindex="0">{marked[0] if marked else ""}</div>'
    page = "" if shown.suffix == ".png" else f' <a href="{link}">{shown.name}</a>'
    report = report_beside(saved)
    if report.exists():
        where = quote(f"{report.parent.name}/{report.name}")
        page += f'; <a href="{where}">report<span class="of"> of {escape(name)}, {label}</span></a>'
    return (
        f"<figure>\n{inside}\n<figcaption><b>{label}</b>, {escape(score_name(found))} "
        f"{found.score:.4g}; reliability {found.reliability:.2f}{page}</figcaption>\n</figure>\n"
    )
