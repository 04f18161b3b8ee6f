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
    from eval.records import made_of
    from eval.runs import read_run
    from experiments.console.errors import say

    run = read_run(options.run)
    with made_of(run.path):
        figures, absent = paper_figures(run.path, run.rows)
        files = {name: save(figure) for name, figure in figures.items()}
    out = Path(options.out) if options.out else run.path / FOLDER
    for name, contents in files.items():
        for kind, content in contents.items():
            write_file(out / f"{name}.{kind}", content)
        print(f"{out / name}.png, .svg")
    if options.out is None:
        for path in remove_stale(out, absent, KINDS, figures):
            say(f"removed: {path}, which this run has nothing for any more")
    for name, reason in absent.items():
        say(f"not made: {name}; {reason}")
    return 0
