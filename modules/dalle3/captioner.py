"""Trains the captioner (`modules.models.dalle3.captioner`): a base on alt-text, then fine-tunes of it (`init_from`)."""

from __future__ import annotations

from functools import cached_property
from typing import ClassVar

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from modules.batches import embeddings_of
from modules.clip.frozen import load_tokenizer
from modules.clip.word_tokenizer import WholeCaptions, WordTokenizer
from modules.models.base import Batch
from modules.models.dalle3.captioner import IGNORED, CaptionerModel
from modules.networks.dalle3.captioner import CaptionerNetwork
from modules.training.image_log import log_text
from modules.training.model_stage import ModelStage, per_sample_generators
from modules.training.stage import TrainingConfig, adamw
from modules.training.whitening import fit_whitenings


class Captioner(ModelStage[CaptionerModel, Batch]):
    """Trains a CaptionerNetwork on image embeddings and caption tokens that `unclip embed` has computed.

    Args:
        network: what is trained.
        tokenizer: folder of the CLIP whose tokens these are, to show captions as words.
        contrastive_weight, temperature: see CaptionerModel.
        optimizer, training: see Stage.
    """

    judged: ClassVar[int | None] = 64
    shown: ClassVar[int] = 8

    def __init__(
        self,
        network: CaptionerNetwork,
        tokenizer: str,
        contrastive_weight: float = 0.0,
        temperature: float = 0.0,
        optimizer: OptimizerCallable = adamw,
        training: TrainingConfig = TrainingConfig(),
    ) -> None:
        super().__init__(CaptionerModel(network, contrastive_weight, temperature), optimizer, training)
        self.tokenizer_folder = tokenizer

    @cached_property
    def tokenize(self) -> WordTokenizer | WholeCaptions:
        """Reads and writes the captions; looked up when it is first needed."""
        return as_words(self.tokenizer_folder)

    def on_fit_start(self) -> None:
        """Fit the whitening of z_i to the training embeddings; a resumed run and a fine-tune (`init_from`) have it."""
        fit_whitenings(self)

    def judge(self, batch: Batch) -> dict[str, Tensor]:
        """How often the next token is the right one, and how often a whole caption is word for word the pair's."""
        rows = embeddings_of(batch).rows(slice(self.judged_count))
        model = self.averaged_model
        targets = model.targets(rows.tokens)
        known = targets != IGNORED
        guessed = model.output(rows).argmax(dim=-1)
        drawn = model.sample(rows.z_i, per_sample_generators(len(rows.z_i)))
        self._show_captions(rows.tokens, drawn)
        same = ((drawn == rows.tokens) | ~known).all(dim=1)
        return {"token_accuracy": (guessed == targets)[known].float().mean(), "same_caption": same.float().mean()}

    def _show_captions(self, tokens: Tensor, drawn: Tensor) -> None:
        """Captions of validation pairs beside those that were written, in the loggers that can show text."""
        if self.global_rank != 0 or self.trainer.sanity_checking:
            return
        pairs = zip(tokens[: self.shown_count].tolist(), drawn[: self.shown_count].tolist(), strict=True)
        lines = [f"| {self.tokenize.decode(given)} | {self.tokenize.decode(written)} |" for given, written in pairs]
        table = "\n".join(["| the pair's caption | the captioner's |", "| --- | --- |", *lines])
        log_text(self.trainer.loggers, f"{self.measured}/captions", table, self.global_step)

    def predictions(self, batch: Batch, generators: list[torch.Generator]) -> dict[str, Tensor]:
        """tokens (B, L), 0 after a caption's end."""
        return {"tokens": self.averaged_model.sample(embeddings_of(batch).z_i, generators)}


def as_words(folder: str) -> WordTokenizer | WholeCaptions:
    """A CLIP folder's tokeniser, which reads captions and writes them.

    Raises:
        InputError: there is none.
    """
    found = load_tokenizer(folder)
    return found if isinstance(found, WordTokenizer) else WholeCaptions(found)
