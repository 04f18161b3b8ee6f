"""`python -m benchmarks.trials.soak`: thousands of steps of the small stages, with memory, files and processes counted.

Each stage trains on the small quickstart's data with two loader processes, validates every 500 steps and writes a
checkpoint every 200, while this process looks at it once a second: resident memory, open files, child processes. What
leaks grows; the mean of the second sixth of the run is compared with that of the last, and a stage that has grown makes
the exit code 1. At the end no process may be left.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from math import inf
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.trials.orphans import in_session, wait_until_gone
from benchmarks.trials.small import STAGES, write_stage
from benchmarks.trials.workspace import Workspace, kill, made_by, read_step, table, write_block
from experiments.console.signals import EXIT_REQUEUE

SECONDS = 1.0
LOADING = {"num_workers": 2, "batch_size": 4}
ACROSS = 4
"""Panels side by side in the plot."""
COLUMNS = ("step", "memory", "files", "processes")
GROWTH = {"memory": 1.05, "files": 1.2, "processes": 1.2}
"""What the last sixth may be times the second one: validation, which comes and goes, has files and helpers too."""


def look(pid: int) -> dict[str, float]:
    """A process's resident memory in MB, open files and child processes.

    Raises:
        OSError: it has ended.
    """
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    files = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    return {"memory": int(status["VmRSS"].split()[0]) / 1024, "files": files, "processes": len(children)}


def soak(workspace: Workspace, stage: str, steps: int, minutes: float = inf) -> dict[str, list[float]]:
    """Train a stage, for so many minutes at most; the columns that were seen while it did, and the steps.

    Raises:
        RuntimeError: it did not go well, or left processes behind.
    """
    trainer = {"max_steps": steps, "val_check_interval": 500, "default_root_dir": f"soak/{stage}"}
    checkpoint = {"every_n_train_steps": 200}
    config = write_stage(workspace.folder, stage, trainer, LOADING, checkpoint=checkpoint)
    progress = workspace.folder / f"{stage}.json"
    log = f"{stage}.txt"
    env = {"UNCLIP_PROGRESS": str(progress)}
    process = workspace.start("fit", "--config", config.name, "--overwrite", log=log, env=env)
    seen: dict[str, list[float]] = {name: [] for name in COLUMNS}
    end = time.monotonic() + 60 * minutes
    while process.poll() is None and time.monotonic() < end:
        step = read_step(progress)
        try:
            found = {"step": float(step), **look(process.pid)} if step >= 0 else {}
        except (OSError, KeyError):
            break
        for name, value in found.items():
            seen[name].append(value)
        time.sleep(SECONDS)
    stopped = process.poll() is None and time.monotonic() >= end
    code = kill(process, signal.SIGTERM) if stopped else process.wait()
    if code != (EXIT_REQUEUE if stopped else 0):
        raise RuntimeError((workspace.folder / log).read_text()[-2000:])
    wait_until_gone(partial(in_session, process.pid))
    return seen | {"steps": [max(seen["step"]) if stopped else float(steps)]}


def sixths(seen: dict[str, list[float]], name: str) -> tuple[float, float]:
    """Means of a column over the second and the last sixth of the run."""
    last = max(seen["step"])
    parts: list[list[float]] = [[], []]
    for step, value in zip(seen["step"], seen[name], strict=True):
        if last / 6 <= step < last / 3:
            parts[0].append(value)
        if step >= last * 5 / 6:
            parts[1].append(value)
    return mean(parts[0] or [0]), mean(parts[1] or [0])


def grown(seen: dict[str, list[float]]) -> list[str]:
    """The columns that the last sixth of the run has more of."""
    means = {name: sixths(seen, name) for name in GROWTH}
    return [name for name, (early, late) in means.items() if late > early * GROWTH[name]]


def row(stage: str, seen: dict[str, list[float]]) -> list[str]:
    """For the table."""
    cells = [stage, f"{seen['steps'][0]:,.0f}"]
    for name in COLUMNS[1:]:
        early, late = sixths(seen, name)
        cells.append(f"{early:.1f} -> {late:.1f}")
    return cells


def plot(runs: dict[str, dict[str, list[float]]], path: Path) -> None:
    """A panel for each stage: resident memory over steps, and open files, whose axis is on the right."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = -(-len(runs) // ACROSS)
    size = (2.2 * ACROSS, 1.7 * rows + 0.5)
    figure, panels = plt.subplots(rows, ACROSS, figsize=size, sharex=True, squeeze=False, layout="constrained")
    tops = {name: 1.15 * max(max(seen[name]) for seen in runs.values()) for name in ("memory", "files")}
    for axes in panels.flat[len(runs) :]:
        axes.remove()
    for index, (axes, (stage, seen)) in enumerate(zip(panels.flat, runs.items(), strict=False)):
        other = axes.twinx()
        for each, name, colour in ((other, "files", "tab:orange"), (axes, "memory", "tab:blue")):
            each.plot(seen["step"], seen[name], color=colour, linewidth=0.6 if name == "files" else 1.2)
            each.set_ylim(0, tops[name])
            each.tick_params(axis="y", colors=colour, labelsize=7)
        axes.tick_params(axis="x", labelsize=7, labelbottom=index + ACROSS >= len(runs))
        axes.set_title(stage, fontsize=9)
        axes.tick_params(axis="y", labelleft=index % ACROSS == 0)
        other.tick_params(axis="y", labelright=index % ACROSS == ACROSS - 1 or index == len(runs) - 1)
    figure.supxlabel("optimiser step", fontsize=9)
    figure.supylabel("resident memory (MB)", color="tab:blue", fontsize=9)
    figure.text(1.01, 0.5, "open files", color="tab:orange", fontsize=9, rotation=90, va="center")
    figure.savefig(path, dpi=100, bbox_inches="tight")
    plt.close(figure)


def main(words: Sequence[str] | None = None) -> int:
    """Soak the stages that are asked for; adds to what `--out` holds. Returns an exit code, 1 when one has grown."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trials.soak", description=__doc__)
    parser.add_argument("--stages", nargs="*", choices=STAGES, default=list(STAGES), help="none: the table only")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--minutes", type=float, default=inf, help="stop a stage after so long (SIGTERM)")
    parser.add_argument("--jobs", type=int, default=1, help="stages side by side")
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    parser.add_argument("--out", type=Path, default=Path("runs/soak.json"))
    parser.add_argument("--plot", type=Path, default=Path("runs/soak.png"))
    parser.add_argument("--write", type=Path, metavar="FILE.md", help="put the table into this document")
    options = parser.parse_args(words)
    runs: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary, ThreadPoolExecutor(options.jobs) as pool:
        workspace = Workspace((options.folder or Path(temporary)).absolute())
        if options.stages:
            workspace.embed()
        soaked = pool.map(partial(soak, workspace, steps=options.steps, minutes=options.minutes), options.stages)
        for stage, seen in zip(options.stages, soaked, strict=True):
            runs[stage] = seen
            print(" | ".join(row(stage, runs[stage])), flush=True)
            options.out.write_text(json.dumps(runs))
    runs = {stage: runs[stage] for stage in STAGES if stage in runs}
    plot(runs, options.plot)
    head = ["stage", "steps", "resident memory (MB)", "open files", "child processes"]
    text = table(head, [row(stage, seen) for stage, seen in runs.items()])
    print(text)
    if options.write:
        write_block(options.write, "soak", f"{made_by('benchmarks.trials.soak')}\n\n{text}")
    return 1 if any(grown(seen) for seen in runs.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
