"""`unclip import`: weights that others released, as an ordinary run folder."""

from __future__ import annotations

import argparse
import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path

from experiments.importing.cards import CARD, Release, merged, overview, release_of, text_of
from experiments.importing.clips import CLIP_FILES, has_clip, read_clip
from experiments.importing.run_folder import check_place, write_clip, write_stage
from experiments.importing.sources import source_folder
from experiments.storage.folders import write_text
from modules.clip.folder import clip_folder
from modules.clip.frozen import FrozenCLIP
from modules.errors import InputError
from modules.models.exports import export_folder, is_export
from modules.pretrained import dvae, glide, karlo, priors
from modules.pretrained.clip import Embeddings
from modules.pretrained.stages import ImportedStage, Stages
from modules.untrusted.writing import check_no_link

READERS: dict[str, tuple[Callable[[Path], Stages], str]] = {
    "karlo": (karlo.stages, karlo.FILES),
    "kandinsky-prior": (priors.kandinsky, priors.KANDINSKY),
    "eclipse": (priors.eclipse, priors.ECLIPSE),
    "glide": (glide.stages, glide.FILES),
    "dvae": (dvae.stages, dvae.FILES),
}
"""The reader of each kind of source, and what the source should be."""

WITHOUT_CLIP = ("glide", "dvae")
"""Kinds of which a run needs no CLIP."""


def run(options: argparse.Namespace) -> int:
    """Run `unclip import`; returns the exit code."""
    reader, files = READERS.get(options.kind, (_nothing, CLIP_FILES))
    folder = source_folder(options.source, files)
    release = release_of(options.kind, options.source, folder)
    stages = dvae.stages(folder, options.image_size) if options.kind == "dvae" else reader(folder)
    check_place(options.out, list(stages), options.overwrite)
    names = write_run(stages, folder, release, options)
    print(f"{options.out}: {', '.join(names)}; {CARD} says whose they are and under which licence")
    return 0


def _nothing(folder: Path) -> Stages:
    return {}


def write_run(stages: Stages, folder: Path, release: Release, options: argparse.Namespace) -> list[str]:
    """Write the CLIP, if the run has none, and then one stage after another; returns their names.

    If one is refused, those that were written before it are taken away again, so that the same command can be given
    once more.
    """
    out: Path = options.out
    there = {path.name for path in out.iterdir()} if out.is_dir() else set()
    clip: FrozenCLIP | None = None
    names: list[str] = []
    try:
        if options.kind not in WITHOUT_CLIP:
            clip, names = _clip(folder, release, options)
        for name, read in stages.items():
            _write_one(name, read, clip, release, options)
            names.append(name)
    except BaseException:
        for name in set(names) - there:
            shutil.rmtree(out / name)
        with contextlib.suppress(OSError):  # Others' stages are in it, or it is not there.
            out.rmdir()
        raise
    card = out / CARD
    check_no_link(card)
    before = text_of(card) if card.is_file() else ""
    write_text(card, merged(before, overview(release, names)))
    return names


def _write_one(
    name: str, read: Callable[[], ImportedStage], clip: FrozenCLIP | None, release: Release, options: argparse.Namespace
) -> None:
    """Read a stage, write it and say so; its tensors are gone when the next one is read."""
    stage = read()
    write_stage(options.out, name, stage, clip, release, options.dtype)
    count = sum(tensor.numel() for tensor in stage.tensors.values())
    print(f"{options.out / name}: {count / 1e6:,.1f} M parameters", flush=True)


def _clip(folder: Path, release: Release, options: argparse.Namespace) -> tuple[FrozenCLIP, list[str]]:
    """The run's CLIP: the one that is there, unless another is named; and the names of stages that were written.

    With --overwrite a source's own CLIP replaces it.

    Raises:
        InputError: the one that is there gives embeddings of unit norm, and released stages take its own.
    """
    there = options.out / "clip"
    kept = is_export(there) and not (options.overwrite and has_clip(folder))
    if kept and options.kind != "clip" and options.clip is None:
        found = FrozenCLIP(str(export_folder(there)))
        if not found.raw:
            raise InputError(
                f"{there} gives embeddings of unit norm, and released priors and decoders take a CLIP's own: name "
                "another --out, or import that CLIP again with --embeddings raw --overwrite"
            )
        return found, []
    check_place(options.out, ["clip"], options.overwrite)
    embeddings: Embeddings = options.embeddings if options.kind == "clip" else "raw"
    place = folder if options.clip is None else source_folder(clip_folder(options.clip), CLIP_FILES)
    return write_clip(options.out, read_clip(place, embeddings), release, options.dtype), ["clip"]
