"""`python -m benchmarks.faults`: what goes wrong on a bad day, tried for real, and what came of it.

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
from pathlib import Path

from benchmarks.faults_suite import differing_results, interrupted, reproduce, two_runners
from benchmarks.faults_training import FAULTS
from benchmarks.small_training import Outcome, Training
from benchmarks.workspace import Workspace, table, write_block


def training_faults(workspace: Workspace, only: str) -> Iterator[tuple[str, Outcome]]:
    """Those of one training run whose name contains `only`."""
    wanted = {name: attempt for name, attempt in FAULTS.items() if only in name}
    if not wanted:
        return
    workspace.embed()
    training = Training(workspace)
    for name, attempt in wanted.items():
        yield name, attempt(training)


def suite_faults(workspace: Workspace) -> Iterator[tuple[str, Outcome]]:
    """Those of the whole suite."""
    folder = workspace.folder
    yield "a second `unclip reproduce` on the same run folder", two_runners(folder / "two")
    first = reproduce(workspace, folder / "first")
    different = differing_results(first, reproduce(workspace, folder / "second"))
    count = sum(1 for pattern in ("*.png", "*.safetensors", "*.npy") for _ in first.rglob(pattern))
    happened = f"results.json, tables and {count} files of weights, embeddings and pictures are identical"
    name = "nothing: the whole quickstart twice, with the same seed"
    yield name, Outcome(f"DIFFERS: {', '.join(different[:5])}" if different else happened, not different)
    came, again = interrupted(folder / "interrupted", random.Random(0))
    different = differing_results(first, again)
    happened = f"{len(came)} interruptions ({', '.join(came)}), each followed by the same command: "
    happened += (
        f"DIFFERS: {', '.join(different[:5])}" if different else "the results are identical to an untouched run's"
    )
    yield "the quickstart is interrupted in each of its stages", Outcome(happened, not different)


def main() -> int:
    """Try the faults that are asked for; returns an exit code, 1 when one of them did not end well."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__)
    parser.add_argument("--only", default="", help="faults of one training run whose name contains this")
    parser.add_argument("--suite", action="store_true", help="also those of the whole quickstart, made small")
    parser.add_argument("--no-training", action="store_true", help="not those of one training run")
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    parser.add_argument("--out", type=Path, default=Path("runs/faults.json"))
    parser.add_argument("--write", type=Path, metavar="FILE.md", help="put the table into this document")
    options = parser.parse_args()
    found = json.loads(options.out.read_text()) if options.out.exists() else {}
    bad = []
    with tempfile.TemporaryDirectory() as temporary:
        workspace = Workspace((options.folder or Path(temporary)).absolute())
        tries = [] if options.no_training else [training_faults(workspace, options.only)]
        tries += [suite_faults(workspace)] if options.suite else []
        for name, outcome in (pair for each in tries for pair in each):
            print(f"{'ok ' if outcome.well else 'BAD'} {name}: {outcome.happened}", flush=True)
            found[name] = outcome.happened
            bad += [] if outcome.well else [name]
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps(found, indent=1))
    if options.write:
        write_block(options.write, "faults", table(["fault", "what happened"], [[k, v] for k, v in found.items()]))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
