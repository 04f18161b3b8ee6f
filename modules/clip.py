"""CLIP: training one (CLIPTrainer), and using one that is trained (FrozenCLIP) (unCLIP, section 2 and appendix C)."""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import sys
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import open_clip
import torch
import torch.nn.functional as F
from lightning.pytorch.cli import OptimizerCallable
from safetensors import SafetensorError
from torch import Tensor, nn

from modules.batches import ImageTextBatch
from modules.errors import InputError
from modules.networks import quadrant_resnet  # noqa: F401 - registers it, for open_clip to build
from modules.sharpness import Perturbation, frozen_statistics
from modules.stage import Stage, TrainingConfig, adamw, write_weights
from modules.tokenizer import VOCABULARY_FILE, WholeCaptions, WordTokenizer

Tokenizer = Callable[[Sequence[str]], Tensor]

CONFIG_FILE, WEIGHTS_FILE = "open_clip_config.json", "open_clip_model.safetensors"
TOKENIZER_KEY = "tokenizer"  # Beside open_clip's own keys, which ignores it.
MEAN = STD = (0.5, 0.5, 0.5)  # Images in [-1, 1] are what our own CLIPs see.
MAX_LOGIT_SCALE = math.log(100)  # CLIP, section 2.5


def load_tokenizer(name_or_folder: str | Path) -> Tokenizer:
    """The tokeniser of a CLIP: our words where the folder has a vocabulary.json, else open_clip's.

    Returns:
        A callable: list of B captions -> (B, context length) int64. open_clip's cut what is too long.

    Raises:
        InputError: neither a folder nor an architecture that open_clip knows; or the folder's CLIP was trained on
            words, and their vocabulary is not there, or damaged.
    """
    folder = Path(name_or_folder)
    kind = _tokenizer_kind(folder)
    if kind != "bpe" and (folder / VOCABULARY_FILE).exists():
        return WordTokenizer.load(folder)
    if kind == "words":
        raise InputError(
            f"{folder / VOCABULARY_FILE} is missing: this CLIP's tokens are the words in it; put it back, or train or "
            "export that CLIP again"
        )
    if not folder.is_dir() and open_clip.get_model_config(str(name_or_folder)) is None:
        # open_clip would warn, and give a tokeniser of its own choice.
        near = difflib.get_close_matches(str(name_or_folder), open_clip.list_models(), n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise InputError(f"no CLIP at {name_or_folder}: neither a folder nor an architecture of open_clip{hint}")
    return open_clip.get_tokenizer(_schema(name_or_folder))


def _tokenizer_kind(folder: Path) -> str | None:
    """ "words" or "bpe", as the folder's config says; None where it does not: open_clip's, and older ones of ours."""
    try:
        content = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # No folder, or one that building the model complains about.
        return None
    return content.get(TOKENIZER_KEY) if isinstance(content, dict) else None


def _schema(name_or_folder: str | Path) -> str:
    return f"local-dir:{name_or_folder}" if Path(name_or_folder).is_dir() else str(name_or_folder)


class FrozenCLIP(nn.Module):
    """A trained CLIP that only embeds. Nothing in it is trained, and it is never averaged.

    Args:
        name_or_folder: an open_clip architecture ("ViT-H-14"), or a folder that CLIPTrainer or open_clip wrote.
        pretrained: an open_clip tag or a file of weights; not for a folder, which has its own.

    Raises:
        InputError: where the weights can't be had.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name_or_folder: str, pretrained: str | None = None) -> None:
        super().__init__()
        path = Path(name_or_folder)
        if not path.is_dir() and (pretrained is None or "/" in str(name_or_folder)):
            raise InputError(
                f"no CLIP at {name_or_folder}: train one (`unclip fit` with a clip.yaml), or name an open_clip "
                "architecture together with pretrained weights (a tag or a file)"
            )
        try:
            # Without require_pretrained, a folder that lacks its weights gives a CLIP of random ones.
            model = open_clip.create_model(_schema(name_or_folder), pretrained=pretrained, require_pretrained=True)
        except (OSError, RuntimeError, ValueError, SafetensorError) as error:
            raise InputError(
                f"the CLIP {name_or_folder} ({pretrained or 'its own weights'}) can't be loaded: {error}; without "
                f"internet, put {CONFIG_FILE} and {WEIGHTS_FILE} into a folder and name that"
            ) from error
        self.model = model.eval().requires_grad_(False)
        tokenizer = load_tokenizer(name_or_folder)
        self.tokenize = tokenizer if isinstance(tokenizer, WordTokenizer) else WholeCaptions(tokenizer)
        size, mean, std = (open_clip.get_model_preprocess_cfg(model)[key] for key in ("size", "mean", "std"))
        self.image_size = size[0] if isinstance(size, (tuple, list)) else int(size)
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)

    def train(self, mode: bool = True) -> FrozenCLIP:
        """Stays in evaluation mode, whatever the stage around it does."""
        return super().train(False)

    @property
    def embedding_dim(self) -> int:
        """D."""
        return int(_text_tower(self.model).text_projection.shape[-1])

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the weights and, if its tokens are our words, one of those: what embeddings are filed under.

        `modules.clip_origin.same_clip` compares two.
        """
        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        words = f"-{self.tokenize.fingerprint}" if isinstance(self.tokenize, WordTokenizer) else ""
        return digest.hexdigest()[:16] + words

    def preprocess(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1], square, any size -> resized (bicubic, antialiased) and normalised for the CLIP."""
        if images.shape[-1] != self.image_size:
            size = (self.image_size, self.image_size)
            images = F.interpolate(images, size, mode="bicubic", antialias=True).clamp(-1, 1)
        return ((images + 1) / 2 - self.mean) / self.std

    def encode_image(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> z_i (B, D) of unit norm. Differentiable in the images."""
        return F.normalize(self.model.encode_image(self.preprocess(images)).float(), dim=-1)

    @torch.no_grad()
    def encode_text(self, tokens: Tensor) -> Tensor:
        """(B, L) tokens -> z_t (B, D) of unit norm."""
        return F.normalize(self.model.encode_text(tokens).float(), dim=-1)

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


def _text_tower(model: Any) -> Any:
    """What holds the text Transformer: open_clip's CLIP itself, or its `text` where that is a tower of its own."""
    return getattr(model, "text", model)


class CLIPTrainer(Stage):
    """Contrastive training of an open_clip model.

    The model, its tokeniser and its configuration are written to default_root_dir/export in open_clip's own layout, so
    that this CLIP loads the way pretrained ones do.

    Args:
        embed_dim: D.
        vision_cfg, text_cfg: as in open_clip's model configurations.
        optimizer: makes the optimiser.
        training: EMA, warm-up, seed.
        swap_words: pairs of words. A caption in which they are exchanged is a further negative for its image, which
            makes the text tower heed the order of words (NegCLIP, Yuksekgonul et al. 2023, section 4); only with
            words of a vocabulary trained here. Differs from the paper, which has none.
        swap_weight: of that part of the loss.
        sam_rho: of sharpness-aware minimisation, each replica perturbing on its own batch; the paper's is 0.1, 0 is
            none. A step costs twice as much.
        tokenizer: "words", the data set's own, or "bpe", CLIP's 49,408 tokens.
    """

    shardable = False  # A scalar weight can't be; nor does SAM perturb shares.

    def __init__(
        self,
        embed_dim: int,
        vision_cfg: dict[str, Any],
        text_cfg: dict[str, Any],
        optimizer: OptimizerCallable = adamw,
        training: TrainingConfig = TrainingConfig(),
        swap_words: Sequence[tuple[str, str]] = (),
        swap_weight: float = 1.0,
        sam_rho: float = 0.0,
        tokenizer: Literal["words", "bpe"] = "words",
    ) -> None:
        model = open_clip.CLIP(embed_dim, vision_cfg, text_cfg, output_dict=True)
        super().__init__(model, optimizer, training)
        self.model_cfg: dict[str, Any] = {"embed_dim": embed_dim, "vision_cfg": vision_cfg, "text_cfg": text_cfg}
        self.image_size = int(vision_cfg["image_size"])
        self.tokenize: WordTokenizer | open_clip.SimpleTokenizer | None = None
        if tokenizer == "bpe":
            bpe, size = open_clip.SimpleTokenizer(context_length=self._context()), text_cfg["vocab_size"]
            if bpe.vocab_size != size:
                raise InputError(f"model.text_cfg.vocab_size is {size}; tokenizer: bpe has {bpe.vocab_size}")
            self.tokenize = bpe
            if swap_words:
                raise InputError("model.swap_words needs tokenizer: words, which knows words one by one")
        self.swap_words, self.swap_weight = [(first, second) for first, second in swap_words], swap_weight
        self._perturbation: Perturbation | None = None
        if sam_rho:
            self._perturbation = Perturbation(list(model.parameters()), sam_rho)

    def setup(self, stage: str) -> None:
        if isinstance(self.tokenize, open_clip.SimpleTokenizer):
            return
        words = self.trainer.datamodule.vocabulary()  # type: ignore[attr-defined]
        self.tokenize = WordTokenizer(words, self.model_cfg["text_cfg"]["vocab_size"], self._context())
        # A caption that does not fit is found now, not hours into the run.
        for split in {"fit": ("train", "val"), "validate": ("val",)}.get(stage, ("test",)):
            self.tokenize(max(self.trainer.datamodule.texts(split), key=lambda text: len(text.split())))  # type: ignore[attr-defined]
        self.swapped(torch.zeros(1, 1, dtype=torch.int64))  # So is a word to swap that there is not.

    def _context(self) -> int:
        return int(self.model_cfg["text_cfg"]["context_length"])

    def _loss(
        self, model: nn.Module, batch: ImageTextBatch, *, gathered: bool = True
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The symmetric contrastive loss (CLIP, figure 3), and what to log; `gathered`: over all replicas' pairs.

        Logged: how often an image finds its caption in the batch, and how often it prefers it to its swapped form.
        """
        assert self.tokenize is not None
        images = self._resized(batch.images)
        tokens = self.tokenize(batch.captions).to(self.device)
        out = {name: unit(feature) for name, feature in model(images, tokens).items()}
        rank, world = (self.global_rank, self.trainer.world_size) if gathered else (0, 1)
        contrast = open_clip.ClipLoss(local_loss=True, gather_with_grad=True, rank=rank, world_size=world)
        # Logits go up to 100, where bfloat16 has steps of a half.
        with torch.autocast(images.device.type, enabled=False):
            loss = contrast(out["image_features"], out["text_features"], out["logit_scale"])
            found = (out["image_features"] @ out["text_features"].T).argmax(dim=1)
        log = {"retrieval": (found == torch.arange(len(found), device=found.device)).float().mean()}
        margins = self._margins(model, tokens, out)
        if len(margins):
            loss = loss + self.swap_weight * F.softplus(-out["logit_scale"] * margins).sum() / len(tokens)
            log["order"] = (margins > 0).float().mean()
        return loss, log

    def _resized(self, images: Tensor) -> Tensor:
        if images.shape[-1] == self.image_size:
            return images
        return F.interpolate(images, (self.image_size,) * 2, mode="bicubic", antialias=True)

    def _margins(self, model: nn.Module, tokens: Tensor, out: dict[str, Tensor]) -> Tensor:
        """(K,) by how much the K images whose caption has a swapped form are nearer to the caption than to that."""
        swapped = self.swapped(tokens)
        changed = (swapped != tokens).any(dim=1)
        if not changed.any():
            return out["logit_scale"].new_zeros(0)
        negative = unit(model(None, swapped[changed])["text_features"])
        return (out["image_features"][changed] * (out["text_features"][changed] - negative)).sum(dim=1)

    def swapped(self, tokens: Tensor) -> Tensor:
        """(B, L) tokens with the words of `swap_words` exchanged."""
        if not self.swap_words:
            return tokens
        assert isinstance(self.tokenize, WordTokenizer)
        partner = torch.arange(self.tokenize.size, device=tokens.device)
        for pair in self.swap_words:
            first, second = (self.tokenize.token(word) for word in pair)
            partner[first], partner[second] = second, first
        return partner[tokens]

    def training_loss(self, batch: ImageTextBatch, generator: torch.Generator) -> Tensor:
        if self._perturbation is not None:
            with frozen_statistics(self.network):
                self._perturbation.climb(lambda: self._loss(self.trained, batch, gathered=False)[0])
        loss, log = self._loss(self.trained, batch)
        self.log_dict({f"train/{name}": value for name, value in log.items()})
        return loss

    def loss_terms(self, batch: ImageTextBatch, generator: torch.Generator) -> dict[str, Tensor]:
        # Of this replica's pairs alone: the others, whose losses may be good, do not wait to be gathered.
        return self.outputs_of(lambda: self._loss(self.network, batch, gathered=False))

    def on_after_backward(self) -> None:
        if self._perturbation is not None:  # The gradient was that of the perturbed weights; the step is from here.
            self._perturbation.restore()

    def validation_loss(self, batch: ImageTextBatch, generator: torch.Generator) -> Tensor:
        loss, log = self._loss(self.averaged, batch)
        named = {f"{self.measured}/{name}": value for name, value in log.items()}
        self.log_dict(named, batch_size=len(batch.captions), sync_dist=True)
        return loss

    def predictions(self, batch: ImageTextBatch, generators: list[torch.Generator]) -> dict[str, Tensor]:
        """z_i and z_t (B, D) of unit norm."""
        assert self.tokenize is not None
        out = self.averaged(self._resized(batch.images), self.tokenize(batch.captions).to(self.device))
        return {"z_i": unit(out["image_features"]), "z_t": unit(out["text_features"])}

    def after_step(self) -> None:
        with torch.no_grad():
            self.network.logit_scale.clamp_(0, MAX_LOGIT_SCALE)

    def export(self, root: Path) -> None:
        """Write root/export/: an open_clip folder, which `FrozenCLIP` and open_clip's `local-dir:` read."""
        assert self.tokenize is not None
        root = root / "export"
        root.mkdir(exist_ok=True)
        preprocess = {"mean": MEAN, "std": STD, "size": self.image_size, "interpolation": "bicubic"}
        if isinstance(self.tokenize, WordTokenizer):  # open_clip brings its own along.
            self.tokenize.save(root)
        kind = "words" if isinstance(self.tokenize, WordTokenizer) else "bpe"
        content = {"model_cfg": self.model_cfg, "preprocess_cfg": preprocess, TOKENIZER_KEY: kind}
        (root / CONFIG_FILE).write_text(json.dumps(content, indent=1))
        write_weights(self.averaged.state_dict(), root / WEIGHTS_FILE)


def unit(feature: Tensor) -> Tensor:
    """A CLIP's (B, D) output in float32: under autocast it is a rounded unit vector, and is normalised once more."""
    if feature.dtype == torch.float32:
        return feature
    return F.normalize(feature.float(), dim=-1) if feature.ndim > 1 else feature.float()


def warn_unknown_words(tokenize: Tokenizer, captions: Sequence[str]) -> None:
    """Say on stderr which words of the captions a small vocabulary does not hold."""
    if isinstance(tokenize, WordTokenizer):
        unknown = sorted({word for caption in captions for word in tokenize.unknown(caption)})
        if unknown:
            print(
                f"the model does not know {', '.join(map(repr, unknown[:20]))}: read as unknown words", file=sys.stderr
            )
