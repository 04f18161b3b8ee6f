"""`unclip study RUN`: DALL-E 3's study of captions from the pictures of a run, as numbers, tables and claims.

Pictures lie in RUN/samples/PROMPTS-MODEL-PART (experiments/dalle3/suite.yaml). What comes of them is RUN/study.json,
which `unclip figures` draws from, and RUN/study.md. With replicas in RUN/seeds the claims are over seeds.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
import yaml

from eval.captions.claims import claims_table, differences, over_seeds
from eval.captions.models import MODELS, PROMPTS
from eval.captions.points import Point, folders, judge
from eval.captions.tables import FORMS, forms_table, points_table
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
    replicas = [read_json(path) for path in sorted((run / SEEDS).glob(f"*/{STUDY}"))]
    content = merged([found, *(replica for replica in replicas if replica)])
    made = tables(content)
    text = "\n".join(table.markdown() for table in made)
    write_files({run / STUDY: json.dumps(content, indent=1, allow_nan=False) + "\n", run / TABLES: text})
    for table in made:
        show(table)
    print(f"{run / STUDY}, {run / TABLES}")
    return 0


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
    points: dict[tuple[str, str, int], Point] = {}
    for key, path in progress(list(there.items()), "judging"):
        if key[0] in PROMPTS or key[0] in FORMS:
            points[key] = judge(key, path, judges, run / "features")
    traced = [point for key, point in points.items() if key[0] == TRACED]
    scenes = scenes_of(run / "prompts" / TRACED) if traced else {}
    return {
        "over": "prompts",
        "points": [point.summary(draws) | {"step": step_of(run, point)} for point in points.values()],
        "claims": differences(points, draws),
        "trace": [row for point in traced for row in trace(point, scenes, draws)],
    }


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


def merged(replicas: list[dict[str, Any]]) -> dict[str, Any]:
    """One replica as it is; of several, means with Student's interval over them, and the traces of the first."""
    if len(replicas) == 1:
        return replicas[0]
    keys = ("prompts", "model", "part")
    by_key = [{tuple(point[k] for k in keys): point for point in replica["points"]} for replica in replicas]
    points = []
    for key, first in by_key[0].items():
        if all(key in other for other in by_key):
            intervals = {
                name: [other[key].get(name) for other in by_key] for name in first if _is_interval(first[name])
            }
            means = {
                name: as_json_mean([float(value["value"]) for value in values])
                for name, values in intervals.items()
                if all(values)
            }
            points.append({**first, **means})
    claims = over_seeds([replica["claims"] for replica in replicas])
    over = f"{len(replicas)} training seeds"
    return {"over": over, "points": points, "claims": claims, "trace": replicas[0]["trace"], "replicas": replicas}


def _is_interval(value: object) -> bool:
    return isinstance(value, dict) and {"value", "low", "high"} <= set(value)


def tables(content: dict[str, Any]) -> list[Table]:
    """All tables of the study."""
    made = [claims_table(content["claims"], content["over"]), points_table(content["points"])]
    forms = forms_table(content["points"])
    made += [] if forms is None else [forms]
    return [*made, *([trace_table(content["trace"])] if content["trace"] else [])]
