"""Records of a run, made up: numbers of an evaluation, of a sweep, of a probe, and of stages; and who reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

PROTOCOL = {
    "n": 8, "captions": 4, "per_caption": 2, "extractor": "a classifier 12ab", "extractor_dim": 64, "clip": "clip 34cd",
    "inception": "a network 56ef", "reference": "reference", "reference_n": 9, "reference_digest": "78ab",
    "bootstrap": 10, "level": 0.95, "seed": 0, "size": [8, 8], "resizing": "none", "neighbours": [3, 5],
}  # fmt: skip


def interval(value: float) -> dict[str, float]:
    """A number with its limits."""
    return {"value": value, "low": value - 0.1, "high": value + 0.1}


def row(condition: str) -> dict[str, Any]:
    """What `unclip evaluate` writes of a condition."""
    share = interval(0.5)
    whole = {"n": 8, **dict.fromkeys(("bound", "swapped", "missing"), share)}
    return {
        "condition": condition, "n": 8, "clip_score": share, "fid": share, "frechet": interval(2.0), "recall": share,
        "precision": share, "diversity": share, "kid": share, "accuracy": {"colour": share, "all": share, "size": None},
        "binding": {"any": whole, "colour_shape": whole}, "drawn": {"decoder": {"steps": 7, "sampler": "ddim"}},
        "accuracy_by_count": {"1": {"n": 8, **dict.fromkeys(("object", "number", "all"), share)}},
        "lettering": {"seen": {"n": 3, "letters": share, "word": share}}, "warnings": ["few"],
        "protocol": dict(PROTOCOL),
    }  # fmt: skip


def records() -> dict[str, Any]:
    """File name in the run -> what this project writes there."""
    point = {**row("glide"), "settings": {"decoder.guidance_scale": 1.5}, "evaluations": 16, "folder": "sweeps/g/a"}
    sweep = {"name": "g", "title": "A sweep", "axis": "decoder.guidance_scale", "space": "images", "missing": ["glide"]}
    stage = {
        "name": "clip", "status": "done", "hash": "12", "command": "unclip fit", "started": "2026-11-01", "seconds": 3,
        "needs": {"data": "34"}, "recipe": {"command": "unclip fit", "files": {"a.yaml": {"b": 1}}, "needs": {}},
        "fingerprint": "56",
    }  # fmt: skip
    other = {**point, "settings": {"decoder.guidance_scale": 3}, "protocol": dict(PROTOCOL)}
    return {
        "samples/glide/metrics.json": row("glide"),
        "sweeps/guidance.json": {**sweep, "points": [point, other]},
        "probe.json": {"colour": 0.5, "train_pairs": 8},
        "blur.json": {"radii": [0, 1], "rows": [{"condition": "glide", "frechet": [interval(1.0)] * 2}], "note": "n"},
        "clip/stage.json": stage,
        "clip/started.json": stage,
    }


def write(run: Path, content: Any) -> None:
    """Writes what is left of such records into a run folder; what is no mapping of known files is left out."""
    for name in records():
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).unlink(missing_ok=True)
        if isinstance(content, dict) and name in content:
            (run / name).write_text(json.dumps(content[name]), encoding="utf-8")


def texts(run: Path) -> list[str]:
    """The tables of a run, as `unclip tables` and `unclip report` write them."""
    from eval.pages.collected import paper_tables
    from eval.records import made_of
    from eval.runs import read_run
    from eval.tables.main import main_table, probe_table, seconds_table

    found = read_run(run)
    with made_of(run):
        made = [main_table(found.rows), *paper_tables(run, found.rows).values()]
        made += [probe_table(found.probe), seconds_table(found.seconds)]
        return [text for table in made for text in (table.markdown(), table.latex(), table.csv())]


def plan(run: Path) -> str:
    """What the runner would do with a run's stages."""
    from experiments.suites.reproduce import dry_run
    from experiments.suites.runner import interrupted_seconds
    from experiments.suites.staging import Staging
    from experiments.suites.suite import Stage, Suite

    suite = Suite(run / "suite.yaml", run, {"clip": Stage("clip", "unclip fit --x 1")}, run)
    return f"{dry_run(Staging(suite), ['clip'])} {interrupted_seconds(run / 'clip')}"
