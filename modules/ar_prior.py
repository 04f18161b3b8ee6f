"""Trains the autoregressive prior (`modules.models.priors.autoregressive_prior`)."""

from __future__ import annotations

import torch
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities import rank_zero_info

from modules.batches import embeddings_of
from modules.errors import InputError
from modules.models.priors.autoregressive_prior import ARPriorModel
from modules.models.priors.embedding_codec import EmbeddingCodec
from modules.models.priors.embedding_statistics import EmbeddingStatistics
from modules.networks.priors.ar_prior import ARPriorNetwork
from modules.training.model_stage import PriorStage
from modules.training.stage import TrainingConfig, adamw

FIT_CHUNK = 8192  # embeddings that the codec's fit reads at a time


class ARPrior(PriorStage[ARPriorModel]):
    """Trains an ARPriorNetwork on the codes of an EmbeddingCodec, which is fitted to the training split first.

    Args:
        network: the trained network.
        codec: PCA and buckets; its num_codes, num_buckets and num_dot_buckets must be the network's.
        drop_text: how often caption and z_t are dropped together.
        guidance_scale, percentile, temperature: settings of sampling, see ARPriorModel.
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
        temperature: float = 1.0,
        optimizer: OptimizerCallable = adamw,
        training: TrainingConfig = TrainingConfig(),
    ) -> None:
        model = ARPriorModel(network, codec, drop_text, guidance_scale, percentile, temperature)
        super().__init__(model, optimizer, training)
        self.codec = codec  # A module of the stage, so that checkpoints hold its buffers.

    def on_fit_start(self) -> None:
        if not self.codec.fitted:
            self.codec.fit_statistics(self._statistics())
        kept, dim, share = self.codec.kept, self.codec.embedding_dim, self.codec.share_kept()
        rank_zero_info(f"the codec keeps {kept} of {dim} principal components: {share:.2%} of the variance of z_i")

    def _statistics(self) -> EmbeddingStatistics:
        """Of the training split, read in parts; every rank reads its share, and all come to the same codec.

        Raises:
            InputError: the training split is empty.
        """
        data = self.trainer.datamodule.dataset("train")  # type: ignore[attr-defined]
        rank, world = self.global_rank, self.trainer.world_size
        total: EmbeddingStatistics | None = None
        for start in range(len(data) * rank // world, len(data) * (rank + 1) // world, FIT_CHUNK):
            positions = list(range(start, min(start + FIT_CHUNK, len(data) * (rank + 1) // world)))
            rows = embeddings_of(data.__getitems__(positions))
            z_i, z_t = (x.to(self.device) for x in (rows.z_i, rows.z_t))
            part = EmbeddingStatistics.of(z_i, z_t, torch.tensor(positions, device=self.device))
            total = part if total is None else total.merge(part)
        if world > 1:
            total = EmbeddingStatistics.over_ranks(total, rank, world, self.codec.embedding_dim)
        if total is None:
            raise InputError("the training split holds no embeddings to fit the codec to")
        return total
