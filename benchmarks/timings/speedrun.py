"""`python -m benchmarks.timings.speedrun --run RUN --cpu-seconds 300`: how good does a decoder become in so much time?

Trains the decoder of a YAML, on the embeddings of a quickstart run, for a budget of CPU seconds of one thread, and
prints a row: what its pictures get right of everything in the scene, two objects apart, the Frechet distance, how flat
grounds and objects are, and the errors of the estimate of x0. Everything that comes after `--` goes to `unclip fit`, so
that a variant needs no YAML of its own:

    python -m benchmarks.timings.speedrun --run runs/quickstart --cpu-seconds 300 --name adamw -- \\
        --model.init_args.optimizer=torch.optim.AdamW --model.init_args.optimizer.init_args.lr=2e-3

The steps are as many as fit into the budget, by the CPU seconds that steps take when training begins; `--steps` gives
their number instead. Rows are kept in OUT/speedrun.jsonl, and all of them are printed.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import torch

from benchmarks.timings.decoder_quality import Judged, load_decoder, quality, validation_errors

SHOWN = ("colour", "shape", "size", "relation", "all", "all, one", "all, two", "said", "frechet", "ground", "object")
PROBE = (10, 40)
"""Two short trainings, whose difference says what a step takes."""


def main() -> int:
    """Train, judge, print; returns the exit code."""
    options = parser().parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    steps, folder = options.steps, options.out / options.name
    if steps is None:
        probes = [train(options, count, options.out / ".probe") for count in PROBE]
        each = (probes[1] - probes[0]) / (PROBE[1] - PROBE[0])
        steps = max(1, round(options.cpu_seconds / each))
        print(f"{each:.3f} CPU seconds a step, so {steps:,} steps", flush=True)
    taken = train(options, steps, folder)
    judged = Judged.of(options.run, options.pictures)
    for settings in options.sampling:
        model = load_decoder(folder, json.loads(settings))
        row = {"name": options.name, "sampling": settings, "seed": options.seed, "steps": steps}
        row["cpu seconds"] = round(taken, 1)
        found = row | quality(model, judged) | validation_errors(model, judged)
        with (options.out / "speedrun.jsonl").open("a") as file:
            file.write(json.dumps(found) + "\n")
    print(table([json.loads(line) for line in (options.out / "speedrun.jsonl").read_text().splitlines()]))
    return 0


def train(options: argparse.Namespace, steps: int, folder: Path) -> float:
    """CPU seconds of `unclip fit` for so many steps, with one thread.

    Raises:
        SystemExit: it failed.
    """
    command = [sys.executable, "-m", "experiments.cli", "fit", "--config", str(options.config), "--overwrite"]
    command += [f"--trainer.default_root_dir={folder}", f"--trainer.max_steps={steps}"]
    command += [f"--trainer.val_check_interval={steps}", "--trainer.limit_val_batches=0"]
    command += [f"--seed_everything={options.seed}"]
    command += [f"--data.init_args.embeddings={options.run / 'embeddings'}", *options.fit]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "UNCLIP_RUN": str(options.run)}
    if subprocess.run(command, env=environment, check=False).returncode:
        raise SystemExit(f"unclip fit failed: {' '.join(command)}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def table(rows: list[dict[str, object]]) -> str:
    """The rows as a Markdown table."""
    mse = [name for name in rows[0] if name.startswith("mse")]
    lines = [f"| decoder | sampling | seed | steps | CPU s | {' | '.join((*SHOWN, *mse))} |"]
    lines.append("| --- " * (5 + len(SHOWN) + len(mse)) + "|")
    for row in rows:
        numbers = [f"{row[name]:.3f}" if name in SHOWN else f"{row[name]:.2f}" for name in (*SHOWN, *mse)]
        how = (row["name"], row["sampling"], row.get("seed", 0), row["steps"], row["cpu seconds"])
        lines.append(f"| {' | '.join(map(str, how))} | {' | '.join(numbers)} |")
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--run", type=Path, required=True, help="a quickstart run with clip, embeddings and classifier")
    found.add_argument("--config", type=Path, default=Path("experiments/quickstart/decoder.yaml"))
    found.add_argument("--cpu-seconds", type=float, default=300.0, help="budget of the training")
    found.add_argument("--steps", type=int, help="train for so many steps instead")
    found.add_argument("--seed", type=int, default=0, help="of the training")
    found.add_argument("--name", default="decoder", help="of the row, and of the folder in --out")
    found.add_argument("--out", type=Path, default=Path("runs/speedrun"))
    found.add_argument("--pictures", type=int, default=512, help="test pairs")
    found.add_argument(
        "--sampling", nargs="+", default=["{}"], help="settings for a row each, as JSON: '{\"guidance_scale\": 1.5}'"
    )
    found.add_argument("fit", nargs="*", help="options of `unclip fit`, after --")
    return found


if __name__ == "__main__":
    raise SystemExit(main())
