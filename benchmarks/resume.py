"""`python -m benchmarks.resume`: kill training with SIGKILL at random moments, resume it, and compare bit for bit.

Each stage of the small quickstart is trained in one go; then it is trained again, killed 20 times at random moments
(one kill in four as it starts or restores, the others as it trains, validates or writes a checkpoint), and run to its
end.
Weights, average, optimiser, schedule, random state, position in the data and the exported file have to be the same.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.compare import differing_runs
from benchmarks.small import STAGES, write_stage
from benchmarks.workspace import EMBEDDINGS, Workspace, kill, read_step, table, wait_for, write_block

PROGRESS = "UNCLIP_PROGRESS"


@dataclass
class Result:
    """What the kills of one stage came to.

    Attributes:
        at: the step that each kill found training at, as far as it had told; -1 before training.
        differing: what is not the same at the end.
    """

    stage: str
    steps: int
    at: list[int] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)

    def row(self) -> list[str]:
        """For the table."""
        trained = [step for step in self.at if step >= 0]
        kills = f"{len(self.at)} ({len(self.at) - len(trained)} before training began)"
        same = "identical" if not self.differing else f"DIFFERS: {', '.join(self.differing[:3])}"
        return [self.stage, str(self.steps), kills, ", ".join(map(str, sorted(trained))), same]


def try_stage(workspace: Workspace, stage: str, steps: int, kills: int, draw: random.Random) -> Result:
    """Train a stage whole, and killed again and again."""
    trainer = {"max_steps": steps, "val_check_interval": max(2, steps // 4), "default_root_dir": stage}
    workers = {"num_workers": 2}
    config = write_stage(workspace.folder, stage, trainer, workers, checkpoint={"every_n_train_steps": 3})
    words = ["fit", "--config", config.name, "--ckpt_path", "last"]
    whole, killed = (workspace.folder / name / stage for name in ("whole", "killed"))
    for folder in (whole, killed):
        shutil.rmtree(folder, ignore_errors=True)
    progress = workspace.folder / "progress.json"
    env = {PROGRESS: str(progress)}
    began = time.monotonic()
    process = workspace.start(*words, f"--trainer.default_root_dir={whole}", env=env)
    wait_for(lambda: read_step(progress) >= 0, process)
    trained = time.monotonic()
    if process.wait():
        raise RuntimeError((workspace.folder / "out.txt").read_text())
    start, train = trained - began, time.monotonic() - trained
    result = Result(stage, steps)
    while True:
        progress.unlink(missing_ok=True)
        process = workspace.start(*words, f"--trainer.default_root_dir={killed}", log="killed.txt", env=env)
        if len(result.at) < kills:
            if draw.random() < 0.75:
                wait_for(lambda: read_step(progress) >= 0, process)
                delay = draw.uniform(0, 2 * train / kills)
            else:
                delay = draw.uniform(0, start)
            time.sleep(delay)
            if process.poll() is None:
                result.at.append(read_step(progress))
                kill(process, signal.SIGKILL)
                continue
        if process.wait():
            raise RuntimeError((workspace.folder / "killed.txt").read_text())
        result.differing += differing_runs(whole, killed)
        if len(result.at) >= kills:
            return result
        shutil.rmtree(killed)  # It was faster than the kills: once more from the start.


def main() -> None:
    """Try the stages that are asked for, and write what came out."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.resume", description=__doc__)
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    parser.add_argument("--out", type=Path, default=Path("runs/resume.json"))
    parser.add_argument("--write", type=Path, metavar="FILE.md", help="put the table into this document")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        workspace = Workspace((options.folder or Path(temporary)).absolute())
        workspace.embed()
        assert (workspace.folder / EMBEDDINGS).exists()
        results = json.loads(options.out.read_text()) if options.out.exists() else {}
        for stage in options.stages:
            result = try_stage(workspace, stage, options.steps, options.kills, random.Random(f"{options.seed}{stage}"))
            print(" | ".join(result.row()), flush=True)
            results[stage] = asdict(result)
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps(results, indent=1))
    rows = [Result(**results[stage]).row() for stage in STAGES if stage in results]
    text = table(["stage", "steps", "kills", "training was at step", "the end"], rows)
    print(text)
    if options.write:
        write_block(options.write, "resume", text)


if __name__ == "__main__":
    main()
