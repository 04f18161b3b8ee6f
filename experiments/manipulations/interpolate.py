"""`unclip interpolate`: blends of pictures and of captions (unCLIP, section 3.2 and figures 4 and 5)."""

from __future__ import annotations

from PIL import Image

from eval.figure_folder import FigureRecord
from eval.panels import panel, stacked
from experiments.manipulations.common import (
    enlarged,
    finish,
    numbered,
    parser,
    psnr,
    sources,
    start,
    walk_of,
)
from modules.errors import InputError
from modules.manipulations import fresh_noise, from_captions, invert, path, redraw, square
from modules.seeds import ImageSeeds


def main(argv: list[str]) -> int:
    """Runs `unclip interpolate ...`; returns the exit code."""
    made = parser("interpolate", "Blend pictures, or captions by way of the prior.")
    made.add_argument("--count", type=int, default=7, help="pictures along a row, ends included (default 7)")
    made.add_argument(
        "--grid", type=int, default=5, help="side of the grid between four pictures (default 5; 0 for none)"
    )
    made.add_argument("--captions", nargs="+", help="captions to blend, two or more, in a row of their own")
    made.add_argument("--prior", default="diffusion_prior", help="that gives the captions' z_i (default %(default)s)")
    options = made.parse_args(argv)
    options.words = argv
    if options.captions and len(options.captions) < 2:
        raise InputError("--captions needs two or more captions to blend")
    if options.count < 2 or options.grid in (1, -1):
        raise InputError(f"--count and --grid need 2 or more, got {options.count} and {options.grid}")
    system = start(options)
    found, walk = sources(options, count=4), walk_of(options)
    if len(found) < 2:
        raise InputError("an interpolation needs two pictures or more: name another")
    latents = invert(system, found.images, None, walk)
    noise = fresh_noise(system, ImageSeeds.of([options.seed], 1))
    again = redraw(system, latents, walk)
    rows, names, ends = [], [], []
    pairs = [(k, k + 1) for k in range(0, len(found) - 1, 2)]
    for first, second in pairs:
        for shared, name in ((None, "own noise, blended"), (noise, "one fresh noise")):
            low = redraw(system, path(latents[[first, second]], options.count, shared), walk)
            if shared is None:
                ends += psnr(low[[0, -1]], again[[first, second]]).tolist()
            rows.append(enlarged(system, options, low))
            names.append(name)
    if options.captions:
        seeds = ImageSeeds.of([options.seed] * len(options.captions), len(options.captions))
        stops = from_captions(system, options.captions, seeds, options.prior)
        rows.append(enlarged(system, options, redraw(system, path(stops, options.count, stops.x_T[:1]), walk)))
        names.append(" to ".join(options.captions))
    heads = [f"{k / (options.count - 1):.2f}" for k in range(options.count)]
    notes = [
        f"z_i goes along the great circle between two pictures' ({options.steps} steps, guidance "
        f"{options.guidance:g}). With x_T along its own great circle the ends are the reconstructions; "
        "with one fresh noise for the row, they are variations.",
        f"Ends with blended noise against the reconstructions: {min(ends):.0f} dB or more (100 dB: equal).",
    ]
    shown: dict[str, Image.Image | bytes] = {"figure.png": panel(rows, heads, names)}
    if options.grid and len(found) >= 4:
        low = redraw(system, square(latents[:4], options.grid), walk)
        cells = enlarged(system, options, low)
        grid = [cells[k : k + options.grid] for k in range(0, len(cells), options.grid)]
        shown["grid.png"] = stacked([panel(grid, [""] * options.grid)])
        notes.append("The grid lies between four pictures, its corners, blended along both axes.")
    if options.captions:
        notes.append(
            f"The captions' row blends the {options.prior}'s z_i of {' and '.join(map(repr, options.captions))}."
        )
    record = FigureRecord("Interpolations", notes, numbers={"ends_psnr": ends})
    return finish(options, "interpolate", record, shown, numbered([image for row in rows for image in row]))
