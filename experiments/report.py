"""`unclip report`: writes results.json, tables.md and report.html of a run from what is there."""

from __future__ import annotations

import argparse

from experiments.evaluate import show


def main(argv: list[str]) -> int:
    """Runs `unclip report ...`; returns the exit code."""
    made = argparse.ArgumentParser(prog="unclip report", description="Write the tables and the report of a run.")
    made.add_argument("run", help="run folder, as in runs/quickstart")
    options = made.parse_args(argv)
    from eval.pages import write_manipulations_page
    from eval.report import write_report

    write_manipulations_page(options.run)
    page, tables = write_report(options.run)
    show(tables[0])
    print(f"report: {page}")
    return 0
