"""`unclip tables RUN`: the paper's tables of a run, our numbers beside the published ones.

Table 1 counts the votes in RUN/votes (`unclip votes`), Table 2 is FID, Table 3 the hyperparameters that this run was
trained with. What the paper's own sizes amount to is `unclip table3`, which reads the YAMLs in experiments/paper.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from eval.words import counted
from experiments.storage.folders import remove_stale

FOLDER = "tables"
KINDS = ("md", "tex", "csv")
KNOWN = ("further", "accuracy_by_kind", "ablation", "binding", "sweep_*")
"""What a run has sometimes."""


def run(options: argparse.Namespace) -> int:
    """Run `unclip tables`; returns the exit code."""
    from eval.files import write_file
    from eval.pages.collected import paper_tables
    from eval.records import made_of
    from eval.runs import read_run
    from eval.tables.main import main_table
    from experiments.console.errors import say

    run = read_run(options.run)
    with made_of(run.path):
        tables = {"main": main_table(run.rows), **paper_tables(run.path, run.rows)}
        texts = {name: (table.markdown(), table.latex(), table.csv()) for name, table in tables.items()}
    out = Path(options.out) if options.out else run.path / FOLDER
    for name, contents in texts.items():
        for kind, content in zip(KINDS, contents, strict=True):
            write_file(out / f"{name}.{kind}", content)
    if options.out is None:
        for path in remove_stale(out, KNOWN, KINDS, tables):
            say(f"removed: {path}, which this run has nothing for any more")
    width = max(map(len, tables))
    for name, table in tables.items():
        say(f"  {name + '.md':{width + 3}}  {table.title} ({counted(len(table.rows), 'row')})")
    print(f"{out}: {counted(len(tables), 'table')}, each as .md, .tex and .csv")
    return 0
