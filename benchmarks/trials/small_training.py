"""A small training run to which things happen, and the same one to which nothing does."""

from __future__ import annotations

import json
import re
import shutil
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.trials.compare import differing_runs
from benchmarks.trials.small import write_stage
from benchmarks.trials.workspace import Done, Workspace
from experiments.training.checkpoints import LAST, load_checkpoint

STAGE = "diffusion_prior"
STEPS, EVERY, AT = 40, 5, 17


@dataclass(frozen=True)
class Outcome:
    """What came of a fault."""

    happened: str
    well: bool


class Training:
    """A small training run to which things happen, and the same one without.

    Args:
        workspace: where.
    """

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        trainer = {"max_steps": STEPS, "val_check_interval": 10, "log_every_n_steps": 1, "default_root_dir": "whole"}
        checkpoint = {"every_n_train_steps": EVERY, "every_minutes": 60}
        write_stage(workspace.folder, STAGE, trainer, {"num_workers": 2}, checkpoint=checkpoint)
        self.whole = workspace.folder / "whole"
        if not (self.whole / "export" / "model.safetensors").exists():
            self.fit("whole")

    def fit(self, name: str, *words: str, **options: object) -> Done:
        """`unclip fit` into the folder NAME, from its last checkpoint if there is one."""
        own = ["fit", "--config", f"{STAGE}.yaml", f"--trainer.default_root_dir={name}", "--ckpt_path", "last"]
        return self.workspace.run(*own, *words, log=f"{name}.txt", **options)  # type: ignore[arg-type]

    def suffer(self, name: str, fault: str, *words: str, before: Sequence[str] = (), **settings: object) -> Done:
        """`fit`, with a class of `benchmarks.trials.injected`."""
        shutil.rmtree(self.workspace.folder / name, ignore_errors=True)
        callback = {"class_path": f"benchmarks.trials.injected.{fault}", "init_args": {"at": AT, **settings}}
        return self.fit(name, f"--trainer.callbacks={json.dumps([callback])}", *words, before=before)

    def last(self, name: str) -> Path:
        """Its last checkpoint."""
        return self.workspace.folder / name / LAST

    def step(self, name: str) -> int:
        """The step of its last checkpoint."""
        return int(load_checkpoint(self.last(name))["global_step"])

    def goes_on(self, name: str) -> tuple[str, bool]:
        """Run it to its end; whether that is, bit for bit, the end of the run that nothing happened to."""
        done = self.fit(name)
        if done.code:
            return f"does not go on: {done.last_line}", False
        different = differing_runs(self.whole, self.workspace.folder / name)
        if different:
            return f"goes on, but DIFFERS from an untouched run in {different[0]}", False
        return "goes on with the same command; the end is identical to an untouched run's", True

    def verdict(self, name: str, done: Done, code: int, *said: str) -> Outcome:
        """After a run that had to leave with `code` and say something."""
        there = self.step(name)
        text, well = self.goes_on(name)
        heard = all(part in done.out for part in said) and "Traceback" not in done.out
        how = f"exit code {done.code}" if done.code >= 0 else f"killed by {signal.Signals(-done.code).name}"
        line = f", `{shorten(done.last_line)}`" if said else ""
        happened = f"{how}{line}; checkpoint of step {there} is sound; {text}"
        return Outcome(happened, well and heard and done.code == code)


def shorten(line: str, length: int = 230) -> str:
    """The line without the time of day, to stand between backticks, cut where it is long."""
    line = re.sub(r" since \d{4}-\d\d-\d\d [\d:+.]+", "", line).replace("`", "'")
    return line if len(line) <= length else line[: length - 3] + "..."
