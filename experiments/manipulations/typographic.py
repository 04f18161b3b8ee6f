"""`unclip typographic`: text over pictures, what CLIP takes them for, and what the decoder makes of them (figure 6)."""

from __future__ import annotations

import argparse

from eval.figures.folder import FigureRecord
from eval.figures.panels import bars, panel
from experiments.manipulations.common import enlarged, finish, numbered, sources, start, walk_of
from modules.images.tensors import load_images, to_pil
from modules.manipulations import Latents, fresh_noise, redraw, tokens_of, write_over, zero_shot
from modules.seeds import ImageSeeds


def run(options: argparse.Namespace) -> int:
    """Run `unclip typographic`; returns the exit code."""
    system = start(options)
    found, walk = sources(options), walk_of(options)
    plain = [to_pil(image) for image in found.images]
    texts = [options.text or found.names[(k + 1) % len(found)] for k in range(len(found))]
    written = [write_over(image, text) for image, text in zip(plain, texts, strict=True)]
    classes = options.captions or list(dict.fromkeys([*found.names, *([options.text] if options.text else [])]))
    rows, names, taken_in, numbers, drawn = [], [], 0, [], []
    for k in range(len(found)):
        images = load_images([plain[k], written[k]])
        shares = zero_shot(system, images, classes)
        z_i = system.embed_image(images).repeat_interleave(options.variations, dim=0)
        seeds = ImageSeeds.of(options.seed, options.variations)
        noise = fresh_noise(system, seeds).repeat(2, 1, 1, 1)
        low = redraw(system, Latents(z_i, noise, tokens_of(system, None, len(z_i))), walk)
        cells = enlarged(system, options, low)
        drawn += cells
        for place, (image, label) in enumerate(
            ((plain[k], found.names[k]), (written[k], f"with {texts[k]!r} over it"))
        ):
            own = cells[place * options.variations : (place + 1) * options.variations]
            rows.append([image, bars(classes, shares[place].tolist()), *own])
            names.append(label)
        taken_in += int(shares[0].argmax() != shares[1].argmax())
        numbers.append({"text": texts[k], "plain": shares[0].tolist(), "written": shares[1].tolist()})
    heads = ["picture", "CLIP's classes", *(f"variation {k + 1}" for k in range(options.variations))]
    notes = [
        "Beside each picture: CLIP's zero-shot probabilities, and what the decoder draws from its z_i alone, with the "
        f"same noise for both ({options.steps} DDIM steps).",
        f"The text changes the most probable class of {taken_in} of {len(found)} pictures. An attack works on a CLIP "
        "that has learned to read; one trained on pictures without letters, such as the shapes', sees a white bar.",
    ]
    record = FigureRecord("Text over pictures", notes, numbers={"classes": classes, "pictures": numbers})
    return finish(options, "typographic", record, {"figure.png": panel(rows, heads, names)}, numbered(drawn))
