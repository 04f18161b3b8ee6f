"""The options of `unclip sample` and `unclip mix`."""

from __future__ import annotations

import argparse

from experiments.console.arguments import RUN, CommandParser, Parsers, add_placement, positive
from modules.conditions import DEFAULT, priors, sampled
from modules.models.sampler_names import SAMPLERS


def sample() -> argparse.ArgumentParser:
    """Of `unclip sample`."""
    parser = CommandParser(prog="unclip sample", description="Draw pictures for captions.")
    parser.add_argument("caption", nargs="?", help="one caption")
    parser.add_argument(
        "--captions",
        help="a text file, one caption a line; a .csv, .tsv, .parquet or .jsonl with a prompt a row (DrawBench,"
        " PartiPrompts, GenEval); or the manifest.jsonl of a sample folder",
    )
    parser.add_argument("--condition", default=DEFAULT, help=f"what the decoder is given: {', '.join(sampled())}")
    parser.add_argument("--decoder", metavar="STAGE", help="the stage that draws (default: the condition's own)")
    parser.add_argument(
        "--best-of", type=positive, default=1, metavar="N", help="draw N candidates of each picture, keep the best"
    )
    parser.add_argument(
        "--rank-clip", metavar="FOLDER", help="CLIP that chooses it; one that neither conditions nor judges"
    )
    add_drawing(parser)
    return parser


def mix() -> argparse.ArgumentParser:
    """Of `unclip mix`."""
    description = "Draw pictures whose z_i is a weighted sum of those of several pictures and captions."
    parser = CommandParser(prog="unclip mix", description=description)
    parser.add_argument("images", nargs="*", help="picture files")
    parser.add_argument(
        "--captions", nargs="+", default=[], metavar="CAPTION", help="captions, whose z_i a prior draws"
    )
    parser.add_argument("--weights", nargs="+", type=float, help="one a picture, then one a caption (default: equal)")
    parser.add_argument("--caption", help="that the decoder is given beside z_i (default none)")
    parser.add_argument(
        "--prior", dest="condition", choices=priors(), default=DEFAULT, help="of the captions (default %(default)s)"
    )
    parser.set_defaults(decoder=None)
    add_drawing(parser)
    return parser


def add_drawing(parser: argparse.ArgumentParser) -> None:
    """What commands that draw sample folders have in common."""
    parser.add_argument("--run", help=RUN)
    parser.add_argument("--out", required=True, help="sample folder to write")
    parser.add_argument("-n", type=int, default=1, help="pictures of each caption (default 1)")
    parser.add_argument("--negative", metavar="CAPTION", help="what to be guided away from (default: from no caption)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed draws the same pictures (default 0)")
    parser.add_argument("--batch-size", type=int, default=64, help="pictures at once; changes no picture (default 64)")
    parser.add_argument("--prior-guidance", type=float, help="guidance scale of the prior")
    parser.add_argument("--prior-steps", type=int, help="sampling steps of the diffusion prior")
    parser.add_argument("--decoder-guidance", type=float, help="guidance scale of the decoder; 1 is none")
    parser.add_argument("--decoder-steps", type=int, help="sampling steps of the decoder")
    parser.add_argument("--decoder-sampler", choices=SAMPLERS, help="sampler of the decoder")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="STAGE.SETTING=VALUE",
        help="any setting of sampling, as in prior.candidates=4 or decoder.guidance_rescale=0.7; may be repeated",
    )
    parser.add_argument(
        "--guiding-clip", metavar="FOLDER", help="CLIP for decoder.clip_guidance_scale (default: the run's own)"
    )
    parser.add_argument("--upsampler-steps", type=int, help="sampling steps of each upsampler")
    parser.add_argument("--size", type=positive, help="side of the pictures; one the run reaches (default the largest)")
    parser.add_argument("--no-upsample", dest="upsample", action="store_false", help="keep the decoder's own size")
    parser.add_argument("--device", help="such as cpu or cuda:1 (default: the accelerator, if there is one)")
    add_placement(parser)
    parser.add_argument("--devices", type=int, default=1, help="how many of them, a process each (default 1)")
    parser.add_argument("--strategy", default="auto", help="of Lightning's Trainer, for several (default auto: ddp)")
    parser.add_argument("--resume", action="store_true", help="go on with unfinished pictures, also with --overwrite")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a sample folder that is there, and drop unfinished pictures"
    )


PARSERS: Parsers = {"sample": sample, "mix": mix}
