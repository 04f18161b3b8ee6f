"""`unclip figures RUN`: the paper's figures of a run as PNG and SVG."""

from __future__ import annotations

from pathlib import Path

from experiments.console.arguments import CommandParser
from experiments.storage.folders import remove_stale

FOLDER = "figures"
KINDS = ("png", "svg")


def main(argv: list[str]) -> int:
    """Runs `unclip figures ...`; returns the exit code."""
    made = CommandParser(prog="unclip figures", description="Write the paper's figures of a run.")
    made.add_argument("run", help="run folder, as in runs/quickstart")
    made.add_argument("--out", help="folder to write (default: RUN/figures)")
    options = made.parse_args(argv)
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
