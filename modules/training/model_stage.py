"""Training a model of `modules.models`: its loss on the trained network, its samples from the averaged one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, Generic, TypeVar

import torch
import torch.nn.functional as F
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor
from torchmetrics import Metric

from modules.batches import EmbeddingBatch, embeddings_of
from modules.errors import InputError
from modules.models.base import B, Batch, Model, Prior
from modules.models.data_sizes import DataSizes
from modules.training.measures import SmallFrechet
from modules.training.stage import Stage, TrainingConfig

M = TypeVar("M", bound=Model)
P = TypeVar("P", bound=Prior)


class ModelStage(Stage[B], Generic[M, B]):
    """Base of the LightningModules that train a model.

    Args:
        model: the model whose network is trained.
        optimizer, training: see Stage.
    """

    def __init__(self, model: M, optimizer: OptimizerCallable, training: TrainingConfig) -> None:
        try:
            model.check()
        except InputError as error:
            text = str(error)
            raise InputError(text if text.startswith("model.") else f"model.init_args.{text}") from None
        super().__init__(model.network, optimizer, training)
        self._model = model

    @property
    def model(self) -> M:
        """The model with the network that is trained, compiled where the config says so."""
        return replace(self._model, network=self.trained)

    @property
    def averaged_model(self) -> M:
        """The model with the averaged network: what validates, samples and is exported."""
        return replace(self._model, network=self.averaged)

    def frechet_of(self, drawn: Tensor, truth: Tensor) -> Metric:
        """The Frechet distance of features (N, D) from true ones, over all that this validation has seen."""
        if "frechet" not in self.measures:
            self.measures["frechet"] = SmallFrechet(drawn.shape[1]).to(drawn.device)
        metric = self.measures["frechet"]
        assert isinstance(metric, SmallFrechet)
        metric.update(drawn.float(), real=False)
        metric.update(truth.float(), real=True)
        return metric

    def training_loss(self, batch: B, generator: torch.Generator) -> Tensor:
        return self.model.loss(batch, generator)

    def validation_loss(self, batch: B, generator: torch.Generator) -> Tensor:
        return self.averaged_model.validation_loss(batch, generator)

    def example_batch(self, count: int) -> B:
        return self._model.example_batch(count)

    @property
    def takes_pictures(self) -> bool:
        return self._model.takes_pictures

    def check_settings(self, sizes: DataSizes) -> None:
        super().check_settings(sizes)
        self._model.check_settings(sizes)

    def check_data(self, sizes: DataSizes) -> None:
        self._model.check_data(sizes)

    def example_loss(self, batch: B) -> Tensor:
        return self.model.output(batch).float().square().mean()

    def loss_terms(self, batch: B, generator: torch.Generator) -> dict[str, Tensor]:
        return self.model.terms(batch, generator)

    def take_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        own = self.network.state_dict()
        beside = {name: tensor for name, tensor in tensors.items() if name not in own}
        self._model = self._model.with_tensors(beside) if beside else self._model

    def exported_state(self) -> dict[str, Tensor]:
        return super().exported_state() | self._model.tensors()

    def exported_about(self) -> dict[str, object]:
        kind = type(self._model)
        return {"model": f"{kind.__module__}.{kind.__qualname__}"}


class PriorStage(ModelStage[P, Batch]):
    """Base of the priors: validation compares drawn embeddings with the true ones."""

    judged: ClassVar[int | None] = 64

    def judge(self, batch: Batch) -> dict[str, Tensor | Metric]:
        """`cosines`, and a Frechet distance of z_i where `training.samples_judged` is above their dimension."""
        rows = embeddings_of(batch).rows(slice(self.judged_count))
        drawn = self.averaged_model.sample(rows.captions, per_sample_generators(len(rows.z_t)))
        found: dict[str, Tensor | Metric] = {**cosines(drawn, rows, self._model.raw)}
        if (self.training_config.samples_judged or 0) > drawn.shape[1]:
            found["frechet"] = self.frechet_of(drawn, rows.z_i)
        return found

    def predictions(self, batch: Batch, generators: list[torch.Generator]) -> dict[str, Tensor]:
        """z_i (B, D) of unit norm, drawn."""
        return {"z_i": self.averaged_model.sample(embeddings_of(batch).captions, generators)}


def cosines(z_i: Tensor, batch: EmbeddingBatch, raw: bool = False) -> dict[str, Tensor]:
    """How near drawn embeddings lie to the truth: (N,) one number a sample.

    Keys: cosine to the true z_i, cosine to z_t, and, as a floor, the cosine of z_t itself to the true z_i.

    Args:
        z_i: (N, D) drawn.
        batch: the truth.
        raw: whether embeddings are a CLIP's own; otherwise all have unit norm already.
    """
    parts = (z_i, batch.z_i, batch.z_t)
    drawn, true, text = (F.normalize(part, dim=1) for part in parts) if raw else parts
    return {
        "cosine_to_z_i": (drawn * true).sum(dim=1),
        "cosine_to_z_t": (drawn * text).sum(dim=1),
        "cosine_of_z_t": (text * true).sum(dim=1),
    }


def per_sample_generators(count: int, seed: int = 0) -> list[torch.Generator]:
    """CPU generators seeded by (seed, position): validation draws the same noise at every step of training."""
    return [torch.Generator().manual_seed(seed * 1_000_003 + k) for k in range(count)]


PICTURES_PIXELS, PART_PIXELS = 2**22, 2**20


def picture_count(most: int, side: int) -> int:
    """How many pictures of `side` pixels validation draws if the YAML says nothing: 16 of 512 px, 4 of 1,024.

    Args:
        most: the largest number, that of small pictures.
        side: of the pictures.
    """
    return max(1, min(most, PICTURES_PIXELS // side**2))


def picture_parts(count: int, side: int) -> list[slice]:
    """The pictures that validation draws at once: 16 of 256 px, 1 of 1,024. What is drawn does not depend on it."""
    size = max(1, PART_PIXELS // side**2)
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]
