"""Which stages of a suite are up to date and which have to run: hashes, records, and the reasons.

A stage's record lies in its folder: `started.json` from when it starts; `stage.json`, written last, when it is done.
Its hash is made of the command, the content of the files that the command names, the declared inputs and the hashes of
the stages that it needs. Comments and the order of keys in YAML do not count.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import shlex
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from experiments.console.configs import extends, read_config
from experiments.console.progress import FILE_VARIABLE, read_progress
from experiments.console.shipped import located
from experiments.storage.folders import PREVIOUS, read_json, set_aside
from experiments.storage.settings import differences
from experiments.suites.suite import Stage, Suite
from modules.aliases import as_first_recorded
from modules.errors import InputError
from modules.untrusted.reading import read_yaml

DONE = "stage.json"
STARTED = "started.json"
LOG = "log.txt"
PROGRESS = "progress.json"
RECORDS = (DONE, STARTED, LOG, PROGRESS)
MAX_PATH = 4096
KINDS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("hash", "status", "started", "fingerprint", "command"), str),
    **dict.fromkeys(("recipe", "needs"), dict),
    "seconds": (int, float),
}
"""Keys of a record, and what the runner writes there."""


@dataclass(frozen=True)
class Recipe:
    """All that decides what a stage makes."""

    command: str
    files: dict[str, Any]
    """Content of YAML and JSON files as parsed, checksums of others."""
    needs: dict[str, str]
    """Hash of each stage that it needs."""

    @property
    def hash(self) -> str:
        """16 hexadecimal digits."""
        text = json.dumps([self.command, self.files, self.needs], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def changes_since(self, old: dict[str, Any]) -> str:
        """Why this recipe is another than the recorded one, for a person."""
        reasons = ["its command changed"] if old.get("command") != self.command else []
        before = old.get("files", {})
        changed = [name for name in sorted({*before, *self.files}) if before.get(name) != self.files.get(name)]
        reasons += [f"{name} {file_change(before.get(name), self.files.get(name))}" for name in changed]
        reasons += [f"{name} changed" for name, value in self.needs.items() if old.get("needs", {}).get(name) != value]
        return "; ".join(reasons) or "it no longer needs what it needed"


def file_change(old: Any, new: Any) -> str:
    """'changed (lr: 0.1 -> 0.2)' for parsed configs, 'changed', 'is new' or 'is gone' for others."""
    if old is None or new is None:
        return "is new" if old is None else "is no longer used"
    if not isinstance(old, dict) or not isinstance(new, dict):
        return "changed"
    changes = differences(old, new)
    return f"changed ({', '.join(changes[:3])}{', ...' if len(changes) > 3 else ''})"


@dataclass(frozen=True)
class Decision:
    """Whether a stage has to run, and why."""

    action: str
    """'skip', 'run' or 'resume'; in a plan also 'maybe'."""
    reason: str


@dataclass
class Staging:
    """The state of a suite's run folder."""

    suite: Suite
    again: tuple[str, ...] = ()
    """Stages to run anew, whatever is there."""
    recipes: dict[str, Recipe] = field(init=False)

    def __post_init__(self) -> None:
        self.recipes = {}
        for name, stage in self.suite.stages.items():
            needs = {need: self.recipes[need].hash for need in stage.needs}
            self.recipes[name] = Recipe(stage.run, named_files(stage, self.suite.run), needs)

    def folder(self, name: str) -> Path:
        """The stage's folder."""
        return self.suite.run / name

    def record(self, name: str) -> dict[str, Any] | None:
        """The record of a stage that is done, else None."""
        return read_record(self.folder(name) / DONE)

    def fingerprints(self, name: str) -> dict[str, str]:
        """Fingerprints of the outputs of the stages that `name` needs, as they are now."""
        records = {need: self.record(need) or {} for need in self.suite.stages[name].needs}
        return {need: record.get("fingerprint", "") for need, record in records.items()}

    def decide(self, name: str) -> Decision:
        """Whether a stage has to run, given that the stages that it needs are done."""
        if name in self.again:
            return Decision("run", "asked for with --again")
        record, started = self.record(name), read_record(self.folder(name) / STARTED)
        found = record or started
        if found is None:
            return Decision("run", "it never ran")
        prefix = "" if record else "it was interrupted, and then "
        if found.get("hash") != self.recipes[name].hash:
            return Decision("run", prefix + self.recipes[name].changes_since(found.get("recipe", {})))
        for need, fingerprint in self.fingerprints(name).items():
            if found.get("needs", {}).get(need) != fingerprint:
                return Decision("run", f"{prefix}{need} was run again and came out different")
        if record is None:
            return self._after_interruption(name)
        for output in self.suite.stages[name].outputs:
            if not (self.suite.run / output).exists():
                return Decision("run", f"its output {self.suite.run / output} is missing")
        return Decision("skip", "up to date")

    def plan(self, names: list[str]) -> dict[str, Decision]:
        """For each stage, what would be done and why."""
        plan: dict[str, Decision] = {}
        for name in names:
            ahead = [need for need in self.suite.stages[name].needs if plan[need].action != "skip"]
            decision = self.decide(name)
            if ahead and self.record(name) and decision.action == "skip":
                decision = Decision("maybe", f"up to date, unless {' or '.join(ahead)} comes out different")
            plan[name] = decision
        return plan

    def clear(self, name: str) -> None:
        """Move what an earlier run of the stage left to `.previous/<stage>`."""
        folder, shelf = self.folder(name), self.suite.run / PREVIOUS / name
        outputs = [path for path in self.outputs(name) if path.exists() and not path.is_relative_to(folder)]
        if not outputs and not (folder.exists() and any(folder.iterdir())):
            return
        folder.mkdir(parents=True, exist_ok=True)
        set_aside(folder, shelf)
        for path in outputs:
            set_aside(path, shelf / "outputs" / path.relative_to(self.suite.run))

    def clear_outputs(self, name: str) -> None:
        """Move a stage's half-made outputs outside its own folder to `.previous/<stage>/outputs`."""
        for path in self.outputs(name):
            if not path.is_relative_to(self.folder(name)):
                shelf = self.suite.run / PREVIOUS / name / "outputs"
                set_aside(path, shelf / path.relative_to(self.suite.run))

    def sweep(self, name: str) -> None:
        """Remove the half-written folders and files that a killed stage has left beside its outputs' places."""
        for output in self.suite.stages[name].outputs:
            for place in (Path(output), *Path(output).parents[:-1]):
                for kind in ("partial", "old"):
                    pattern = f".{glob.escape(place.name)}.{kind}-*"
                    for path in (self.suite.run / place.parent).glob(pattern):
                        shutil.rmtree(path) if path.is_dir() else path.unlink()

    def outputs(self, name: str) -> list[Path]:
        """Paths of the stage's outputs."""
        return [self.suite.run / output for output in self.suite.stages[name].outputs]

    def fingerprint(self, name: str) -> str:
        """A checksum of a stage's outputs, or its hash when it declares none."""
        outputs = self.outputs(name)
        if not outputs:
            return self.recipes[name].hash
        return checksum(outputs, self.suite.run)

    def _after_interruption(self, name: str) -> Decision:
        done = read_progress(self.folder(name) / PROGRESS).get("done")
        when = f" at step {done:,}" if isinstance(done, int) and self.suite.stages[name].is_fit else ""
        how = (
            "failed" if (read_json(self.folder(name) / STARTED) or {}).get("status") == "failed" else "was interrupted"
        )
        return Decision("resume", f"it {how}{when}")


def read_record(path: Path) -> dict[str, Any] | None:
    """The record of a stage, without values that no runner writes; None if there is none, or it cannot be read."""
    found = read_json(path)
    if found is None:
        return None
    found = {key: value for key, value in found.items() if isinstance(value, KINDS.get(key, object))}
    recipe = found.get("recipe", {})
    for key in ("files", "needs"):
        if not isinstance(recipe.get(key, {}), dict):
            recipe.pop(key)
    return found


def named_files(stage: Stage, run: Path) -> dict[str, Any]:
    """Content or checksum of each file that the command names, outside the run folder, and of each declared input."""
    found: dict[str, Any] = {}
    words = shlex.split(stage.run)
    named = [*words[1:], *(word.split("=", 1)[1] for word in words if "=" in word), *stage.inputs]
    for word in (word for word in named if len(word) < MAX_PATH):
        path = located(word)
        if path.exists() and (path.is_file() or word in stage.inputs) and not path.is_relative_to(run):
            found[word] = content_of(path)
    return found


def content_of(path: Path) -> Any:
    """The content of a file: parsed if it is YAML or JSON; else, and for folders, a checksum.

    A config that extends another one counts as both together: a change of either is a change.
    """
    if path.suffix in (".yaml", ".yml", ".json") and path.is_file():
        try:
            content = read_yaml(path)
            content = read_config(path) if extends(content) else content
            # By way of JSON, so that it equals what a record gives back.
            return as_first_recorded(json.loads(json.dumps(content, default=str)))
        except (yaml.YAMLError, UnicodeDecodeError, InputError):
            pass
    return checksum([path], path.parent)


def checksum(paths: list[Path], root: Path) -> str:
    """A checksum of files, and of all files in folders but records and logs, with names relative to `root`."""
    digest = hashlib.sha256()
    files = {file for path in paths for file in files_in(path)}
    for path in sorted(files):
        if path.name in RECORDS or "tfevents" in path.name:
            continue
        digest.update(f"{path.relative_to(root).as_posix()}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:16]


def files_in(path: Path) -> Iterator[Path]:
    """The file itself, or all files in the folder."""
    if path.is_file():
        yield path
    elif path.is_dir():
        yield from (file for file in path.rglob("*") if file.is_file())


def running_stage(run: Path) -> dict[str, dict[str, Any]]:
    """The record of the stage that this process is, where a suite runs it, with its seconds until now.

    The runner writes it only when the stage has ended; results.json would lack it.
    """
    file = os.environ.get(FILE_VARIABLE)
    folder = Path(file).absolute().parent if file else None
    if folder is None or folder.parent != run.absolute():
        return {}
    record = read_json(folder / STARTED) or {}
    try:
        began = datetime.fromisoformat(record["started"]).timestamp()
        return {folder.name: {**record, "seconds": float(record["seconds"]) + time.time() - began}}
    except (KeyError, TypeError, ValueError):
        return {}
