"""The autoregressive prior: p(z_i | y) as a sequence of quantised principal components (unCLIP, section 2.2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from modules.batches import EmbeddingBatch, ImageTextBatch
from modules.errors import InputError
from modules.models.embedding_codec import EmbeddingCodec
from modules.models.embedding_statistics import EmbeddingStatistics
from modules.networks.ar_prior import ARPriorNetwork
from modules.prior_batches import cosines, embeddings_of, per_sample_generators, text_of
from modules.sampling import sample_ar_prior
from modules.training.stage import Stage, TrainingConfig, adamw

FIT_CHUNK = 8192  # embeddings that the codec's fit reads at a time
CODEC = "codec."  # Prefix of the codec's buffers in the exported file.


class ARPrior(Stage):
    """Trains an ARPriorNetwork on the codes of an EmbeddingCodec, which is fitted to the training split first.

    Args:
        network: what is trained.
        codec: PCA and buckets; its num_codes, num_buckets and num_dot_buckets must be the network's.
        drop_text: how often caption and z_t are dropped together.
        guidance_scale, percentile: of sampling.
        optimizer, training: see Stage.

    Raises:
        InputError: where network and codec do not fit together.
    """

    def __init__(
        self,
        network: ARPriorNetwork,
        codec: EmbeddingCodec,
        drop_text: float = 0.1,
        guidance_scale: float = 1.0,
        percentile: float = 50.0,
        optimizer: OptimizerCallable = adamw,
        training: TrainingConfig = TrainingConfig(),
    ) -> None:
        super().__init__(network, optimizer, training)
        for name in ("embedding_dim", "num_codes", "num_buckets", "num_dot_buckets"):
            ours, theirs = getattr(network, name), getattr(codec, name)
            if ours != theirs:
                raise InputError(f"model.network.{name} is {ours}, model.codec.{name} is {theirs}: make them equal")
        self.codec, self.drop_text = codec, drop_text
        self.guidance_scale, self.percentile = guidance_scale, percentile

    def on_fit_start(self) -> None:
        if not self.codec.fitted:
            self.codec.fit_statistics(self._statistics())
        kept, dim, share = self.codec.kept, self.codec.embedding_dim, self.codec.share_kept()
        rank_zero_info(f"the codec keeps {kept} of {dim} principal components: {share:.2%} of the variance of z_i")

    def _statistics(self) -> EmbeddingStatistics:
        """Of the training split, read in parts; every rank reads all of it and comes to the same codec."""
        data = self.trainer.datamodule.dataset("train")  # type: ignore[attr-defined]
        total: EmbeddingStatistics | None = None
        for start in range(0, len(data), FIT_CHUNK):
            positions = list(range(start, min(start + FIT_CHUNK, len(data))))
            rows = embeddings_of(data.__getitems__(positions))
            z_i, z_t = (x.to(self.device) for x in (rows.z_i, rows.z_t))
            part = EmbeddingStatistics.of(z_i, z_t, torch.tensor(positions, device=self.device))
            total = part if total is None else total.merge(part)
        if total is None:
            raise InputError("the training split holds no embeddings to fit the codec to")
        return total

    def _loss(self, network: nn.Module, batch: EmbeddingBatch | ImageTextBatch, keep: Tensor | None) -> Tensor:
        """Cross-entropy of the codes, in nats per code."""
        rows = embeddings_of(batch)
        codes = self.codec.encode(rows.z_i)
        dot = self.codec.encode_dot(rows.z_i, rows.z_t)
        logits = network(text_of(network, rows), rows.z_t, dot, codes, keep)
        return F.cross_entropy(logits.flatten(0, 1).float(), codes.flatten())  # autocast gives bfloat16 logits

    def training_loss(self, batch: EmbeddingBatch | ImageTextBatch, generator: torch.Generator) -> Tensor:
        count = len(embeddings_of(batch).z_i)
        keep = (torch.rand(count, generator=generator) >= self.drop_text).to(self.device)
        return self._loss(self.trained, batch, keep)

    def validation_loss(self, batch: EmbeddingBatch | ImageTextBatch, generator: torch.Generator) -> Tensor:
        return self._loss(self.averaged, batch, None)

    def judge(self, batch: EmbeddingBatch | ImageTextBatch) -> dict[str, Tensor]:
        rows = embeddings_of(batch).rows(slice(64))
        return cosines(self._draw(rows, per_sample_generators(len(rows.z_t))), rows)

    def predictions(
        self, batch: EmbeddingBatch | ImageTextBatch, generators: list[torch.Generator]
    ) -> dict[str, Tensor]:
        """z_i (B, D) of unit norm, drawn."""
        return {"z_i": self._draw(embeddings_of(batch), generators)}

    def _draw(self, rows: EmbeddingBatch, generators: list[torch.Generator]) -> Tensor:
        return sample_ar_prior(
            self.averaged,
            self.codec,
            text_of(self.averaged, rows),
            rows.z_t,
            generators,
            guidance_scale=self.guidance_scale,
            percentile=self.percentile,
        )

    def exported_state(self) -> dict[str, Tensor]:
        return super().exported_state() | {CODEC + name: tensor for name, tensor in self.codec.state_dict().items()}
