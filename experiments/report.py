"""`unclip report`: writes results.json, tables.md and report.html of a run from what is there."""

from __future__ import annotations

import os
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from experiments.arguments import CommandParser
from experiments.evaluate import show
from experiments.folders import read_json
from experiments.progress import FILE_VARIABLE
from experiments.staging import STARTED


def main(argv: list[str]) -> int:
    """Runs `unclip report ...`; returns the exit code."""
    made = CommandParser(prog="unclip report", description="Write the tables and the report of a run.")
    made.add_argument("run", help="run folder, as in runs/quickstart")
    options = made.parse_args(argv)
    from eval.pages import write_manipulations_page
    from eval.report import write_report

    write_manipulations_page(options.run)
    page, tables = write_report(options.run, running_stage(Path(options.run)))
    show(tables[0])
    print(f"report: {page}")
    return 0


def running_stage(run: Path) -> dict[str, dict[str, Any]]:
    """The record of the stage that this process is, where a suite runs it, with its seconds until now.

    The runner writes it only when the stage has ended; results.json would lack it.
    """
    file = os.environ.get(FILE_VARIABLE)
    folder = Path(file).absolute().parent if file else None
    if folder is None or folder.parent != run.absolute():
        return {}
    record = read_json(folder / STARTED) or {}
    try:
        began = datetime.fromisoformat(record["started"]).timestamp()
        return {folder.name: {**record, "seconds": float(record["seconds"]) + time.time() - began}}
    except (KeyError, TypeError, ValueError):
        return {}
