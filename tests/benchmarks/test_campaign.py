"""The attacks, a few of each: nothing goes wrong, and what goes wrong is counted."""

import importlib.util
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks" / "campaign"
_spec = importlib.util.spec_from_file_location("campaign_all", FOLDER / "all.py")
campaign = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(campaign)


@pytest.mark.slow
@pytest.mark.parametrize("part", campaign.PARTS)
def test_a_few_attacks_do_no_harm(part):
    _, full, few = campaign.PARTS[part]
    figures = campaign.attack(part, few, seed=1)
    assert figures["tried"] >= few
    assert not campaign.bad(figures), figures
    assert full >= few


def test_what_crashes_is_bad():
    assert campaign.bad(campaign.attack("none", 1, seed=0)) == 1
    assert campaign.bad({"tried": 9, "wrong": 2, "left_over": 1}) == 3


def test_every_part_is_run():
    parts = {path.stem for path in FOLDER.glob("*.py")} - {"all"}
    assert parts == set(campaign.PARTS)


def test_the_committed_table_is_of_every_part_and_of_no_harm():
    text = (FOLDER.parent / "results" / "campaign.md").read_text(encoding="utf-8")
    rows = [row for row in text.splitlines() if re.match(r"\| \w+: ", row)]
    assert [row.split(":")[0][2:] for row in rows] == list(campaign.PARTS)
    for row in rows:
        part, tried, *counts = (cell.strip() for cell in row.strip("|").split("|"))
        assert int(tried) >= campaign.PARTS[part.split(":")[0]][1]
        assert not any(int(count or 0) for count in counts[:4])
