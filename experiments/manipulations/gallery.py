"""`unclip gallery`: every figure of a run's manipulations, small, in one process; what a suite runs for its report."""

from __future__ import annotations

import shlex
from importlib import import_module
from pathlib import Path

from eval.runs import FOLDER
from experiments.console.arguments import CommandParser
from experiments.console.progress import progress

FIGURES = {
    "reconstruct": "reconstruct -n 6 --steps 50 --sweep-steps 10 50 --sweep-guidance 1 2",
    "variations": "variations -n 12 --steps 25 --shown 5",
    "interpolate": "interpolate --steps 25 --grid 5 --captions 'a large red circle' 'a small blue square'",
    "text_diff": "text-diff --table 32 --choose 32 --steps 8 --theta 0.3 0.34 0.36 0.4 0.45",
    "pca": "pca -n 24 --steps 16 --shown 5",
    "typographic": "typographic -n 3 --steps 16",
    "conditioning_grid": "conditioning-grid -n 3 --columns 5",
    "guidance_grid": "guidance-grid -n 3",
    "inpaint": "inpaint -n 4 --fills 3 --steps 12 --resamples 3",
}
"""Folder in RUN/manipulations -> the command that fills it, without --run and --out."""


def main(argv: list[str]) -> int:
    """Runs `unclip gallery ...`; returns the exit code."""
    made = CommandParser(prog="unclip gallery", description="Make every figure of a run's manipulations.")
    made.add_argument("run", help="run folder, as in runs/quickstart; its data are the shapes")
    made.add_argument("--only", nargs="+", choices=FIGURES, default=list(FIGURES), help="figures to make (default all)")
    made.add_argument("--device", help="such as cpu or cuda:1 (default: the accelerator, if there is one)")
    options = made.parse_args(argv)
    device = ["--device", options.device] if options.device else []
    for name in progress(options.only, "figures"):
        command, *words = shlex.split(FIGURES[name])
        out = Path(options.run) / FOLDER / name
        module = import_module(f"experiments.manipulations.{command.replace('-', '_')}")
        module.main([*words, "--run", options.run, "--out", str(out), *device, "--overwrite"])
    return 0
