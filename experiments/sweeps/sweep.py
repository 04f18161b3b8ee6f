"""`unclip sweep SWEEP.yaml --run RUN`: the same captions and noise under many settings, sampled and measured.

    name: guidance                      # RUN/sweeps/guidance.json; samples in RUN/sweeps/guidance/
    title: Guidance sweep
    axis: decoder.guidance_scale        # the figure's x axis: a setting, or "evaluations" (of the decoder's network)
    space: images                       # or embeddings: priors judged by their z_i, without a decoder
    conditions: [glide, diffusion_prior]
    captions: 96                        # the first ones of the real images' folder
    per_caption: 1
    batch_size: 64                      # pictures at once, of several candidates too; changes no picture
    negative: blurred                   # a caption that all points are guided away from; none by default
    fixed: {decoder.steps: 8}           # settings of every point
    decoder: decoder_noised             # the stage that draws, in place of the conditions' own; optional
    points:                             # lists multiply; `conditions` in an entry replaces those above
      - {decoder.guidance_scale: [1.0, 1.5, 3.0]}

A point that has been measured with the same weights, settings, captions and judges is not measured again. Pictures are
drawn as by `unclip sample`: --devices spreads them, and a sweep that was stopped or killed goes on inside its point.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from experiments.console.progress import progress
from experiments.evaluation.judges import existing, feature_cache, judges_of, make_judges
from experiments.sweeps.plan import Plan
from modules.errors import InputError
from modules.untrusted.reading import parse_yaml

Points = list[tuple[str, dict[str, Any]]]

if TYPE_CHECKING:
    from eval.judges.judges import Judges
    from eval.measure import Reference
    from eval.samples.folder import SampleFolder
    from experiments.sweeps.points import Devices, Sampler


BEST_OF = "ranking.best_of"
"""The setting of a point: how many candidates there are of each picture."""

RECORDED = 3
"""Raise it when rows record more or name judges otherwise. Older points are then measured again, not drawn again."""


def run(options: argparse.Namespace) -> int:
    """Run `unclip sweep`; returns the exit code."""
    plan = Plan.load(Path(options.sweep), read_changes(options.set))
    if options.captions is not None:
        plan = replace(plan, captions=options.captions)
    run = Path(options.run)
    if not run.is_dir():
        raise InputError(f"a sweep writes into the run's folder, and {run} is no folder: name a run that was trained")
    options.reference = options.reference or default_reference(run, plan)
    judges_of(run, options)
    from eval.files import write_file
    from eval.samples.folder import SampleFolder
    from eval.tables.sweeps import FOLDER, Sweep, sweep_table
    from experiments.console.devices import find_device
    from experiments.console.show import show
    from experiments.sampling.drawing import first_process
    from experiments.sweeps.checks import check_points, check_reference
    from experiments.sweeps.points import Devices, Sampler

    real = SampleFolder.open(options.real or run / "samples" / "real")
    reference = SampleFolder.open(options.reference) if plan.space == "images" else None
    device, first = find_device(options.device), first_process(options.devices)
    devices = Devices(device, options.devices if plan.space == "images" else 1, options.strategy, first)
    sampler = Sampler(run, plan, real, device if first else "cpu", reference)
    points = [(condition, settings) for condition, settings in plan.expand() if sampler.has(condition)]
    missing = list(dict.fromkeys(c for c, _ in plan.expand() if not sampler.has(c)))
    if not points:
        raise InputError(f"the run {run} holds no stages for any of {', '.join(missing)}: train them first")
    use_ranking_clip(sampler, options, points)
    check_points(sampler, points)
    if reference is not None:
        check_reference(sampler, [condition for condition, _ in points], reference)
    rows = measure_points(plan, options, points, sampler, real, devices)
    if not devices.first:
        return 0
    target = run / FOLDER / f"{plan.name}.json"
    content: dict[str, Any] = {"name": plan.name, "title": plan.title, "axis": plan.axis, "space": plan.space}
    content |= {"points": rows, "missing": missing}
    write_file(target, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    show(sweep_table(Sweep.load(target)))
    print(f"sweep: {target}")
    return 0


def use_ranking_clip(sampler: Sampler, options: argparse.Namespace, points: Points) -> None:
    """Give the run the CLIP that chooses among candidates, where a point has any.

    Raises:
        InputError: there is none, or it judges or conditions too.
    """
    from experiments.sampling.ranking import ranking_clip

    if not any(BEST_OF in settings for _, settings in points):
        return
    folder = options.rank_clip or existing(Path(options.run) / "rank_clip" / "export")
    if folder is None:
        raise InputError(f"{BEST_OF} needs a CLIP that chooses: give --rank-clip, or train {options.run}/rank_clip")
    sampler.system.ranking_clip = ranking_clip(sampler.system, folder, options.clip)


def read_changes(words: Sequence[str]) -> dict[str, list[Any]]:
    """--set STAGE.SETTING=VALUE,VALUE as lists of values.

    Raises:
        InputError: it has another form.
    """
    found = {}
    for word in words:
        key, equals, values = word.partition("=")
        try:
            content = parse_yaml(f"[{values}]", word)
        except yaml.YAMLError:
            content = None
        if not key or not equals or not content:
            raise InputError(f"--set {word}: write STAGE.SETTING=VALUE,VALUE as in decoder.steps=4,8")
        found[key] = content
    return found


def default_reference(run: Path, plan: Plan) -> str:
    """The real images of the samples' size: without upsampling, those of the decoder's size if the run has them."""
    small = None if plan.upsample else existing(run / "samples" / "reference_small")
    return small or str(run / "samples" / "reference")


def measure_points(
    plan: Plan, options: argparse.Namespace, points: Points, sampler: Sampler, real: SampleFolder, devices: Devices
) -> list[dict[str, Any]]:
    """One row of metrics for each point. A point that has been measured already is read from its file.

    Every process runs this with the same points, and all draw the pictures together. The first process measures them
    and writes the rows.
    """
    from eval.files import write_file
    from eval.runs import read_json
    from experiments.storage.provenance import config_hash
    from experiments.sweeps.embeddings import EmbeddingJudge

    judges: Judges | None = None
    reference: Reference | None = None
    embeddings: EmbeddingJudge | None = None
    judged, rows = judged_by(options), []
    shown = points if plan.space == "images" else progress(points, f"sweep {plan.name}")
    for k, (condition, settings) in enumerate(shown):  # Drawing shows how far it is by itself.
        folder, made_of = sampler.place(condition, settings)
        key = config_hash({**made_of, "judges": judged})
        row = read_json(folder / "metrics.json")
        if row is None or row.get("key") != key:
            if plan.space == "embeddings":
                embeddings = embeddings or EmbeddingJudge(sampler)
                row = embeddings.measure(condition, settings)
            else:
                if devices.first and (judges is None or reference is None):
                    judges, reference = prepare(options, real)
                job = sampler.job(condition, settings, f"sweep {plan.name}, point {k + 1} of {len(points)}")
                samples = sampler.draw(job, folder, made_of, devices)
                if samples is None or judges is None or reference is None:
                    continue  # Not the first process.
                row = sampler.measure_images(condition, settings, samples, judges, reference)
            row = {**row, "condition": condition, "settings": settings, "key": key}
            row["evaluations"] = sampler.evaluations(condition, settings)
            row["folder"] = str(folder.relative_to(Path(options.run)))
            write_file(folder / "metrics.json", json.dumps(row, indent=1, allow_nan=False) + "\n")
        rows.append({**row, "drawn": sampler.how(condition, settings)})
    return rows


def judged_by(options: argparse.Namespace) -> Mapping[str, Any]:
    """The judges and the reference, on which a point's numbers depend besides its sampling."""
    from eval.judges.features import find_inception
    from experiments.storage.provenance import file_hashes

    names = ("classifier", "clip", "inception", "network", "aesthetic", "preference", "reference")
    chosen = {name: getattr(options, name) for name in names} | {"inception": find_inception(options.inception)}
    used = {name: [str(value), file_hashes(value)] for name, value in chosen.items() if value}
    return {**used, "release": RECORDED}


def prepare(options: argparse.Namespace, real: SampleFolder) -> tuple[Judges, Reference]:
    """The judges, and the real images as they see them."""
    from eval.measure import read_reference
    from eval.samples.folder import SampleFolder

    folder = SampleFolder.open(options.reference)
    judges = make_judges(options, [real])
    return judges, read_reference(folder, judges, cache=feature_cache(options.cache, folder.path))
