"""The paper's figures from a run's sweeps and samples, by matplotlib; each condition has one colour throughout."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from eval.figures.canvas import canvas, errors, foot, legend, line, picture, plain, save
from eval.figures.comparison import comparison
from eval.metrics.binding import OUTCOMES
from eval.samples.conditions import Row, colour, label
from eval.samples.drawn import drawn, sentence
from eval.samples.folder import SampleFolder
from eval.tables.sweeps import Sweep, accuracy_of, footer, point_text, sampler_name, settings_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.ticker import Locator

__all__ = ["picture", "save"]

MARKERS = "osD^vP*X"
LINES = ("#222222", "#d55e00", "#009e73", "#0072b2", "#e69f00", "#cc79a7", "#56b4e9", "#999933")
APART = 1.035  # the factor between places on a logarithmic axis of what is measured at one
BAR = {"elinewidth": 0.8, "capsize": 1.5}
Metric = Callable[[Mapping[str, Any]], Mapping[str, float] | None]


def metric(name: str) -> Metric:
    """Reads an interval from a row of metrics."""
    return lambda point: point.get(name)


def against_axis(sweep: Sweep, panels: Mapping[str, Metric], xlabel: str) -> Figure | None:
    """One panel for each metric, one line for each condition, over the sweep's axis; None without points."""
    panels = {name: read for name, read in panels.items() if any(read(p) for p in sweep.points)}
    if not panels:
        return None
    figure, axes = canvas(len(panels))
    for axis, (name, read) in zip(axes, panels.items(), strict=True):
        for condition in sweep.conditions:
            pairs = [(sweep.x(p), read(p)) for p in sweep.of(condition)]
            known = sorted(((x, f) for x, f in pairs if x is not None and f), key=lambda pair: pair[0])
            if known:
                line(axis, [x for x, _ in known], [f for _, f in known], condition)
        axis.set(xlabel=xlabel, ylabel=name)
    legend(figure, axes[0])
    return foot(figure, footer(sweep, ["clip_score"] if "CLIP score" in panels else []))


def guidance(sweep: Sweep) -> Figure | None:
    """Figure 11: the Frechet distance (and accuracy, CLIP score) against the decoder's guidance."""
    panels = {"Frechet distance": metric("frechet"), "CLIP score": metric("clip_score"), "all right": accuracy_of}
    return against_axis(sweep, panels, "decoder guidance scale")


def candidates(sweep: Sweep) -> Figure | None:
    """DALL-E 1's figure 9c: quality against the number of candidates, by judges that did not rank.

    The paper has FID and Inception Score; here CLIP score and accuracy stand beside the Frechet distance.
    """
    panels = {"Frechet distance": metric("frechet"), "CLIP score": metric("clip_score"), "all right": accuracy_of}
    figure = against_axis(sweep, panels, "candidates, of which a CLIP keeps one")
    if figure is not None:
        for axis in figure.axes:
            axis.set_xscale("log", base=2)
            ticks = sorted({sweep.x(p) for p in sweep.points})
            axis.set_xticks(ticks, labels=[plain(str(tick)) for tick in ticks])
    return figure


def blur(found: Mapping[str, Any] | None) -> Figure | None:
    """DALL-E 1's figure 9a: the Frechet distance against the radius of a Gaussian blur of samples and real images."""
    if found is None:
        return None
    figure, axes = canvas(1)
    for row in found["rows"]:
        line(axes[0], found["radii"], row["frechet"], row["condition"])
    axes[0].set(xlabel="radius of the blur in pixels", ylabel="Frechet distance")
    legend(figure, axes[0])
    return foot(figure, found["note"])


def quality(sweep: Sweep) -> tuple[str, Metric]:
    """The quality of figure 13: predicted aesthetics if there is a probe, else accuracy, else the CLIP score."""
    if any(p.get("aesthetic") for p in sweep.points):
        return "mean predicted aesthetic", metric("aesthetic")
    if any(accuracy_of(p) for p in sweep.points):
        return "all that the caption says is right", accuracy_of
    return "CLIP score", metric("clip_score")


def trade_off(sweep: Sweep) -> Figure | None:
    """Figures 10 and 13: quality against the guidance scale, and against recall with a marker for each scale."""
    name, read = quality(sweep)
    if not any(read(p) and p.get("recall") for p in sweep.points):
        return None
    figure, (left, right) = canvas(2)
    known = [p for p in sweep.points if read(p) and sweep.x(p) is not None]
    markers = {x: MARKERS[k % len(MARKERS)] for k, x in enumerate(sorted({sweep.x(p) for p in known}))}
    for condition in sweep.conditions:
        points = sorted((p for p in known if p["condition"] == condition), key=sweep.x)
        found = [f for p in points if (f := read(p))]
        line(left, [sweep.x(p) for p in points], found, condition)
        recall = [p["recall"]["value"] for p in points]
        across = {"xerr": errors([p["recall"] for p in points]), "faint": 0.35, "marker": "", "linewidth": 1.0}
        line(right, recall, found, condition, **across)
        for x, y, p in zip(recall, found, points, strict=True):
            right.plot(x, y["value"], markers[sweep.x(p)], color=colour(condition), markersize=5)
    left.set(xlabel="decoder guidance scale", ylabel=name)
    right.set(xlabel="recall", ylabel=name)
    legend(figure, left)
    _scales_legend(figure, markers)
    return foot(figure, footer(sweep, ["recall", *(["clip_score"] if name == "CLIP score" else [])]))


def _scales_legend(figure: Figure, markers: Mapping[float, str]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], linestyle="", marker=marker, color="#555555", markersize=5, label=f"{x:g}")
        for x, marker in markers.items()
    ]
    figure.legend(handles=handles, title="guidance", title_fontsize=8, loc="outside right center", fontsize=8)


def samplers(sweep: Sweep) -> Figure | None:
    """Quality against network evaluations, one line for each sampler, side by side where their intervals would hide."""
    panels = {"Frechet distance": metric("frechet"), "CLIP score": metric("clip_score"), "all right": accuracy_of}
    panels = {name: read for name, read in panels.items() if any(read(p) for p in sweep.points)}
    names = list(dict.fromkeys(map(sampler_name, sweep.points)))
    if not panels:
        return None
    figure, axes = canvas(len(panels))
    ticks = sorted({p["evaluations"] for p in sweep.points})
    for axis, (title, read) in zip(axes, panels.items(), strict=True):
        for k, name in enumerate(names):
            chosen = [p for p in sweep.points if sampler_name(p) == name]
            known = sorted(((p["evaluations"], f) for p in chosen if (f := read(p))), key=lambda pair: pair[0])
            beside = APART ** (k - (len(names) - 1) / 2)
            more = {"label": name, "marker": MARKERS[k % len(MARKERS)], "color": LINES[k % len(LINES)], "faint": 0.35}
            line(axis, [x * beside for x, _ in known], [f for _, f in known], "", **more)
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
    legend(figure, axes[0])
    return foot(figure, footer(sweep, ["clip_score"] if "CLIP score" in panels else []))


def _round_numbers() -> Locator:
    from matplotlib.ticker import LogLocator

    return LogLocator(base=10, subs=(1, 1.5, 2, 3, 5, 7))


def priors(sweep: Sweep) -> Figure | None:
    """The prior sweep as bars: Frechet distance of z_i, and cosine to the true z_i, by setting."""
    if not sweep.points:
        return None
    points = [p for condition in sweep.conditions for p in sweep.of(condition)]
    names = [plain(f"{label(p['condition'])}: {point_text(p)}") for p in points]
    panels = {"Frechet distance of z_i": metric("frechet"), "cosine to true z_i": metric("cosine_true")}
    panels = {name: read for name, read in panels.items() if any(read(p) for p in points)}
    figure, axes = canvas(len(panels), height=max(2.5, 0.24 * len(points)))
    for k, (axis, (title, read)) in enumerate(zip(axes, panels.items(), strict=True)):
        for row, point in enumerate(points):
            found = read(point)
            if found:
                axis.barh(
                    row,
                    found["value"],
                    xerr=errors([found]),
                    color=colour(point["condition"]),
                    height=0.7,
                    error_kw=BAR,
                )
        axis.set(xlabel=title, yticks=range(len(points)), yticklabels=names if k == 0 else [""] * len(points))
        axis.tick_params(axis="y", labelsize=7)
        axis.invert_yaxis()
    return foot(figure, footer(sweep, ["clip_score"] if "CLIP score" in panels else []))


def binding(rows: Sequence[Row]) -> Figure | None:
    """Figure 14 as numbers: for each condition, how pictures bind attributes, over all pairs of attributes."""
    known = [row for row in rows if (row.get("binding") or {}).get("any")]
    if not known:
        return None
    figure, (axis,) = canvas(1, height=max(2.2, 0.5 + 0.5 * len(known)))
    figure.set_figwidth(5)
    colours = dict(zip(OUTCOMES, ("#009e73", "#d55e00", "#bbbbbb"), strict=True))
    for k, kind in enumerate(OUTCOMES):
        found = [row["binding"]["any"][kind] for row in known]
        places = [place + 0.27 * (k - 1) for place in range(len(known))]
        values, colour = [f["value"] for f in found], colours[kind]
        axis.barh(places, values, 0.26, xerr=errors(found), error_kw=BAR, color=colour, label=kind)
    counts = " or ".join(map(str, sorted({row["binding"]["any"]["n"] for row in known})))
    told = f"share of samples for captions\nthat tell two objects apart (n = {counts})"
    axis.set(xlabel=plain(told), xlim=(0, 1))
    axis.set_yticks(range(len(known)), labels=[plain(label(row["condition"])) for row in known])
    axis.invert_yaxis()
    axis.grid(visible=False, axis="y")
    figure.legend(loc="outside upper center", ncols=3, fontsize=7)
    return foot(figure, _judged(known[0]["protocol"]))


def _judged(protocol: Mapping[str, Any]) -> str:
    judge = protocol.get("classifier") or protocol["extractor"]
    draws = f"{protocol['level']:.0%} bootstrap intervals over captions, {protocol['bootstrap']} draws"
    return f"Judged by {judge}. Bars: {draws} (exact where all captions agree)."


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
    if not columns:
        return None
    fixed = {key: value for key, value in points[0]["settings"].items() if key != sweep.axis}
    how = drawn(record for folder in columns.values() for record in folder.records)
    how.get("decoder", {}).pop("guidance", None)  # The headings have it.
    return picture(
        comparison(columns, captions=6),
        samples_foot([{"condition": condition, "drawn": how}], settings_text(fixed) if fixed else ""),
    )


def samples_foot(rows: Sequence[Mapping[str, Any]], settings: str = "") -> str:
    """The text below pages of samples, from rows with "condition" and "drawn", or else from settings."""
    how = sentence(rows) or settings
    return "The first sample of each caption." + (f" Drawn with {how}." if how else "")
