"""`unclip invert`: pictures to their two-part latents (z_i, x_T), in one file (unCLIP, section 3)."""

from __future__ import annotations

from pathlib import Path

from experiments.embed import find_device
from experiments.manipulations.common import parser, psnr, sources, walk_of
from modules.errors import InputError
from modules.images import resized
from modules.manipulations import decoder_size, invert, redraw, save_latents
from modules.pipeline import UnCLIP


def main(argv: list[str]) -> int:
    """Runs `unclip invert ...`; returns the exit code."""
    made = parser("invert", "Find the latents (z_i, x_T) from which the decoder draws given pictures.")
    made.add_argument("--caption", help="a further condition of the decoder (default none, as in the paper)")
    made.add_argument(
        "--fixed-point", type=int, default=0, help="further evaluations a step: nearly exact at few steps"
    )
    options = made.parse_args(argv)
    out = Path(options.out)
    if out.is_dir() or (out.exists() and not options.overwrite):
        raise InputError(f"{out} is there already; name another file or pass --overwrite")
    system = UnCLIP(options.run, find_device(options.device))
    found = sources(options)
    walk = walk_of(options)
    walk = type(walk)(**{**vars(walk), "fixed_point_iterations": options.fixed_point})
    latents = invert(system, found.images, None if options.caption is None else [options.caption], walk)
    save_latents(out, latents, system)
    errors = psnr(redraw(system, latents, walk), resized(found.images, decoder_size(system)))
    for name, value in zip(found.names, errors.tolist(), strict=True):
        print(f"{name}: reconstructed at {value:.1f} dB")
    print(f"{out}: latents of {len(found)} pictures")
    return 0
