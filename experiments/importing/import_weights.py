"""`unclip import`: weights that others released, as an ordinary run folder."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from experiments.importing.cards import CARD, Release, merged, overview, release_of, text_of
from experiments.importing.run_folder import check_place, write_clip, write_stage
from experiments.importing.sources import source_folder
from experiments.storage.folders import write_text
from modules.clip.frozen import CONFIG_FILE, FrozenCLIP
from modules.errors import InputError
from modules.models.exports import export_folder, is_export
from modules.pretrained import dvae, glide, karlo, priors
from modules.pretrained.clip import Embeddings, ImportedCLIP, of_open_clip, of_transformers
from modules.pretrained.stages import Stages
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

CLIP_FILES = (
    "a folder of transformers' layout (config.json with model.safetensors, or text_encoder and image_encoder), or of "
    f"open_clip's ({CONFIG_FILE} with open_clip_model.safetensors)"
)
OPENAI = "openai/clip-vit-large-patch14"
LARGE = (
    f"For Karlo, Kandinsky 2.1 and ECLIPSE's prior for Karlo that is OpenAI's ViT-L/14: --clip {OPENAI}, or a folder "
    f"with the files of https://huggingface.co/{OPENAI}"
)


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
    """Write the CLIP, if the run has none, and then one stage after another; returns their names."""
    out: Path = options.out
    clip: FrozenCLIP | None = None
    names: list[str] = []
    if options.kind not in WITHOUT_CLIP:
        clip, names = _clip(folder, release, options)
    for name, read in stages.items():
        write_stage(out, name, read(), clip, release, options.dtype)
        names.append(name)
    card = out / CARD
    check_no_link(card)
    before = text_of(card) if card.is_file() else ""
    write_text(card, merged(before, overview(release, names)))
    return names


def _clip(folder: Path, release: Release, options: argparse.Namespace) -> tuple[FrozenCLIP, list[str]]:
    """The run's CLIP: the one that is there, unless another is named; and the names of stages that were written.

    Raises:
        InputError: the one that is there gives embeddings of unit norm, and released stages take its own.
    """
    there = options.out / "clip"
    if is_export(there) and options.kind != "clip" and not options.overwrite and options.clip is None:
        found = FrozenCLIP(str(export_folder(there)))
        if not found.raw:
            raise InputError(
                f"{there} gives embeddings of unit norm, and released priors and decoders take a CLIP's own: name "
                "another --out, or import that CLIP again with --embeddings raw --overwrite"
            )
        return found, []
    check_place(options.out, ["clip"], options.overwrite)
    embeddings: Embeddings = options.embeddings if options.kind == "clip" else "raw"
    place = folder if options.clip is None else source_folder(options.clip, CLIP_FILES)
    return write_clip(options.out, _read_clip(place, embeddings), release, options.dtype), ["clip"]


def _read_clip(folder: Path, embeddings: Embeddings) -> ImportedCLIP:
    """A CLIP of either layout.

    Raises:
        InputError: the folder has none, or one tower alone; says which files are needed.
    """
    if (folder / CONFIG_FILE).is_file():
        return of_open_clip(folder, embeddings)
    text = folder / "text_encoder" if (folder / "text_encoder").is_dir() else folder
    vision = folder / "image_encoder" if (folder / "image_encoder").is_dir() else folder
    lost = next((place for place in (text, vision) if not (place / "config.json").is_file()), None)
    if lost is not None or (text == folder) != (vision == folder):
        missing = "image_encoder" if text != folder else "text_encoder and image_encoder"
        raise InputError(f"{folder} has no {missing}, and a run needs the whole CLIP: {CLIP_FILES}. {LARGE}")
    place = next(
        (p for n in ("feature_extractor", "image_processor", ".") if (p := folder / n / PROCESSOR).is_file()), None
    )
    return of_transformers(text, vision, place, embeddings)


PROCESSOR = "preprocessor_config.json"
