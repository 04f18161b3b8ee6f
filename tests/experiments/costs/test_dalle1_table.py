"""`unclip dalle1-table`: the paper's YAMLs have the paper's values, and what they have not is shown beside."""

from __future__ import annotations

from experiments.cli import main


def test_the_papers_yamls_are_the_papers(capsys, tmp_path):
    assert main(["dalle1-table", "--out", str(tmp_path / "table.txt")]) == 0
    said = capsys.readouterr().out
    rows = {line.split("  ")[0]: line for line in said.splitlines() if line}
    assert rows["parameters counted"].endswith("12 B: 1.05x")
    assert "97.6 M" in said and "97.6 M: 1.00x" in said
    # What differs: the vocabulary alone.
    assert [name for name, line in rows.items() if line.split()[-1] == "16,384"] == ["text vocabulary"]
    heads = [line for line in said.splitlines() if "the paper's, where it differs" in line]
    assert len(heads) == 2
    assert (tmp_path / "table.txt").read_text().strip() == said.strip()
