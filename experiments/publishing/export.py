"""`unclip export`: the trained stages of a run in one folder to give away: weights, configs, and a model card for each.

What a stage writes when its training ends (STAGE/export) is copied; checkpoints, optimiser states and data are left
behind. `UnCLIP.from_run`, `unclip sample --run` and all else that reads a run's stages read such a folder too.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any, Literal

from eval.files import replacing_folder
from eval.records import made_of
from eval.runs import Run, read_run
from experiments.publishing.diffusers_folder import export_diffusers
from experiments.publishing.model_card import CARD, overview, settings, stage_card
from experiments.publishing.push import check_push, push
from experiments.publishing.smaller import shrink
from experiments.storage.folders import sync_folder
from modules.errors import InputError
from modules.models.exports import export_folder, is_export, weights_file
from modules.untrusted.reading import open_regular, printable

Size = Literal["whole", "half", "quarter"]
"""Of the weights' files, against float32."""


def run(options: argparse.Namespace) -> int:
    """Run `unclip export`; returns the exit code."""
    out = options.out or options.run / "release"
    if options.format == "diffusers":
        if options.push or options.stages or options.size != "whole":
            raise InputError("--format diffusers writes the whole run: leave out --push, --stages, --half and --int8")
        names = export_diffusers(options.run, out, options.overwrite)
        print(f"{out}: {', '.join(map(printable, names))}")
        return 0
    if options.push:
        check_push(options.push)
    names = export(options.run, out, stage_names(options.stages), options.overwrite, options.size, options.push)
    print(f"{out}: {', '.join(map(printable, names))}; {CARD} says what each is and how it is loaded")
    if options.push:
        print(f"{options.push}: {push(out, options.push, options.private)}")
    return 0


def stage_names(text: str | None) -> list[str] | None:
    """'clip, decoder' -> ['clip', 'decoder'], each once; None as it is.

    Raises:
        InputError: a name is empty.
    """
    if text is None:
        return None
    names = [word.strip() for word in text.split(",")]
    if not all(names):
        raise InputError(f"--stages takes names of stages separated by commas, as in clip,decoder, not {text!r}")
    return list(dict.fromkeys(names))


def trained(run: Path) -> list[str]:
    """The stages of a run that have been trained to their end, by name."""
    return sorted(folder.name for folder in run.iterdir() if (folder / "export").is_dir() and is_export(folder))


def earlier_trainings(run: Path, names: list[str]) -> list[str]:
    """The stages among `names` that are only earlier trainings of others: decoder_first, from which decoder began.

    Such a stage bears the name of one that was trained on from it (`init_from`), with more behind it. Others that
    something was trained on from (a decoder, of which there is a fine-tuned copy) are models of their own.
    """
    before: dict[str, str] = {}
    for name in names:
        earlier_one = _trained_on_from(run, settings(run / name / "config.yaml"))
        before |= {} if earlier_one is None else {name: earlier_one}
    found = set()
    for name in before:
        earlier, seen = before.get(name), {name}
        while earlier is not None and earlier not in seen:
            seen.add(earlier)
            found |= {earlier} if earlier.startswith(f"{name}_") else set()
            earlier = before.get(earlier)
    return [name for name in names if name in found]


def _trained_on_from(run: Path, config: dict[str, Any]) -> str | None:
    """The stage of the same run that a stage began from; None if it began anew, or from another run."""
    source, own = config.get("init_from"), (config.get("trainer") or {}).get("default_root_dir")
    if not isinstance(source, str):
        return None
    stage = Path(source)
    stage = stage.parent if stage.suffix in (".safetensors", ".ckpt") else stage
    stage = stage.parent if stage.name in ("export", "checkpoints") else stage
    beside = isinstance(own, str) and stage.parent == Path(own).parent  # As recorded; the run may have moved since.
    return stage.name if beside or stage.parent.resolve() == run.resolve() else None


def export(
    run: Path,
    out: Path,
    stages: list[str] | None = None,
    overwrite: bool = False,
    size: Size = "whole",
    repository: str | None = None,
) -> list[str]:
    """Copy the exports of a run into `out`, with a card for each stage and one for all.

    Args:
        stages: by name; by default all that are trained, without `earlier_trainings`.
        size: "half" stores matrices as float16, "quarter" as 8-bit integers with a scale for each row (a CLIP's as
            float16).
        repository: the hub's repository from which the card tells people to load it; by default `out`.

    Returns:
        The stages' names.

    Raises:
        InputError: there is no such run, a stage has not been trained, or `out` is in the way.
    """
    record = read_run(run)
    there = trained(run)
    before = earlier_trainings(run, there)
    names = [name for name in there if name not in before] if stages is None else stages
    if stages is None and before:
        print(f"left out: {', '.join(before)}: an earlier training of another stage; --stages names what to take")
    missing = [name for name in names if name not in there]
    if missing or not names:
        found = f"it has {', '.join(there)}" if there else "train it with `unclip reproduce`"
        raise InputError(f"{run} holds no trained {missing[0] if missing else 'stage'}; {found}")
    if out.exists() and not (overwrite and (out / CARD).exists()):
        way = "--overwrite replaces it" if (out / CARD).exists() else "it is not one of this command's: name another"
        raise InputError(f"{out} exists; {way}")
    _write(record, names, out, overwrite, size, repository or out.name)
    return names


def _write(run: Run, names: list[str], out: Path, overwrite: bool, size: Size, place: str) -> None:
    """Make everything beside `out`, then put it there: nobody finds half of it."""
    with replacing_folder(out) as beside:
        for name in names:
            _copy(export_folder(run.path / name), beside / name)
        if size != "whole":
            sources = {name: export_folder(run.path / name) for name in names}
            shrink(sources, beside, eight_bits=size == "quarter")
        for name in names:
            card = stage_card(run, name, out, weights_file(beside / name))
            (beside / name / CARD).write_text(card, encoding="utf-8")
        with made_of(run.path):
            (beside / CARD).write_text(overview(run, names, place), encoding="utf-8")
        if out.exists() and not overwrite:
            raise InputError(f"{out} has been written by another command meanwhile; --overwrite replaces it")
    sync_folder(out.parent)


def _copy(export: Path, place: Path) -> None:
    """Copy the files of an export; links are followed within it alone, and what is no file is not waited for.

    Raises:
        InputError: a link that leads out of the export, a FIFO or a device.
        OSError: the disk is full.
    """
    place.mkdir()
    for path in sorted(export.iterdir()):
        if path.is_dir() and not path.is_symlink():
            _copy(path, place / path.name)
            continue
        if not path.resolve().is_relative_to(export.resolve()):
            raise InputError(f"{path} is a link that leads out of the export: put the file itself there")
        with open_regular(path) as source, (place / path.name).open("wb") as target:
            shutil.copyfileobj(source, target, 2**20)
