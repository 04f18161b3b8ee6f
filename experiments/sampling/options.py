"""The options of `unclip sample` and `unclip mix`."""

from __future__ import annotations

import argparse

from experiments.console.arguments import RUN, CommandParser, Parsers, add_placement, positive
from modules.conditions import DEFAULT, priors, sampled
from modules.models.sampler_names import SAMPLERS


def sample() -> argparse.ArgumentParser:
    """The options of `unclip sample`."""
    parser = CommandParser(prog="unclip sample", description="Draw pictures for captions.")
    parser.add_argument("caption", nargs="?", help="one caption")
    parser.add_argument(
        "--captions",
        help="a file of captions instead: text with one on each line; .csv, .tsv, .parquet or .jsonl with one in each"
        " row (DrawBench, PartiPrompts, GenEval); or the manifest.jsonl of a sample folder",
    )
    parser.add_argument(
        "--condition",
        default=DEFAULT,
        help=f"what the decoder is given beside the caption (default {DEFAULT}); one of {', '.join(sampled())}",
    )
    parser.add_argument("--decoder", metavar="STAGE", help="the decoder's stage (default: the condition's own)")
    parser.add_argument(
        "--geneval", metavar="FOLDER", help="also write the pictures of GenEval's prompts as its own program reads them"
    )
    parser.add_argument(
        "--best-of", type=positive, default=1, metavar="N", help="draw N candidates of each picture, keep the best"
    )
    parser.add_argument(
        "--rank-clip",
        metavar="FOLDER",
        help="CLIP that chooses the best candidate; it must be neither the run's CLIP nor a judge",
    )
    add_drawing(parser)
    return parser


def mix() -> argparse.ArgumentParser:
    """The options of `unclip mix`."""
    description = "Draw pictures whose z_i is the weighted sum of the z_i of several pictures and captions."
    parser = CommandParser(prog="unclip mix", description=description)
    parser.add_argument("images", nargs="*", help="picture files")
    parser.add_argument(
        "--captions", nargs="+", default=[], metavar="CAPTION", help="captions, whose z_i a prior draws"
    )
    parser.add_argument(
        "--weights", nargs="+", type=float, help="a weight for each picture, then one for each caption (default: equal)"
    )
    parser.add_argument("--caption", help="caption for the decoder, beside z_i (default: none)")
    parser.add_argument(
        "--prior",
        dest="condition",
        choices=priors(),
        default=DEFAULT,
        help="prior that draws z_i for the captions (default %(default)s)",
    )
    parser.set_defaults(decoder=None)
    add_drawing(parser)
    return parser


def add_drawing(parser: argparse.ArgumentParser) -> None:
    """The common options of commands that draw sample folders."""
    parser.add_argument("--run", help=RUN)
    parser.add_argument("--out", required=True, help="sample folder to write")
    parser.add_argument("-n", type=int, default=1, help="pictures of each caption (default 1)")
    parser.add_argument(
        "--negative", metavar="CAPTION", help="caption that guidance leads away from (default: the empty condition)"
    )
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
    parser.add_argument(
        "--size", type=positive, help="side of the pictures, one that the run reaches (default: largest)"
    )
    parser.add_argument("--no-upsample", dest="upsample", action="store_false", help="keep the decoder's own size")
    parser.add_argument("--device", help="such as cpu or cuda:1 (default: the accelerator, if there is one)")
    add_placement(parser)
    parser.add_argument("--devices", type=int, default=1, help="number of devices, a process for each (default 1)")
    parser.add_argument(
        "--strategy", default="auto", help="strategy of Lightning's Trainer for several devices (default auto: ddp)"
    )
    parser.add_argument(
        "--resume", action="store_true", help="with --overwrite: go on with unfinished pictures, do not drop them"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a sample folder that is there, and drop unfinished pictures"
    )


PARSERS: Parsers = {"sample": sample, "mix": mix}
