"""`python -m benchmarks.timings.suite_starts FOLDER [--only STAGE]`: what it costs to start each stage as a program.

The quickstart made small (two steps a stage) runs twice, one stage after the other: each stage as a program of its own
(`--no-fork`), then forked from a process that has imported what the stages need. Printed are the CPU seconds of the
runner and of all that it started. Both runs have to come to the same weights, embeddings and pictures. With --only, a
stage and what it needs are run, for a quick look.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.trials.compare import digests
from benchmarks.trials.faults_suite import RUN, SUITE
from benchmarks.trials.small import ROOT, write_quickstart

PATTERNS = ("*.safetensors", "*.png", "*.npy")


def main() -> None:
    """Run both, print a line for each and the ratio; the exit code is 1 if they differ."""
    folder, *only = Path(sys.argv[1]), *sys.argv[2:]
    seconds = {}
    for name, words in (("programs", ["--no-fork"]), ("forked", [])):
        seconds[name], wall = timed(folder / name, [*words, *only])
        print(f"{name}: {seconds[name]:.1f} CPU seconds, {wall:.1f} s", flush=True)
    print(f"forked / programs: {seconds['forked'] / seconds['programs']:.2f}")
    ours, theirs = (made(folder / name / RUN) for name in seconds)
    differing = [name for name in sorted({*ours, *theirs}) if ours.get(name) != theirs.get(name)]
    print(f"{len(ours)} files of weights, embeddings and pictures; differing: {', '.join(differing) or 'none'}")
    sys.exit(bool(differing) or not ours)


def made(run: Path) -> dict[str, str]:
    """What a run has computed, as checksums."""
    return {name: digest for pattern in PATTERNS for name, digest in digests(run, pattern).items()}


def timed(folder: Path, words: list[str]) -> tuple[float, float]:
    """Run the small quickstart in a new folder; returns CPU seconds, of all its processes, and seconds.

    Raises:
        RuntimeError: it did not go well.
    """
    folder.mkdir(parents=True)
    write_quickstart(folder)
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    program = [sys.executable, "-m", "experiments.cli", "reproduce", SUITE, "--jobs", "1", *words]
    began, before = time.monotonic(), os.times()
    done = subprocess.run(program, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    after = os.times()
    if done.returncode:
        raise RuntimeError(done.stdout[-3000:])
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return cpu, time.monotonic() - began


if __name__ == "__main__":
    main()
