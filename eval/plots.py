"""The paper's figures from a run's sweeps and samples, by matplotlib; each condition has one colour throughout."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from eval.binding import OUTCOMES
from eval.figures import comparison
from eval.samples import SampleFolder
from eval.sweeps import Sweep, accuracy_of, settings_text
from eval.tables import Row, label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import Locator
    from PIL import Image

COLOURS = {
    "caption_only": "#888888",
    "glide": "#222222",
    "text_embedding": "#d55e00",
    "text_decoder": "#cc79a7",
    "linear_prior": "#e69f00",
    "ar_prior": "#0072b2",
    "diffusion_prior": "#009e73",
    "image_embedding": "#56b4e9",
    "real": "#999933",
}
"""Okabe and Ito's, which people with colour blindness can tell apart."""

MARKERS = "osD^vP*X"
LINES = ("#222222", "#d55e00", "#009e73", "#0072b2", "#e69f00", "#cc79a7", "#56b4e9", "#999933")
APART = 1.035  # the factor between places on a logarithmic axis of what is measured at one
Metric = Callable[[Mapping[str, Any]], Mapping[str, float] | None]


def metric(name: str) -> Metric:
    """Reads an interval from a row of metrics."""
    return lambda point: point.get(name)


def _canvas(columns: int, rows: int = 1, height: float = 3.4) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * columns, height * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _legend(figure: Figure, axis: Axes) -> None:
    """One legend for all panels, above them, where no line is hidden by it."""
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=min(6, len(labels)), fontsize=8, frameon=False)


def _errors(points: Sequence[Mapping[str, float]]) -> list[list[float]]:
    low = [max(0.0, p["value"] - p["low"]) for p in points]
    return [low, [max(0.0, p["high"] - p["value"]) for p in points]]


def _line(axis: Axes, xs: Sequence[Any], found: Sequence[Mapping[str, float]], condition: str, **more: Any) -> None:
    settings = {"marker": "o", "markersize": 4, "capsize": 2, "linewidth": 1.4, "elinewidth": 0.8, **more}
    name = settings.pop("label", label(condition))
    values = [f["value"] for f in found]
    colour = settings.pop("color", COLOURS.get(condition))
    faint = settings.pop("faint", 1.0)
    _, caps, bars = axis.errorbar(xs, values, yerr=_errors(found), label=name, color=colour, **settings)
    for part in (*caps, *bars):
        part.set_alpha(faint)


def against_axis(sweep: Sweep, panels: Mapping[str, Metric], xlabel: str) -> Figure | None:
    """One panel for each metric, one line for each condition, over the sweep's axis; None without points."""
    panels = {name: read for name, read in panels.items() if any(read(p) for p in sweep.points)}
    if not panels:
        return None
    figure, axes = _canvas(len(panels))
    for axis, (name, read) in zip(axes, panels.items(), strict=True):
        for condition in sweep.conditions:
            pairs = [(sweep.x(p), read(p)) for p in sweep.of(condition)]
            known = sorted(((x, f) for x, f in pairs if x is not None and f), key=lambda pair: pair[0])
            if known:
                _line(axis, [x for x, _ in known], [f for _, f in known], condition)
        axis.set(xlabel=xlabel, ylabel=name)
    _legend(figure, axes[0])
    return figure


def guidance(sweep: Sweep) -> Figure | None:
    """Figure 11: the Frechet distance (and accuracy, CLIP score) against the decoder's guidance."""
    panels = {"Frechet distance": metric("frechet"), "CLIP score": metric("clip_score"), "all right": accuracy_of}
    return against_axis(sweep, panels, "decoder guidance scale")


def quality(sweep: Sweep) -> tuple[str, Metric]:
    """What figure 13 calls quality: predicted aesthetics where there is a probe, else accuracy, else the CLIP score."""
    if any(p.get("aesthetic") for p in sweep.points):
        return "mean predicted aesthetic", metric("aesthetic")
    if any(accuracy_of(p) for p in sweep.points):
        return "all that the caption says is right", accuracy_of
    return "CLIP score", metric("clip_score")


def trade_off(sweep: Sweep) -> Figure | None:
    """Figures 10 and 13: quality against the guidance scale, and against recall."""
    name, read = quality(sweep)
    if not any(read(p) and p.get("recall") for p in sweep.points):
        return None
    figure, (left, right) = _canvas(2)
    for condition in sweep.conditions:
        points = sorted((p for p in sweep.of(condition) if read(p) and sweep.x(p) is not None), key=sweep.x)
        found = [f for p in points if (f := read(p))]
        _line(left, [sweep.x(p) for p in points], found, condition)
        recall = [p["recall"]["value"] for p in points]
        _line(right, recall, found, condition, xerr=_errors([p["recall"] for p in points]))
        for x, y, p in zip(recall, found, points, strict=True):
            right.annotate(f"{sweep.x(p):g}", (x, y["value"]), (3, 3), textcoords="offset points", fontsize=6)
    left.set(xlabel="decoder guidance scale", ylabel=name)
    right.set(xlabel="recall", ylabel=name)
    _legend(figure, left)
    return figure


def samplers(sweep: Sweep) -> Figure | None:
    """Quality against network evaluations, one line for each sampler, side by side where their intervals would hide."""
    panels = {"Frechet distance": metric("frechet"), "CLIP score": metric("clip_score"), "all right": accuracy_of}
    panels = {name: read for name, read in panels.items() if any(read(p) for p in sweep.points)}
    names = list(dict.fromkeys(str(p["settings"].get("decoder.name", "as trained")) for p in sweep.points))
    if not panels:
        return None
    figure, axes = _canvas(len(panels))
    ticks = sorted({p["evaluations"] for p in sweep.points})
    for axis, (title, read) in zip(axes, panels.items(), strict=True):
        for k, name in enumerate(names):
            chosen = [p for p in sweep.points if str(p["settings"].get("decoder.name", "as trained")) == name]
            known = sorted(((p["evaluations"], f) for p in chosen if (f := read(p))), key=lambda pair: pair[0])
            beside = APART ** (k - (len(names) - 1) / 2)
            more = {"label": name, "marker": MARKERS[k % len(MARKERS)], "color": LINES[k % len(LINES)], "faint": 0.35}
            _line(axis, [x * beside for x, _ in known], [f for _, f in known], "", **more)
        axis.set(xlabel="evaluations of the decoder's network", ylabel=title)
        axis.set_xscale("log", base=2)
        axis.set_xticks(ticks, labels=[f"{tick:g}" for tick in ticks])
        axis.minorticks_off()
        low, high = axis.get_ylim()
        if title.startswith("Frechet") and high > 4 * low > 0:  # Few steps would press the rest together.
            axis.set_yscale("log")
            axis.yaxis.set_major_locator(_round_numbers())
            axis.yaxis.set_major_formatter("{x:g}")
            axis.yaxis.set_minor_formatter("")
    _legend(figure, axes[0])
    return figure


def _round_numbers() -> Locator:
    from matplotlib.ticker import LogLocator

    return LogLocator(base=10, subs=(1, 1.5, 2, 3, 5, 7))


def priors(sweep: Sweep) -> Figure | None:
    """The prior sweep as bars: Frechet distance of z_i, and cosine to the true z_i, by setting."""
    if not sweep.points:
        return None
    points = [p for condition in sweep.conditions for p in sweep.of(condition)]
    names = [f"{label(p['condition'])}: {settings_text(p['settings'])}" for p in points]
    panels = {"Frechet distance of z_i": metric("frechet"), "cosine to true z_i": metric("cosine_true")}
    panels = {name: read for name, read in panels.items() if any(read(p) for p in points)}
    figure, axes = _canvas(len(panels), height=max(2.5, 0.24 * len(points)))
    for k, (axis, (title, read)) in enumerate(zip(axes, panels.items(), strict=True)):
        for row, point in enumerate(points):
            found = read(point)
            if found:
                axis.barh(row, found["value"], xerr=_errors([found]), color=COLOURS.get(point["condition"]), height=0.7)
        axis.set(xlabel=title, yticks=range(len(points)), yticklabels=names if k == 0 else [""] * len(points))
        axis.tick_params(axis="y", labelsize=6)
        axis.invert_yaxis()
    return figure


def binding(rows: Sequence[Row]) -> Figure | None:
    """Figure 14 as numbers: for each condition, how pictures bind attributes, over all pairs of attributes."""
    known = [row for row in rows if (row.get("binding") or {}).get("any")]
    if not known:
        return None
    figure, (axis,) = _canvas(1, height=max(2.2, 0.5 + 0.35 * len(known)))
    colours = dict(zip(OUTCOMES, ("#009e73", "#d55e00", "#bbbbbb"), strict=True))
    left = [0.0] * len(known)
    for kind in OUTCOMES:
        values = [row["binding"]["any"][kind]["value"] for row in known]
        axis.barh([label(row["condition"]) for row in known], values, left=left, color=colours[kind], label=kind)
        left = [a + b for a, b in zip(left, values, strict=True)]
    axis.set(xlabel="share of such captions", xlim=(0, 1))
    axis.invert_yaxis()
    figure.legend(loc="outside upper center", ncols=3, fontsize=7)
    return figure


def picture(image: Image.Image) -> Figure:
    """A page of pictures as a figure, pixel for pixel."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(image.width / 100, image.height / 100), dpi=100)
    axis = figure.add_axes((0, 0, 1, 1))
    axis.imshow(image, interpolation="none", aspect="auto")
    axis.set_axis_off()
    return figure


def guidance_pictures(sweep: Sweep, folders: Mapping[str, SampleFolder], condition: str) -> Figure | None:
    """Figure 9: the same caption, embedding and noise at each guidance scale, for one condition.

    Args:
        sweep: the guidance sweep.
        folders: sample folder of each point, by the point's "folder".
        condition: whose.
    """
    points = sorted((p for p in sweep.of(condition) if sweep.x(p) is not None), key=sweep.x)
    columns = {
        f"{label(condition)}, guidance {sweep.x(p):g}": folders[p["folder"]] for p in points if p["folder"] in folders
    }
    return picture(comparison(columns, captions=6)) if columns else None


def save(figure: Figure) -> dict[str, bytes]:
    """{"png": bytes, "svg": bytes}; the same figure gives the same bytes."""
    import matplotlib

    out = {}
    with matplotlib.rc_context({"svg.hashsalt": "unclip"}):
        for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
            stream = io.BytesIO()
            figure.savefig(stream, format=kind, dpi=150, metadata=metadata)
            out[kind] = stream.getvalue()
    return out
