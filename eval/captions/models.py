"""The models of the study, by the captions that they were trained on, and the prompts that they are given."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Trained:
    """A decoder of the study.

    Attributes:
        label: how tables and figures call it.
        colour: of its curve.
        share: how often training drew a caption that is not alt-text, 0 to 1.
    """

    label: str
    colour: str
    share: float


MODELS: dict[str, Trained] = {
    "ground_truth": Trained("ground truth only", "#222222", 0.0),
    "short_95": Trained("95 % short synthetic", "#e69f00", 0.95),
    "descriptive_65": Trained("65 % descriptive synthetic", "#cc79a7", 0.65),
    "descriptive_80": Trained("80 % descriptive synthetic", "#d55e00", 0.80),
    "descriptive_90": Trained("90 % descriptive synthetic", "#56b4e9", 0.90),
    "descriptive_95": Trained("95 % descriptive synthetic", "#009e73", 0.95),
    "descriptive_100": Trained("100 % descriptive synthetic", "#0072b2", 1.0),
    "true_95": Trained("95 % true descriptive", "#999933", 0.95),
}
"""By the stage's name, in the order of tables."""
REAL = "real"
"""The pictures that the prompts are captions of, judged as drawn ones are: the best that can be reached."""
LABELS = {**{name: model.label for name, model in MODELS.items()}, REAL: "(real pictures)"}
"""How tables call them, in their order."""

PROMPTS: dict[str, str] = {
    "ground_truth": "ground-truth prompts",
    "descriptive": "true descriptive prompts",
    "synthetic": "the captioner's descriptive prompts",
    "short": "short prompts",
    "lengthened": "short prompts, lengthened",
}
"""By the first part of a sample folder's name, in the order of tables."""

TYPE_STUDY = ("ground_truth", "short_95", "descriptive_95")
SHARE_STUDY = (
    "ground_truth",
    "descriptive_65",
    "descriptive_80",
    "descriptive_90",
    "descriptive_95",
    "descriptive_100",
)
CURVES = ("ground_truth", "descriptive")
"""The prompts of figures 4 and 5."""
