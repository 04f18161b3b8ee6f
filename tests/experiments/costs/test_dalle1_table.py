"""`unclip dalle1-table`: the paper's YAMLs have the paper's values, and what they have not is shown beside."""

from __future__ import annotations

import re

from experiments.cli import main
from experiments.costs.dalle1_table import PAPER


def test_the_papers_yamls_are_the_papers(capsys, tmp_path):
    assert main(["dalle1-table", "--out", str(tmp_path / "table.txt")]) == 0
    said = capsys.readouterr().out
    rows = {line.split("  ")[0]: line for line in said.splitlines() if line}
    assert rows["parameters counted"].endswith("12 B: 1.05x")
    assert "97.6 M" in said and "97.6 M: 1.00x" in said
    # What differs: the vocabulary alone. A row has its name, our value, and the paper's where that is another one.
    parts = {name: re.split(r" {2,}", line.strip()) for name, line in rows.items()}
    settings = {row for stage in PAPER for row in PAPER[stage]}
    assert settings <= parts.keys()
    differing = {name: parts[name][2] for name in settings if len(parts[name]) > 2}
    assert differing == {"text vocabulary": "16,384"}
    both = [line for line in said.splitlines() if line.startswith("batch")]
    assert [line.split()[-1] for line in both] == ["512", "1,024"]
    heads = [line for line in said.splitlines() if "the paper's, where it differs" in line]
    assert len(heads) == 2
    assert (tmp_path / "table.txt").read_text().strip() == said.strip()
