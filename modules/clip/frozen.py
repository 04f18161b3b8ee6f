"""A frozen CLIP: captions and images to embeddings of unit norm, and its tokenizer."""

from __future__ import annotations

import difflib
import hashlib
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from modules.clip.folder import (
    CONFIG_FILE,
    EMBEDDINGS_KEY,
    TOKENIZER_KEY,
    WEIGHTS_FILE,
    check_config,
    check_folder,
    check_loaded,
    clip_folder,
    one_line,
    shapes_of,
)
from modules.clip.lean_import import import_open_clip
from modules.clip.preprocessing import Preprocessing
from modules.clip.word_tokenizer import VOCABULARY_FILE, WholeCaptions, WordTokenizer
from modules.errors import InputError
from modules.networks.frozen_text import CaptionFeatures, real_tokens
from modules.untrusted.eight_bits import unpacked
from modules.untrusted.reading import read_json

Tokenizer = Callable[[Sequence[str]], Tensor]


MEAN = STD = (0.5, 0.5, 0.5)  # Images in [-1, 1] are what our own CLIPs see.


def load_tokenizer(name_or_folder: str | Path) -> Tokenizer:
    """The tokeniser of a CLIP: our words where the folder has a vocabulary.json, else open_clip's.

    Returns:
        A callable: list of B captions -> (B, context length) int64. open_clip's cut what is too long.

    Raises:
        InputError: neither a folder nor an architecture that open_clip knows; or the folder's CLIP was trained on
            words, and their vocabulary is not there, or damaged.
    """
    name_or_folder = clip_folder(name_or_folder)
    folder = Path(name_or_folder)
    kind = _tokenizer_kind(folder)
    if kind != "bpe" and (folder / VOCABULARY_FILE).exists():
        return WordTokenizer.load(folder)
    if kind == "words":
        raise InputError(
            f"{folder / VOCABULARY_FILE} is missing: this CLIP's tokens are the words in it; put it back, or train or "
            "export that CLIP again"
        )
    open_clip = import_open_clip()

    if not folder.is_dir():
        check_architecture(str(name_or_folder))  # open_clip would warn, and give a tokeniser of its own choice.
        return open_clip.get_tokenizer(str(name_or_folder))
    text = check_config(folder)["model_cfg"]["text_cfg"]
    own_code = {"trust_remote_code": False} if text.get("hf_tokenizer_name") else {}
    with one_line(str(folder), "its tokeniser is not there, or is of a kind that is not read"):
        return open_clip.get_tokenizer(_schema(name_or_folder), **own_code)


def check_architecture(name: str, pretrained: str | None = None) -> None:
    """Refuse an architecture, or a tag of weights, that open_clip does not know.

    Args:
        name: such as "ViT-B-32"; names with a colon (hf-hub:...) are left to open_clip.
        pretrained: a tag, or a file of weights.

    Raises:
        InputError: with the nearest name that there is.
    """
    open_clip = import_open_clip()
    if ":" in name:
        return
    if open_clip.get_model_config(name) is None:
        near = nearest(name, open_clip.list_models())
        raise InputError(f"no CLIP at {name}: neither a folder nor an architecture of open_clip{near}")
    if pretrained is None or Path(pretrained).exists():
        return
    tags = open_clip.list_pretrained_tags_by_model(name)
    if "/" in pretrained or Path(pretrained).suffix:
        raise InputError(
            f"no file of weights at {pretrained}; for {name} open_clip knows {', '.join(tags) or 'no tags'}"
        )
    if pretrained not in tags:
        raise InputError(
            f"open_clip has no weights {pretrained!r} of {name}{nearest(pretrained, tags)} (there are "
            f"{', '.join(tags) or 'none'}; or give a file)"
        )


def nearest(name: str, names: Sequence[str]) -> str:
    """'; did you mean ViT-B-32?', or ''."""
    near = {own.lower(): own for own in names}
    found = difflib.get_close_matches(name.lower(), list(near), n=1)
    return f"; did you mean {near[found[0]]}?" if found else ""


def _tokenizer_kind(folder: Path) -> str | None:
    """ "words" or "bpe", as the folder's config says; None where it does not: open_clip's, and older ones of ours."""
    try:
        content = read_json(folder / CONFIG_FILE)
    except (OSError, InputError):  # No folder, or one that building the model complains about.
        return None
    return content.get(TOKENIZER_KEY) if isinstance(content, dict) else None


def _schema(name_or_folder: str | Path) -> str:
    return f"local-dir:{name_or_folder}" if Path(name_or_folder).is_dir() else str(name_or_folder)


def _mapped(folder: Path) -> Any | None:
    """A folder's CLIP with its weights mapped from the file: built as shapes, so that they are in memory once.

    Weights that are stored in half precision or in 8 bits are made float32. None where the file does not hold all that
    the network needs: then open_clip loads it, and says what is wrong.
    """
    file = folder / WEIGHTS_FILE
    if not file.is_file():
        return None
    model = shapes_of(folder)
    try:
        halves = (torch.float16, torch.bfloat16)
        found = {name: t.float() if t.dtype in halves else t for name, t in unpacked(load_file(file), file).items()}
        if any(tensor.dtype != torch.float32 for tensor in found.values() if tensor.is_floating_point()):
            return None
        model.load_state_dict(found, assign=True)
    except (RuntimeError, OSError, SafetensorError):
        return None
    for part in model.modules():
        mask = part._buffers.get("attn_mask")  # Causal; no file holds it.
        if mask is not None and mask.is_meta:
            part.attn_mask = torch.full(mask.shape, -math.inf, device="cpu").triu(1)
    left = any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))
    return None if left else model


class FrozenCLIP(nn.Module):
    """A trained CLIP that only embeds. Its weights are neither trained nor averaged.

    Its embeddings have unit norm, unless the folder's config says `"embeddings": "raw"` (then `raw` is True): Karlo,
    Kandinsky and ECLIPSE are trained on the outputs of the projections as they are.

    Args:
        name_or_folder: an open_clip architecture ("ViT-H-14"), or a folder that CLIPTrainer or open_clip wrote: a
            stage's, as RUN/clip, or the export in it; or `shipped:NAME`.
        pretrained: an open_clip tag or a file of weights; not for a folder, which has its own.

    Raises:
        InputError: the weights are not there, or cannot be loaded.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name_or_folder: str, pretrained: str | None = None) -> None:
        super().__init__()
        open_clip = import_open_clip()
        from modules.networks import quadrant_resnet  # noqa: F401 - registers it, for open_clip to build

        name_or_folder = clip_folder(name_or_folder)
        path = Path(name_or_folder)
        if not path.is_dir() and (pretrained is None or "/" in str(name_or_folder)):
            raise InputError(
                f"no CLIP at {name_or_folder}: train one (`unclip fit` with a clip.yaml), or name an open_clip "
                "architecture together with pretrained weights (a tag or a file)"
            )
        if not path.is_dir():
            check_architecture(str(name_or_folder), pretrained)
        hint = f"without internet, put {CONFIG_FILE} and {WEIGHTS_FILE} into a folder and name that"
        with one_line(f"{name_or_folder} ({pretrained or 'its own weights'})", hint):
            if path.is_dir():
                own = TOKENIZER_KEY in check_config(path)
                check_folder(path, own)
            # Without require_pretrained, a folder that lacks its weights gives a CLIP of random ones.
            model = _mapped(path) or open_clip.create_model(
                _schema(name_or_folder), pretrained=pretrained, require_pretrained=True
            )
            check_loaded(model, str(name_or_folder))
        self.model = model.eval().requires_grad_(False)
        self.raw = path.is_dir() and check_config(path).get(EMBEDDINGS_KEY) == "raw"
        tokenizer = load_tokenizer(name_or_folder)
        self.tokenize = tokenizer if isinstance(tokenizer, WordTokenizer) else WholeCaptions(tokenizer)
        self.preprocessing = Preprocessing.of(model)
        self.image_size = self.preprocessing.size[0]
        self.register_buffer("mean", torch.tensor(self.preprocessing.mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(self.preprocessing.std)[:, None, None], persistent=False)

    def train(self, mode: bool = True) -> FrozenCLIP:
        """Stays in evaluation mode, whatever the stage around it does."""
        return super().train(False)

    @property
    def embedding_dim(self) -> int:
        """D."""
        return int(_text_tower(self.model).text_projection.shape[-1])

    @property
    def vocab_size(self) -> int:
        """How many different tokens there are."""
        return int(_text_tower(self.model).token_embedding.num_embeddings)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the weights and, for a CLIP with a vocabulary of words, of the words; embeddings are filed under it.

        `modules.clip.origin.same_clip` compares two.
        """
        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        if self.raw:  # To whatever is trained on its embeddings, it is another CLIP than with embeddings of unit norm.
            digest.update(b"raw embeddings")
        words = f"-{self.tokenize.fingerprint}" if isinstance(self.tokenize, WordTokenizer) else ""
        return digest.hexdigest()[:16] + words

    def preprocess(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1], any size -> resized as the CLIP's config says (`Preprocessing`) and normalised."""
        images = self.preprocessing.resized(images, low=-1)
        return ((images + 1) / 2 - self.mean) / self.std

    def encode_image(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> z_i (B, D), of unit norm unless `raw`. Differentiable in the images."""
        return self._scaled(self.model.encode_image(self.preprocess(images)))

    @torch.no_grad()
    def encode_text(self, tokens: Tensor) -> Tensor:
        """(B, L) tokens -> z_t (B, D), of unit norm unless `raw`."""
        return self._scaled(self.model.encode_text(tokens))

    def _scaled(self, z: Tensor) -> Tensor:
        return z.float() if self.raw else F.normalize(z.float(), dim=-1)

    def unit(self, z: Tensor) -> Tensor:
        """(B, D) embeddings of this CLIP -> of unit norm; they are left as they are if they have it already."""
        return F.normalize(z, dim=-1) if self.raw else z

    @torch.no_grad()
    def encode_tokens(self, tokens: Tensor) -> Tensor:
        """(B, L) tokens -> (B, L, text width): the text Transformer's features of every token.

        They are the output of its final layer norm, before pooling and projection, and not normalised otherwise: the
        entries of a feature have the norm's own scale, of order 1. z_t is the normalised projection of one of them.
        """
        tower = _text_tower(self.model)
        dtype = tower.transformer.get_cast_dtype()
        length = tokens.shape[1]
        x = tower.token_embedding(tokens).to(dtype) + tower.positional_embedding[:length].to(dtype)
        mask = tower.attn_mask
        x = tower.transformer(x, attn_mask=None if mask is None else mask[:length, :length])
        return tower.ln_final(x).float()


def caption_features(clip: Any, tokens: Tensor) -> Tensor:
    """(B, L) tokens -> (B, L, F) features by a frozen CLIP; 0 for padding, on which the CLIP was not trained."""
    return clip.encode_tokens(tokens) * real_tokens(tokens)[..., None]


def caption_of(clip: FrozenCLIP, tokens: Tensor) -> CaptionFeatures:
    """The inputs of a network with `frozen_text` for captions (B, L); a row of 0 is no caption."""
    return CaptionFeatures(clip.encode_tokens(tokens), clip.encode_text(tokens), real_tokens(tokens))


def _text_tower(model: Any) -> Any:
    """What holds the text Transformer: open_clip's CLIP itself, or its `text` where that is a tower of its own."""
    return getattr(model, "text", model)


def unit(feature: Tensor) -> Tensor:
    """A CLIP's (B, D) output in float32, normalised again: under autocast it is a rounded unit vector."""
    if feature.dtype == torch.float32:
        return feature
    return F.normalize(feature.float(), dim=-1) if feature.ndim > 1 else feature.float()


def warn_unknown_words(tokenize: Tokenizer, captions: Iterable[str]) -> None:
    """Say on stderr which words of the captions a small vocabulary does not hold."""
    if isinstance(tokenize, WordTokenizer):
        unknown = sorted({word for caption in captions for word in tokenize.unknown(caption)})
        if unknown:
            print(
                f"the model does not know {', '.join(map(repr, unknown[:20]))}: read as unknown words", file=sys.stderr
            )
