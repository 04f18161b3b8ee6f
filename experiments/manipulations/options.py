"""The options of the commands that change pictures, or draw captions side by side."""

from __future__ import annotations

import argparse

from experiments.console.arguments import RUN, CommandParser, Parsers, add_precision, positive
from modules.conditions import DEFAULT, priors

HALVES = ("left", "right", "top", "bottom")
"""Of a picture, for `unclip inpaint`."""

EDIT_STEPS = 8
"""Of `unclip text-diff`, as `modules.manipulations.latents.EDIT_STEPS`, which needs torch."""

THETAS = [0.25, 0.35, 0.4, 0.45, 0.5]
"""Of `unclip text-diff`: around those at which most edits were measured to work (docs/manipulations.md)."""

SIDE = 5
"""Of the grid between four pictures."""

FIGURES = {
    "reconstruct": "reconstruct -n 6 --steps 50 --sweep-steps 10 50 --sweep-guidance 1 2",
    "variations": "variations -n 12 --steps 25 --shown 5",
    "interpolate": "interpolate --steps 25 --grid 5 --captions 'a large red circle' 'a small blue square'",
    "text_diff": "text-diff --table 32 --choose 32 --steps 8 --theta 0.3 0.35 0.4 0.45",
    "pca": "pca -n 24 --steps 16 --shown 5",
    "typographic": "typographic -n 3 --steps 16",
    "conditioning_grid": "conditioning-grid -n 3 --columns 5",
    "guidance_grid": "guidance-grid -n 3",
    "inpaint": "inpaint -n 4 --fills 3 --steps 12 --resamples 3",
}
"""Folder in RUN/manipulations -> the command that fills it, without --run and --out."""


def figure(name: str, description: str, images: bool = True, steps: int = 50) -> argparse.ArgumentParser:
    """The options that all of these commands have but `unclip gallery`."""
    made = CommandParser(prog=f"unclip {name}", description=description)
    if images:
        add_pictures(made)
    add_common(made)
    add_precision(made)
    made.add_argument("--steps", type=int, default=steps, help=f"DDIM steps (default {steps})")
    made.add_argument("--guidance", type=float, default=1.0, help="guidance scale of the decoder (default 1: none)")
    return made


def add_pictures(made: argparse.ArgumentParser) -> None:
    """Which pictures to work on."""
    made.add_argument("images", nargs="*", help="picture files; without any, test pictures of the run")
    made.add_argument("--from", dest="source", help="sample folder of the test pictures (default RUN/samples/real)")
    made.add_argument("-n", type=positive, default=6, help="how many test pictures (default %(default)s)")


def add_common(made: argparse.ArgumentParser) -> None:
    """The run, the figure folder, and what every drawing has."""
    made.add_argument("--run", help=RUN)
    made.add_argument("--out", required=True, help="figure folder to write")
    made.add_argument("--size", type=positive, help="side of the pictures, one that the run reaches (default: largest)")
    made.add_argument("--seed", type=int, default=0, help="the same seed draws the same pictures (default 0)")
    made.add_argument("--batch-size", type=int, default=64, help="pictures at once; changes no picture (default 64)")
    made.add_argument("--device", help="such as cpu or cuda:1 (default: the accelerator, if there is one)")
    made.add_argument("--overwrite", action="store_true", help="replace a figure that is there")
    made.set_defaults(precision="32")


def add_latents(made: argparse.ArgumentParser) -> None:
    """--latents, for commands that start from (z_i, x_T); without --steps and --guidance the file's are taken."""
    made.add_argument("--latents", help="a file that `unclip invert` wrote; the pictures are not inverted again")
    made.set_defaults(steps=None, guidance=None)


def invert() -> argparse.ArgumentParser:
    """The options of `unclip invert`."""
    made = figure("invert", "Find the latents (z_i, x_T) from which the decoder draws given pictures.")
    made.add_argument("--caption", help="caption for the decoder, beside z_i (default: none, as in the paper)")
    made.add_argument(
        "--fixed-point",
        type=int,
        default=0,
        help="further evaluations at each step, which make few steps nearly exact (default 0)",
    )
    made.add_argument("--figure", metavar="DIR", help="also write a figure folder: pictures, x_T, reconstructions")
    return made


def reconstruct() -> argparse.ArgumentParser:
    """The options of `unclip reconstruct`."""
    made = figure("reconstruct", "Invert pictures and draw them again from their latents.")
    add_latents(made)
    made.add_argument("--sweep-steps", type=positive, nargs="*", default=[10, 25, 50], help="steps to compare")
    made.add_argument("--sweep-guidance", type=float, nargs="*", default=[1.0, 2.0], help="guidance scales to compare")
    return made


def variations() -> argparse.ArgumentParser:
    """The options of `unclip variations`."""
    made = figure("variations", "Draw variations of pictures, with growing eta and from fresh noise.")
    etas = [0.0, 0.25, 0.5, 0.75, 1.0]
    help_ = "DDIM's eta, 0 to 1: a larger one strays further from the picture (default 0 to 1 in 5 steps)"
    made.add_argument("--eta", type=float, nargs="+", default=etas, help=help_)
    made.add_argument("--shown", type=positive, default=6, help="pictures in the figure; all are measured (default 6)")
    return made


def interpolate() -> argparse.ArgumentParser:
    """The options of `unclip interpolate`."""
    made = figure("interpolate", "Blend pictures, or captions by way of the prior.")
    add_latents(made)
    made.add_argument(
        "--count", type=int, help="pictures in a row, with both ends (default: 7, more if more pictures are given)"
    )
    made.add_argument("--grid", type=int, help=f"side of the grid between four pictures (default {SIDE}; 0 for none)")
    made.add_argument("--captions", nargs="+", help="two or more captions; they are blended in a row of their own")
    made.add_argument("--prior", default=DEFAULT, help="prior that draws z_i for the captions (default %(default)s)")
    made.set_defaults(n=4)
    return made


def text_diff() -> argparse.ArgumentParser:
    """The options of `unclip text-diff`."""
    made = figure("text-diff", "Change pictures by the difference of two captions.", steps=EDIT_STEPS)
    add_latents(made)
    made.add_argument("--target", help='what the picture should show, as in "a blue circle"')
    made.add_argument(
        "--base", help='what the picture shows, as in "a red circle"; without it, z_i turns to the target\'s z_t'
    )
    made.add_argument(
        "--theta",
        type=float,
        nargs="+",
        default=THETAS,
        help=f"how far z_i turns, as a share of the angle to the target (default {' '.join(map(str, THETAS))})",
    )
    made.add_argument(
        "--table", type=int, metavar="N", help="instead of --target: measure five edits on N held-out scenes (shapes)"
    )
    made.add_argument(
        "--choose", type=int, metavar="M", help="with --table: choose the theta of each edit on M other scenes"
    )
    return made


def complete() -> argparse.ArgumentParser:
    """The options of `unclip complete`."""
    description = "Keep the top rows of pictures, and let DALL-E draw the rest."
    made = CommandParser(prog="unclip complete", description=description)
    add_pictures(made)
    add_common(made)
    made.add_argument("--rows", type=int, default=4, help="rows of tokens to keep (default 4)")
    made.add_argument("--caption", help="caption of the completed picture (default: the test picture's own)")
    made.add_argument("--fills", type=int, default=4, help="completions of each picture (default 4)")
    return made


def codes() -> argparse.ArgumentParser:
    """The options of `unclip codes`."""
    made = CommandParser(prog="unclip codes", description="Show the codes of a run's dVAE.")
    add_pictures(made)
    add_common(made)
    made.add_argument("--shown", type=positive, default=64, help="codes that are shown, the most used (default 64)")
    return made


def inpaint() -> argparse.ArgumentParser:
    """The options of `unclip inpaint`."""
    made = figure("inpaint", "Draw a part of pictures anew.", steps=20)
    made.add_argument(
        "--mask",
        default="right",
        help=f"a picture whose white part is drawn anew; or one of {', '.join(HALVES)}, centre (default %(default)s)",
    )
    made.add_argument(
        "--caption",
        help="caption of the whole filled picture (default: the test picture's own; for files, the picture's z_i)",
    )
    made.add_argument("--fills", type=int, default=4, help="fillings of each picture (default 4)")
    made.add_argument("--resamples", type=int, default=4, help="how often each step is repeated (default 4)")
    made.add_argument("--prior", default=DEFAULT, help="prior that draws z_i for the caption (default %(default)s)")
    made.set_defaults(guidance=1.5)
    return made


def pca() -> argparse.ArgumentParser:
    """The options of `unclip pca`."""
    made = figure("pca", "Draw pictures from a growing number of principal components of z_i.", steps=25)
    made.add_argument("--embeddings", help="folder that `unclip embed` wrote (default RUN/embeddings)")
    made.add_argument(
        "--components",
        type=positive,
        nargs="+",
        help="numbers of components (default: the paper's, scaled to the rank of these embeddings)",
    )
    made.add_argument("--shown", type=positive, default=6, help="pictures in the figure; all are measured (default 6)")
    return made


def typographic() -> argparse.ArgumentParser:
    """The options of `unclip typographic`."""
    made = figure(
        "typographic", "Write text over pictures; show CLIP's probabilities and variations of the decoder.", steps=25
    )
    made.add_argument("--text", help="text to write over each picture (default: the caption of the next picture)")
    made.add_argument("--captions", nargs="+", help="classes for CLIP to choose from (default: the pictures' captions)")
    made.add_argument("--variations", type=positive, default=3, help="variations of each picture (default 3)")
    return made


def conditioning_grid() -> argparse.ArgumentParser:
    """The options of `unclip conditioning-grid`."""
    made = figure(
        "conditioning-grid", "Draw the same captions, with the same noise, under several conditions.", images=False
    )
    made.add_argument("captions", nargs="*", help="captions; without any, the first ones of the run's test pictures")
    made.add_argument("-n", type=positive, default=4, help="how many test captions (default 4)")
    rows = ["caption_only", "text_embedding", DEFAULT]
    made.add_argument("--conditions", nargs="+", default=rows, help=f"a row for each (default {' '.join(rows)})")
    made.add_argument("--columns", type=positive, default=6, help="number of seeds, a column for each (default 6)")
    made.set_defaults(guidance=None, steps=None)
    return made


def guidance_grid() -> argparse.ArgumentParser:
    """The options of `unclip guidance-grid`."""
    made = figure(
        "guidance-grid", "Draw the same z_i, with the same noise, at growing guidance; beside GLIDE.", images=False
    )
    made.add_argument("captions", nargs="*", help="captions; without any, the first ones of the run's test pictures")
    made.add_argument("-n", type=positive, default=4, help="how many test captions (default 4)")
    scales = [1.0, 2.0, 3.0, 4.0]
    made.add_argument("--scales", type=float, nargs="+", default=scales, help="guidance scales (default 1 2 3 4)")
    made.add_argument("--prior", default=DEFAULT, help=f"one of {', '.join(priors())} (default %(default)s)")
    made.set_defaults(guidance=None, steps=None)
    return made


def gallery() -> argparse.ArgumentParser:
    """The options of `unclip gallery`."""
    made = CommandParser(prog="unclip gallery", description="Make every figure of a run's manipulations.")
    made.add_argument("run", help="run folder, as in runs/quickstart; it has to be trained on the shapes")
    made.add_argument("--only", nargs="+", choices=FIGURES, default=list(FIGURES), help="figures to make (default all)")
    made.add_argument("--device", help="such as cpu or cuda:1 (default: the accelerator, if there is one)")
    return made


PARSERS: Parsers = {
    "invert": invert,
    "reconstruct": reconstruct,
    "variations": variations,
    "interpolate": interpolate,
    "text-diff": text_diff,
    "complete": complete,
    "codes": codes,
    "inpaint": inpaint,
    "pca": pca,
    "typographic": typographic,
    "conditioning-grid": conditioning_grid,
    "guidance-grid": guidance_grid,
    "gallery": gallery,
}
