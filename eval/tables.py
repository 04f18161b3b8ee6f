"""Tables: the main one of a run, the seconds of its stages, the probe of its CLIP; as Markdown and on a terminal."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from eval.frechet import FEW_DRAWS, INCEPTION_DIM, few_draws
from eval.protocol import check_protocols
from eval.scoring import ATTRIBUTES

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable

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

PROBE_PAIRS = {"train_pairs": "fitted on", "test_pairs": "judged on"}
"""What `unclip probe` writes beside accuracies."""

ROW_KEYS = ("condition", "n", "frechet", "clip_score", "accuracy", "diversity")
PROTOCOL_KEYS = (
    *("n", "captions", "per_caption", "level", "bootstrap", "extractor", "extractor_dim", "clip", "inception"),
    *("reference", "reference_n", "reference_digest"),
)
"""What a row and its protocol have to hold; rows of older releases hold no more."""

Row = dict[str, Any]
"""What `eval.measure.measure` returns for one condition."""


class Cell(NamedTuple):
    """What stands in a table's cell: a text, and the interval of a number."""

    text: str
    interval: str = ""


@dataclass(frozen=True)
class Table:
    """A table whatever it is written as.

    Attributes:
        title: what it shows.
        columns: the headings.
        rows: as many cells each.
        notes: sentences that stand below: protocol, sample counts, what is missing.
    """

    title: str
    columns: list[str]
    rows: list[list[Cell]]
    notes: list[str] = field(default_factory=list)

    def markdown(self) -> str:
        """As a GitHub-flavoured table under a heading, with its notes."""
        lines = [f"## {self.title}", "", _line(self.columns), _line(["---"] * len(self.columns))]
        lines += [_line([f"{c.text} {c.interval}".strip() for c in row]) for row in self.rows]
        return "\n".join([*lines, "", *(f"- {note}" for note in self.notes)]).rstrip() + "\n"

    def latex(self) -> str:
        """As a booktabs table with its caption and notes; needs \\usepackage{booktabs}."""
        lines = [r"\begin{table}", r"\centering", rf"\caption{{{_tex(self.title)}}}"]
        lines += [rf"\begin{{tabular}}{{l{'r' * (len(self.columns) - 1)}}}", r"\toprule", _tex_line(self.columns)]
        lines += [r"\midrule", *(_tex_line([f"{c.text} {c.interval}".strip() for c in row]) for row in self.rows)]
        lines += [r"\bottomrule", r"\end{tabular}", *(rf"\par\footnotesize {_tex(note)}" for note in self.notes)]
        return "\n".join([*lines, r"\end{table}"]) + "\n"

    def csv(self) -> str:
        """As csv: value and interval in columns of their own, so that a program needs no parsing."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        with_interval = [any(row[k].interval for row in self.rows) for k in range(len(self.columns))]
        heads = zip(self.columns, with_interval, strict=True)
        writer.writerow([h for name, two in heads for h in ([name, f"{name} interval"] if two else [name])])
        for row in self.rows:
            cells = zip(row, with_interval, strict=True)
            writer.writerow([v for c, two in cells for v in ([c.text, c.interval] if two else [c.text])])
        return out.getvalue()

    def rich(self, intervals: bool = True) -> RichTable:
        """For rich's console; an interval stands below its number."""
        from rich.box import SIMPLE_HEAD
        from rich.table import Table as RichTable
        from rich.text import Text

        table = RichTable(title=self.title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 0, 0, 1))
        for k, column in enumerate(self.columns):
            table.add_column(column.replace(" ", "\n"), justify="left" if k == 0 else "right", no_wrap=True)
        for row in self.rows:
            texts = [Text(c.text) for c in row]
            for text, cell in zip(texts, row, strict=True):
                if intervals and cell.interval:
                    text.append(f"\n{cell.interval}", style="dim")
            table.add_row(*texts)
        return table

    def print(self, console: Console) -> None:
        """Prints the table and its notes; with intervals where they fit."""
        wide = self.rich()
        needed = console.measure(wide, options=console.options.update(max_width=10_000)).maximum
        fits = needed <= console.width
        console.print(wide if fits else self.rich(intervals=False))
        for note in self.notes:
            console.print(f"- {note}", markup=False, highlight=False)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def main_table(rows: Sequence[Row]) -> Table:
    """Conditions against metrics, each with its interval.

    Args:
        rows: of one protocol; conditions may be missing, their order is of no account.

    Raises:
        InputError: rows of different protocols, so of different sample counts as well.
    """
    if not rows:
        return Table("Main table", ["condition"], [], ["nothing has been evaluated yet: `unclip evaluate`"])
    protocol = check_protocols(rows)
    rows = in_order(rows)
    accuracies = [name for name in ATTRIBUTES if any((row["accuracy"] or {}).get(name) for row in rows)]
    columns = ["condition", "n", "Frechet ↓"]
    columns += ["FID ↓"] if any(row.get("fid") for row in rows) else []
    columns += ["CLIP score ↑"] if any(row["clip_score"] for row in rows) else []
    columns += [f"{name} ↑" for name in accuracies] + ["diversity"]
    body = []
    for row in rows:
        cells = [
            Cell(label(row["condition"])),
            Cell(str(row["n"])),
            number(row["frechet"], 2),
        ]
        cells += [number(row.get("fid"), 1)] if "FID ↓" in columns else []
        cells += [number(row["clip_score"], 3)] if "CLIP score ↑" in columns else []
        cells += [number((row["accuracy"] or {}).get(name), 2) for name in accuracies]
        body.append([*cells, number(row["diversity"], 2)])
    return Table("Main table", columns, body, _notes(rows, protocol, bool(accuracies)))


TEX = {"\\": r"\textbackslash{}", "↑": r"$\uparrow$", "↓": r"$\downarrow$", "–": "--", "±": r"$\pm$"}
TEX |= {character: rf"\{character}" for character in "&%$#_{}"} | {"~": r"\textasciitilde{}", "^": r"\^{}"}


def _tex(text: str) -> str:
    return "".join(TEX.get(character, character) for character in text)


def _tex_line(cells: Sequence[str]) -> str:
    return " & ".join(map(_tex, cells)) + r" \\"


def label(condition: str) -> str:
    """How tables and figures call a condition."""
    return {**CONDITIONS, **STAGES}.get(condition, condition)


def in_order(rows: Sequence[Row]) -> list[Row]:
    """Rows in the order of `CONDITIONS`; unknown ones after them, by name."""
    names = list(CONDITIONS)
    return sorted(rows, key=lambda r: (names.index(r["condition"]) if r["condition"] in names else 99, r["condition"]))


def _notes(rows: Sequence[Row], protocol: Mapping[str, Any], accuracies: bool) -> list[str]:
    real_images = f"{protocol['reference_n']} real images ({protocol['reference_digest']})"
    from_file = protocol.get("frechet_reference")
    against = f"statistics of the real images {from_file}; what else needs real images: {real_images}"
    notes = [
        f"n = {protocol['n']} a row: {protocol['captions']} held-out captions, {protocol['per_caption']} samples each."
        f" In brackets: {protocol['level']:.0%} bootstrap interval over captions, {protocol['bootstrap']} draws.",
        f"Frechet distance: {protocol['extractor']}, {protocol['extractor_dim']} features, against"
        f" {against if from_file else real_images}. It depends on n and on the features:"
        " compare within this table only. Diversity: mean distance of a caption's samples, in the same features.",
    ]
    notes += _draws_notes(rows, protocol)
    if protocol["clip"]:
        notes.append(f"CLIP score: mean cosine by {protocol['clip']}, which no stage was conditioned on.")
    if accuracies:
        real = next((row for row in rows if row["condition"] == "real"), None)
        judged = _accuracy_text(real) if real else "not measured (no row of real images)"
        notes.append(f"Accuracy of what the caption mentions, by a classifier; its own, on real images: {judged}.")
    notes += [
        f"{row['condition']} shares {row['shared_with_reference']} of its {row['n']} images with the reference:"
        " its Frechet distance is too small."
        for row in rows
        if row.get("shared_with_reference")
    ]
    notes += sorted({warning for row in rows for warning in row.get("warnings") or []})
    inception = protocol["inception"]
    fid_file = protocol.get("fid_reference")
    fid_against = (
        f"statistics of the real images {fid_file}"
        if fid_file
        else real_images
        if from_file
        else "the same real images"
    )
    notes.append(inception if " is left out" in inception else f"FID: {inception}, against {fid_against}.")
    return notes


def _draws_notes(rows: Sequence[Row], protocol: Mapping[str, Any]) -> list[str]:
    """Which intervals are of fewer draws than the protocol's, because each draw is costly."""
    by_dim = {"the Frechet distance": protocol["extractor_dim"]}
    if any(row.get("fid") for row in rows):
        by_dim["FID"] = INCEPTION_DIM
    few = [name for name, dim in by_dim.items() if few_draws(protocol["n"], dim, protocol["bootstrap"])]
    if not few:
        return []
    return [
        f"The intervals of {' and '.join(few)} are normal ones, of the spread of {FEW_DRAWS} draws: at this n and with"
        " so many features each draw is costly."
    ]


def _accuracy_text(row: Row) -> str:
    known = {name: value for name, value in (row["accuracy"] or {}).items() if value}
    return ", ".join(f"{name} {value['value']:.3f}" for name, value in known.items()) or "no ground truth"


def number(interval: Mapping[str, float] | None, digits: int) -> Cell:
    """A value with its interval; a dash where nothing was measured."""
    if interval is None:
        return Cell("–")
    low, high = (f"{interval[key]:.{digits}f}" for key in ("low", "high"))
    return Cell(f"{interval['value']:.{digits}f}", f"[{low}, {high}]")


def seconds_table(seconds: Mapping[str, float]) -> Table:
    """How long each stage took."""
    body = [[Cell(name), Cell(_clock(value))] for name, value in seconds.items()]
    note = f"in all {_clock(sum(seconds.values()))} of stages; some ran side by side"
    return Table("Time", ["stage", "h:mm:ss"], body, [note] if seconds else ["no stage has been recorded"])


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def probe_table(probe: Mapping[str, float]) -> Table:
    """What a linear probe reads from the CLIP's image embedding; the numbers of pairs stand in a note."""
    numbers = {name: value for name, value in probe.items() if isinstance(value, int | float)}
    body = [[Cell(name), Cell(f"{value:.3f}")] for name, value in numbers.items() if name not in PROBE_PAIRS]
    said = ["Accuracy of a linear probe on z_i: what the embedding does not hold, no decoder can draw."]
    pairs = [f"{PROBE_PAIRS[name]} {numbers[name]:,.0f} pairs" for name in PROBE_PAIRS if name in numbers]
    said += [f"The probe was {', '.join(pairs)}."] if pairs else []
    return Table("CLIP probe", ["attribute", "accuracy"], body, said if body else ["no probe has been recorded"])
