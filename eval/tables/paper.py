"""The paper's tables from a run, our numbers beside the published rows; and the tables that only this suite has."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from eval.errors import InputError
from eval.judges.features import NO_INCEPTION
from eval.metrics.binding import OUTCOMES
from eval.samples.conditions import LABELS
from eval.tables import published as paper
from eval.tables.hyperparameters import ROWS, SAMPLER, SIZES, STAGES, TITLES, lookup, setting, size_text, text_of
from eval.tables.main import Cell, Row, Table, label, number
from eval.tables.sweeps import Sweep, notes, settings_text
from eval.untrusted import read_yaml, shapes_of

PARTS = {2: "decoder", 3: "upsampler", 4: "second upsampler"}
"""Columns of Table 3 that the paper calls by the sizes of its images."""


def table_1(votes: Mapping[str, Mapping[str, Mapping[str, float]]] | None) -> Table:
    """Human comparisons with GLIDE: what `eval.votes.votes.counted` returns, None without votes."""
    body = [
        [Cell(f"{name} (paper)"), *(Cell(f"{value:.1f} %", f"± {half:.1f}") for value, half in values)]
        for name, values in paper.TABLE_1.items()
    ]
    for condition, answers in (votes or {}).items():
        cells = [_percent(answers.get(question)) for question in paper.QUESTIONS]
        body.append([Cell(label(condition)), *cells])
    said = ["Share of comparisons with GLIDE that are won; the paper's: 1,000 each, 95 % intervals."]
    if votes:
        counts = [f"{label(condition)} {_counts(answers)}" for condition, answers in votes.items()]
        said.append(
            f"Ours: numbers of votes, in brackets of those that are not sure (half a win each): {'; '.join(counts)}."
            " 95 % intervals by Wilson's formula, as if all votes were independent."
        )
    else:
        said.append("Ours: no votes have been collected; `unclip votes RUN` makes a page that does.")
    return Table("Table 1: human comparisons with GLIDE", ["model", *paper.QUESTIONS], body, said)


def _counts(answers: Mapping[str, Mapping[str, float]]) -> str:
    return ", ".join("{} {:g} ({:g})".format(name, a["n"], a["unsure"]) for name, a in answers.items())


def _percent(answer: Mapping[str, float] | None) -> Cell:
    if answer is None:
        return Cell("–")
    return Cell(f"{100 * answer['value']:.1f} %", f"[{100 * answer['low']:.1f}, {100 * answer['high']:.1f}]")


def table_2(rows: Sequence[Row]) -> Table:
    """FID: the paper's rows, then ours with what they were measured by.

    Ours stands in a column of the paper's only where it was measured by the protocol of that column (`unclip coco`).
    """
    columns = ["model", "FID", "zero-shot FID", "zero-shot FID (filtered)", "FID, own data", "Frechet, other features"]
    body = [
        [Cell(f"{name} (paper)"), *(Cell(paper.fid_text(name, v)) for v in values), Cell("–"), Cell("–")]
        for name, values in paper.TABLE_2.items()
    ]
    for row in rows:
        cells = [Cell("–")] * 4
        if row.get("fid"):
            cells[paper.column_of(row["protocol"])] = number(row["fid"], 2)
        body.append([Cell(label(row["condition"])), *cells, number(row["frechet"], 2)])
    said = [f"The paper's: {paper.PROTOCOL}; the first column's models were trained on MS-COCO."]
    return Table("Table 2: FID", columns, body, said + ([_measured_by(rows[0]["protocol"])] if rows else []))


def _measured_by(p: Mapping[str, Any]) -> str:
    fid = p["inception"] if p["inception"] != NO_INCEPTION else f"not measured ({NO_INCEPTION})"
    text = f"Ours: n = {p['n']} against {p['reference_n']} real images ({p['reference']}, {p['reference_digest']})"
    text += f", captions and real images by {p['caption_protocol']}" if p.get("caption_protocol") else ""
    text += f"; FID: {fid}; other features: {p['extractor']}."
    if paper.column_of(p) == paper.OWN_DATA:
        return f"{text} Other data and counts than the paper's: the numbers of the two cannot be compared."
    return f"{text} Zero-shot if the model has seen none of the data set in training, which no protocol can tell."


def table_3(run: Path) -> Table:
    """Hyperparameters of the trained stages, from their configs, beside the paper's."""
    folders = [_folder_of(run, stage) for stage in STAGES]
    configs = [_config(folder) for folder in folders]
    body = []
    for name, (_, papers) in ROWS.items():
        ours = [config and setting(stage, name, config) for stage, config in zip(STAGES, configs, strict=True)]
        body.append([Cell(name), *(_beside(*pair) for pair in zip(ours, papers, strict=True))])
    samplers = [config and lookup(config, SAMPLER + "name") for config in configs]
    body.append([Cell("sampler"), *(_beside(name, None) for name in samplers)])
    counts = [_parameters(folder) for folder in folders]
    sizes = [Cell(count or "–", f"({size_text(SIZES[stage])})") for stage, count in zip(STAGES, counts, strict=True)]
    body.append([Cell("parameters"), *sizes])
    said = [
        "In brackets: the paper's. – is a stage that this run does not have, or a setting that the stage does not have;"
        " a prior without a text encoder of its own reads the caption's tokens in its one transformer.",
    ]
    heads = ["AR prior", "diffusion prior", *(f"{part} (the paper's: {TITLES[k]})" for k, part in PARTS.items())]
    return Table("Table 3: hyperparameters of this run", ["", *heads], body, said)


def _beside(ours: Any, papers: Any) -> Cell:
    return Cell("–" if ours is None else text_of(ours), "" if papers is None else f"({text_of(papers)})")


def _folder_of(run: Path, stage: str) -> Path:
    """Where a run has a stage: a run with one upsampler may call it just that."""
    return run / ("upsampler" if stage == "upsampler_256" and not (run / stage).is_dir() else stage)


def _config(stage: Path) -> Mapping[str, Any] | None:
    """A stage's config.yaml; None if the stage has not been trained.

    That of a stage that `unclip export` gave away says the model alone, and after how many steps.

    Raises:
        InputError: it is damaged.
    """
    path = stage / "config.yaml"
    if not path.is_file():
        return None
    try:
        config = read_yaml(path)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"cannot read {path} ({' '.join(str(error).split())}); train the stage again") from error
    if lookup(config, "init_args") is not None:
        config = {"model": config, "trainer": {"max_steps": config.get("step")}}
    if lookup(config, "model.init_args") is None:
        raise InputError(f"cannot read {path}, it has no model.init_args; train the stage again")
    return dict(config)


def _parameters(stage: Path) -> str | None:
    places = (stage / "export" / "model.safetensors", stage / "model.safetensors")  # Of `unclip fit`, and given away.
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        return None
    return size_text(sum(math.prod(shape) for shape in shapes_of(path)))


def ablation_table(sweep: Sweep) -> Table:
    """Section 5.1: each way of conditioning at its own best guidance, by the Frechet distance."""
    published = {
        "text_embedding": paper.ABLATION["text_embedding"],
        "text_decoder": paper.ABLATION["text_decoder"],
        "diffusion_prior": paper.ABLATION["unclip"],
    }
    body = []
    for condition in [name for name in LABELS if sweep.of(name)]:
        best = min(sweep.of(condition), key=lambda point: point["frechet"]["value"])
        theirs = Cell(f"{published[condition]:.2f}") if condition in published else Cell("–")
        everything = (best.get("accuracy") or {}).get("all")
        body.append(
            [
                Cell(label(condition)),
                Cell(settings_text({sweep.axis: sweep.x(best)})),
                number(best["frechet"], 2),
                number(best["clip_score"], 3),
                number(everything, 2),
                theirs,
            ]
        )
    columns = ["decoder is given", "best at", "Frechet ↓", "CLIP score ↑", "all right ↑", "the paper's FID"]
    said = [
        "Best over the guidance scales of the sweep, as in the paper: each row is the least of several distances, so a"
        " little too small, and by the same rule for all.",
        f"The paper's: {paper.PROTOCOL}; its small unCLIP stands in the row of the diffusion prior.",
        *notes(sweep),
    ]
    return Table("Ablation of section 5.1", columns, body, said)


def binding_table(rows: Sequence[Row]) -> Table:
    """Attribute binding (figure 14 as a number): of captions that tell two objects apart in two attributes."""
    known = [row for row in rows if row.get("binding")]
    pairs = list(dict.fromkeys(pair for row in known for pair in row["binding"]))
    body = []
    for row in known:
        for pair in pairs:
            found = row["binding"].get(pair)
            if found:
                outcomes = [number(found[kind], 2) for kind in OUTCOMES]
                body.append([Cell(label(row["condition"])), Cell(pair), Cell(str(found["n"])), *outcomes])
    said = [
        "Bound: both objects have their two values; swapped: all four values are in the picture, exchanged; missing:"
        " one is not. Only captions that name both values of both objects, different ones.",
    ]
    if not known:
        said = ["nothing to judge: no ground truth, or nothing has been evaluated with --classifier"]
    return Table("Attribute binding", ["condition", "attributes", "n", "bound ↑", "swapped ↓", "missing ↓"], body, said)
