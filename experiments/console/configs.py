"""The config files that a command line names, read and checked in milliseconds before torch is imported.

A config may stand on another one and say only what differs:

    extends: ../quickstart/clip.yaml      # relative to this file's folder, or experiments/... for one that ships
    without: [model.init_args.swap_words] # settings of that file that this one drops; optional
    trainer: {max_steps: 900}

Mappings are merged key by key, anything else is replaced. A mapping with another `class_path` than the base's takes
nothing from the base: the settings of one class are not those of another. (Of several `--config` a later one with
another class keeps the arguments that both classes have; see `experiments.console.parser`.)
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from experiments.console.shipped import FOLDER, SHIPPED, located
from modules.aliases import today
from modules.errors import InputError

LIGHTNING = ("fit", "validate", "test", "predict")
EXTENDS = "extends"
WITHOUT = "without"


def config_files(words: Sequence[str]) -> list[str]:
    """The values of --config (and of LightningCLI's -c) in the words of a command, its name first; in their order."""
    flags = ("--config", "-c") if words[0] in LIGHTNING else ("--config",)
    found = []
    for before, word in itertools.pairwise(words):
        flag, equals, value = word.partition("=")
        if before in flags:
            found.append(word)
        elif flag in flags and equals:
            found.append(value)
    return found


def check_config_file(path: Path) -> None:
    """Raise InputError unless `read_config` can read it."""
    read_config(path)


def read_config(path: Path) -> dict[str, Any]:
    """The settings of a config, together with those of the configs that it extends.

    Raises:
        InputError: it is missing, unreadable, not YAML, or no mapping; `extends` names such a file, leads back to where
            it came from, or `without` names a setting that is not there.
    """
    return _read(located(path), ())


def config_text(path: Path) -> str:
    """A config as YAML text: the file's own, or `read_config`'s if it extends another or class paths moved."""
    import yaml

    from modules.untrusted.reading import parse_yaml

    path = located(path)
    content, text = read_alone(path), path.read_text(encoding="utf-8")
    if extends(content) or content != parse_yaml(text, str(path)):
        return str(yaml.safe_dump(read_config(path), sort_keys=False))
    return text


def extends(content: Any) -> bool:
    """Whether the parsed content of a config stands on another config."""
    return isinstance(content, dict) and EXTENDS in content


def _read(path: Path, readers: tuple[Path, ...]) -> dict[str, Any]:
    if any(path.resolve() == reader.resolve() for reader in readers):
        chain = " extends ".join(repr(str(reader)) for reader in (*readers, path))
        raise InputError(f"config {chain}: a circle; let one of them stand alone")
    content = read_alone(path, f" (config {str(readers[-1])!r} extends it)" if readers else "")
    where = f"config {str(path)!r}"
    for key in content.keys() - {EXTENDS, WITHOUT}:
        close = difflib.get_close_matches(str(key), [EXTENDS, WITHOUT], n=1, cutoff=0.8)
        if close:
            raise InputError(f"{where}: unknown key {key!r}; did you mean {close[0]!r}?")
    if EXTENDS not in content and WITHOUT not in content:
        return content
    base, without = content.pop(EXTENDS, None), content.pop(WITHOUT, None)
    if not isinstance(base, str):
        raise InputError(f"{where}: 'extends' is one YAML file's path, relative to this file, not {base!r}")
    below = _read(_base(path, base), (*readers, path))
    for key in _names(without, where):
        _drop(below, key, f"{where}: 'without' names {key!r}, which {base!r} does not set")
    return overlaid(below, content)


def _base(path: Path, base: str) -> Path:
    """The file that `path` extends: relative to its folder; or, below `experiments/`, one that ships."""
    beside = located(path.parent / base)
    return beside if beside.exists() or Path(base).parts[:1] != (FOLDER,) else located(base)


def overlaid(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """`own` on top of `base`: mappings are merged unless they are of different classes, anything else is replaced."""
    result = dict(base)
    for key, value in own.items():
        below = base.get(key)
        if isinstance(value, dict) and isinstance(below, dict):
            same_class = value.get("class_path", below.get("class_path")) == below.get("class_path")
            result[key] = overlaid(below, value) if same_class else value
        else:
            result[key] = value
    return result


def _names(without: Any, where: str) -> Iterator[str]:
    names = [] if without is None else without
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{where}: 'without' is a list of settings, as in [model.init_args.width], not {without!r}")
    yield from names


def _drop(content: dict[str, Any], key: str, complaint: str) -> None:
    """Remove a setting that is named with dots."""
    *groups, name = key.split(".")
    place: Any = content
    for group in groups:
        place = place.get(group) if isinstance(place, dict) else None
    if not isinstance(place, dict) or name not in place:
        raise InputError(complaint)
    del place[name]


def read_alone(path: Path, reader: str = "") -> dict[str, Any]:
    """The content of one file alone, without what it extends. `reader` tells a complaint which file extends this one.

    Raises:
        InputError: it is missing, unreadable, not YAML, or no mapping.
    """
    import yaml

    from modules.untrusted.reading import MAX_CONFIG, parse_yaml, read_bytes

    if path.is_dir():
        raise InputError(f"config {str(path)!r}{reader} is a folder; give a YAML file in it")
    try:
        text = read_bytes(path, MAX_CONFIG).decode("utf-8")
    except FileNotFoundError:
        raise InputError(f"config {str(path)!r}{reader} does not exist{nearest_config(path)}") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise InputError(f"config {str(path)!r}{reader} cannot be read: {reason}") from None
    try:
        content = parse_yaml(text, f"config {str(path)!r}{reader}")
    except yaml.YAMLError as error:
        raise InputError(f"config {str(path)!r}{reader} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise InputError(f"config {str(path)!r}{reader} holds no settings: expected 'key: value' lines")
    found: dict[str, Any] = today(content)
    return found


def nearest_config(path: Path) -> str:
    """'; did you mean ...?' if a YAML of a similar name is about, else a hint of where YAMLs are."""
    folder = path.parent if path.parent.is_dir() else Path(FOLDER)
    names = [str(other) for other in folder.rglob("*.yaml")] if folder.is_dir() else []
    if path.parts[:1] == (FOLDER,):
        names += [str(other.relative_to(SHIPPED)) for other in (SHIPPED / FOLDER).rglob("*.yaml")]
    close = difflib.get_close_matches(str(path), names, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    elsewhere = "" if Path(FOLDER).is_dir() else ", which is found from any folder"
    return f"; the suite's YAMLs are in {FOLDER}/{elsewhere}"
