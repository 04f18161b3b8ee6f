"""The options of `unclip report`, `tables`, `figures`, `votes` and `export`."""

from __future__ import annotations

import argparse
from pathlib import Path

from experiments.console.arguments import CommandParser, Parsers

RUN = "run folder, as in runs/quickstart"


def report() -> argparse.ArgumentParser:
    """The options of `unclip report`."""
    made = CommandParser(prog="unclip report", description="Write the tables and the report of a run.")
    made.add_argument("run", help=RUN)
    return made


def tables() -> argparse.ArgumentParser:
    """The options of `unclip tables`."""
    description = "Write a run's Tables 1, 2 and 3, its ablation and its sweeps, beside the paper's."
    made = CommandParser(prog="unclip tables", description=description)
    made.add_argument("run", help=RUN)
    made.add_argument("--out", help="folder to write (default: RUN/tables, whose out-of-date tables are deleted)")
    return made


def figures() -> argparse.ArgumentParser:
    """The options of `unclip figures`."""
    made = CommandParser(prog="unclip figures", description="Write the paper's figures of a run.")
    made.add_argument("run", help=RUN)
    made.add_argument("--out", help="folder to write (default: RUN/figures, whose out-of-date figures are deleted)")
    return made


def votes() -> argparse.ArgumentParser:
    """The options of `unclip votes`."""
    made = CommandParser(prog="unclip votes", description="Make a page on which people compare two models.")
    made.add_argument("run", help="run folder; its samples/ are compared")
    made.add_argument(
        "--conditions",
        nargs="+",
        default=["ar_prior", "diffusion_prior"],
        help="models to compare with the baseline (default: ar_prior diffusion_prior)",
    )
    made.add_argument("--against", default="glide", help="the baseline (default glide)")
    made.add_argument("--pairs", type=int, default=50, help="comparisons for each model and question (default 50)")
    made.add_argument(
        "--grids", type=int, default=25, help="comparisons of 4 x 4 grids for each model (default 25; 0: none)"
    )
    made.add_argument(
        "--grid-samples", help="folder of sample folders with 16 samples of each caption (default: RUN/votes/grids)"
    )
    made.add_argument("--seed", type=int, default=0, help="chooses captions, sides and order (default 0)")
    made.add_argument("--overwrite", action="store_true", help="replace a ballot that nobody has voted on")
    return made


def export() -> argparse.ArgumentParser:
    """The options of `unclip export`."""
    description = "Gather the trained stages of a run in one folder: weights, configs, and a model card for each."
    made = CommandParser(prog="unclip export", description=description)
    made.add_argument("run", type=Path, help=RUN)
    made.add_argument("--out", type=Path, help="folder to make; by default RUN/release")
    made.add_argument(
        "--stages",
        help="stages, separated by commas (default: all, without earlier trainings such as decoder_first)",
    )
    size = made.add_mutually_exclusive_group()
    size.add_argument(
        "--half",
        dest="size",
        action="store_const",
        const="half",
        help="store weights as float16; commands compute in float32",
    )
    size.add_argument(
        "--int8",
        dest="size",
        action="store_const",
        const="quarter",
        help="store weights as 8-bit integers with a scale for each row (a CLIP's as float16); commands compute in "
        "float32",
    )
    made.set_defaults(size="whole")
    made.add_argument("--overwrite", action="store_true", help="replace what is in --out")
    made.add_argument(
        "--format",
        choices=("unclip", "diffusers"),
        default="unclip",
        help="diffusers writes a folder for diffusers' UnCLIPPipeline (a prior alone: KandinskyPriorPipeline)",
    )
    made.add_argument("--push", metavar="USER/NAME", help="also send the export to this repository of the model hub")
    made.add_argument("--private", action="store_true", help="with --push: if the repository is new, make it private")
    return made


PARSERS: Parsers = {
    "report": report,
    "tables": tables,
    "figures": figures,
    "votes": votes,
    "export": export,
}
