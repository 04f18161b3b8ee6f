"""OpenAI's released dVAE (DALL-E 1): the state dicts of its encoder and its decoder."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from modules.errors import InputError
from modules.models.dalle1.openai_layout import from_openai, read_state_dict
from modules.pretrained.reading import first_file
from modules.pretrained.stages import ImportedStage, Stages

FILES = (
    "a folder with the state dicts encoder.safetensors and decoder.safetensors of OpenAI's dVAE "
    "(https://cdn.openai.com/dall-e/encoder.pkl and decoder.pkl are pickled modules: docs/dalle1.md has the line that "
    "converts them)"
)


def stages(folder: Path, image_size: int = 256) -> Stages:
    """The dVAE as the stage dvae.

    Args:
        folder: of both files.
        image_size: side in pixels of its pictures, a multiple of 8.

    Raises:
        InputError: a file is missing; or, from the function, one cannot be read or is of something else.
    """
    encoder, decoder = _part(folder, "encoder"), _part(folder, "decoder")
    return {"dvae": partial(_read, encoder, decoder, image_size)}


def _part(folder: Path, name: str) -> Path:
    found = first_file(folder, (f"{name}.*",))
    if found is None:
        raise InputError(f"{folder} holds no {name}: give {FILES}")
    return found


def _read(encoder: Path, decoder: Path, image_size: int) -> ImportedStage:
    network, sizes = from_openai(read_state_dict(encoder), read_state_dict(decoder), image_size)
    named = {
        "class_path": f"{type(network).__module__}.{type(network).__qualname__}",
        "init_args": sizes.arguments(image_size),
    }
    tensors = dict(network.state_dict())
    return ImportedStage(
        "modules.dalle1.dvae.DVAE", "modules.models.dalle1.dvae.DVAEModel", {"network": named}, tensors
    )
