"""`unclip inpaint`: a part of a picture drawn anew, so that it fits the rest and a caption."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from datamodules.scenes import caption_of
from eval.figure_folder import FigureRecord
from eval.panels import panel
from experiments.manipulations.common import finish, numbered, parser, pictures, sources, start, walk_of
from modules.errors import InputError
from modules.images import resized
from modules.manipulations import Hole, inpaint, tokens_of
from modules.manipulations.methods import open_part
from modules.seeds import ImageSeeds

PARTS = {
    "left": (slice(None), slice(0, 1)),
    "right": (slice(None), slice(1, 2)),
    "top": (slice(0, 1), slice(None)),
    "bottom": (slice(1, 2), slice(None)),
}


def main(argv: list[str]) -> int:
    """Runs `unclip inpaint ...`; returns the exit code."""
    made = parser("inpaint", "Draw a part of pictures anew.", steps=20)
    made.add_argument("--mask", default="right", help=f"a picture, white where to draw; or {', '.join(PARTS)}, centre")
    made.add_argument("--caption", help="of the whole picture as it is to be (default the test picture's own)")
    made.add_argument("--fills", type=int, default=4, help="pictures to draw of each (default 4)")
    made.add_argument("--resamples", type=int, default=4, help="times that each step is taken (default 4)")
    made.add_argument("--prior", default="diffusion_prior", help="that gives the caption's z_i (default %(default)s)")
    made.set_defaults(guidance=1.5)
    options = made.parse_args(argv)
    options.words = argv
    if options.fills < 1 or options.resamples < 1:
        raise InputError(f"--fills and --resamples are 1 or more, got {options.fills} and {options.resamples}")
    system = start(options)
    found = sources(options)
    side = found.images.shape[-1]
    keep = 1 - mask_of(options.mask, side)
    texts = [str(options.caption or whole_caption(record)) for record in found.records]
    count = options.fills
    seeds = ImageSeeds.of([options.seed + k for k in range(count)] * len(found), len(found) * count)
    if all(texts):
        captions = [text for text in texts for _ in range(count)]
        tokens, z_t = system.embed_text(captions)
        z_i = system.embedding(options.prior, tokens, z_t, seeds.generators("prior"))
        z_i = torch.zeros_like(z_t) if z_i is None else z_i
    else:  # Without a caption the picture's own z_i says what it is.
        z_i = system.embed_image(found.images).repeat_interleave(count, dim=0)
        tokens = tokens_of(system, None, len(z_i))
    hole = Hole(found.images.repeat_interleave(count, dim=0), keep.expand(len(found) * count, -1, -1, -1))
    drawn = inpaint(system, hole, z_i, tokens, seeds, walk_of(options), size=options.size, resamples=options.resamples)
    known = hole.at(drawn.shape[-1])
    error = float(((drawn.cpu() - known.images).abs() * known.keep).max())
    shown = resized(found.images, drawn.shape[-1])
    holes = torch.where(resized(keep.expand(1, 3, -1, -1) * 2 - 1, shown.shape[-1]) > 0, shown, torch.zeros(()))
    cells = pictures(drawn)
    rows = [
        [original, hollow, *cells[k * count : (k + 1) * count]]
        for k, (original, hollow) in enumerate(zip(pictures(shown), pictures(holes), strict=True))
    ]
    notes = [
        f"Grey is drawn anew, {options.steps} steps, each taken {options.resamples} times with the known pixels noised "
        f"afresh (RePaint), then in the same way by the upsamplers; guidance {options.guidance:g}.",
        f"Known pixels differ from the picture's by {error:.2g} at most (of a range of 2).",
    ]
    names = [text or name for text, name in zip(texts, found.names, strict=True)]
    page = panel(rows, ["picture", "hole", *(f"seed {options.seed + k}" for k in range(count))], names)
    record = FigureRecord("Inpainting", notes, numbers={"largest_error_of_known_pixels": error})
    return finish(options, "inpaint", record, {"figure.png": page}, numbered(cells))


def whole_caption(record: dict[str, Any]) -> str:
    """A test picture's caption; with all that is true of it where that is known, so that the new part can fit."""
    scene = record.get("scene")
    return caption_of(scene) if scene else record.get("caption", "")


def mask_of(name: str, side: int) -> Tensor:
    """(1, 1, side, side), 1 where to draw: a half, the centre, or a picture."""
    mask = torch.zeros(1, 1, side, side)
    if name == "centre":
        mask[..., side // 4 : side - side // 4, side // 4 : side - side // 4] = 1
        return mask
    if name not in PARTS:
        return open_part(name, side)
    rows, columns = (
        slice((s.start or 0) * (side // 2), None if s.stop in (None, 2) else side // 2) for s in PARTS[name]
    )
    mask[..., rows, columns] = 1
    return mask
