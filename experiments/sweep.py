"""`unclip sweep SWEEP.yaml --run RUN`: the same captions and noise under many settings, sampled and measured.

    name: guidance                      # RUN/sweeps/guidance.json; samples in RUN/sweeps/guidance/
    title: Guidance sweep
    axis: decoder.guidance_scale        # the figure's x axis: a setting, or "evaluations" (of the decoder's network)
    space: images                       # or embeddings: priors judged by their z_i, without a decoder
    conditions: [glide, diffusion_prior]
    captions: 96                        # the first ones of the real images' folder
    per_caption: 1
    fixed: {decoder.steps: 8}           # settings of every point
    points:                             # lists multiply; `conditions` in an entry replaces those above
      - {decoder.guidance_scale: [1.0, 1.5, 3.0]}

A point that has been measured with the same weights, settings and captions is not measured again.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from experiments.arguments import CommandParser
from experiments.evaluate import add_judges, feature_cache, make_judges
from experiments.progress import Progress, progress
from modules.errors import InputError

if TYPE_CHECKING:
    from eval.judges import Judges
    from eval.measure import Reference
    from eval.samples import SampleFolder
    from experiments.sweep_points import Sampler

STAGES = ("prior", "decoder", "upsampler")


@dataclass(frozen=True)
class Plan:
    """A sweep's YAML, as the module's docstring describes it."""

    name: str
    title: str
    axis: str
    conditions: list[str]
    points: list[dict[str, Any]]
    space: str = "images"
    captions: int = 96
    per_caption: int = 1
    seed: int = 0
    bootstrap: int = 200
    upsample: bool = False
    fixed: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> Plan:
        """Reads and checks a YAML.

        Raises:
            InputError: unreadable, or a key is unknown, missing or of the wrong kind.
        """
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise InputError(f"cannot read the sweep {path} ({' '.join(str(error).split())})") from error
        needed, known = ("name", "title", "axis", "conditions", "points"), {f.name for f in fields(cls)}
        if not isinstance(content, dict) or any(key not in content for key in needed):
            raise InputError(f"{path} is no sweep: it needs {', '.join(needed)}")
        unknown = sorted(set(content) - known)
        if unknown:
            raise InputError(f"{path}: unknown key {unknown[0]!r} (keys: {', '.join(sorted(known))})")
        plan = cls(**content)
        if plan.space not in ("images", "embeddings"):
            raise InputError(f"{path}: space is 'images' or 'embeddings', found {plan.space!r}")
        for key in ("captions", "per_caption", "bootstrap"):
            if not isinstance(content.get(key, 1), int) or content.get(key, 1) < 1:
                raise InputError(f"{path}: {key} must be 1 or more, found {content[key]!r}")
        for point in [*plan.points, plan.fixed]:
            for name in point:
                stage, _, setting = name.partition(".")
                if name != "conditions" and (stage not in STAGES or not setting):
                    raise InputError(f"{path}: {name!r} is no setting; write STAGE.SETTING, of {', '.join(STAGES)}")
        return plan

    def expand(self) -> list[tuple[str, dict[str, Any]]]:
        """All (condition, settings), each once."""
        found: dict[str, tuple[str, dict[str, Any]]] = {}
        for entry in self.points:
            axes = {k: v if isinstance(v, list) else [v] for k, v in entry.items() if k != "conditions"}
            for condition in entry.get("conditions", self.conditions):
                for values in itertools.product(*axes.values()):
                    settings = {**self.fixed, **dict(zip(axes, values, strict=True))}
                    found.setdefault(json.dumps([condition, settings], sort_keys=True), (condition, settings))
        return list(found.values())


def main(argv: list[str]) -> int:
    """Runs `unclip sweep ...`; returns the exit code."""
    options = parser().parse_args(argv)
    plan = Plan.load(Path(options.sweep))
    if options.captions is not None:
        plan = replace(plan, captions=options.captions)
    run = Path(options.run)
    options.reference = options.reference or str(run / "samples" / "reference")
    options.classifier = options.classifier or existing(run / "classifier")
    options.clip = options.clip or existing(run / "eval_clip" / "export")
    from eval.files import write_file
    from eval.samples import SampleFolder
    from eval.sweeps import FOLDER, Sweep, sweep_table
    from experiments.embed import find_device
    from experiments.evaluate import show
    from experiments.sweep_points import Sampler

    real = SampleFolder.open(options.real or run / "samples" / "real")
    sampler = Sampler(run, plan, real, find_device(options.device))
    points = [(condition, settings) for condition, settings in plan.expand() if sampler.has(condition)]
    missing = list(dict.fromkeys(c for c, _ in plan.expand() if not sampler.has(c)))
    if not points:
        raise InputError(f"the run {run} holds no stages for any of {', '.join(missing)}: train them first")
    rows = measure_points(plan, options, points, sampler, real)
    target = run / FOLDER / f"{plan.name}.json"
    content: dict[str, Any] = {"name": plan.name, "title": plan.title, "axis": plan.axis, "space": plan.space}
    content |= {"points": rows, "missing": missing}
    write_file(target, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    show(sweep_table(Sweep.load(target)))
    print(f"sweep: {target}")
    return 0


def existing(folder: Path) -> str | None:
    """A folder's name, if it is there."""
    return str(folder) if folder.is_dir() else None


def measure_points(
    plan: Plan,
    options: argparse.Namespace,
    points: list[tuple[str, dict[str, Any]]],
    sampler: Sampler,
    real: SampleFolder,
) -> list[dict[str, Any]]:
    """One row of metrics for each point; those that are there already are read."""
    from eval.files import write_file
    from eval.report import read_json

    judges: Judges | None = None
    reference: Reference | None = None
    rows = []
    bar: Progress[None] = progress(len(points), f"sweep {plan.name}")
    with bar:
        for condition, settings in points:
            folder, key = sampler.place(condition, settings, judged_by(options))
            row = read_json(folder / "metrics.json")
            if row is None or row.get("key") != key:
                if plan.space == "embeddings":
                    row = sampler.measure_embeddings(condition, settings)
                else:
                    if judges is None or reference is None:
                        judges, reference = prepare(options, real)
                    row = sampler.measure_images(condition, settings, folder, judges, reference)
                row = {**row, "condition": condition, "settings": settings, "key": key}
                row["evaluations"] = sampler.evaluations(condition, settings)
                row["folder"] = str(folder.relative_to(Path(options.run)))
                write_file(folder / "metrics.json", json.dumps(row, indent=1, allow_nan=False) + "\n")
            rows.append(row)
            bar.advance(1)
    return rows


def judged_by(options: argparse.Namespace) -> Mapping[str, Any]:
    """What a point's numbers depend on besides how it was sampled."""
    from experiments.provenance import file_hashes

    names = ("classifier", "clip", "inception", "network", "aesthetic", "preference", "reference")
    chosen = {name: getattr(options, name) for name in names}
    return {name: [value, file_hashes(value)] for name, value in chosen.items() if value}


def prepare(options: argparse.Namespace, real: SampleFolder) -> tuple[Judges, Reference]:
    """The judges, and the real images as they see them."""
    from eval.measure import read_reference
    from eval.samples import SampleFolder

    folder = SampleFolder.open(options.reference)
    judges = make_judges(options, [real])
    return judges, read_reference(folder, judges, cache=feature_cache(options.cache, folder.path))


def positive(text: str) -> int:
    """A whole number above 0."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return int(text)


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    made = CommandParser(prog="unclip sweep", description="Sample and measure under many settings.")
    made.add_argument("sweep", metavar="SWEEP.yaml", help="as in experiments/protocols/guidance.yaml")
    made.add_argument("--run", required=True, help="run folder of the trained stages")
    made.add_argument("--real", help="sample folder whose captions are used (default: RUN/samples/real)")
    made.add_argument("--captions", type=positive, metavar="N", help="instead of the sweep's own number")
    made.add_argument("--device", help="such as cpu or cuda:1 (default: the accelerator, if there is one)")
    add_judges(made)
    for action in made._actions:
        if action.dest == "reference":
            action.required, action.help = False, "real images to measure against (default: RUN/samples/reference)"
    return made
