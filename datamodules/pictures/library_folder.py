"""A folder of the Hugging Face library, checked before the library reads it: what it names lies in it.

The library reads the files that a folder's card and its lists name, wherever they lie, and URLs; and a column of
pictures may name any file of this machine.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from datamodules.image_folder import files_below
from modules.errors import InputError
from modules.images.files import PictureError, open_picture
from modules.untrusted.reading import MAX_CONFIG, parse_json, parse_yaml, printable, read_bytes

CARDS = ("README.md", ".huggingface.yaml")
"""Where the library reads which files a data set has: YAML before the text, or alone."""
LISTS = ("state.json", "dataset_dict.json")
"""The same, in a folder that `save_to_disk` wrote."""
NAMING = ("data_files", "data_dir", "filename", "splits")
"""Keys of both that name files or folders."""
MAX_LIST = 2**26
"""Bytes of a list of files."""


def check_folder(folder: Path) -> None:
    """Refuse a folder that would have the library read what lies elsewhere.

    Raises:
        InputError: a card or a list names a file outside of it or a URL, or a link leads out.
    """
    faults: list[Any] = []
    for name in files_below(folder, faults, follow=False):
        if name.rpartition("/")[2] in LISTS:
            _check_names(folder / name, parse_json(_content(folder / name, MAX_LIST), printable(name)))
    if faults:
        raise InputError(
            f"{faults[0]}; remove it, or set faults.follow_links: true if the folder is your own and is meant so"
        )
    for name in CARDS:
        if (folder / name).is_file():
            _check_names(folder / name, _settings(folder / name))


def _content(path: Path, limit: int) -> str:
    try:
        return read_bytes(path, limit).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error})") from error


def _settings(path: Path) -> Any:
    text = _content(path, 16 * MAX_CONFIG)
    if path.suffix == ".md":  # As the library finds them: between the first two lines of dashes.
        parts = re.split(r"^---[ \t]*$", text, maxsplit=2, flags=re.MULTILINE)
        text = parts[1] if len(parts) == 3 and not parts[0].strip() else ""
    try:
        return parse_yaml(text, str(path))
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not valid YAML ({' '.join(str(error).split())[:200]})") from error


def _check_names(path: Path, content: Any) -> None:
    for name in _named(content):
        pure = name.replace("\\", "/")
        if pure.startswith(("/", "~")) or ".." in pure.split("/") or "::" in pure or re.match(r"\w+:", pure):
            raise InputError(
                f"{path} names {printable(name[:100])!r}, which is not in the folder; set faults.follow_links: true if "
                "the folder is your own and is meant so"
            )


def _named(content: Any, inside: bool = False) -> Iterator[str]:
    """The texts below one of the keys that name files."""
    if isinstance(content, str) and inside:
        yield content
    elif isinstance(content, dict):
        for key, value in content.items():
            yield from _named(value, inside or key in NAMING)
    elif isinstance(content, (list, tuple)):
        for value in content:
            yield from _named(value, inside)


def library_caches() -> list[Path]:
    """The folders in which the library keeps its downloads."""
    from datasets import config

    return [Path(config.HF_CACHE_HOME), Path(config.HF_DATASETS_CACHE), Path(config.DOWNLOADED_DATASETS_PATH)]


def picture_below(path: str, homes: Sequence[Path], name: str) -> bytes:
    """The file that a column names, if it lies in one of the folders.

    Args:
        path: as the column has it.
        homes: the data set's folder, or the library's caches; none are no bound.
        name: of the row, for messages.

    Raises:
        PictureError: it lies elsewhere, is missing or no regular file.
    """
    real = os.path.realpath(path)
    if homes and not any(Path(real).is_relative_to(os.path.realpath(home)) for home in homes):
        raise PictureError(
            f"{name} names {printable(path[:200])}, which is not in the data set's folder; set faults.follow_links: "
            "true if the data are your own",
            "a path that leads out of the folder",
            "faults.follow_links: true reads it, for data of your own",
        )
    with open_picture(real, name) as file:
        return file.read()
