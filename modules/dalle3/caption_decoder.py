"""Trains a decoder on captions that change from pass to pass, such as a blend of ground truth and synthetic ones."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from lightning.pytorch.cli import OptimizerCallable

from modules.batches import EmbeddingBatch, ImageTextBatch
from modules.clip.frozen import FrozenCLIP
from modules.clip.word_tokenizer import WholeCaptions, WordTokenizer
from modules.dalle3.captioner import as_words
from modules.decoder import Decoder
from modules.errors import InputError
from modules.models.configs import Objective, SamplerConfig
from modules.models.data_sizes import NETWORK, DataSizes
from modules.networks.decoder import DecoderNetwork
from modules.training.stage import TrainingConfig, adamw


class CaptionDecoder(Decoder):
    """A decoder of captions alone (GLIDE) that tokenises each batch's captions instead of reading cached tokens.

    Cached tokens are of one caption a picture. Here every pass draws a caption by `captions.shares` (DALL-E 3, section
    3.1). Differs from DALL-E 3: the text encoder is trained with the decoder, where theirs is a frozen T5-XXL.

    Args:
        network: as Decoder's, with embedding_dim null.
        tokenizer: folder of the CLIP whose tokeniser reads the captions, as RUN/clip/export.
        objective, sampler, drop_text, optimizer, training: see Decoder.

    Raises:
        InputError: a network that takes embeddings, or of another vocabulary or context than the tokeniser's.
    """

    def __init__(
        self,
        network: DecoderNetwork,
        tokenizer: str,
        objective: Objective = Objective(),
        sampler: SamplerConfig = SamplerConfig(),
        drop_text: float = 0.1,
        optimizer: OptimizerCallable = adamw,
        training: TrainingConfig = TrainingConfig(),
    ) -> None:
        super().__init__(network, objective, sampler, drop_text, optimizer=optimizer, training=training)
        if network.embedding_dim is not None:
            raise InputError("model.network.embedding_dim must be null: a CaptionDecoder reads captions alone")
        self.tokenizer_folder = tokenizer

    @cached_property
    def tokenize(self) -> WordTokenizer | WholeCaptions:
        """Reads the captions; looked up when it is first needed."""
        return as_words(self.tokenizer_folder)

    @cached_property
    def _fingerprint(self) -> str:
        return FrozenCLIP(self.tokenizer_folder).fingerprint

    @property
    def clip_fingerprint(self) -> str | None:
        return self._fingerprint

    def check_data(self, sizes: DataSizes) -> None:
        super().check_data(sizes)
        reader = self._model.reader
        assert reader is not None  # It reads captions by the CLIP's tokeniser.
        tokens = self.tokenize(["a"])
        if tokens.shape[1] != reader.context_length:
            raise InputError(
                f"{NETWORK}.context_length is {reader.context_length}, the tokeniser's is {tokens.shape[1]}: make them "
                "equal"
            )
        if reader.vocab_size is not None and int(tokens.max()) >= reader.vocab_size:
            raise InputError(
                f"{NETWORK}.vocab_size is {reader.vocab_size}, the tokeniser's tokens go up to {int(tokens.max())}: "
                f"set it to {int(tokens.max()) + 1}"
            )

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Add the tokens of a batch's captions, which may be cut; embeddings of width 0 stand beside them."""
        if not isinstance(batch, ImageTextBatch):
            return batch
        tokens = self.tokenize.cutting(batch.captions)
        none = batch.index.new_zeros(len(tokens), 0).float()
        return batch._replace(embeddings=EmbeddingBatch(none, none, tokens, batch.index))
