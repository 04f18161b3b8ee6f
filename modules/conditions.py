"""The one table of conditions: what a decoder may be given as z_i, and how tables and figures show each.

To add a prior to sampling, tables, figures, sweeps and grids, add a line here (docs/extending.md). This file is data:
it imports nothing, so that the evaluation can read it too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Condition:
    """A way from the caption to a picture (unCLIP, section 5.1).

    Attributes:
        label: how tables and figures call it.
        colour: of its curves and bars, as matplotlib names colours.
        z_i: what the decoder is given: "none" (the zero embedding), "z_t" in place of z_i, a "prior"'s draw, the
            true z_i of an "image"; or, of a decoder that reads no embeddings, image "tokens" that a prior draws, or
            the "true tokens" of an image.
        prior: the stage that draws z_i, for "prior".
        decoder: the stage that draws the picture.
        in_main_table: whether it is a row of a run's main table and a choice of `unclip sample`; if not, it is for
            sweeps only.
        caption: whether the decoder is given the caption's tokens beside z_i.
    """

    label: str
    colour: str
    z_i: Literal["none", "z_t", "prior", "image", "tokens", "true tokens"]
    prior: str | None = None
    decoder: str = "decoder"
    in_main_table: bool = True
    caption: bool = True

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages that take part, the decoder first; upsamplers are not among them."""
        return (self.decoder,) if self.prior is None else (self.decoder, self.prior)

    @property
    def needs_images(self) -> bool:
        """Whether the decoder is given the z_i or the tokens of a true image."""
        return self.z_i in ("image", "true tokens")

    @property
    def draws(self) -> bool:
        """Whether drawing is random, so that a caption can have several pictures."""
        return self.z_i != "true tokens"

    @property
    def has_embedding(self) -> bool:
        """Whether the decoder is given an embedding."""
        return self.z_i in ("z_t", "prior", "image")


CONDITIONS: dict[str, Condition] = {
    "caption_only": Condition("caption only", "#888888", "none"),
    "glide": Condition("GLIDE", "#222222", "none", decoder="glide"),
    # DALL-E 1: its Transformer draws tokens, its dVAE decodes them.
    "dalle": Condition("DALL-E", "#aa4499", "tokens", "token_transformer", decoder="dvae"),
    "text_embedding": Condition("text embedding as z_i", "#d55e00", "z_t"),
    # The first row of section 5.1.
    "text_decoder": Condition("decoder trained on z_t", "#cc79a7", "z_t", decoder="text_decoder", in_main_table=False),
    "linear_prior": Condition("linear prior", "#e69f00", "prior", "linear_prior"),
    "ar_prior": Condition("AR prior", "#0072b2", "prior", "ar_prior"),
    "diffusion_prior": Condition("diffusion prior", "#009e73", "prior", "diffusion_prior"),
    "projection_prior": Condition("projection prior", "#f0c040", "prior", "projection_prior"),
    "eclipse_prior": Condition("ECLIPSE prior", "#aa4499", "prior", "eclipse_prior"),
    "mlp_prior": Condition("MLP prior", "#44aa99", "prior", "mlp_prior"),
    # Priors that are given no text.
    "mean_prior": Condition("mean z_i (no text)", "#bbbbbb", "prior", "mean_prior"),
    "diffusion_prior_no_text": Condition("diffusion, no text", "#66c2a5", "prior", "diffusion_prior_no_text"),
    "mlp_prior_no_text": Condition("MLP prior, no text", "#99d8c9", "prior", "mlp_prior_no_text"),
    "distilled": Condition(
        "diffusion prior, distilled decoder",
        "#117733",
        "prior",
        "diffusion_prior",
        decoder="distilled_decoder",
        in_main_table=False,
    ),
    "one_step": Condition(
        "diffusion prior, one-step decoder",
        "#999933",
        "prior",
        "diffusion_prior",
        decoder="one_step_decoder",
        in_main_table=False,
    ),
    # Decoders whose text encoder reads tokens of its own.
    "caption_only_bpe": Condition("caption, byte pairs", "#777777", "none", decoder="decoder_bpe"),
    "caption_only_characters": Condition("caption, characters", "#555555", "none", decoder="decoder_characters"),
    "image_embedding_bpe": Condition("true z_i, byte pairs", "#4477aa", "image", decoder="decoder_bpe"),
    "image_embedding_characters": Condition("true z_i, characters", "#225588", "image", decoder="decoder_characters"),
    "image_embedding_alone": Condition("true z_i, no caption", "#88ccee", "image", caption=False),
    "image_embedding": Condition("true z_i (ceiling)", "#56b4e9", "image"),
    "dvae_reconstruction": Condition("DALL-E's dVAE, true tokens (ceiling)", "#ddaacc", "true tokens", decoder="dvae"),
}
"""By name, in the order of tables. Colours are Okabe and Ito's, which people with colour blindness can tell apart."""

DEFAULT = "diffusion_prior"
"""What the paper ends up with."""


RANKED = "_best_of_"
"""Between a condition and the number of candidates in the name of a row whose pictures a CLIP has chosen."""


def row_name(condition: str, best_of: int = 1) -> str:
    """The name of a condition's pictures in manifests and tables: "dalle", or "dalle_best_of_16"."""
    return condition if best_of == 1 else f"{condition}{RANKED}{best_of}"


def ranked(row: str) -> tuple[str, int]:
    """The condition and the number of candidates in a row's name; 1 without re-ranking."""
    condition, _, count = row.rpartition(RANKED)
    if condition in CONDITIONS and count.isdecimal() and int(count) > 1:
        return condition, int(count)
    return row, 1


def sampled() -> list[str]:
    """The names that `unclip sample --condition` takes: the main table's."""
    return [name for name, condition in CONDITIONS.items() if condition.in_main_table]


def priors() -> list[str]:
    """The names of the conditions whose z_i is a prior's."""
    return [name for name, condition in CONDITIONS.items() if condition.prior == name]
