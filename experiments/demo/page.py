"""The demo's page: a tab for each thing that a run can draw. Needs the package gradio."""

from __future__ import annotations

import html

import gradio as gr

from experiments.demo.edits import inpainting, interpolation, principal, text_diffs, variations
from experiments.demo.studio import MOST_SEEDS, Drawing, Studio
from experiments.demo.widgets import bind, gallery, seed_of, seed_row, share_of
from modules.conditions import CONDITIONS
from modules.models.licences import attribution_of_run

HEAD = """<style>
.gradio-container { max-width: 1200px !important; margin: 0 auto !important; }
.pictures .grid-wrap { max-height: none !important; height: auto !important; }
@media (max-width: 640px) {
  .tab-wrapper, .tab-container { max-width: calc(100vw - 24px) !important; min-width: 0 !important; }
  .gradio-container .main { padding: 8px !important; }
  .pictures .grid-container { grid-template-columns: repeat(2, 1fr) !important; }
}
</style>"""
"""In the page's head, where gradio leaves it as it is. A phone's width has two pictures beside each other."""


OLD = (3600, 24 * 3600)
"""Every hour, pictures that the page has shown are deleted from the temporary folder when they are a day old."""


def theme() -> gr.themes.Base:
    """A theme whose fonts are the machine's own: the page loads nothing from elsewhere."""
    return gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])


def page(studio: Studio) -> gr.Blocks:
    """The page of a run. One request is drawn at a time; others wait in the queue."""
    with gr.Blocks(title=f"unclip: {studio.name}", analytics_enabled=False, delete_cache=OLD) as blocks:
        gr.Markdown(
            f"# unclip\nThe run `{studio.name}`: a caption becomes a CLIP image embedding z_i (by a prior), and z_i "
            "becomes a picture (by the decoder and the upsampler). The same seed draws the same picture."
        )
        with gr.Tab("Text to picture"):
            _captions(studio)
        with gr.Tab("Variations"):
            variations(studio)
        with gr.Tab("Interpolation"):
            interpolation(studio)
        with gr.Tab("Text diff"):
            text_diffs(studio)
        with gr.Tab("Inpainting"):
            inpainting(studio)
        with gr.Tab("Components of z_i"):
            principal(studio)
        if whom := attribution_of_run(studio.system.run):
            gr.Markdown(f"Training data: {html.escape(whom)}")
    blocks.queue(max_size=32, api_open=False)
    return blocks


def _captions(studio: Studio) -> None:
    """A caption under several conditions side by side."""
    system = studio.system
    sampler = system.decoder().sampler
    gr.Markdown("Draws a caption in several ways, with the same noise: without z_i, with z_t in its place, by a prior.")
    caption = gr.Textbox(studio.captions[0], label="caption", lines=1)
    gr.Examples([[text] for text in studio.captions], caption, label="captions that this run knows")
    labels = [(CONDITIONS[name].label, name) for name in studio.conditions]
    conditions = gr.CheckboxGroup(labels, value=list(studio.conditions), label="conditions")
    with gr.Row():
        seed, dice = seed_row()
        count = gr.Slider(1, MOST_SEEDS, 4, step=1, label="pictures of each condition")
    with gr.Accordion("sampling", open=False):
        steps = gr.Slider(1, 64, sampler.steps, step=1, label="decoder: steps")
        guidance = gr.Slider(1.0, 6.0, sampler.guidance_scale, step=0.25, label="decoder: guidance scale (1 is none)")
        candidates = gr.Slider(
            1, 8, 2, step=1, label="diffusion prior: draws of z_i, of which the nearest to z_t is kept (paper: 2)"
        )
        prior_guidance = gr.Slider(1.0, 4.0, 1.0, step=0.25, label="diffusion prior: guidance scale (1 is none)")
    draw = gr.Button("Draw", variant="primary", elem_id="draw-text")
    shown, download = gallery("text")

    def drawn(
        text: str,
        names: list[str],
        first: float | None,
        pictures: float,
        decoder_steps: float,
        decoder_scale: float,
        prior_candidates: float,
        prior_scale: float,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - gradio finds it by this default
    ) -> object:
        chosen = Drawing(
            [name for name in studio.conditions if name in names],
            seed_of(first),
            int(pictures),
            {"steps": int(decoder_steps), "guidance_scale": float(decoder_scale)},
            {"candidates": int(prior_candidates), "guidance_scale": float(prior_scale)},
        )
        return share_of(
            lambda: studio.text_to_pictures(text, chosen, progress),
            {
                "caption": text,
                "conditions": chosen.conditions,
                "seeds": chosen.seeds,
                "decoder": chosen.decoder,
                "prior": chosen.prior,
            },
            studio.unknown(text),
        )

    inputs = [caption, conditions, seed, count, steps, guidance, candidates, prior_guidance]
    bind(draw, drawn, inputs, [shown, download], dice)
    caption.submit(drawn, inputs, [shown, download], concurrency_id="models", concurrency_limit=1)
