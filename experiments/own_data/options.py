"""The options of `unclip new`."""

from __future__ import annotations

import argparse

from experiments.console.arguments import CommandParser, Parsers, positive
from experiments.data.options import PLACES

SIDES = (32, 64, 128)
"""Pixels that a decoder of `unclip new` may have."""


def new() -> argparse.ArgumentParser:
    """The options of `unclip new`."""
    parser = CommandParser(
        prog="unclip new",
        description="Look at a data set, and write a suite that trains and evaluates everything on it.",
    )
    parser.add_argument("suite", metavar="FOLDER", help="folder to write the suite's YAMLs into")
    parser.add_argument("--data", required=True, metavar="DATA", help=f"your data: {PLACES}")
    parser.add_argument(
        "--captions-from",
        choices=("auto", "metadata", "text", "names"),
        default="auto",
        help="where the captions of a folder of pictures are: in a table (metadata), in .txt files (text) or in the"
        " file names, where a_red_bird-01.jpg is 'a red bird' (default: a table, else .txt files)",
    )
    parser.add_argument(
        "--size", type=int, choices=SIDES, help="side of the decoder's pictures (default: 64, or 32 for small pictures)"
    )
    parser.add_argument(
        "--clip",
        metavar="MODEL:WEIGHTS",
        help="take a pretrained CLIP instead of training one: an open_clip model with a file or a tag of weights, as "
        "in ViT-B-32:FILE, or a CLIP folder",
    )
    parser.add_argument("--run", metavar="DIR", help="the suite's run folder (default: runs/NAME, for FOLDER's name)")
    parser.add_argument("--limit", type=positive, default=200, help="pictures to open for this (default 200)")
    parser.add_argument("--overwrite", action="store_true", help="replace the YAMLs of a suite that is there")
    return parser


PARSERS: Parsers = {"new": new}
