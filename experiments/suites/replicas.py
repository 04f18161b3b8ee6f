"""Replicas of a suite: the same stages from other training seeds, judged by the same judges."""

from __future__ import annotations

import json
import os
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.console.configs import read_config
from experiments.suites.suite import Stage, Suite
from modules.errors import InputError

FOLDER = "seeds"


def replica(suite: Suite, seed: int) -> Suite:
    """The suite with another training seed, in RUN/seeds/SEED; seed 0 is the suite itself.

    `unclip fit` gets seed_everything and, where its config has them, the seeds of noise and of the data's order;
    `unclip sample` gets its seed. A stage with `replicate: false` (a judge) is not trained again: it is that of the
    suite itself.
    """
    if seed == 0:
        return suite
    stages = {name: replace(stage, run=seeded(stage, suite, seed)) for name, stage in suite.stages.items()}
    return replace(suite, run=suite.run / FOLDER / str(seed), stages=stages)


def seeded(stage: Stage, suite: Suite, seed: int) -> str:
    """The stage's command with the seed."""
    words = shlex.split(stage.run)
    if not stage.replicate or words[0] != "unclip":
        return stage.run
    if words[1] == "sample":
        return f"{stage.run.strip()} --seed {seed}"
    if not stage.is_fit:
        return stage.run
    added = [f"--seed_everything={seed}"]
    configs = [read_config(Path(name)) for name in stage.configs(suite.run)]
    if any("training" in ((c.get("model") or {}).get("init_args") or {}) for c in configs):
        added.append(f"--model.init_args.training.seed={seed}")
    if any(c.get("data") for c in configs):
        added.append(f"--data.init_args.seed={seed}")
    return " ".join([stage.run.strip(), *added])


def share_judges(suite: Suite, copy: Suite) -> None:
    """Makes the stages that are not replicated those of the suite itself, by links, so that they are up to date.

    Raises:
        InputError: something else is in the way, or such a stage needs one that is trained again.
    """
    if copy.run == suite.run:
        return
    for name, stage in suite.stages.items():
        again = [need for need in stage.needs if suite.stages[need].replicate]
        if not stage.replicate and again:
            raise InputError(f"{suite.path}: {name} has replicate: false and needs {again[0]}, which is trained again")
    copy.run.mkdir(parents=True, exist_ok=True)
    for name in [name for name, stage in suite.stages.items() if not stage.replicate]:
        link, target = copy.run / name, (suite.run / name).absolute()
        if link.is_symlink() and Path(os.readlink(link)) == target:  # noqa: PTH115 (a link may dangle)
            continue
        if link.exists() or link.is_symlink():
            raise InputError(f"{link} is in the way of a link to {target}: move it away")
        link.symlink_to(target, target_is_directory=True)


def read_rows(run: Path) -> list[dict[str, Any]]:
    """The rows of the main table that a replica was evaluated to.

    Raises:
        InputError: it has none.
    """
    from eval.runs import read_run

    rows = read_run(run).rows
    if not rows:
        raise InputError(f"{run} has not been evaluated: the suite needs a stage `unclip evaluate`")
    return rows


def summarise(suite: Suite, seeds: int) -> list[Any]:
    """Writes what the replicas' numbers say together; returns the tables.

    RUN/seeds.json and RUN/seeds.md are of the main table, RUN/seeds_NAME.json and .md of the sweep NAME. A suite
    without a stage `unclip evaluate` has no main table, and one without sweeps either has no tables here.
    """
    from eval.files import write_file
    from eval.runs import read_run
    from eval.tables.seeds import gather, orderings_table, seeds_table
    from eval.tables.sweep_seeds import gather_sweeps, sweep_seeds_table

    runs = [replica(suite, seed).run for seed in range(seeds)]
    tables: list[Any] = []
    sweeps = gather_sweeps(runs)
    for name, (sweep, numbers) in sweeps.items():
        tables.append(sweep_seeds_table(sweep, numbers, seeds))
        write_file(suite.run / f"seeds_{name}.json", as_text(numbers))
        write_file(suite.run / f"seeds_{name}.md", tables[-1].markdown())
    if not evaluates(suite) and (sweeps or not all(read_run(run).rows for run in runs)):
        return tables
    found = gather([read_rows(run) for run in runs])
    main = [seeds_table(found, seeds), *(orderings_table(found, m) for m in ("frechet", "all") if has(found, m))]
    write_file(suite.run / "seeds.json", as_text(found))
    write_file(suite.run / "seeds.md", "\n".join(table.markdown() for table in main))
    return main + tables


def evaluates(suite: Suite) -> bool:
    """Whether a stage of the suite is `unclip evaluate`."""
    return any(shlex.split(stage.run)[:2] == ["unclip", "evaluate"] for stage in suite.stages.values())


def as_text(found: dict[str, dict[str, list[float]]]) -> str:
    """Mean, interval and the values themselves, as JSON."""
    from eval.tables.seeds import as_json_mean

    numbers = {
        name: {metric: {**(as_json_mean(v) or {}), "values": v} for metric, v in values.items()}
        for name, values in found.items()
    }
    return json.dumps(numbers, indent=1, allow_nan=False) + "\n"


def has(found: dict[str, dict[str, list[float]]], metric: str) -> bool:
    """Whether two conditions or more have a metric."""
    return sum(metric in values for values in found.values()) > 1
