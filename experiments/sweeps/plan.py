"""The YAML of a sweep, read and checked. A mistake in it is reported in one line before anything is drawn."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml

from experiments.sweeps.settings import STAGES, setting_problem
from modules.conditions import CONDITIONS
from modules.errors import InputError
from modules.untrusted.reading import read_yaml

NEEDED = ("name", "title", "axis", "conditions", "points")
CONDITIONS_KEY = "conditions"


@dataclass(frozen=True)
class Plan:
    """A sweep's YAML, as `experiments.sweeps.sweep` describes it."""

    name: str
    title: str
    axis: str
    conditions: list[str]
    points: list[dict[str, Any]]
    space: str = "images"
    captions: int = 96
    per_caption: int = 1
    seed: int = 0
    bootstrap: int = 200
    upsample: bool = False
    negative: str | None = None
    fixed: dict[str, Any] = field(default_factory=dict)
    decoder: str | None = None
    batch_size: int = 64

    @classmethod
    def load(cls, path: Path, changes: Mapping[str, list[Any]] | None = None) -> Plan:
        """Reads and checks a YAML.

        Args:
            path: the file.
            changes: new values for settings, in every place where the file has them.

        Raises:
            InputError: unreadable, or a key is unknown, missing or of the wrong kind.
        """
        try:
            content = read_yaml(path)
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise InputError(f"cannot read the sweep {path} ({' '.join(str(error).split())})") from error
        known = {f.name for f in fields(cls)}
        if not isinstance(content, dict) or any(key not in content for key in NEEDED):
            raise InputError(f"{path} is no sweep: it needs {', '.join(NEEDED)}")
        unknown = sorted(map(str, set(content) - known))
        if unknown:
            raise InputError(f"{path}: unknown key {unknown[0]!r} (keys: {', '.join(sorted(known))})")
        try:
            _check_kinds(content)
            plan = cls(**content).changed(changes or {})
            plan._check()
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        return plan

    def changed(self, changes: Mapping[str, list[Any]]) -> Plan:
        """The plan with other values of some of its settings.

        Raises:
            InputError: it has no such setting.
        """
        entries = [self.fixed, *self.points]
        for key, values in changes.items():
            if not any(key in entry for entry in entries) or key == CONDITIONS_KEY:
                raise InputError(f"--set {key}: the sweep has no such setting")
            entries = [{**entry, key: values} if key in entry else entry for entry in entries]
        fixed = {key: _only(key, value) if key in changes else value for key, value in entries[0].items()}
        return replace(self, fixed=fixed, points=entries[1:])

    def expand(self) -> list[tuple[str, dict[str, Any]]]:
        """All (condition, settings), each once."""
        found: dict[str, tuple[str, dict[str, Any]]] = {}
        for entry in self.points:
            axes = {k: v if isinstance(v, list) else [v] for k, v in entry.items() if k != CONDITIONS_KEY}
            for condition in entry.get(CONDITIONS_KEY, self.conditions):
                for values in itertools.product(*axes.values()):
                    settings = {**self.fixed, **dict(zip(axes, values, strict=True))}
                    found.setdefault(json.dumps([condition, settings], sort_keys=True), (condition, settings))
        return list(found.values())

    def _check(self) -> None:
        names = [name for entry in [*self.points, self.fixed] for name in entry if name != CONDITIONS_KEY]
        for name in names:
            stage, _, setting = name.partition(".")
            if stage not in STAGES or not setting:
                raise InputError(f"{name!r} is no setting; write STAGE.SETTING, of {', '.join(STAGES)}")
        if self.axis != "evaluations" and self.axis not in names:
            raise InputError(f"axis is 'evaluations' or a setting of the points, found {self.axis!r}")
        points = self.expand()
        if not points:
            raise InputError("points hold an empty list: a sweep needs a point")
        for condition, settings in points:
            if condition not in CONDITIONS:
                raise InputError(f"unknown condition {condition!r}; there are {', '.join(CONDITIONS)}")
            for name, value in settings.items():
                problem = setting_problem(condition, self.space, self.upsample, name, value)
                if problem:
                    raise InputError(problem)


def _check_kinds(content: Mapping[str, Any]) -> None:
    """Raises InputError for a key whose value is of another kind than `Plan` says."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", str(content["name"])) or not isinstance(content["name"], str):
        raise InputError(
            f"name must be letters, digits and . _ - (it becomes a folder's name), found {content['name']!r}"
        )
    if not isinstance(content.get("decoder", ""), str):
        raise InputError(f"decoder must be the name of a stage, found {content['decoder']!r}")
    for key in ("title", "axis"):
        if not isinstance(content[key], str) or not content[key].strip():
            raise InputError(f"{key} must be a text, found {content[key]!r}")
    if content.get("space", "images") not in ("images", "embeddings"):
        raise InputError(f"space is 'images' or 'embeddings', found {content['space']!r}")
    for key in ("captions", "per_caption", "bootstrap", "batch_size"):
        if type(content.get(key, 1)) is not int or content.get(key, 1) < 1:
            raise InputError(f"{key} must be 1 or more, found {content[key]!r}")
    if type(content.get("seed", 0)) is not int:
        raise InputError(f"seed must be a whole number, found {content['seed']!r}")
    if not isinstance(content.get("negative"), str | None):
        raise InputError(f"negative must be a caption to be guided away from, found {content['negative']!r}")
    if type(content.get("upsample", False)) is not bool:
        raise InputError(f"upsample must be true or false, found {content['upsample']!r}")
    if not _is_mapping(content.get("fixed", {})):
        raise InputError(f"fixed must be settings as in {{decoder.steps: 8}}, found {content['fixed']!r}")
    points = content["points"]
    if not isinstance(points, list) or not points or not all(map(_is_mapping, points)):
        raise InputError(f"points must be a list of settings as in - {{decoder.steps: [4, 8]}}, found {points!r}")
    if CONDITIONS_KEY in content.get("fixed", {}):
        raise InputError("conditions stand beside fixed or in an entry of points, not in fixed")
    for entry in (content, *points):
        named = entry.get(CONDITIONS_KEY, ["glide"])
        if not isinstance(named, list) or not named or not all(isinstance(name, str) for name in named):
            raise InputError(f"conditions must be a list of names, found {named!r}")


def _is_mapping(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(key, str) for key in value)


def _only(key: str, values: Sequence[Any]) -> Any:
    if len(values) != 1:
        raise InputError(f"--set {key}: the sweep fixes this setting, so that it takes one value")
    return values[0]
