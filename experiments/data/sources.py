"""The data of a command: a YAML with a `data:` section, or the path of the data themselves."""

from __future__ import annotations

import argparse
import logging
import re
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from datamodules.base import SplitDataModule
from datamodules.image_folder import SUFFIXES
from datamodules.pictures.tables import METADATA
from experiments.console.configs import config_text
from experiments.console.import_wall import trust
from experiments.console.parser import Parser
from experiments.data.options import KINDS
from modules.errors import InputError

PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".zip")

_logger = logging.getLogger(__name__)


def open_data(
    options: argparse.Namespace, kind: type[SplitDataModule] = SplitDataModule, **override: Any
) -> tuple[Any, dict[str, Any]]:
    """The DataModule that the options name, and its configuration.

    Args:
        options: with the arguments that `experiments.data.options.add_arguments` adds.
        kind: class that the DataModule must be of.
        override: init arguments that replace those of a YAML, where the class has them.

    Raises:
        InputError: neither or both ways are used, or there are no such data.
    """
    if (options.data is None) == (options.config is None):
        raise InputError("name the data: DATA (a YAML, a folder, shards or hf:NAME), or --config YAML")
    if options.image_size is not None:
        override["image_size"] = options.image_size
    if is_yaml(options):
        return load_data(options.config or options.data, kind, **override)
    return make_data(section_of(options.data), kind, **override)


def is_yaml(options: argparse.Namespace) -> bool:
    """Whether the data are those of a YAML."""
    return options.config is not None or Path(options.data or "").suffix in (".yaml", ".yml")


def section_of(place: str) -> dict[str, Any]:
    """class_path and init_args of the DataModule that reads what lies there.

    Raises:
        InputError: there is nothing.
    """
    path = Path(place).expanduser()
    if place.startswith("hf:"):
        return _section("huggingface.HuggingFaceDataModule", path=place.removeprefix("hf:"))
    if not path.is_dir():
        if names_shards(place):
            return _section("webdataset.WebDatasetDataModule", train=place)
        raise InputError(f"{place}: no such folder; name {KINDS}")
    if any((path / "annotations").glob("captions_*.json")):
        return _section("coco.CocoDataModule", folder=place)
    if any(path.glob("iconify-json-*.tgz")) or any(path.glob("*/icons.json")) or (path / "icons.json").is_file():
        return _section("emoji_styles.EmojiStylesDataModule", packages=place)
    shards = sorted(path.glob("*.tar"))
    if shards and not _has_pairs(path):
        return _section("webdataset.WebDatasetDataModule", train=place)
    if shards:
        _logger.warning("%s holds %s beside pictures with captions: the pictures are read", place, shards[0].name)
    packed = sorted(name for end in PACKED for name in path.glob(f"*{end}"))
    if packed and not any(name.lower().endswith(SUFFIXES) for name in map(str, path.rglob("*"))):
        raise InputError(f"{place} holds {packed[0].name} and no pictures: unpack it to a plain .tar, or to pictures")
    return _section("image_folder.ImageFolderDataModule", train=place)


def names_shards(place: str) -> bool:
    """Whether what is no folder names shards: its last part ends in .tar, or is a pattern with .tar in it."""
    for part in place.split("::"):
        name = part.partition("://")[2].partition("?")[0] if "://" in part else part
        last = name.rstrip("/").rpartition("/")[2]
        if re.search(r"\.tar(\.(gz|bz2|xz|zst))?$", last) or (".tar" in last and re.search(r"[*?{\[]", last)):
            return True
    return False


def _has_pairs(folder: Path) -> bool:
    """Whether a folder, or one in it, holds a picture with a .txt beside it, or a table of captions."""
    for path in folder.rglob("*"):
        if path.name in METADATA:
            return True
        if path.name.lower().endswith(SUFFIXES) and any(path.with_suffix(end).is_file() for end in (".txt", ".TXT")):
            return True
    return False


def _section(name: str, **arguments: Any) -> dict[str, Any]:
    return {"class_path": f"datamodules.{name}", "init_args": arguments}


def load_data(
    path: str | Path, kind: type[SplitDataModule] = SplitDataModule, **override: Any
) -> tuple[Any, dict[str, Any]]:
    """The DataModule of a YAML's `data:` section, and that section resolved.

    Args:
        path: any stage's YAML; only `data:` is used, interpolations may refer to other keys of the file.
        kind: class that the DataModule must be of.
        override: init arguments that replace those of the file, where the class has them.

    Raises:
        InputError: the file is missing, not YAML, has no `data:`, or the section is wrong; the line names it.
    """
    try:
        config: Any = OmegaConf.create(config_text(Path(path)))
        node = config.get("data")
        section: Any = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_dict(node) else None
    except OmegaConfBaseException as error:
        raise InputError(f"config {str(path)!r}: {' '.join(str(error).split())}") from error
    if not isinstance(section, dict) or "class_path" not in section:
        raise InputError(f"config {str(path)!r} has no `data:` section with a class_path")
    trust(section)  # The person's own YAML.
    return make_data(section, kind, **override)


def shown(options: Any, section: dict[str, Any]) -> dict[str, Any]:
    """A data section for a page: of a YAML as it is written, so that no environment variable's value gets there."""
    if not is_yaml(options):
        return section
    config: Any = OmegaConf.create(config_text(Path(options.config or options.data)))
    written: Any = OmegaConf.to_container(config.get("data"), resolve=False)
    return {"class_path": section["class_path"], **written}


def make_data(
    section: dict[str, Any], kind: type[SplitDataModule] = SplitDataModule, **override: Any
) -> tuple[Any, dict[str, Any]]:
    """The DataModule of a section with class_path and init_args; otherwise as `load_data`."""
    parser = Parser(prog="unclip")
    parser.add_subclass_arguments(kind, "data", required=True)
    parsed = parser.parse_object({"data": section})
    known = parsed.data.init_args
    for key, value in override.items():
        if key in known:
            known[key] = value
    # Newer versions of jsonargparse warn about the older name.
    instantiate = getattr(parser, "instantiate", None) or parser.instantiate_classes
    return instantiate(parsed).data, {**section, "init_args": known.as_dict()}
