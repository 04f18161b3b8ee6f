"""`python -m benchmarks.trials.faults`: what goes wrong on a bad day, tried for real, and what came of it.

Every row of the table is something that was done to a small run on this machine just now. `--suite` adds those that
need the whole small quickstart, several times over (half an hour of one core): interrupted in each of its stages, run
by two runners at once, and run twice from nothing, where all numbers, weights and pictures have to be the same.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.trials.faults_suite import differing_results, durations, interrupted, reproduce, two_runners
from benchmarks.trials.faults_training import FAULTS
from benchmarks.trials.small_training import Outcome, Training
from benchmarks.trials.workspace import Workspace, made_by, table, write_block


def training_faults(workspace: Workspace, only: str, jobs: int) -> Iterator[tuple[str, Outcome]]:
    """Those of one training run whose name contains `only`, so many at a time."""
    wanted = {name: attempt for name, attempt in FAULTS.items() if only in name}
    if not wanted:
        return
    workspace.embed()
    training = Training(workspace)
    with ThreadPoolExecutor(jobs) as pool:
        yield from zip(wanted, pool.map(lambda attempt: attempt(training), wanted.values()), strict=True)


def suite_faults(workspace: Workspace, jobs: int) -> Iterator[tuple[str, Outcome]]:
    """Those of the whole suite, so many at a time."""
    folder = workspace.folder
    with ThreadPoolExecutor(jobs) as pool:
        runs = [pool.submit(reproduce, folder / name) for name in ("first", "second")]
        yield "a second `unclip reproduce` on the same run folder", pool.submit(two_runners, folder / "two").result()
        first, second = (run.result() for run in runs)
        stopped = pool.submit(interrupted, folder / "interrupted", durations(first), random.Random(0))
    different = differing_results(first, second)
    count = sum(1 for pattern in ("*.png", "*.safetensors", "*.npy") for _ in first.rglob(pattern))
    happened = f"results.json, tables and {count} files of weights, embeddings and pictures are identical"
    name = "nothing: the whole quickstart twice, with the same seed"
    yield name, Outcome(f"DIFFERS: {', '.join(different[:5])}" if different else happened, not different)
    came, never, again = stopped.result()
    different = differing_results(first, again)
    happened = f"{len(came)} interruptions ({', '.join(came)}), each followed by the same command: "
    happened += (
        f"DIFFERS: {', '.join(different[:5])}" if different else "the results are identical to an untouched run's"
    )
    happened += f"; over before a signal came: {', '.join(never)}" if never else ""
    yield "the quickstart is interrupted in each of its stages", Outcome(happened, not different and not never)


def main() -> int:
    """Try the faults that are asked for; returns an exit code, 1 when one of them did not end well."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trials.faults", description=__doc__)
    parser.add_argument("--only", default="", help="faults of one training run whose name contains this")
    parser.add_argument("--suite", action="store_true", help="also those of the whole quickstart, made small")
    parser.add_argument("--no-training", action="store_true", help="not those of one training run")
    parser.add_argument("--jobs", type=int, default=1, help="faults side by side")
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    parser.add_argument("--out", type=Path, default=Path("runs/faults.json"))
    parser.add_argument("--write", type=Path, metavar="FILE.md", help="put the table into this document")
    options = parser.parse_args()
    found = json.loads(options.out.read_text()) if options.out.exists() else {}
    bad = []
    with tempfile.TemporaryDirectory() as temporary:
        workspace = Workspace((options.folder or Path(temporary)).absolute())
        tries = [] if options.no_training else [training_faults(workspace, options.only, options.jobs)]
        tries += [suite_faults(workspace, options.jobs)] if options.suite else []
        for name, outcome in (pair for each in tries for pair in each):
            print(f"{'ok ' if outcome.well else 'BAD'} {name}: {outcome.happened}", flush=True)
            found[name] = outcome.happened
            bad += [] if outcome.well else [name]
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps(found, indent=1))
    if options.write:
        text = table(["fault", "what happened"], [[k, v] for k, v in found.items()])
        write_block(options.write, "faults", f"{made_by('benchmarks.trials.faults', '--suite')}\n\n{text}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
