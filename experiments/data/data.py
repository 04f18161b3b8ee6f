"""`unclip data`: `export` writes real pictures as a sample folder, the floor that every table stands on, and more."""

from __future__ import annotations

import argparse

from datamodules.base import SPLITS
from experiments.console.arguments import CommandParser
from experiments.data.export import _run_export


def main(argv: list[str]) -> int:
    """Runs `unclip data ...`; returns the exit code."""
    options = _parser().parse_args(argv)
    return int(options.run(options))


def _parser() -> argparse.ArgumentParser:
    from experiments.data import check as data_check  # They need `load_data`.
    from experiments.data import emoji_download

    parser = CommandParser(prog="unclip data", description="Look at a data set.")
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("export", help="write real images as a sample folder")
    one.add_argument("--config", required=True, help="any YAML with a data: section")
    one.add_argument("--out", required=True, help="sample folder to write")
    one.add_argument("--split", choices=SPLITS, default="test")
    one.add_argument("--captions", type=int, default=256, help="number of captions (default 256)")
    one.add_argument("--per-caption", type=int, default=1, help="images a caption (default 1)")
    one.add_argument("--size", type=int, help="side in pixels (default: the data's image_size)")
    one.add_argument("--seed", type=int, default=0, help="of the images beyond a caption's own (default 0)")
    one.add_argument("--overwrite", action="store_true", help="replace a sample folder that is there")
    one.set_defaults(run=_run_export)
    data_check.add_parser(commands)
    emoji_download.add_parser(commands)
    return parser
