"""`unclip report`: writes results.json, tables.md and report.html of a run from what is there."""

from __future__ import annotations

import argparse
from pathlib import Path

from experiments.console.show import show
from experiments.suites.staging import running_stage


def run(options: argparse.Namespace) -> int:
    """Run `unclip report`; returns the exit code."""
    from eval.pages.manipulations import write_manipulations_page
    from eval.pages.report import write_report

    write_manipulations_page(options.run)
    page, tables = write_report(options.run, running_stage(Path(options.run)))
    show(tables[0])
    print(f"report: {page}")
    return 0
