"""`unclip figures RUN`: the paper's figures of a run as PNG and SVG."""

from __future__ import annotations

import argparse
from pathlib import Path

from experiments.storage.folders import remove_stale

FOLDER = "figures"
KINDS = ("png", "svg")


def run(options: argparse.Namespace) -> int:
    """Run `unclip figures`; returns the exit code."""
    from eval.figures.canvas import save
    from eval.figures.paper import paper_figures
    from eval.files import write_file
    from eval.runs import read_run

    run = read_run(options.run)
    figures, absent = paper_figures(run.path, run.rows)
    out = Path(options.out) if options.out else run.path / FOLDER
    for name, figure in figures.items():
        for kind, content in save(figure).items():
            write_file(out / f"{name}.{kind}", content)
        print(f"{out / name}.png, .svg")
    if options.out is None:
        for path in remove_stale(out, absent, KINDS, figures):
            print(f"removed: {path}, which this run has nothing for any more")
    for name, reason in absent.items():
        print(f"not made: {name}; {reason}")
    return 0
