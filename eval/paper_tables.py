"""The paper's tables from a run, our numbers beside the published rows; and the tables that only this suite has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from eval import paper
from eval.binding import OUTCOMES
from eval.errors import InputError
from eval.sweeps import Sweep, notes, settings_text
from eval.tables import Cell, Row, Table, label, number

ABLATION_ORDER = (
    "caption_only",
    "glide",
    "text_embedding",
    "text_decoder",
    "linear_prior",
    "ar_prior",
    "diffusion_prior",
)


def table_1(votes: Mapping[str, Mapping[str, Mapping[str, float]]] | None) -> Table:
    """Human comparisons with GLIDE: what `eval.votes.counted` returns, None without votes."""
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
    """FID: the paper's rows, then ours with what they were measured by."""
    body = [
        [Cell(f"{name} (paper)"), *(Cell("–" if v is None else f"{v:.2f}") for v in values), Cell("–")]
        for name, values in paper.TABLE_2.items()
    ]
    for row in rows:
        fid = row.get("fid")
        zero_shot = number(fid, 2) if fid else Cell("–")
        body.append([Cell(label(row["condition"])), Cell("–"), zero_shot, Cell("–"), number(row["frechet"], 2)])
    columns = ["model", "FID", "zero-shot FID", "zero-shot FID (filtered)", "Frechet, other features"]
    said = [f"The paper's: {paper.PROTOCOL}."]
    if rows:
        p = rows[0]["protocol"]
        said.append(
            f"Ours: n = {p['n']} against {p['reference_n']} real images ({p['reference']}, {p['reference_digest']});"
            f" FID: {p['inception']}; other features: {p['extractor']}. Other data and counts than the paper's: the"
            " numbers of the two cannot be compared."
        )
    return Table("Table 2: FID", columns, body, said)


def table_3(run: Path) -> Table:
    """Hyperparameters of the trained stages, from their configs, beside the paper's."""
    ours = {stage: hyperparameters(run / stage) for stage in paper.TABLE_3}
    names = list(dict.fromkeys(name for stage in paper.TABLE_3.values() for name in stage))
    body = []
    for name in names:
        cells = [
            Cell(ours[stage].get(name, "–"), f"({theirs[name]})" if name in theirs else "")
            for stage, theirs in paper.TABLE_3.items()
        ]
        body.append([Cell(name), *cells])
    heads = [label(stage) for stage in paper.TABLE_3]
    return Table("Table 3: hyperparameters of this run", ["", *heads], body, ["In brackets: the paper's."])


def hyperparameters(stage: Path) -> dict[str, str]:
    """The rows of Table 3 that a stage's config.yaml knows; {} if the stage has not been trained."""
    path = stage / "config.yaml"
    if not path.is_file():
        return {}
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        model, data = config["model"]["init_args"], config["data"]["init_args"]
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise InputError(f"cannot read {path} ({error!r}); train the stage again") from error
    network = (model.get("network") or {}).get("init_args") or {}
    unet = network.get("unet") or network
    optimizer = (model.get("optimizer") or {}).get("init_args") or {}
    betas = optimizer.get("betas") or (None, None)
    found = {
        "diffusion steps": (model.get("objective") or {}).get("num_steps"),
        "noise schedule": (model.get("objective") or {}).get("schedule"),
        "sampling steps": (model.get("sampler") or {}).get("steps"),
        "sampler": (model.get("sampler") or {}).get("name"),
        "channels": unet.get("channels"),
        "depth": unet.get("depth") if "channels" in unet else None,
        "channel multipliers": unet.get("channel_multipliers"),
        "attention resolutions": unet.get("attention_resolutions"),
        "text width / depth": _width_depth(network),
        "batch size": data.get("batch_size"),
        "iterations": (config.get("trainer") or {}).get("max_steps"),
        "learning rate": optimizer.get("lr"),
        "weight decay": optimizer.get("weight_decay"),
        "Adam beta2": betas[1],
        "Adam epsilon": optimizer.get("eps"),
        "EMA decay": (model.get("training") or {}).get("ema_decay"),
        "parameters": _parameters(stage / "export" / "model.safetensors"),
    }
    return {name: _text(value) for name, value in found.items() if value is not None and value != []}


def _width_depth(network: Mapping[str, Any]) -> str | None:
    width = network.get("text_width") or network.get("width")
    depth = network.get("text_depth") or network.get("depth")
    return f"{width} / {depth}" if width and depth and "channels" not in network else None


def _parameters(path: Path) -> str | None:
    if not path.is_file():
        return None
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118 (no mapping)
    total = 0
    for shape in shapes:
        size = 1
        for side in shape:
            size *= side
        total += size
    return f"{total / 1e6:.2f}M"


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def ablation_table(sweep: Sweep) -> Table:
    """Section 5.1: each way of conditioning at its own best guidance, by the Frechet distance."""
    published = {
        "text_embedding": paper.ABLATION["text_embedding"],
        "text_decoder": paper.ABLATION["text_decoder"],
        "diffusion_prior": paper.ABLATION["unclip"],
    }
    body = []
    for condition in [name for name in ABLATION_ORDER if sweep.of(name)]:
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
