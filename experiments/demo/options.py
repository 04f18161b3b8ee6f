"""The options of `unclip demo`."""

from __future__ import annotations

import argparse

from experiments.console.arguments import RUN, CommandParser, Parsers


def demo() -> argparse.ArgumentParser:
    """The options of `unclip demo`."""
    parser = CommandParser(
        prog="unclip demo",
        description="Open a web page on which a run draws: captions, variations, interpolations, text diffs, "
        "inpainting, principal components.",
    )
    parser.add_argument("--run", help=RUN)
    parser.add_argument("--device", help="such as cpu or cuda:1 (default: the accelerator, if there is one)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default %(default)s: this machine)")
    parser.add_argument("--port", type=int, help="port of the page (default: the first free one from 7860 on)")
    return parser


PARSERS: Parsers = {"demo": demo}
