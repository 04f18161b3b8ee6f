"""The common part of all plots: axes, lines with intervals, one legend, the protocol at the foot, and files."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from eval.samples.conditions import colour, label
from eval.untrusted import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL import Image

DPI = 150  # of the PNGs
METADATA: dict[str, dict[str, Any]] = {"png": {"Software": None}, "svg": {"Date": None}}  # None leaves it out
FOOT: dict[str, Any] = {"fontsize": 7, "color": "#555555"}
FOOT_LETTERS = 18  # of the foot to an inch
FOOT_LINE = 0.135  # inches
LEGEND_HANDLE = 0.55  # inches: the piece of line in a legend, and the gaps beside it
LEGEND_LETTERS = 15  # of the legend to an inch


def plain(text: str) -> str:
    """A text for a figure as it stands: matplotlib would take what is between dollar signs for a formula."""
    return "\n".join(map(printable, text.split("\n"))).replace("$", r"\$")


def canvas(columns: int, rows: int = 1, height: float = 3.4) -> tuple[Figure, list[Axes]]:
    """A figure with axes, row by row; `height` in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * columns, height * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def legend(figure: Figure, axis: Axes) -> None:
    """One legend for all panels, above them, where no line is hidden by it; in as many rows as the figure needs."""
    handles, labels = axis.get_legend_handles_labels()
    widest = max((len(label) for label in labels), default=0)
    beside = int(figure.get_figwidth() / (LEGEND_HANDLE + widest / LEGEND_LETTERS))
    columns = max(1, min(beside, 6, len(labels)))
    figure.legend(handles, labels, loc="outside upper left", ncols=columns, fontsize=8, frameon=False)


def errors(points: Sequence[Mapping[str, float]]) -> list[list[float]]:
    """How far intervals reach below and above their values, as matplotlib wants it."""
    low = [max(0.0, p["value"] - p["low"]) for p in points]
    return [low, [max(0.0, p["high"] - p["value"]) for p in points]]


def line(axis: Axes, xs: Sequence[Any], found: Sequence[Mapping[str, float]], condition: str, **more: Any) -> None:
    """A line through the values of intervals, which stand as bars; `faint` is the bars' opacity."""
    settings = {"marker": "o", "markersize": 4, "capsize": 2, "linewidth": 1.4, "elinewidth": 0.8, **more}
    name = plain(settings.pop("label", label(condition)))
    values = [f["value"] for f in found]
    own = settings.pop("color", colour(condition))
    faint = settings.pop("faint", 1.0)
    _, caps, bars = axis.errorbar(xs, values, yerr=errors(found), label=name, color=own, **settings)
    for part in (*caps, *bars):
        part.set_alpha(faint)


def foot(figure: Figure, text: str) -> Figure:
    """Writes how the numbers were made below the axes, in small type."""
    lines = textwrap.wrap(text, int(FOOT_LETTERS * figure.get_figwidth()))
    figure.set_figheight(figure.get_figheight() + FOOT_LINE * len(lines))
    figure.supxlabel(plain("\n".join(lines)), x=0.01, ha="left", **FOOT)
    return figure


def picture(image: Image.Image, text: str = "") -> Figure:
    """A page of pictures as a figure, pixel for pixel; `text` stands below it in small type."""
    from matplotlib.figure import Figure

    width, high = image.width / 100, image.height / 100
    lines = textwrap.wrap(text, int(FOOT_LETTERS * width))
    below = (FOOT_LINE * len(lines) + 0.1) if lines else 0.0
    figure = Figure(figsize=(width, high + below), dpi=100)
    axis = figure.add_axes((0, below / (high + below), 1, high / (high + below)))
    axis.imshow(image, interpolation="none", aspect="auto")
    axis.set_axis_off()
    figure.text(0.05 / width, 0.05 / (high + below), plain("\n".join(lines)), va="bottom", **FOOT)
    return figure


def save(figure: Figure, kinds: Sequence[str] = ("png", "svg")) -> dict[str, bytes]:
    """The bytes of a figure by kind of file ("png", "svg"); the same figure gives the same bytes."""
    import matplotlib

    out = {}
    with matplotlib.rc_context({"svg.hashsalt": "unclip"}):
        for kind in kinds:
            stream = io.BytesIO()
            figure.savefig(stream, format=kind, dpi=DPI, metadata=METADATA[kind])
            out[kind] = stream.getvalue()
    return out
