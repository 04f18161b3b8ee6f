"""The captioners: one that was trained here, or a pretrained one of transformers from a local folder."""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from modules.clip.frozen import FrozenCLIP
from modules.clip.origin import check_origin
from modules.dalle3.captioner import as_words
from modules.errors import InputError
from modules.images.tensors import to_pil
from modules.models.dalle3.captioner import CaptionerModel
from modules.models.exports import export_folder, is_export, load_model
from modules.seeds import image_generators
from modules.untrusted.weights import file_hash

MAX_TOKENS = 80
"""Tokens of a pretrained captioner's caption, at most."""


class CaptionWriter(nn.Module):
    """Base of what writes captions.

    Attributes:
        identity: tells one captioner from another.
    """

    identity: str

    def describe(self, images: Tensor, index: list[int]) -> list[str]:
        """(B, 3, H, W) in [-1, 1] and the pairs' numbers -> B captions."""
        raise NotImplementedError


class TrainedCaptioner(CaptionWriter):
    """A captioner of `unclip fit`, with the CLIP that it was trained on.

    Args:
        folder: the stage's folder.
        clip: the CLIP's folder; by default that of the run that the stage lies in.
        temperature: of sampling; None is the stage's own.
        seed: of sampling.

    Raises:
        InputError: no captioner there, or another CLIP than it was trained on.
    """

    def __init__(self, folder: Path, clip: str | None, temperature: float | None, seed: int = 0) -> None:
        super().__init__()
        stored = load_model(folder, CaptionerModel)
        place = clip or str(export_folder(folder.absolute().parent / "clip"))
        self.clip = FrozenCLIP(place)
        check_origin(stored.clip_fingerprint, self.clip.fingerprint, f"the captioner {folder}", f"{place} holds")
        settings = {} if temperature is None else {"temperature": temperature}
        self.model = stored.model.overridden("captioner", settings)
        self.network, self.seed = self.model.network, seed
        self.words = as_words(place)
        self.identity = f"{stored.fingerprint} temperature {self.model.temperature:g} seed {seed}"

    def describe(self, images: Tensor, index: list[int]) -> list[str]:
        """As in the base class. A pair's draw depends on the seed and its number alone."""
        generators = image_generators(self.seed, [(k, 0) for k in index], "caption")
        tokens = self.model.sample(self.clip.encode_image(images), generators)
        return [self.words.decode(row) for row in tokens.tolist()]


class PretrainedCaptioner(CaptionWriter):
    """A captioner of transformers' (BLIP, GIT, ...) in a local folder; nothing is downloaded, and no code is run.

    Args:
        folder: as `save_pretrained` writes it, with its processor; weights as safetensors.

    Raises:
        InputError: transformers is missing, or the folder holds no captioner that it reads.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        transformers = need_transformers()
        safe: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        try:
            self.processor = transformers.AutoProcessor.from_pretrained(folder, **safe)
            kind = getattr(transformers, "AutoModelForImageTextToText", None) or transformers.AutoModelForVision2Seq
            model = kind.from_pretrained(folder, use_safetensors=True, **safe)
        except Exception as error:  # The library raises many of its own.
            reason = " ".join(str(error).split())[:300]
            raise InputError(f"{folder}: no captioner that transformers reads ({reason})") from error
        self.model = model.eval().requires_grad_(False)
        self.identity = f"transformers {_digest(folder)} greedy"

    def describe(self, images: Tensor, index: list[int]) -> list[str]:
        """As in the base class; the most likely token at every place."""
        pictures = [to_pil(image) for image in images.cpu()]
        inputs = self.processor(images=pictures, return_tensors="pt").to(images.device)
        ids = self.model.generate(**inputs, max_new_tokens=MAX_TOKENS, do_sample=False)
        return [text.strip() for text in self.processor.batch_decode(ids, skip_special_tokens=True)]


def need_transformers() -> Any:
    """The package transformers.

    Raises:
        InputError: it is not installed.
    """
    if find_spec("transformers") is None:
        raise InputError('this needs the package transformers: `pip install -e ".[captions]"`')
    import transformers

    return transformers


def open_captioner(
    place: str, clip: str | None = None, temperature: float | None = None, seed: int = 0
) -> CaptionWriter:
    """The captioner in a folder: a stage's, or one of transformers'.

    Raises:
        InputError: neither is there.
    """
    folder = Path(place).expanduser()
    if (folder / "config.json").is_file():
        if clip is not None or temperature is not None:
            raise InputError(f"{place} is a captioner of transformers': --clip and --temperature are not for it")
        return PretrainedCaptioner(folder)
    if is_export(folder):
        return TrainedCaptioner(folder, clip, temperature, seed)
    raise InputError(
        f"no captioner at {place}: train one (`unclip fit --config experiments/dalle3/captioner.yaml`), or name a "
        "folder that transformers' save_pretrained wrote"
    )


def _digest(folder: Path) -> str:
    """Hash of a folder's files, weights included: the fine-tunes of one model differ in nothing else."""
    files = sorted(path for path in folder.glob("*") if path.is_file())
    content = "".join(f"{path.name} {file_hash(path)}\n" for path in files)
    return hashlib.sha256(content.encode()).hexdigest()[:16]
