"""The options of `unclip embed`, `probe` and `rank`."""

from __future__ import annotations

import argparse
from pathlib import Path

from experiments.console.arguments import SPLITS, CommandParser, Parsers, positive
from experiments.data.options import add_arguments

SHARD_ROWS = 65_536


def embed() -> argparse.ArgumentParser:
    """The options of `unclip embed`."""
    parser = CommandParser(prog="unclip embed", description="Compute CLIP embeddings of a data set once.")
    add_arguments(parser)
    parser.add_argument("--clip", required=True, help="CLIP folder, shipped:NAME, or the name of an open_clip model")
    parser.add_argument(
        "--save-clip",
        type=Path,
        metavar="RUN/clip",
        help="also write this CLIP into the run's folder, where commands that draw look for it",
    )
    parser.add_argument("--pretrained", help="open_clip's name of the weights, for a model given by name")
    parser.add_argument("--out", required=True, help="embeddings folder to write, or to go on with")
    parser.add_argument(
        "--splits", nargs="+", choices=SPLITS, default=list(SPLITS), help="splits to embed (default: all)"
    )
    parser.add_argument("--batch-size", type=int, default=256, help="pairs at once (default 256)")
    parser.add_argument("--num-workers", type=int, help="loader processes (default: the YAML's, else 0)")
    parser.add_argument("--token-features", action="store_true", help="also write the features of every caption token")
    parser.add_argument("--shard-rows", type=int, default=SHARD_ROWS, help="rows in a file (default %(default)s)")
    parser.add_argument("--device", help="such as cpu or cuda:1 (default: the accelerator, if there is one)")
    parser.add_argument("--devices", type=int, default=1, help="devices of this kind on each machine (default 1)")
    parser.add_argument("--num-nodes", type=int, default=1, help="number of machines (default 1)")
    parser.add_argument("--strategy", default="auto", help="Lightning's strategy for several devices (default auto)")
    parser.add_argument("--precision", default="32-true", help="Lightning's precision, such as bf16-mixed")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace embeddings of another CLIP, other data or settings"
    )
    return parser


def probe() -> argparse.ArgumentParser:
    """The options of `unclip probe`."""
    parser = CommandParser(prog="unclip probe", description="Test what z_i holds: a linear probe for each attribute.")
    parser.add_argument("--config", required=True, help="a YAML with a data: section whose data know attributes")
    parser.add_argument("--embeddings", required=True, help="folder that `unclip embed` wrote for these data")
    parser.add_argument("--out", required=True, help="file to write, such as runs/quickstart/probe.json")
    parser.add_argument("--train", type=positive, default=8000, help="training pairs (default 8000)")
    parser.add_argument("--test", type=positive, default=2000, help="validation pairs (default 2000)")
    return parser


def rank() -> argparse.ArgumentParser:
    """The options of `unclip rank`."""
    description = "Count the principal components of z_i that hold a share of its variance."
    parser = CommandParser(prog="unclip rank", description=description)
    parser.add_argument("embeddings", nargs="+", type=Path, help="folders that `unclip embed` wrote")
    parser.add_argument("--split", default="train", choices=SPLITS, help="split to read (default %(default)s)")
    parser.add_argument("--out", type=Path, help="JSON file to write: the same numbers, and the eigenvalues")
    return parser


PARSERS: Parsers = {"embed": embed, "probe": probe, "rank": rank}
