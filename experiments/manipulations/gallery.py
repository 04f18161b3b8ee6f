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
from modules.errors import InputError


def run(options: argparse.Namespace) -> int:
    """Run `unclip gallery`; returns the exit code.

    Raises:
        InputError: no run folder, as for weights of the package or of a hub: there are no real pictures in them.
    """
    if not Path(options.run).is_dir():
        raise InputError(
            f"gallery takes the real pictures of a run's folder and writes into it; {options.run} is no folder: name"
            " a run that was trained, or draw single figures, as in `unclip variations PICTURE --out FOLDER`"
        )
    device = ["--device", options.device] if options.device else []
    for name in progress(options.only, "figures"):
        command, *words = shlex.split(FIGURES[name])
        out = Path(options.run) / FOLDER / name
        module = import_module(f"experiments.manipulations.{command.replace('-', '_')}")
        words += ["--run", options.run, "--out", str(out), *device, "--overwrite"]
        module.run(parsed(PARSERS[command](), words))
    return 0
