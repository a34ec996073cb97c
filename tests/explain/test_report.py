"""The page of a report: what it says of the method, and the line that repeats the run."""

import html
import re

import pytest
import torch

import fwdgrad
from fwdgrad import ForwardGradient, IntegratedGradients, Regions, SmoothGrad
from fwdgrad.metrics import deletion, insertion
from fwdgrad.report import report

pytest.importorskip("PIL")
pytest.importorskip("matplotlib")

X = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))


def corner(batch):
    """(batch, 2): logits, of which the first is brightness in the upper left corner."""
    light = 9 * batch[:, :, :4, :4].mean((1, 2, 3))
    return torch.stack([light, 2 - light], 1)


def page_of(method, objective="probability"):
    e = fwdgrad.explain(corner, X, 0, method=method, objective=objective, n_samples=64)
    curves = [
        follow(corner, X, e, objective=objective, steps=4) for follow in (deletion, insertion)
    ]
    return e, report(e, "corner", [], *curves)


def rows_of(page):
    """The names and values of the page's tables."""
    cells = re.findall(r'<th scope="row">(.*?)</th><td>(.*?)</td>', page)
    return {html.unescape(name): html.unescape(value) for name, value in cells}


def test_the_method_has_a_row_for_each_option():
    e, page = page_of(Regions("grey"))
    rows = rows_of(page)
    assert (rows["method"], rows["baseline"], rows["antithetic"]) == ("Regions", "grey", "no")
    assert rows["cell"] == str(e.method.cell)
    assert (rows["target"], rows["n_samples"], rows["features"]) == ("0", "64", "none")
    assert "<p>Regions · probability 0." in page
    assert "convergence delta" not in page


def test_a_method_within_a_method():
    smooth = SmoothGrad(0.25, antithetic=True)
    method = IntegratedGradients(torch.zeros(3, 8, 8), 4, gradient=smooth)
    e, page = page_of(method)
    rows = rows_of(page)
    assert rows["method"] == "IntegratedGradients"
    assert rows["baseline"] == "a tensor (3, 8, 8)"
    assert rows["gradient"].startswith("SmoothGrad(scale=0.25, distribution=normal, antithetic=yes")
    assert f" · convergence delta {e.convergence_delta:.2g}" in page


def run(page, saved, **names):
    """Runs the lines that the page gives, and returns what their last one makes."""
    (code,) = re.findall("<pre><code>(.*?)</code>", page, re.S)
    code = html.unescape(code).replace("'explanation.safetensors'", repr(str(saved)))
    for name, value in names.items():
        code = re.sub(rf"^{name} = \.\.\..*$", f"{name} = {value}", code, flags=re.M)
    lines = code.split("\n")
    found = {"corner": corner, "fwdgrad": fwdgrad}
    exec("\n".join([*lines[:-1], f"again = {lines[-1]}"]), found)
    return found["again"]


def test_the_line_repeats_the_run(tmp_path):
    e, page = page_of(ForwardGradient(0.3))
    e.save(tmp_path / "map.safetensors")
    again = run(page, tmp_path / "map.safetensors", model="corner")
    assert torch.equal(again.attribution, e.attribution)


def test_a_callable_objective_is_to_be_given(tmp_path):
    """An explanation has its name alone."""
    e = fwdgrad.explain(corner, X, method="gradient", objective=fwdgrad.Difference(0, 1))
    curves = [
        follow(corner, X, e.heatmap(), 0, objective="logit", steps=4)
        for follow in (deletion, insertion)
    ]
    page = report(e, "corner", [], *curves)
    assert "objective = ...  # Difference(0, 1, &#x27;logit&#x27;)" in page
    e.save(tmp_path / "map.safetensors")
    again = run(
        page, tmp_path / "map.safetensors", model="corner", objective="fwdgrad.Difference(0, 1)"
    )
    assert torch.equal(again.attribution, e.attribution)
