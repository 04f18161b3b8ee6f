"""The CLIP of a source: where it lies, of transformers' layout or of open_clip's, and what is said where it is not."""

from __future__ import annotations

from pathlib import Path

from modules.clip.folder import CONFIG_FILE, clip_folder
from modules.errors import InputError
from modules.pretrained.clip import Embeddings, ImportedCLIP, of_open_clip, of_transformers
from modules.pretrained.reading import read_config

CLIP_FILES = (
    "a folder of transformers' layout (config.json with model.safetensors, or text_encoder and image_encoder), or of "
    f"open_clip's ({CONFIG_FILE} with open_clip_model.safetensors)"
)
OPENAI = "openai/clip-vit-large-patch14"
LARGE = (
    "Name a run that has it as --out, or the CLIP with --clip. For Karlo, Kandinsky 2.1 and ECLIPSE's prior for Karlo "
    f"it is OpenAI's ViT-L/14: --clip {OPENAI}, or a folder with the files of https://huggingface.co/{OPENAI}"
)

PROCESSOR = "preprocessor_config.json"


def has_clip(folder: Path) -> bool:
    """Whether a folder holds a CLIP with both towers, of either layout."""
    return (folder / CONFIG_FILE).is_file() or all(place is not None for place in _towers(folder))


def _towers(folder: Path) -> tuple[Path | None, Path | None]:
    """The folders of transformers' text and vision models; a CLIPModel's is both."""
    both = folder / "config.json"
    whole = folder if both.is_file() and "text_config" in read_config(both) else None
    found = (folder / name for name in ("text_encoder", "image_encoder"))
    text, vision = (place if (place / "config.json").is_file() else whole for place in found)
    return text, vision


def read_clip(folder: Path, embeddings: Embeddings) -> ImportedCLIP:
    """A CLIP of either layout.

    Raises:
        InputError: the folder has none, or one tower alone; says which files are needed.
    """
    folder = Path(clip_folder(folder))
    if (folder / CONFIG_FILE).is_file():
        return of_open_clip(folder, embeddings)
    towers = dict(zip(("text_encoder", "image_encoder"), _towers(folder), strict=True))
    text, vision = towers.values()
    if text is None or vision is None:
        missing = " and ".join(name for name, place in towers.items() if place is None)
        raise InputError(f"{folder} has no {missing}, and a run needs the whole CLIP: {CLIP_FILES}. {LARGE}")
    place = next(
        (p for n in ("feature_extractor", "image_processor", ".") if (p := folder / n / PROCESSOR).is_file()), None
    )
    return of_transformers(text, vision, place, embeddings)
