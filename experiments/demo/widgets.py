"""Parts that the demo's tabs share."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from html import escape

import gradio as gr

from experiments.demo.studio import Shown, Studio, archive
from modules.errors import InputError


def gallery(name: str, columns: int = 4) -> tuple[gr.Gallery, gr.DownloadButton]:
    """Where pictures appear, and a button that downloads them with how they were drawn."""
    shown = gr.Gallery(
        label="pictures",
        columns=columns,
        object_fit="contain",
        height="auto",
        format="png",
        elem_id=f"shown-{name}",
        elem_classes="pictures",
        interactive=False,
    )
    return shown, gr.DownloadButton("Download all, with settings", interactive=False, elem_id=f"download-{name}")


def seed_of(number: float | None) -> int:
    """The first seed, if the field is not empty; a message on the page says so."""
    if number is None:
        raise gr.Error("the first seed is empty: give a whole number")
    return int(number)


def seed_row() -> tuple[gr.Number, gr.Button]:
    """The first seed, and a button for another one."""
    seed = gr.Number(0, label="first seed", precision=0, minimum=0)
    return seed, gr.Button("Another seed", size="sm")


def picture(studio: Studio, label: str, number: int = 0) -> gr.Image:
    """A picture to work on: a file, or one of the run's own."""
    made = gr.Image(studio.examples[number], label=label, type="pil", sources=["upload", "clipboard"], height=240)
    gr.Examples([[image] for image in studio.examples], made, label="drawn by this run")
    return made


def share_of(draw: Callable[[], Shown], how: dict[str, object], unknown: Sequence[str] = ()) -> tuple[Shown, object]:
    """The values for `gallery`: the pictures, and the file to download. Errors become messages on the page."""
    if unknown:
        words = escape(", ".join(map(repr, unknown)), quote=False)
        gr.Warning(f"The model does not know {words}: read as unknown words.")
    try:
        shown = draw()
    except InputError as error:
        raise gr.Error(escape(str(error), quote=False)) from error  # gradio shows a message as HTML.
    return shown, gr.DownloadButton(value=archive(shown, how), interactive=True)


def bind(
    button: gr.Button,
    draw: Callable[..., object],
    inputs: Sequence[gr.components.Component],
    outputs: Sequence[gr.components.Component],
    dice: gr.Button | None = None,
    seed: gr.Number | None = None,
) -> None:
    """The button draws; one request at a time over all tabs. `dice` takes another seed and draws too."""
    button.click(draw, list(inputs), list(outputs), concurrency_id="models", concurrency_limit=1)
    if dice is not None:
        number = seed or next(part for part in inputs if isinstance(part, gr.Number))
        dice.click(lambda: random.randrange(2**31), None, number).then(
            draw, list(inputs), list(outputs), concurrency_id="models", concurrency_limit=1
        )
