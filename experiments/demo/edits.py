"""The demo's tabs that start from a picture."""

from __future__ import annotations

import gradio as gr
from PIL import Image

from experiments.demo.mask import mask_of
from experiments.demo.studio import MOST_SEEDS, Studio
from experiments.demo.widgets import bind, gallery, picture, seed_of, seed_row, share_of

SLIDERS = 8
"""Principal components that have a slider."""


def variations(studio: Studio) -> None:
    """Other pictures with the same z_i."""
    gr.Markdown(
        "Draws other pictures with the same z_i (section 3.1). Eta 0 draws the picture again; a larger eta strays "
        "further from it. Fresh noise keeps only what z_i holds."
    )
    image = picture(studio, "picture")
    with gr.Row():
        seed, dice = seed_row()
        count = gr.Slider(1, MOST_SEEDS, 4, step=1, label="pictures from fresh noise")
    draw = gr.Button("Draw", variant="primary", elem_id="draw-variations")
    shown, download = gallery("variations")

    def drawn(
        given: Image.Image | None,
        first: float | None,
        pictures: float,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> object:
        seeds = [seed_of(first) + k for k in range(int(pictures))]
        return share_of(
            lambda: studio.variations(given, (0.0, 0.5, 1.0), seeds, progress), {"variations": True, "seeds": seeds}
        )

    bind(draw, drawn, [image, seed, count], [shown, download], dice)


def interpolation(studio: Studio) -> None:
    """Between two pictures, or two captions."""
    gr.Markdown("Draws the way from one picture to another along the great circle of their z_i (section 3.2).")
    with gr.Row():
        with gr.Column(min_width=160):
            first = picture(studio, "from", 0)
        with gr.Column(min_width=160):
            second = picture(studio, "to", 1)
    with gr.Row():
        count = gr.Slider(3, 11, 7, step=1, label="pictures")
        seed, dice = seed_row()
    fresh = gr.Checkbox(
        False, label="the same fresh noise in all pictures, instead of a blend of the two pictures' own"
    )
    draw = gr.Button("Draw the way between the pictures", variant="primary", elem_id="draw-interpolation")
    with gr.Accordion("between two captions", open=False):
        base = gr.Textbox(studio.captions[0], label="from")
        target = gr.Textbox(studio.captions[-1], label="to")
        words = gr.Button("Draw the way between the captions", elem_id="draw-captions")
    shown, download = gallery("interpolation", 7)

    def drawn(
        one: Image.Image | None,
        other: Image.Image | None,
        pictures: float,
        shared: bool,
        number: float | None,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> object:
        noise = seed_of(number) if shared else None
        return share_of(
            lambda: studio.between_pictures(one, other, int(pictures), noise, progress),
            {"interpolation": "pictures", "count": int(pictures), "noise_seed": noise},
        )

    def said(one: str, other: str, pictures: float, number: float | None) -> object:
        seed = seed_of(number)
        return share_of(
            lambda: studio.between_captions([one, other], int(pictures), seed),
            {"interpolation": [one, other], "count": int(pictures), "seed": seed},
            studio.unknown(f"{one} {other}"),
        )

    bind(draw, drawn, [first, second, count, fresh, seed], [shown, download], dice)
    bind(words, said, [base, target, count, seed], [shown, download])


def text_diffs(studio: Studio) -> None:
    """A picture changed by words."""
    gr.Markdown(
        "Turns z_i by the difference of two captions, and keeps the picture's noise (section 3.3). The base says what "
        "the picture shows now, the target what it should show."
    )
    image = picture(studio, "picture")
    base = gr.Textbox(studio.captions[0], label="base: what the picture shows")
    target = gr.Textbox(studio.captions[0].replace("red", "blue"), label="target: what it should show")
    most = gr.Slider(0.1, 0.8, 0.7, step=0.05, label="largest theta (share of the angle)")
    draw = gr.Button("Change", variant="primary", elem_id="draw-diff")
    shown, download = gallery("diff", 5)

    def drawn(
        given: Image.Image | None,
        before: str,
        after: str,
        angle: float,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> object:
        return share_of(
            lambda: studio.text_diff(given, before, after, float(angle), progress),
            {"base": before, "target": after, "theta": float(angle)},
            studio.unknown(f"{before} {after}"),
        )

    bind(draw, drawn, [image, base, target, most], [shown, download])


def inpainting(studio: Studio) -> None:
    """A painted part drawn anew."""
    gr.Markdown("Paint over the part that should be drawn anew. All other pixels stay as they are.")
    side = studio.examples[0].width
    image = gr.ImageEditor(
        studio.examples[0],
        label="picture, and your mask",
        type="pil",
        image_mode="RGBA",
        brush=gr.Brush(default_size=max(4, side // 4), colors=["#ff00ff"], color_mode="fixed"),
        eraser=gr.Eraser(default_size=max(4, side // 4)),
        sources=["upload", "clipboard"],
        transforms=[],
        layers=False,
        canvas_size=(side, side),
        elem_id="paint",
    )
    caption = gr.Textbox(studio.captions[0], label="caption of the whole picture (if empty, the picture's own z_i)")
    with gr.Row():
        seed, dice = seed_row()
        count = gr.Slider(1, MOST_SEEDS, 3, step=1, label="pictures")
        resamples = gr.Slider(1, 8, 3, step=1, label="repetitions of each step")
    draw = gr.Button("Fill", variant="primary", elem_id="draw-inpaint")
    shown, download = gallery("inpaint")

    def drawn(
        painted: dict[str, object] | None, text: str, first: float | None, pictures: float, times: float
    ) -> object:
        given, mask = mask_of(painted)
        seeds = [seed_of(first) + k for k in range(int(pictures))]
        return share_of(
            lambda: studio.inpaint(given, mask, text, seeds, int(times)),
            {"inpainting": text, "seeds": seeds, "resamples": int(times)},
            studio.unknown(text),
        )

    bind(draw, drawn, [image, caption, seed, count, resamples], [shown, download], dice)


def principal(studio: Studio) -> None:
    """Sliders along the principal components of z_i."""
    if studio.components is None:
        gr.Markdown(
            f"`{studio.name}` has neither `embeddings/` nor a decoder that whitens z_i: its components are not known."
        )
        return
    gr.Markdown("Moves z_i along its first principal components, in standard deviations of the training embeddings.")
    image = picture(studio, "picture")
    count = min(SLIDERS, len(studio.components.deviations))
    with gr.Row():
        sliders = [
            gr.Slider(-4, 4, 0, step=0.25, label=f"component {k + 1}", min_width=140, elem_id=f"pc-{k + 1}")
            for k in range(count)
        ]
    with gr.Row():
        seed, dice = seed_row()
        reset = gr.Button("All to 0", size="sm")
    draw = gr.Button("Draw", variant="primary", elem_id="draw-components")
    shown, download = gallery("components", 2)

    def drawn(given: Image.Image | None, first: float | None, *shifts: float) -> object:
        number = seed_of(first)
        return share_of(lambda: studio.moved(given, shifts, number), {"shifts": list(shifts), "seed": number})

    inputs = [image, seed, *sliders]
    bind(draw, drawn, inputs, [shown, download], dice)
    for slider in sliders:
        slider.release(drawn, inputs, [shown, download], concurrency_id="models", concurrency_limit=1)
    reset.click(lambda: [0.0] * len(sliders), None, sliders)
