"""The options of `unclip data`, and of every command that is given data."""

from __future__ import annotations

import argparse

from experiments.console.arguments import SPLITS, CommandParser, Parsers, positive

PLACES = (
    "a COCO folder, webdataset shards (FOLDER, GLOB.tar), a folder of Iconify packages, a folder of pictures with "
    "captions, or hf:NAME for a Hugging Face data set"
)
KINDS = f"a YAML with a data: section; or {PLACES}"
EMOJI_SETS = ("noto", "fluent-emoji-flat", "twemoji", "openmoji")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """DATA, or --config, and --image-size."""
    parser.add_argument("data", nargs="?", metavar="DATA", help=KINDS)
    parser.add_argument("--config", help="a YAML with a data: section, instead of DATA")
    parser.add_argument("--image-size", type=positive, help="side of the images in pixels (default: the YAML's)")


def data() -> argparse.ArgumentParser:
    """The options of `unclip data`; its own commands are `options.command`."""
    parser = CommandParser(prog="unclip data", description="Look at a data set.")
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("export", help="write real images as a sample folder")
    one.add_argument("--config", required=True, help="any YAML with a data: section")
    one.add_argument("--out", required=True, help="sample folder to write")
    one.add_argument("--split", choices=SPLITS, default="test", help="split to export (default %(default)s)")
    one.add_argument("--captions", type=int, default=256, help="number of captions (default 256)")
    one.add_argument("--per-caption", type=int, default=1, help="images for each caption (default 1)")
    one.add_argument("--size", type=int, help="side in pixels (default: the data's image_size)")
    one.add_argument(
        "--seed", type=int, default=0, help="chooses further images for a caption, beside its own (default 0)"
    )
    one.add_argument("--overwrite", action="store_true", help="replace a sample folder that is there")
    one = commands.add_parser("check", help="count, measure and look at all pairs; writes an HTML page")
    add_arguments(one)
    one.add_argument("--out", default="data_check.html", help="the page to write (default %(default)s)")
    one.add_argument("--splits", nargs="+", choices=SPLITS, default=list(SPLITS), help="splits to check (default: all)")
    one.add_argument("--limit", type=int, help="pairs of each split to look at (default: all)")
    one.add_argument(
        "--clip", help="CLIP folder, shipped:NAME, or name of an open_clip model; its tokeniser measures captions"
    )
    one.add_argument("--context", type=int, help="most tokens of a caption (without --clip: words)")
    one = commands.add_parser("download-emoji", help="get emoji of many styles, with npm")
    one.add_argument("--out", default="data/emoji", help="folder for the packages (default %(default)s)")
    names = " ".join(EMOJI_SETS)
    one.add_argument("--sets", nargs="+", default=list(EMOJI_SETS), help=f"names on npm (default {names})")
    return parser


PARSERS: Parsers = {"data": data}
