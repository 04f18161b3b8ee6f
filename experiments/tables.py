"""`unclip tables RUN`: the paper's tables of a run, our numbers beside the published ones."""

from __future__ import annotations

import argparse
from pathlib import Path

from experiments.evaluate import show

FOLDER = "tables"


def main(argv: list[str]) -> int:
    """Runs `unclip tables ...`; returns the exit code."""
    made = argparse.ArgumentParser(prog="unclip tables", description="Write the paper's tables of a run.")
    made.add_argument("run", help="run folder, as in runs/quickstart")
    made.add_argument("--out", help="folder to write (default: RUN/tables)")
    options = made.parse_args(argv)
    from eval.files import write_file
    from eval.paper_figures import paper_tables
    from eval.report import read_run
    from eval.tables import main_table

    run = read_run(options.run)
    tables = {"main": main_table(run.rows), **paper_tables(run.path, run.rows)}
    out = Path(options.out) if options.out else run.path / FOLDER
    for name, table in tables.items():
        for kind, content in (("md", table.markdown()), ("tex", table.latex()), ("csv", table.csv())):
            write_file(out / f"{name}.{kind}", content)
    for table in tables.values():
        show(table)
    print(f"tables: {out} ({', '.join(tables)}; each as .md, .tex and .csv)")
    return 0
