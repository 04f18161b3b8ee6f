"""`python -m benchmarks.trials.resume`: kill training at random moments, resume it, compare bit for bit.

Each stage of the small quickstart is trained in one go; then it is trained again, killed 20 times at random moments
(one kill in four as it starts or restores, the others as it trains, validates or writes a checkpoint), and run to its
end. Weights, average, optimiser, schedule, random state, position in the data and the exported file have to be the
same, and no process may be left of those that were killed. One more case reads webdataset shards with embeddings.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.made_up_data import formats
from benchmarks.trials.compare import differing_runs
from benchmarks.trials.orphans import in_session, wait_until_gone
from benchmarks.trials.small import SIZES, STAGES, dumped, write_stage
from benchmarks.trials.workspace import Workspace, kill, made_by, read_step, table, wait_for, write_block

PROGRESS = "UNCLIP_PROGRESS"
SHARDS = "decoder on webdataset shards"
CASES = (*STAGES, SHARDS)
EVERY = 3
LOADING = {"num_workers": 2, "batch_size": 4}


@dataclass
class Result:
    """What the kills of one stage came to.

    Attributes:
        at: the step that each kill found training at, as far as it had told; -1 before training.
        differing: what is not the same at the end.
        rounds: trainings to the end that the kills were spread over.
    """

    stage: str
    steps: int
    at: list[int] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)
    rounds: int = 1

    def row(self) -> list[str]:
        """For the table."""
        trained = [step for step in self.at if step >= 0]
        kills = f"{len(self.at)} ({len(self.at) - len(trained)} before training began)"
        same = "identical" if not self.differing else f"DIFFERS: {', '.join(self.differing[:3])}"
        return [self.stage, str(self.steps), kills, ", ".join(map(str, sorted(trained))), same]


class Trial:
    """One stage, to be trained whole, and killed again and again.

    Args:
        workspace: with the embeddings.
        case: one of CASES.
        steps: of the training.
    """

    def __init__(self, workspace: Workspace, case: str, steps: int) -> None:
        self.workspace, self.case, self.steps = workspace, case, steps
        self.name = case.replace(" ", "_")
        self.progress = workspace.folder / f"{self.name}.json"
        trainer = {"max_steps": steps, "val_check_interval": max(2, steps // 4), "default_root_dir": self.name}
        more: dict[str, Any] = {"checkpoint": {"every_n_train_steps": EVERY}}
        if case == SHARDS:
            more["data"] = shards(workspace)
        place = workspace.folder / self.name
        place.mkdir(exist_ok=True)
        stage = case.split()[0]
        self.config = write_stage(place, stage, trainer, LOADING, **more).relative_to(workspace.folder)

    def folder(self, kind: str) -> Path:
        """The run folder, `whole` or `killed`."""
        return self.workspace.folder / self.name / kind

    def start(self, kind: str) -> Any:
        """The training as a process; it goes on from its last checkpoint."""
        self.progress.unlink(missing_ok=True)
        words = ["fit", "--config", str(self.config), "--ckpt_path", "last"]
        root = f"--trainer.default_root_dir={self.name}/{kind}"
        return self.workspace.start(*words, root, log=f"{self.name}.txt", env={PROGRESS: str(self.progress)})

    def finish(self, process: Any) -> None:
        """Wait for its end.

        Raises:
            RuntimeError: it did not go well.
        """
        if process.wait():
            raise RuntimeError(f"{self.case}: {(self.workspace.folder / f'{self.name}.txt').read_text()}")

    def trained(self) -> bool:
        """Whether training has begun."""
        return read_step(self.progress) >= 0

    def whole(self) -> tuple[float, float]:
        """Train in one go; seconds until training began, and seconds of training."""
        began = time.monotonic()
        process = self.start("whole")
        wait_for(self.trained, process)
        start = time.monotonic() - began
        self.finish(process)
        return start, time.monotonic() - began - start

    def run(self, draw: random.Random, kills: int) -> Result:
        """All of it.

        Raises:
            RuntimeError: training did not go well, or what was killed has left processes behind.
        """
        for kind in ("whole", "killed"):
            shutil.rmtree(self.folder(kind), ignore_errors=True)
        start, train = self.whole()
        result = Result(self.case, self.steps)
        sessions: list[int] = []
        while True:
            process = self.start("killed")
            sessions.append(process.pid)
            if len(result.at) < kills:
                late = draw.random() < 0.75
                if late:
                    wait_for(self.trained, process)
                time.sleep(draw.uniform(0, 2 * train / kills if late else start))
                if process.poll() is None:
                    result.at.append(read_step(self.progress))
                    kill(process, signal.SIGKILL)
                    continue
            self.finish(process)
            result.differing += differing_runs(self.folder("whole"), self.folder("killed"))
            if len(result.at) >= kills:
                break
            shutil.rmtree(self.folder("killed"))  # It was faster than the kills: once more from the start.
            result.rounds += 1
        wait_until_gone(lambda: [pid for session in sessions for pid in in_session(session)])
        return result


def shards(workspace: Workspace) -> dict[str, Any]:
    """The `data:` section of webdataset shards with their embeddings, both made here."""
    place = workspace.folder / "shards"
    if not place.exists():
        formats.write_shards(place, formats.samples(SIZES["train_size"] + 2 * SIZES["val_size"], size=48), [50, 31, 63])
    splits = {"val_share": 1 / 6, "test_share": 1 / 6}
    section = formats.FORMATS["shards"].section(place, image_size=32, splits=splits, cache_dir="cache", **LOADING)
    config, out = workspace.folder / "shards.yaml", "shards_embeddings"
    if not (workspace.folder / out).exists():
        config.write_text(dumped({"data": section}))
        workspace.must("embed", "--config", config.name, "--clip", "runs/quickstart/clip/export", "--out", out)
    section["init_args"]["embeddings"] = out
    return section


def main() -> int:
    """Try the stages that are asked for, and write what came out; returns an exit code, 1 when something differs."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trials.resume", description=__doc__)
    parser.add_argument("--stages", nargs="*", choices=CASES, default=list(CASES), help="none: the table only")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=1, help="stages side by side")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    parser.add_argument("--out", type=Path, default=Path("runs/resume.json"))
    parser.add_argument("--write", type=Path, metavar="FILE.md", help="put the table into this document")
    options = parser.parse_args()
    results = json.loads(options.out.read_text()) if options.out.exists() else {}
    with tempfile.TemporaryDirectory() as temporary, ThreadPoolExecutor(options.jobs) as pool:
        workspace = Workspace((options.folder or Path(temporary)).absolute())
        if options.stages:
            workspace.embed()
        trials = [Trial(workspace, case, options.steps) for case in options.stages]
        draws = [random.Random(f"{options.seed}{case}") for case in options.stages]
        for result in pool.map(partial(Trial.run, kills=options.kills), trials, draws):
            print(" | ".join(result.row()), flush=True)
            results[result.stage] = asdict(result)
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps(results, indent=1))
    rows = [Result(**results[case]).row() for case in CASES if case in results]
    text = table(["stage", "steps", "kills", "training was at step", "the end"], rows)
    print(text)
    if options.write:
        write_block(options.write, "resume", f"{made_by('benchmarks.trials.resume')}\n\n{text}")
    return 1 if any(result["differing"] for result in results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
