"""`unclip data`: `export` writes real pictures as a sample folder, the floor that every table stands on, and more."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from PIL import Image

from datamodules.loading import SPLITS, SplitDataModule
from datamodules.pairs import PairDataModule
from eval.samples import require_writable, write_samples
from experiments.arguments import CommandParser
from experiments.lightning_cli import Parser
from experiments.progress import progress
from experiments.provenance import commit, config_hash
from modules.errors import InputError


def main(argv: list[str]) -> int:
    """Runs `unclip data ...`; returns the exit code."""
    options = _parser().parse_args(argv)
    return int(options.run(options))


def _run_export(options: argparse.Namespace) -> int:
    data, section = load_data(options.config, PairDataModule, embeddings=None)
    require_writable(options.out, options.overwrite)
    folder = export(
        data,
        section,
        options.out,
        split=options.split,
        captions=options.captions,
        per_caption=options.per_caption,
        size=options.size,
        seed=options.seed,
        overwrite=options.overwrite,
    )
    print(f"{folder}: {options.captions} captions, {options.per_caption} real images each")
    return 0


def export(
    data: PairDataModule,
    section: dict[str, Any],
    out: str | Path,
    split: str = "test",
    captions: int = 256,
    per_caption: int = 1,
    size: int | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> Path:
    """Writes the pictures of the first captions of a split, with what is known to be true of them.

    Args:
        data: where the pairs come from.
        section: its configuration, for the hash in the manifest.
        out: the sample folder; there completely or not at all.
        split: "train", "val" or "test".
        captions: number of captions; caption k is that of pair k.
        per_caption: pictures a caption: the pair's own, and others that the same caption describes.
        size: side in pixels; the data's own when None.
        seed: of the other pictures.
        overwrite: replace a sample folder that is there.

    Returns:
        The folder.

    Raises:
        InputError: more captions than pairs, several pictures of data that hold one a caption, a folder in the way.
    """
    size = data.image_size if size is None else size
    _check(data, split, captions, per_caption, size)
    shared: dict[str, Any] = {
        "condition": "real",
        "guidance": {},
        "sampler": {},
        "steps": {},
        "split": split,
        "config_hash": config_hash({"data": section, "size": size}),
        "commit": commit(),
    }
    if data.attribution:
        shared["attribution"] = data.attribution
    texts = data.captions(split)
    places = [(index, sample) for index in range(captions) for sample in range(per_caption)]
    # A seed of its own for every picture, none for the pair's own, which has no other.
    seeds = [(seed * 1_000_000 + index) * 1_000 + sample if sample else None for index, sample in places]
    records = [
        {"caption": texts[index], "caption_index": index, "sample_index": sample, "seed": own, **shared}
        for (index, sample), own in zip(places, seeds, strict=True)
    ]

    def pictures() -> Iterator[Image.Image]:
        """One at a time, for they may be many; what is true of a picture is known when it is there."""
        for k in progress(range(len(places)), f"exporting {split}"):
            pixels, truth = data.real(split, *places[k], size, seeds[k] or 0)
            records[k].update(truth)
            yield Image.fromarray(pixels)

    return write_samples(out, pictures(), records, overwrite).path


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
        config = OmegaConf.load(path)
        node = config.get("data") if isinstance(config, DictConfig) else None
        section: Any = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_dict(node) else None
    except OSError as error:
        raise InputError(f"config {str(path)!r} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise InputError(f"config {str(path)!r}: {' '.join(str(error).split())}") from error
    if not isinstance(section, dict) or "class_path" not in section:
        raise InputError(f"config {str(path)!r} has no `data:` section with a class_path")
    return make_data(section, kind, **override)


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


def _check(data: PairDataModule, split: str, captions: int, per_caption: int, size: int) -> None:
    for name, value in {"--captions": captions, "--per-caption": per_caption, "--size": size}.items():
        if value < 1:
            raise InputError(f"{name} must be 1 or more, got {value}")
    if per_caption > 1_000:
        raise InputError(f"--per-caption can be 1,000 at most, got {per_caption}")
    if captions > data.size(split):
        raise InputError(f"--captions {captions}, but the {split} split holds {data.size(split)} pairs")


def _parser() -> argparse.ArgumentParser:
    from experiments import data_check, emoji_download  # They need `load_data`.

    parser = CommandParser(prog="unclip data", description="Look at a data set.")
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("export", help="write real images as a sample folder")
    one.add_argument("--config", required=True, help="any YAML with a data: section")
    one.add_argument("--out", required=True, help="sample folder to write")
    one.add_argument("--split", choices=SPLITS, default="test")
    one.add_argument("--captions", type=int, default=256, help="number of captions (default 256)")
    one.add_argument("--per-caption", type=int, default=1, help="images a caption (default 1)")
    one.add_argument("--size", type=int, help="side in pixels (default: the data's image_size)")
    one.add_argument("--seed", type=int, default=0, help="of the images beyond a caption's own (default 0)")
    one.add_argument("--overwrite", action="store_true", help="replace a sample folder that is there")
    one.set_defaults(run=_run_export)
    data_check.add_parser(commands)
    emoji_download.add_parser(commands)
    return parser
