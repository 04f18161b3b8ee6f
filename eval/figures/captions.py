"""DALL-E 3's figures 4 and 5 from the study of a run: curves over training, by what was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.captions.models import CURVES, MODELS, PROMPTS, SHARE_STUDY, TYPE_STUDY
from eval.figures.canvas import canvas, errors, foot, legend
from eval.records import check_record
from eval.runs import read_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STUDY = "study.json"
FIGURES = {"dalle3_figure_4_caption_type": TYPE_STUDY, "dalle3_figure_5_share": SHARE_STUDY}
"""File name -> the decoders that it compares."""


def is_study(run: Path) -> bool:
    """Whether a run holds a study of captions."""
    return (run / STUDY).is_file()


def study_figures(run: Path) -> dict[str, Figure | None]:
    """File name -> figure, None where the run lacks its decoders.

    Raises:
        InputError: study.json cannot be read.
    """
    content = read_json(run / STUDY) or {}
    check_record(run / STUDY, content)
    points, over = content.get("points", []), str(content.get("over", "prompts"))
    return {name: curves(points, models, over) for name, models in FIGURES.items()}


def curves(points: Sequence[Mapping[str, Any]], models: Sequence[str], over: str) -> Figure | None:
    """CLIP score (as in the paper) and accuracy, for both kinds of prompts, over the steps of training."""
    there = [model for model in models if any(p["model"] == model for p in points)]
    if len(there) < 2:
        return None
    figure, axes = canvas(2, rows=2, height=2.9)
    panels = [(prompts, metric) for metric in ("clip_score", "all") for prompts in CURVES]
    for axis, (prompts, metric) in zip(axes, panels, strict=True):
        scale = 100 if metric == "clip_score" else 1
        for k, model in enumerate(there):
            chosen = [p for p in points if (p["prompts"], p["model"]) == (prompts, model) and p.get(metric)]
            chosen = sorted((p for p in chosen if p.get("step")), key=lambda p: p["step"])
            found = [{key: scale * value for key, value in p[metric].items()} for p in chosen]
            beside = 1 + 0.012 * (k - (len(there) - 1) / 2)  # So that intervals do not hide each other.
            axis.errorbar(
                [p["step"] * beside for p in chosen],
                [f["value"] for f in found],
                yerr=errors(found) if found else None,
                label=MODELS[model].label,
                color=MODELS[model].colour,
                marker="o",
                markersize=3.5,
                capsize=2,
                linewidth=1.4,
                elinewidth=0.7,
            )
        axis.set(ylabel="CLIP score x 100" if metric == "clip_score" else "all that is said is right")
        axis.set_title(PROMPTS[prompts], fontsize=9)
        axis.set_xlabel("optimiser steps")
        axis.set_ylim(bottom=None)
    legend(figure, axes[0])
    said = "The paper has CLIP scores only, and uses its captioner's prompts where these are true ones."
    return foot(figure, f"Bars: 95 % intervals over {over}. Points of one step stand side by side. {said}")
