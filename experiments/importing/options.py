"""The options of `unclip import`."""

from __future__ import annotations

import argparse
from pathlib import Path

from experiments.console.arguments import CommandParser, Parsers, positive

KINDS = {
    "karlo": "Karlo v1.0 alpha: CLIP, prior, decoder, upsampler to 256 px",
    "kandinsky-prior": "the prior of Kandinsky 2.1 or 2.2, with its CLIP",
    "eclipse": "a prior of ECLIPSE, into a run that has its CLIP",
    "glide": "GLIDE (filtered): base model and upsampler",
    "clip": "a CLIP alone, in transformers' layout or in open_clip's",
    "dvae": "OpenAI's dVAE (DALL-E 1)",
}


def import_() -> argparse.ArgumentParser:
    """The options of `unclip import`."""
    lines = "; ".join(f"{kind}: {what}" for kind, what in KINDS.items())
    made = CommandParser(prog="unclip import", description="Make a run folder of weights that others released.")
    made.add_argument("kind", choices=list(KINDS), metavar="KIND", help=lines)
    made.add_argument("source", help="folder of the files, or a name on the hub (USER/NAME[@REVISION])")
    made.add_argument("--out", type=Path, required=True, help="run folder to make, or to add the stages to")
    made.add_argument("--clip", help="the CLIP, if the source lacks one of its towers: a folder, or a name on the hub")
    made.add_argument(
        "--embeddings",
        choices=("raw", "unit"),
        default="unit",
        help="for KIND clip: give its embeddings unit norm, or use them as they are (default unit)",
    )
    made.add_argument(
        "--image-size",
        type=positive,
        default=256,
        help="of a dVAE alone: the side of its pictures, a multiple of 8 (default 256)",
    )
    made.add_argument(
        "--dtype",
        choices=("float32", "float16", "bfloat16"),
        help="type in which matrices are stored (default: the source's); commands compute in float32",
    )
    made.add_argument("--overwrite", action="store_true", help="replace stages that are there")
    return made


PARSERS: Parsers = {"import": import_}
