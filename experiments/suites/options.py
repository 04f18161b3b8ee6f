"""The options of `unclip reproduce`."""

from __future__ import annotations

import argparse

from experiments.console.arguments import CommandParser, Parsers, positive
from experiments.suites.emit import FORMS


def reproduce() -> argparse.ArgumentParser:
    """The options of `unclip reproduce`."""
    parser = CommandParser(prog="unclip reproduce", description="Run a suite's stages; see its YAML.")
    parser.add_argument("suite", metavar="SUITE", help="the list of stages: a YAML, or a suite that ships (quickstart)")
    parser.add_argument("--run", metavar="DIR", help="the run folder (default: the suite's own)")
    parser.add_argument("--dry-run", action="store_true", help="say what would run, and why, and run nothing")
    parser.add_argument("--jobs", type=positive, metavar="N", help="stages side by side (default: one for each core)")
    parser.add_argument(
        "--seeds",
        type=positive,
        default=1,
        metavar="N",
        help="train and evaluate N replicas (RUN/seeds/1, ...) and write mean and interval over training seeds",
    )
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="STAGE",
        help="only this stage and what it needs; may be repeated",
    )
    parser.add_argument(
        "--again", action="append", default=[], metavar="STAGE", help="run this stage anew; may be repeated"
    )
    parser.add_argument(
        "--devices",
        type=device_list,
        default=[],
        metavar="0,1,...",
        help="GPUs: as many stages side by side, each with one of them as CUDA_VISIBLE_DEVICES",
    )
    parser.add_argument("--wait", action="store_true", help="wait for a run folder that is in use, instead of refusing")
    parser.add_argument("--stage", metavar="STAGE", help="only this stage, beside other processes that run others")
    parser.add_argument(
        "--no-fork",
        dest="fork",
        action="store_false",
        help="start each stage as a program of its own, not forked from a process that has imported what it needs",
    )
    parser.add_argument(
        "--emit", choices=FORMS, help="run nothing, print a script that does: for a shell, or SLURM jobs"
    )
    return parser


def device_list(text: str) -> list[str]:
    """'0,1' as ['0', '1']."""
    devices = [word.strip() for word in text.split(",")]
    if not all(devices) or len(set(devices)) < len(devices):
        raise argparse.ArgumentTypeError("must be different devices with commas between them, as in 0,1")
    return devices


PARSERS: Parsers = {"reproduce": reproduce}
