"""The conditions that samples are drawn under: their order in tables, and how tables and figures call them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

CONDITIONS = {
    "caption_only": "caption only",
    "glide": "GLIDE",
    "text_embedding": "text embedding as z_i",
    "linear_prior": "linear prior",
    "ar_prior": "AR prior",
    "diffusion_prior": "diffusion prior",
    "image_embedding": "true z_i (ceiling)",
    "real": "real images (floor)",
}
"""The rows of the main table in their order, with their labels."""

STAGES = {"text_decoder": "decoder trained on z_t", "decoder": "decoder", "upsampler": "upsampler"}
"""What is no row of the main table but has a name in others."""

Row = dict[str, Any]
"""What `eval.measure.measure` returns for one condition."""


def label(condition: str) -> str:
    """How tables and figures of numbers call a condition."""
    return {**CONDITIONS, **STAGES}.get(condition, condition)


def picture_label(condition: str) -> str:
    """How pages of pictures call it: ceiling and floor are of numbers."""
    return label(condition).removesuffix(" (ceiling)").removesuffix(" (floor)")


def in_order(rows: Sequence[Row]) -> list[Row]:
    """Rows in the order of `CONDITIONS`; unknown ones after them, by name."""
    names = list(CONDITIONS)
    return sorted(rows, key=lambda r: (names.index(r["condition"]) if r["condition"] in names else 99, r["condition"]))


TEXT_DECODER = "text_decoder"  # a decoder trained on z_t, the first row of section 5.1
