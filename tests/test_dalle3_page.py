"""docs/dalle3.md against the tables that the run wrote: page and run cannot drift apart."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"
INTERVAL = re.compile(r"[+-]?\d+\.\d+ \[-?\d+\.\d+, -?\d+\.\d+\]")


def test_every_number_with_an_interval_stands_in_the_runs_tables():
    page, tables = ((DOCS / name).read_text(encoding="utf-8") for name in ("dalle3.md", "results/dalle3.md"))
    found = INTERVAL.findall(page)
    assert len(found) > 50
    assert [number for number in found if number not in set(INTERVAL.findall(tables))] == []
