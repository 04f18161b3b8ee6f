"""Training curves of a run, read from TensorBoard's event files."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

CURVES = {"loss": ("loss",), "score": ("accuracy", "retrieval", "cosine")}
"""The panels of a stage's curves -> words in the names of the scalars that they show."""


Curve = tuple[list[int], list[float]]


def read_curves(folder: Path) -> dict[str, Curve]:
    """All scalars in TensorBoard event files right in `folder`: name -> (steps, values); {} if there are none."""
    if not any(folder.glob("events.out.tfevents.*")):
        return {}
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 1000})
    events.Reload()
    curves = {}
    for tag in events.Tags()["scalars"]:
        points = sorted({event.step: event.value for event in events.Scalars(tag)}.items())
        curves[tag] = ([step for step, _ in points], [value for _, value in points])
    return curves


def plot_curves(title: str, curves: Mapping[str, Curve]) -> bytes | None:
    """A PNG of a stage's losses and, if it has some, its scores; None if there is nothing to plot."""
    from matplotlib.figure import Figure

    panels = {kind: _of_kind(curves, words) for kind, words in CURVES.items()}
    panels = {kind: chosen for kind, chosen in panels.items() if chosen}
    if not panels:
        return None
    figure = Figure(figsize=(4.2, 2.6 * len(panels)), layout="constrained")
    axes = figure.subplots(len(panels), squeeze=False)[:, 0]
    for axis, (kind, chosen) in zip(axes, panels.items(), strict=True):
        for name, (steps, values) in chosen.items():
            axis.plot(steps, values, label=name, linewidth=1.2, marker="." if len(steps) < 3 else None)
        if kind == "loss" and all(value > 0 for _, values in chosen.values() for value in values):
            axis.set_yscale("log")
        axis.set_ylabel(kind)
        axis.legend(fontsize=7)
        axis.grid(alpha=0.3)
    axes[0].set_title(title, fontsize=10)
    axes[-1].set_xlabel("step")
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=120)
    return out.getvalue()


def _of_kind(curves: Mapping[str, Curve], words: Sequence[str]) -> dict[str, Curve]:
    return {name: curve for name, curve in curves.items() if any(word in name for word in words)}
