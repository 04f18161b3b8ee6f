"""CLIP: training one (CLIPTrainer), and using one that is trained (FrozenCLIP) (unCLIP, section 2 and appendix C)."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn
from torchmetrics import MeanMetric

from modules.batches import ImageTextBatch
from modules.clip.contrast import contrastive_loss
from modules.clip.frozen import CONFIG_FILE, MEAN, STD, TOKENIZER_KEY, WEIGHTS_FILE, unit
from modules.clip.lean_import import import_open_clip
from modules.clip.sam import Perturbation, frozen_statistics
from modules.clip.word_tokenizer import WordTokenizer
from modules.errors import InputError
from modules.models.base import outputs_of
from modules.models.data_sizes import DataSizes
from modules.models.exports import write_weights
from modules.networks import quadrant_resnet  # noqa: F401 - registers it, for open_clip to build
from modules.networks.reconstruction import HEAD, UNEXPORTED, ReconstructionConfig, ReconstructionHead
from modules.training.stage import Stage, TrainingConfig, adamw
from modules.untrusted.writing import clear_way

if TYPE_CHECKING:
    import open_clip

MAX_LOGIT_SCALE = math.log(100)  # CLIP, section 2.5


VOCABULARY_KEY = "vocabulary"
"""In checkpoints: the words, by whose places the text tower knows them."""


REQUIRED = {
    "vision_cfg": {"image_size": "the side in pixels of what the CLIP sees, as in image_size: 32"},
    "text_cfg": {
        "vocab_size": "the tokens that it knows, as in vocab_size: 30 for 27 words (49408 with tokenizer: bpe)",
        "context_length": "the tokens of the longest caption, as in context_length: 16 (77 with tokenizer: bpe)",
    },
}
"""What a CLIP's two towers have to be told here, though open_clip has values of its own: they have to fit the data."""


def check_words(trained_on: Sequence[str], here: Sequence[str]) -> None:
    """Refuse data whose vocabulary differs from a checkpoint's: the same word would get another token.

    Raises:
        InputError: names words that came or went.
    """
    if list(trained_on) == list(here):
        return
    came, went = sorted(set(here) - set(trained_on)), sorted(set(trained_on) - set(here))
    parts = [f"{what} {', '.join(map(repr, words[:5]))}" for what, words in (("new", came), ("gone", went)) if words]
    raise InputError(
        "the captions have other words than those that the checkpoint was trained on "
        f"({'; '.join(parts) or 'another order'}), so the same word would get another token: put the captions "
        "back, or train anew"
    )


class CLIPTrainer(Stage[ImageTextBatch]):
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
        swap_weight: weight of this part of the loss.
        sam_rho: rho of sharpness-aware minimisation, where each replica perturbs on its own batch; the paper has 0.1,
            0 is none. A step costs twice as much.
        tokenizer: "words", the data set's own, or "bpe", CLIP's 49,408 tokens.
        reconstruction: weight and size of the picture that z_i also has to give back; weight 0 is none, as in the
            paper.
    """

    network: open_clip.CLIP
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
        reconstruction: ReconstructionConfig = ReconstructionConfig(),
    ) -> None:
        for name, given in (("vision_cfg", vision_cfg), ("text_cfg", text_cfg)):
            for key, meaning in REQUIRED[name].items():
                if key not in given:
                    raise InputError(f"model.init_args.{name}.{key} is not set: {meaning}")
        model = import_open_clip().CLIP(embed_dim, vision_cfg, text_cfg, output_dict=True)
        if reconstruction.weight:
            model.add_module(HEAD, ReconstructionHead(embed_dim, reconstruction))
        super().__init__(model, optimizer, training)
        self.model_cfg: dict[str, Any] = {"embed_dim": embed_dim, "vision_cfg": vision_cfg, "text_cfg": text_cfg}
        self.image_size = int(vision_cfg["image_size"])
        self.tokenize: WordTokenizer | open_clip.SimpleTokenizer | None = None
        if tokenizer == "bpe":
            bpe, size = import_open_clip().SimpleTokenizer(context_length=self._context()), text_cfg["vocab_size"]
            if bpe.vocab_size != size:
                raise InputError(f"model.text_cfg.vocab_size is {size}; tokenizer: bpe has {bpe.vocab_size}")
            self.tokenize = bpe
            if swap_words:
                raise InputError("model.swap_words needs tokenizer: words, which knows words one by one")
        self.swap_words, self.swap_weight = [(first, second) for first, second in swap_words], swap_weight
        self.reconstruction = reconstruction
        self._perturbation: Perturbation | None = None
        if sam_rho:
            self._perturbation = Perturbation(list(model.parameters()), sam_rho)

    def setup(self, stage: str) -> None:
        self.order = MeanMetric()  # Not before: where memory is planned, tensors are fake, which metrics can't copy.
        if isinstance(self.tokenize, import_open_clip().SimpleTokenizer):
            return
        words = self.trainer.datamodule.vocabulary()  # type: ignore[attr-defined]
        self.tokenize = WordTokenizer(words, self.model_cfg["text_cfg"]["vocab_size"], self._context())
        # A caption that does not fit is found now, not hours into the run.
        for split in {"fit": ("train", "val"), "validate": ("val",)}.get(stage, ("test",)):
            self.tokenize(max(self.trainer.datamodule.texts(split), key=lambda text: len(text.split())))  # type: ignore[attr-defined]
        self.swapped(torch.zeros(1, 1, dtype=torch.int64))  # So is an unknown word of swap_words.

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        if isinstance(self.tokenize, WordTokenizer):
            checkpoint[VOCABULARY_KEY] = list(self.tokenize.words)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        trained_on = checkpoint.get(VOCABULARY_KEY)
        if trained_on is not None and isinstance(self.tokenize, WordTokenizer):
            check_words(trained_on, self.tokenize.words)

    def check_settings(self, sizes: DataSizes) -> None:
        super().check_settings(sizes)
        pairs = sizes.pairs()
        if pairs is not None and sizes.batch is not None and sizes.batch > pairs:
            raise InputError(
                f"data.init_args.batch_size makes batches of {sizes.batch} pairs over all devices, and the training "
                f"split holds {pairs}: a batch would hold the same pair several times, and the loss takes all other "
                f"pairs of a batch for wrong ones; take {pairs} or fewer, or more data"
            )

    def _context(self) -> int:
        return int(self.model_cfg["text_cfg"]["context_length"])

    def _loss(
        self, model: nn.Module, batch: ImageTextBatch, *, gathered: bool = True
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The symmetric contrastive loss (CLIP, figure 3), and what to log; `gathered`: over all replicas' pairs.

        Logged for each pair: whether an image finds its caption in the batch, whether it prefers it to its swapped form
        (zeros and ones), and the error of the picture that z_i gives back.
        """
        assert self.tokenize is not None
        images = self._resized(batch.images)
        tokens = self.tokenize(batch.captions).to(self.device)
        out = {name: unit(feature) for name, feature in model(images, tokens).items()}
        rank, world = (self.global_rank, self.trainer.world_size) if gathered else (0, 1)
        # Logits go up to 100, where bfloat16 has steps of a half.
        with torch.autocast(images.device.type, enabled=False):
            z_i, z_t, scale = (out[name] for name in ("image_features", "text_features", "logit_scale"))
            loss = contrastive_loss(z_i, z_t, scale, batch.index, rank=rank, world=world)
            found = (out["image_features"] @ out["text_features"].T).argmax(dim=1)
        log = {"retrieval": (found == torch.arange(len(found), device=found.device)).float()}
        margins = self._margins(model, tokens, out)
        if len(margins):
            loss = loss + self.swap_weight * F.softplus(-out["logit_scale"] * margins).sum() / len(tokens)
            log["order"] = (margins > 0).float()
        if self.reconstruction.weight:
            with torch.autocast(images.device.type, enabled=False):
                error = getattr(model, HEAD).error(out["image_features"], images)
                loss, log[HEAD] = loss + self.reconstruction.weight * error.mean(), error.detach()
        return loss, log

    def _resized(self, images: Tensor) -> Tensor:
        if images.shape[-1] == self.image_size:
            return images
        return F.interpolate(images, (self.image_size,) * 2, mode="bicubic", antialias=True)

    def _margins(self, model: nn.Module, tokens: Tensor, out: dict[str, Tensor]) -> Tensor:
        """(K,) by how much the K images whose caption has a swapped form are nearer to the caption than to that."""
        if not self.swap_words:
            return out["logit_scale"].new_zeros(0)
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
        self.log_dict({f"train/{name}": value.mean() for name, value in log.items()})
        return loss

    def example_batch(self, count: int) -> tuple[Tensor, Tensor]:  # type: ignore[override]  # tokens, not captions
        """Images (B, 3, S, S) and tokens (B, L)."""
        images = torch.zeros(count, 3, self.image_size, self.image_size)
        return images, torch.zeros(count, self._context(), dtype=torch.int64)

    def example_loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:  # type: ignore[override]
        out = self.network(*batch)
        similarity = out["logit_scale"] * out["image_features"].float() @ out["text_features"].float().T
        loss = similarity.float().square().mean()
        if self.reconstruction.weight:
            loss = loss + getattr(self.network, HEAD)(out["image_features"].float()).square().mean()
        return loss

    def loss_terms(self, batch: ImageTextBatch, generator: torch.Generator) -> dict[str, Tensor]:
        # Of this replica's pairs alone: the others, whose losses may be good, do not wait to be gathered.
        return outputs_of(self.network, lambda: self._loss(self.network, batch, gathered=False))

    def on_after_backward(self) -> None:
        if self._perturbation is not None:  # The gradient was that of the perturbed weights; the step is from here.
            self._perturbation.restore()

    def validation_loss(self, batch: ImageTextBatch, generator: torch.Generator) -> Tensor:
        loss, log = self._loss(self.averaged, batch)
        for name in ("retrieval", HEAD):
            if name in log:
                self.log_measure(name, log[name])
        self.order.update(log.get("order", loss.new_zeros(0)))
        return loss

    def on_validation_epoch_end(self) -> None:
        # Batches without a caption that could be swapped have no such number, and on some ranks there may be none at
        # all: every rank computes the mean here, and a split without any logs nothing.
        if self.swap_words:
            share = self.order.compute()
            if not share.isnan():
                self.log(f"{self.measured}/order", share, sync_dist=True)  # The same on every rank.
            self.order.reset()

    def on_test_epoch_end(self) -> None:
        self.on_validation_epoch_end()

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
        clear_way(root / CONFIG_FILE)
        (root / CONFIG_FILE).write_text(json.dumps(content, indent=1))
        weights = {key: value for key, value in self.averaged.state_dict().items() if not key.startswith(UNEXPORTED)}
        write_weights(weights, root / WEIGHTS_FILE)
