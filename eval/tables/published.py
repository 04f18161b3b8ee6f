"""The paper's published numbers (arXiv 2204.06125). They stand beside ours, but are never ranked together with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SIZE, COUNT = 256, 30_000
PROTOCOL = f"MS-COCO, {SIZE} px, {COUNT:,} captions"

TABLE_1: dict[str, tuple[tuple[float, float], ...]] = {
    "unCLIP, AR prior": ((47.1, 3.1), (41.1, 3.0), (62.6, 3.0)),
    "unCLIP, diffusion prior": ((48.9, 3.1), (45.3, 3.0), (70.5, 2.8)),
}
"""Share of comparisons with GLIDE that unCLIP wins, in percent, and half its interval, by question."""

QUESTIONS = ("photorealism", "caption", "diversity")

TABLE_2: dict[str, tuple[float | None, float | None, float | None]] = {
    "AttnGAN": (35.49, None, None),
    "DM-GAN": (32.64, None, None),
    "DF-GAN": (21.42, None, None),
    "DM-GAN + CL": (20.79, None, None),
    "XMC-GAN": (9.33, None, None),
    "LAFITE": (8.12, 26.94, None),
    "Make-A-Scene": (7.55, None, 11.84),
    "DALL-E": (None, 28.0, None),
    "GLIDE": (None, 12.24, 12.89),
    "unCLIP, AR prior": (None, 10.63, 11.08),
    "unCLIP, diffusion prior": (None, 10.39, 10.87),
}
"""FID trained on MS-COCO, zero-shot, and zero-shot on the filtered validation set; DALL-E's was read off a plot."""

ABLATION: dict[str, float] = {
    "text_decoder": 9.16,
    "unclip": 7.99,
    "text_embedding": 16.55,
}
"""Section 5.1, FID at the best guidance: decoder trained on z_t, small unCLIP stack, z_t fed zero-shot."""

OWN_DATA = 3
"""The place of a column behind those of TABLE_2, for FIDs that were measured by no protocol of the paper."""


ZERO_SHOT = {"coco-zero-shot-30k": 1, "coco-zero-shot-30k-filtered": 2}
"""Names of experiments/protocols/coco*.yaml, and their places among the columns of TABLE_2."""


def column_of(protocol: Mapping[str, Any]) -> int:
    """The place of a FID among the columns of TABLE_2 by the protocol of its row, else `OWN_DATA`."""
    name = (protocol.get("caption_protocol") or "").split(" ")[0]
    whole = protocol.get("n") == COUNT and protocol.get("size") == [SIZE, SIZE]
    return ZERO_SHOT.get(name, OWN_DATA) if whole else OWN_DATA


def fid_text(model: str, value: float | None) -> str:
    """A FID of TABLE_2 as it was published."""
    return "–" if value is None else "~28" if model == "DALL-E" else f"{value:.2f}"
