"""The result of `unclip data check` as a page that needs no other file, and as a screen of text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from eval.files import write_file
from eval.pages.html import data_uri, png
from eval.samples.grid import caption_grid
from experiments.data.split_report import SHOWN, SplitReport, across_splits

EXAMPLES = 10
"""Faults, duplicates and long captions that the page names one by one."""


def summary(reports: Sequence[SplitReport]) -> str:
    """A table of the splits and the findings, about a screen."""
    head = ("split", "pairs", "looked at", "duplicates", "unreadable", "too long", "pairs/s")
    lines = [head, *(_cells(report) for report in reports)]
    widths = [max(len(line[k]) for line in lines) for k in range(len(head))]
    table = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    found = [finding for report in reports for finding in findings(report)]
    leaks = across_splits(reports)
    if leaks:
        a, i, b, k = leaks[0]
        found.append(f"{_many(len(leaks), 'picture is', 'pictures are')} in two splits (such as {a} {i} and {b} {k})")
    return "\n".join([*table, *(found or ["nothing found that is wrong"] * all(r.pairs for r in reports))])


def findings(report: SplitReport) -> list[str]:
    """The lines that a person should read about a split."""
    found = []
    if report.faults:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in kinds_of(report))
        found.append(f"{report.split}: {len(report.faults):,} unusable ({kinds}); the first: {report.faults[0]}")
    if report.duplicates:
        group = report.duplicates[0]
        places = ", ".join(map(str, group[:4])) + (", ..." if len(group) > 4 else "")
        said = _many(_repeated(report), "picture repeats another", "pictures repeat others")
        found.append(f"{report.split}: {said} (the largest group: {places})")
    if report.too_long:
        unit = "tokens" if report.tokens else "words"
        said = _many(report.too_long, "caption has", "captions have")
        found.append(f"{report.split}: {said} more than {report.context} {unit}")
    return found


def kinds_of(report: SplitReport) -> list[tuple[str, int]]:
    """Kind of fault -> how many, the most frequent first."""
    return Counter(fault.kind for fault in report.faults).most_common()


def write_page(path: Path, reports: Sequence[SplitReport], section: dict[str, Any], attribution: str | None) -> Path:
    """Writes the page.

    Args:
        path: of the page.
        reports: a report for each split.
        section: the configuration of the data.
        attribution: whom to name, or None.

    Returns:
        Its path.

    Raises:
        eval.errors.InputError: it can't be written.
    """
    environment = Environment(
        loader=PackageLoader("experiments.data"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("data_check.html.j2").render(
        title=section["class_path"].rsplit(".", 1)[-1],
        config=yaml.safe_dump(section, sort_keys=False),
        attribution=attribution,
        head=_HEAD,
        rows=[_row(report) for report in reports],
        leaks=across_splits(reports)[:EXAMPLES],
        leak_count=_many(len(across_splits(reports)), "picture is", "pictures are"),
        splits=[_section(report) for report in reports],
    )
    write_file(path, page)
    return path


_HEAD = (
    "split",
    "pairs",
    "looked at",
    "size in training",
    "width of files",
    "height of files",
    "words a caption",
    "tokens a caption",
    "distinct captions",
    "pairs a second",
)


def _row(report: SplitReport) -> list[str]:
    widths, heights = ([size[k] for size in report.files] for k in (0, 1))
    return [
        report.split,
        f"{report.pairs:,}",
        f"{report.looked_at:,}",
        f"{report.side} px" if report.side else "none",
        report.spread(widths) if widths else "no files",
        report.spread(heights) if heights else "no files",
        report.spread(report.words),
        report.spread(report.tokens) if report.tokens else "not counted",
        f"{len(set(report.captions)):,}",
        f"{report.rate:,.0f}",
    ]


def _section(report: SplitReport) -> dict[str, Any]:
    order = sorted(range(len(report.words)), key=lambda k: -report.words[k])
    return {
        "name": report.split,
        "findings": findings(report),
        "kinds": kinds_of(report),
        "faults": [str(fault) for fault in report.faults[:EXAMPLES]],
        "duplicates": [
            ", ".join(f"{k} ({report.captions[k]})" for k in group[:4]) + (", ..." if len(group) > 4 else "")
            for group in report.duplicates[:EXAMPLES]
        ],
        "longest": [(k, report.words[k], report.captions[k]) for k in order[:3]],
        "sheet": _sheet(report),
    }


def _sheet(report: SplitReport) -> str | None:
    if not report.sheet:
        return None
    picture = caption_grid(
        [image for _, _, image in report.sheet],
        [f"{index}: {caption[:120]}" for index, caption, _ in report.sheet],
        [index for index, _, _ in report.sheet],
        SHOWN,
    )
    return data_uri(png(picture), "png")


def _cells(report: SplitReport) -> tuple[str, ...]:
    counts = (report.pairs, report.looked_at, _repeated(report), len(report.faults))
    too_long = "-" if report.context is None else f"{report.too_long:,}"
    return (report.split, *(f"{count:,}" for count in counts), too_long, f"{report.rate:,.0f}")


def _many(count: int, one: str, several: str) -> str:
    return f"{count:,} {one if count == 1 else several}"


def _repeated(report: SplitReport) -> int:
    return sum(len(group) - 1 for group in report.duplicates)
