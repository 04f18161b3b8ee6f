"""Trains the token Transformer (`modules.models.dalle1.token_transformer`)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from modules.batches import ImageTextBatch, embeddings_of
from modules.clip.bpe_dropout import BPEDropout
from modules.errors import InputError
from modules.images.tensors import to_uint8
from modules.models.dalle1.dvae import DVAEModel
from modules.models.dalle1.token_transformer import TokenTransformerModel, check_tokens
from modules.models.data_sizes import NETWORK, CaptionReader, DataSizes
from modules.models.exports import Stored, load_model
from modules.networks.dalle1.token_transformer import TokenTransformerNetwork
from modules.training.model_stage import ModelStage, per_sample_generators
from modules.training.stage import TrainingConfig, adamw

DVAE_KEY = "dvae"
"""Of a checkpoint and of an export: which dVAE's tokens the Transformer was trained on."""


class TokenTransformer(ModelStage[TokenTransformerModel, ImageTextBatch]):
    """Trains a TokenTransformerNetwork on captions and the tokens that a trained dVAE gives their pictures.

    Args:
        network: what is trained.
        dvae: folder of the trained dVAE; its weights do not change.
        drop_text, guidance_scale, temperature: see TokenTransformerModel.
        bpe_dropout: tokenises the captions anew in every training step, each merge left out at some rate (10 % in the
            paper); null for the tokens that lie beside the data's embeddings.
        optimizer, training: see Stage.
    """

    def __init__(
        self,
        network: TokenTransformerNetwork,
        dvae: str,
        drop_text: float = 0.0,
        guidance_scale: float = 1.0,
        temperature: float = 1.0,
        bpe_dropout: BPEDropout | None = None,
        optimizer: OptimizerCallable = adamw,
        training: TrainingConfig = TrainingConfig(),
    ) -> None:
        super().__init__(TokenTransformerModel(network, drop_text, guidance_scale, temperature), optimizer, training)
        self.dvae_folder, self.bpe_dropout = dvae, bpe_dropout
        self._dvae: Stored[DVAEModel] | None = None

    @property
    def dvae(self) -> DVAEModel:
        """The trained dVAE, on this stage's device; kept out of the module tree, so that no checkpoint holds it."""
        if self._dvae is None:
            self._dvae = load_model(self.dvae_folder, DVAEModel)
        self._dvae.model.network.to(self.device)
        return self._dvae.model

    @property
    def model(self) -> TokenTransformerModel:
        return replace(super().model, dvae=self.dvae)

    @property
    def averaged_model(self) -> TokenTransformerModel:
        return replace(super().averaged_model, dvae=self.dvae)

    def check_data(self, sizes: DataSizes) -> None:
        super().check_data(sizes)
        if self.bpe_dropout is not None and sizes.captions() is not None:
            check_bpe(self.bpe_dropout, self._model.reader)

    def on_fit_start(self) -> None:
        """Refuse a dVAE of other tokens than the network's, before the first step."""
        check_tokens(self._model.network, self.dvae)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint[DVAE_KEY] = self._fingerprint

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        trained_on = checkpoint.get(DVAE_KEY)
        if trained_on not in (None, self._fingerprint):
            raise InputError(
                f"this checkpoint was trained on the tokens of another dVAE than that in {self.dvae_folder}, whose "
                "tokens mean something else: put that dVAE back, or begin anew in another folder"
            )

    @property
    def _fingerprint(self) -> str:
        """Of the dVAE's weights."""
        _ = self.dvae
        assert self._dvae is not None
        return self._dvae.fingerprint

    def example_loss(self, batch: ImageTextBatch) -> Tensor:
        """As in ModelStage, without the dVAE, which need not be there when memory is planned."""
        return (
            replace(self._model, network=cast(TokenTransformerNetwork, self.trained))
            .output(batch)
            .float()
            .square()
            .mean()
        )

    def training_loss(self, batch: ImageTextBatch, generator: torch.Generator) -> Tensor:
        if self.bpe_dropout is not None:
            rows = embeddings_of(batch)
            tokens = self.bpe_dropout(batch.captions, generator).to(rows.tokens.device)
            batch = batch._replace(embeddings=rows._replace(tokens=tokens))
        found = self.model.parts(batch, generator)
        self.log_dict({"train/text": found.text.detach(), "train/image": found.image.detach()})
        return found.loss

    def judge(self, batch: ImageTextBatch) -> dict[str, Tensor]:
        found = self.averaged_model.parts(batch)
        return {"text": found.text, "image": found.image}

    def show_samples(self, batch: ImageTextBatch) -> Tensor:
        """(2 x N, 3, H, W), N `samples_shown` or 16: samples, then the true pictures of their captions."""
        text = embeddings_of(batch).tokens[: self.shown_count]
        return torch.cat([self._drawn(text, per_sample_generators(len(text))), batch.images[: self.shown_count]])

    def predictions(self, batch: ImageTextBatch, generators: list[torch.Generator]) -> dict[str, Tensor]:
        """images (B, C, H, W) uint8, drawn for the batch's captions."""
        return {"images": to_uint8(self._drawn(embeddings_of(batch).tokens, generators))}

    def _drawn(self, text: Tensor, generators: list[torch.Generator]) -> Tensor:
        tokens = self.averaged_model.sample(text, generators)
        grid = self.dvae.grid
        return self.dvae.decode(tokens.unflatten(1, (grid, grid)))

    def exported_about(self) -> dict[str, object]:
        """Also which dVAE's tokens these are, so that no other is used for sampling."""
        return super().exported_about() | {DVAE_KEY: self._fingerprint}


def check_bpe(bpe: BPEDropout, reader: CaptionReader) -> None:
    """Refuse a network that reads other tokens than those of BPE dropout.

    Raises:
        InputError: the lengths or the vocabularies differ.
    """
    own = bpe.tokenizer.context_length, bpe.tokenizer.vocab_size
    names = "context_length", "vocab_size"
    for name, ours, theirs in zip(names, own, (reader.context_length, reader.vocab_size), strict=True):
        if ours != theirs:
            raise InputError(
                f"{NETWORK}.{name} is {theirs}, and {ours} in the tokeniser of bpe_dropout, {bpe.name_or_folder}: name "
                "the CLIP that made the data's embeddings, or leave bpe_dropout out"
            )
