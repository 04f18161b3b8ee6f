"""Suites: a readable list of stages, each an ordinary command, with what it needs and what it leaves.

    run: runs/quickstart                # the run folder; `{run}` stands for it in commands
    stages:
      - name: clip
        run: unclip fit --config experiments/quickstart/clip.yaml
        outputs: [clip/export]          # in the run folder
        cost: 3                         # minutes, a hint: the longest chain of stages starts first
      - name: diffusion_prior
        run: unclip fit --config experiments/quickstart/diffusion_prior.yaml
        needs: [clip]
      - name: report
        run: unclip report {run}
        needs: [diffusion_prior]
        show: true                      # print its output when it is done

Further keys of a stage: `inputs`, files or folders outside the run folder that the command reads and does not name;
`resume`, what to add to the command after an interruption (by itself `--ckpt_path last` for `unclip fit` and `--resume`
for `unclip sample`; an empty text says that the command itself goes on from what is there; without it any other stage
starts again, its half-made outputs moved aside);
`replicate: false` for judges, which `unclip reproduce --seeds` does not train again for each replica;
`cores`, how many of the machine's cores the stage takes while it runs (1): for a long stage that all others wait for;
`fork: false`, to start the command as a program of its own (see `experiments.suites.forking`);
`matrix`, which makes many stages of one (see `experiments.suites.matrix`).

A suite runs from any folder: a path below `experiments/` that is not in the working folder is looked for among the
YAMLs that ship with the package. The run folder is always relative to the working folder.
"""

from __future__ import annotations

import difflib
import itertools
import math
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from experiments.console.configs import check_config_file, config_files, read_alone, read_config
from experiments.console.shipped import FOLDER, SHIPPED, located, located_words
from experiments.suites.matrix import MATRIX, expanded
from modules.errors import InputError

RUN = "{run}"
FIT = ["unclip", "fit"]
RESUME = {"fit": ["--ckpt_path", "last"], "sample": ["--resume"]}
"""What makes a command go on after an interruption."""
SHIPPED_PATH = re.compile(rf"(?<![^\s=]){FOLDER}/[^\s'\"]+")


@dataclass(frozen=True)
class Stage:
    """One stage of a suite, as the module's docstring describes it."""

    name: str
    run: str
    needs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    cost: float = 1.0
    resume: str | None = None
    show: bool = False
    replicate: bool = True
    fork: bool = True
    cores: int = 1

    def words(self, run: Path) -> list[str]:
        """The command's words, with the run folder in place of `{run}`, and with paths that are there."""
        return located_words([word.replace(RUN, str(run)) for word in shlex.split(self.run)])

    def text(self, run: Path) -> str:
        """The command as a person would type it."""
        text = SHIPPED_PATH.sub(lambda found: shlex.quote(str(located(found[0]))), self.run)
        return text.replace(RUN, shlex.quote(str(run))).strip()

    def configs(self, run: Path) -> list[str]:
        """The files that `unclip` is given with --config."""
        program, *words = self.words(run)
        return config_files(words) if program == "unclip" and words else []

    @property
    def is_fit(self) -> bool:
        """Whether the command is `unclip fit`."""
        return shlex.split(self.run)[:2] == FIT

    def resume_words(self) -> list[str] | None:
        """The words to add to go on after an interruption; None if the stage has to start again."""
        if self.resume is not None:
            return shlex.split(self.resume)
        program, command, *_ = [*shlex.split(self.run), "", ""]
        return RESUME.get(command) if program == "unclip" else None


@dataclass(frozen=True)
class Suite:
    """The stages of a suite in an order in which each comes after what it needs, and their run folder."""

    path: Path
    run: Path
    stages: dict[str, Stage]
    default_run: Path

    def chain_minutes(self) -> dict[str, float]:
        """For each stage, the minutes of the longest chain of stages that starts with it."""
        minutes: dict[str, float] = {}
        for name in reversed(self.stages):
            after = (minutes[other] for other, stage in self.stages.items() if name in stage.needs)
            minutes[name] = self.stages[name].cost + max(after, default=0.0)
        return minutes

    def selected(self, names: Sequence[str]) -> list[str]:
        """`names` and all that they need, in order; all stages if `names` is empty.

        Raises:
            InputError: there is no such stage.
        """
        for name in names:
            if name not in self.stages:
                raise InputError(f"{self.path}: no stage {name!r}{close(name, self.stages)}")
        wanted = set(names or self.stages)
        for name in reversed(self.stages):
            if name in wanted:
                wanted.update(self.stages[name].needs)
        return [name for name in self.stages if name in wanted]


def load_suite(path: Path, run: Path | None = None) -> Suite:
    """Read and check a suite; `run` replaces its run folder.

    Raises:
        InputError: the suite or a config that it names is missing or wrong; the message names the stage and the key.
    """
    content = read_alone(path)
    refuse_unknown(content, {"run", "stages"}, str(path))
    if not isinstance(content.get("run"), str) or not isinstance(content.get("stages"), list):
        raise InputError(f"{path}: a suite has a folder, 'run', and a list, 'stages'")
    default = Path(content["run"])
    entries = ((entry, f"{path}: stage {number}") for number, entry in enumerate(content["stages"], 1))
    stages = [read_stage(stage, where) for entry, where in entries for stage in expanded(entry, where)]
    suite = Suite(path, run or default, in_order(stages, path), default)
    for stage in stages:
        check_configs(stage, suite)
    return suite


def find_suite(name: str) -> Path:
    """The file of a suite that is given by its path, or, for one that ships, by its name, as in 'quickstart'.

    Raises:
        InputError: there is neither such a file nor such a suite.
    """
    path = located(name)
    if path.is_file() or path.suffix or len(path.parts) != 1:
        return path
    shipped = located(Path(FOLDER, name, "suite.yaml"))
    if shipped.is_file():
        return shipped
    names = sorted(path.parent.name for path in (SHIPPED / FOLDER).glob("*/suite.yaml"))
    raise InputError(f"no suite {name!r}{close(name, names)} (give a YAML file, or one that ships: {', '.join(names)})")


def read_stage(entry: Any, where: str) -> Stage:
    """One entry of `stages`, checked."""
    if not isinstance(entry, dict):
        raise InputError(f"{where} is not a mapping with 'name' and 'run'")
    where = f"{where} ({entry.get('name', 'without a name')})"
    refuse_unknown(entry, {*(field.name for field in fields(Stage)), MATRIX}, where)
    for key, kind in (
        ("name", str),
        ("run", str),
        ("resume", (str, type(None))),
        ("cost", (int, float)),
        ("show", bool),
        ("replicate", bool),
        ("fork", bool),
    ):
        if (key in entry or key in ("name", "run")) and not isinstance(entry.get(key), kind):
            raise InputError(f"{where}: {key!r} is missing or of the wrong type: {entry.get(key)!r}")
    if not 0 <= entry.get("cost", 0) < math.inf:
        raise InputError(f"{where}: 'cost' is minutes, 0 or more, not {entry['cost']}")
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", entry["name"]):
        raise InputError(f"{where}: a name has letters, digits, '_', '-' and '.' only, because it is a folder's name")
    cores = entry.get("cores", 1)
    if isinstance(cores, bool) or not isinstance(cores, int) or cores < 1:
        raise InputError(f"{where}: 'cores' is how many cores the stage takes, 1 or more, not {cores!r}")
    lists = {
        key: string_list(entry[key], f"{where}: {key!r}") for key in ("needs", "outputs", "inputs") if key in entry
    }
    for key in ("run", "resume"):
        split_command(entry.get(key) or "", f"{where}: {key!r}")
    if not entry["run"].strip():
        raise InputError(f"{where}: 'run' is empty: write a command")
    for output in lists.get("outputs", ()):
        if Path(output).is_absolute() or ".." in Path(output).parts:
            raise InputError(f"{where}: the output {output!r} lies outside of the run folder; name a path in it")
    return Stage(**{**entry, **lists})


def split_command(text: str, where: str) -> list[str]:
    """A command's words.

    Raises:
        InputError: a quotation in it does not end.
    """
    try:
        return shlex.split(text)
    except ValueError as error:
        raise InputError(f"{where}: {text!r} cannot be split into words ({error})") from None


def string_list(value: Any, where: str) -> tuple[str, ...]:
    """A list of strings as a tuple."""
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InputError(f"{where} is not a list of names: {value!r}")
    return tuple(value)


def in_order(stages: Sequence[Stage], path: Path) -> dict[str, Stage]:
    """The stages, each after what it needs; otherwise as they stand in the file."""
    named = {stage.name: stage for stage in stages}
    if len(named) < len(stages):
        twice = next(stage.name for stage in stages if sum(other.name == stage.name for other in stages) > 1)
        raise InputError(f"{path}: two stages are named {twice!r}")
    for stage in stages:
        for need in stage.needs:
            if need not in named:
                raise InputError(f"{path}: stage {stage.name!r} needs {need!r}, which is no stage{close(need, named)}")
    ordered: dict[str, Stage] = {}
    while len(ordered) < len(named):
        ready = [s for s in stages if s.name not in ordered and all(need in ordered for need in s.needs)]
        if not ready:
            raise InputError(f"{path}: these stages need each other: {', '.join(n for n in named if n not in ordered)}")
        ordered[ready[0].name] = ready[0]
    return ordered


def check_configs(stage: Stage, suite: Suite) -> None:
    """Raise InputError unless the stage's configs can be read and a `fit` trains into the stage's own folder."""
    for name in stage.configs(suite.run):
        check_config_file(Path(name))
    for name in stage.inputs:
        if not located(name).exists():
            raise InputError(f"{suite.path}: stage {stage.name!r} has an input that does not exist: {name!r}")
    folder = fit_folder(stage, suite)
    own = suite.run / stage.name
    if folder is not None and folder != own:
        right = f"trainer.default_root_dir: ${{oc.env:UNCLIP_RUN,{suite.default_run}}}/{stage.name}"
        raise InputError(
            f"{suite.path}: stage {stage.name!r} trains into {str(folder)!r}, not into {str(own)!r}; "
            f"let its config say {right}"
        )


def fit_folder(stage: Stage, suite: Suite) -> Path | None:
    """The folder that a `fit` stage trains into, as its command or its configs say; None if they do not say."""
    if not stage.is_fit:
        return None
    words = stage.words(suite.run)
    option = "--trainer.default_root_dir"
    said = [following for word, following in itertools.pairwise(words) if word == option]
    said += [word.split("=", 1)[1] for word in words if word.startswith(f"{option}=")]
    contents = (read_config(Path(name)) for name in stage.configs(suite.run))
    said = [
        str(c["trainer"]["default_root_dir"]) for c in contents if "default_root_dir" in (c.get("trainer") or {})
    ] + said
    if not said:
        return None
    default = re.compile(r"\$\{oc\.env:UNCLIP_RUN(?:,([^}]*))?\}")
    text = default.sub(str(suite.run), said[-1])
    return None if "${" in text else Path(text)


def refuse_unknown(content: dict[str, Any], known: Iterable[str], where: str) -> None:
    """Raise InputError for the first key that is not known."""
    known = sorted(known)
    for key in content:
        if key not in known:
            raise InputError(f"{where}: unknown key {key!r}{close(str(key), known)} (keys: {', '.join(known)})")


def close(name: str, names: Iterable[str]) -> str:
    """'; did you mean ...?' when one of `names` is like `name`."""
    found = difflib.get_close_matches(name, list(names), n=1)
    return f"; did you mean {found[0]!r}?" if found else ""
