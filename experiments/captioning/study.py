"""`unclip study RUN`: DALL-E 3's study of captions from the pictures of a run, as numbers, tables and claims.

Pictures lie in RUN/samples/PROMPTS-MODEL-PART (experiments/dalle3/suite.yaml). What comes of them is RUN/study.json,
which `unclip figures` draws from, and RUN/study.md. With replicas in RUN/seeds all numbers are over seeds.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from eval.captions.claims import claims_table, differences, over_seeds
from eval.captions.models import MODELS, PROMPTS, REAL
from eval.captions.points import Point, final, folders, judge
from eval.captions.report import faults, faults_table
from eval.captions.tables import AS_IT_IS, FORMS, form_changes, forms_table, points_table
from eval.captions.trace import trace, trace_table
from eval.runs import read_json
from eval.samples.folder import SampleFolder
from eval.tables.seeds import as_json_mean
from eval.tables.tabular import Table
from experiments.console.devices import find_device
from experiments.console.progress import progress
from experiments.console.show import show
from experiments.evaluation.judges import make_clip
from experiments.training.trainer.exports import part_end
from modules.errors import InputError
from modules.untrusted.reading import read_yaml

STUDY = "study.json"
TABLES = "study.md"
SEEDS = "seeds"
TRACED = "synthetic"
"""The prompts that a captioner wrote, of scenes whose truth is known."""


def run(options: argparse.Namespace) -> int:
    """Run `unclip study`; returns the exit code."""
    from eval.files import write_files

    run: Path = options.run
    found = study_of(run, options.bootstrap, find_device(options.device))
    content = merged([found, *replicas_of(run)])
    made = tables(content)
    text = "\n".join(table.markdown() for table in made)
    write_files({run / STUDY: json.dumps(content, indent=1, allow_nan=False) + "\n", run / TABLES: text})
    for table in made:
        show(table)
    print(f"{run / STUDY}, {run / TABLES}")
    return 0


def replicas_of(run: Path) -> list[dict[str, Any]]:
    """The studies of RUN/seeds.

    Raises:
        InputError: one of them was made by an older version.
    """
    found = []
    for path in sorted((run / SEEDS).glob(f"*/{STUDY}")):
        content = read_json(path) or {}
        lacking = [
            name for name in ("prompts", "points", "claims", "forms", "captions", "trace") if name not in content
        ]
        if lacking:
            raise InputError(f"{path}: it lacks {lacking[0]!r}; make it again: unclip study {path.parent}")
        found.append(content)
    return found


def study_of(run: Path, draws: int, device: torch.device) -> dict[str, Any]:
    """One run's points, differences and traces.

    Args:
        run: its folder.
        draws: of the intervals.
        device: where the judges compute.

    Raises:
        InputError: it has no pictures of the study, or no judges.
    """
    there = folders(run)
    if not there:
        raise InputError(
            f"{run} has no samples/PROMPTS-MODEL-PART of {', '.join(MODELS)}: run experiments/dalle3/suite.yaml"
        )
    judges = study_judges(run, device)
    real = {(name, REAL, 0): run / "prompts" / name for name in PROMPTS}
    real = {key: path for key, path in real.items() if (path / "manifest.jsonl").is_file()}
    points: dict[tuple[str, str, int], Point] = {}
    for key, path in progress(list({**real, **there}.items()), "judging"):
        if key[0] in PROMPTS or key[0] in FORMS:
            points[key] = judge(key, path, judges, run / "features")
    traced = [point for key, point in points.items() if key[0] == TRACED and key[1] != REAL]
    scenes = scenes_of(run / "prompts" / TRACED) if traced else {}
    sources = (read_json(run / "caption_report" / "report.json") or {}).get("sources", [])
    return {
        "over": "prompts",
        "prompts": {point.prompts: fingerprint(point) for point in points.values()},
        "points": [point.summary(draws) | {"step": step_of(run, point)} for point in points.values()],
        "claims": differences(points, draws),
        "forms": form_changes(points, draws),
        "captions": [faults(source) for source in sources],
        "trace": [row for point in traced for row in trace(point, scenes, draws, final(points, AS_IT_IS, point.model))],
    }


def fingerprint(point: Point) -> str:
    """Tells whether two folders were drawn from the same prompts of the same scenes."""
    asked = [[record["caption_index"], record["caption"]] for record in point.folder.records]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]


def scenes_of(prompts: Path) -> dict[int, Any]:
    """caption_index -> what is true of the scene, from the sample folder that the prompts were exported to.

    Raises:
        InputError: it is not there, or says nothing of scenes.
    """
    records = SampleFolder.open(prompts).records
    if not all(isinstance(record.get("scene"), dict) for record in records):
        raise InputError(f"{prompts}: its manifest says nothing of the scenes; write it with `unclip data export`")
    return {record["caption_index"]: record["scene"] for record in records if not record["sample_index"]}


def study_judges(run: Path, device: torch.device) -> Any:
    """The run's classifier and its CLIP for evaluation."""
    from eval.judges.attributes import load_classifier
    from eval.judges.features import AttributeExtractor
    from eval.judges.judges import Judges

    clip = run / "eval_clip" / "export"
    if not clip.is_dir():
        raise InputError(f"{clip}: no CLIP to judge by; train the suite's stage eval_clip")
    classifier = AttributeExtractor(load_classifier(str(run / "classifier")), device)
    return Judges(classifier=classifier, clip=make_clip(str(clip), device))


def step_of(run: Path, point: Point) -> int | None:
    """The optimiser step after which a point was drawn; None where the decoder's folder does not say."""
    try:
        trainer = read_yaml(run / point.model / "config.yaml")["trainer"]
        parts = next(c["init_args"]["parts"] for c in trainer["callbacks"] if c["class_path"].endswith("ExportParts"))
        return part_end(int(trainer["max_steps"]), point.part, int(parts))
    except (OSError, ValueError, KeyError, TypeError, StopIteration, yaml.YAMLError):
        return None


def merged(replicas: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One replica as it is; of several, the numbers that all have, as means with Student's interval over them.

    Raises:
        InputError: the replicas were drawn from different prompts. A captioner's own differ, as captioners do.
    """
    if len(replicas) == 1:
        return replicas[0]
    for name in set.intersection(*(set(replica["prompts"]) for replica in replicas)) - {TRACED}:
        if len({replica["prompts"][name] for replica in replicas}) > 1:
            raise InputError(f"the replicas in {SEEDS}/ were drawn from different prompts ({PROMPTS.get(name, name)})")
    return {
        "over": f"{len(replicas)} training seeds",
        "prompts": replicas[0]["prompts"],
        "points": means(replicas, "points", ("prompts", "model", "part")),
        "claims": over_seeds([replica["claims"] for replica in replicas]),
        "forms": means(replicas, "forms", ("form", "model")),
        "captions": means(replicas, "captions", ("source",)),
        "trace": means(replicas, "trace", ("model", "attribute")),
        "replicas": list(replicas),
    }


def means(replicas: Sequence[Mapping[str, Any]], part: str, keys: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of a part that all replicas have; a number that one of them lacks is None."""
    by_key = [{tuple(row[key] for key in keys): row for row in replica[part]} for replica in replicas]
    found = []
    for key, first in by_key[0].items():
        rows = [other.get(key) for other in by_key]
        there = [row for row in rows if row is not None]
        if len(there) < len(rows):
            continue
        names = [name for name in first if any(_is_number(row.get(name)) for row in there)]
        columns = {name: [row.get(name) for row in there] for name in names}
        mean = {
            name: as_json_mean([float(value["value"]) for value in column if value]) if all(column) else None
            for name, column in columns.items()
        }
        found.append({**first, **mean})
    return found


def _is_number(value: object) -> bool:
    return isinstance(value, dict) and "value" in value


def tables(content: Mapping[str, Any]) -> list[Table]:
    """All tables of the study."""
    over = content["over"]
    made = [claims_table(content["claims"], over), points_table(content["points"], over)]
    forms = forms_table(content["points"], content["forms"], over)
    made += [] if forms is None else [forms]
    made += [faults_table(content["captions"], over)] if content["captions"] else []
    return [*made, *([trace_table(content["trace"], over)] if content["trace"] else [])]
