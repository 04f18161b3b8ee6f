"""`unclip gallery`: every figure of a run's manipulations, small, in one process; what a suite runs for its report."""

from __future__ import annotations

import argparse
import shlex
from importlib import import_module
from pathlib import Path

from eval.runs import FOLDER
from experiments.console.arguments import parsed
from experiments.console.progress import progress
from experiments.manipulations.options import FIGURES, PARSERS


def run(options: argparse.Namespace) -> int:
    """Run `unclip gallery`; returns the exit code."""
    device = ["--device", options.device] if options.device else []
    for name in progress(options.only, "figures"):
        command, *words = shlex.split(FIGURES[name])
        out = Path(options.run) / FOLDER / name
        module = import_module(f"experiments.manipulations.{command.replace('-', '_')}")
        words += ["--run", options.run, "--out", str(out), *device, "--overwrite"]
        module.run(parsed(PARSERS[command](), words))
    return 0
