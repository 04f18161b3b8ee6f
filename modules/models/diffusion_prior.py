"""The diffusion prior: p(z_i | y) as a diffusion over CLIP image embeddings (unCLIP, section 2.2).

This file is the only place where z_i is scaled and unscaled, where caption and z_t are dropped together, and where the
better of two draws is kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from modules.batches import Captions, embeddings_of
from modules.diffusion.bound import Decoder as Likelihood
from modules.diffusion.denoiser import Model as Predictor
from modules.diffusion.noise import randn_per_image
from modules.models.base import Batch, Evaluations, Prior, changed
from modules.models.configs import WHOLE, Objective, Rule, SamplerConfig, check_value
from modules.models.data_sizes import CaptionReader, DataSizes, check_share
from modules.models.diffusion_model import DiffusionModel, Evaluation
from modules.networks.cuda_graphs import Graphed
from modules.networks.diffusion_prior import DiffusionPriorNetwork

if TYPE_CHECKING:
    from typing_extensions import Self


def embedding_scale(dim: int) -> float:
    """What z_i is multiplied with: 17.2 at 1,024 dimensions (unCLIP 2.2), the same per-dimension variance elsewhere."""
    return 17.2 * math.sqrt(dim / 1024)


@dataclass(frozen=True, eq=False)
class DiffusionPriorModel(DiffusionModel[Batch], Prior):
    """Predicts the scaled z_i itself from its noised form, caption and z_t.

    Attributes:
        network: what is trained.
        drop_text: how often caption and z_t are dropped together.
        candidates: draws of z_i a caption, of which the one with the largest z_i . z_t is kept; the paper's 2.
        cuda_graph: replay the steps as a CUDA graph, on such a device.
    """

    network: DiffusionPriorNetwork
    objective: Objective = Objective(parameterization="x0")
    sampler: SamplerConfig = SamplerConfig(name="analytic_dpm", steps=64, spacing="adm", threshold=None)
    drop_text: float = 0.1
    candidates: int = 2
    cuda_graph: bool = False

    likelihood: ClassVar[Likelihood] = "gaussian"

    def check(self) -> None:
        super().check()
        check_value("candidates", self.candidates, WHOLE)

    def check_settings(self, sizes: DataSizes) -> None:
        check_share("drop_text", self.drop_text)
        super().check_settings(sizes)

    @property
    def reader(self) -> CaptionReader:
        return self.network.tokens

    @property
    def scale(self) -> float:
        """What z_i is multiplied with."""
        return embedding_scale(self.embedding_dim)

    def evaluate(self, batch: Batch, generator: torch.Generator) -> Evaluation:
        """The draw and the network's output; x0 is the scaled z_i, and the objective makes of it the loss on x0."""
        rows = embeddings_of(batch)
        x0 = rows.z_i * self.scale
        t, noise, x_t = self.drawn(x0, generator)
        keep = (torch.rand(len(x0), generator=generator) >= self.drop_text).to(x0.device)
        return Evaluation(x0, noise, t, self.network(x_t, t, self.text(rows.captions), rows.z_t, keep))

    def conditioned(self, batch: Batch) -> tuple[Predictor, Tensor]:
        rows = embeddings_of(batch)
        cache = self.network.encode(self.text(rows.captions), rows.z_t)
        return lambda x_t, t: self.network.step(x_t, t, cache), rows.z_i * self.scale

    def output(self, batch: Batch) -> Tensor:
        rows = embeddings_of(batch)
        t, keep = torch.zeros_like(rows.index), torch.ones_like(rows.index, dtype=torch.bool)
        found: Tensor = self.network(rows.z_i * self.scale, t, self.text(rows.captions), rows.z_t, keep)
        return found

    @property
    def guidance_scale(self) -> float:
        return self.sampler.guidance_scale

    @property
    def evaluations(self) -> int:
        return super().evaluations * self.candidates

    def sampling_parts(self) -> Iterator[Evaluations]:
        """The text once, then three tokens a step of every candidate."""
        rows, network = self.example_batch(1), self.network
        text, t = self.text(rows.captions), torch.zeros_like(rows.index)
        yield self.copies, lambda: network.encode(text, rows.z_t)
        cache = network.encode(text, rows.z_t)
        yield self.evaluations, lambda: network.step(rows.z_i, t, cache)

    @torch.no_grad()
    def sample(self, captions: Captions, generators: list[torch.Generator]) -> Tensor:
        """z_i (B, D) of unit norm for each caption: the best of `candidates` draws by z_i . z_t (section 2.2).

        Keys and values of the text are computed once; each step then evaluates three tokens.
        """
        predict, z_t = self._predictor(captions), captions.z_t
        draws = []
        for _ in range(self.candidates):
            x_T = randn_per_image(generators, z_t.shape, z_t.device, z_t.dtype)
            draws.append(F.normalize(self.draw(predict, x_T, generators) / self.scale, dim=1))
        found = torch.stack(draws)  # argmax takes a draw that is not finite, if there is one: nothing hides it.
        best = (found * z_t).sum(dim=2).argmax(dim=0)
        return found[best, torch.arange(len(z_t), device=z_t.device)]

    def _predictor(self, captions: Captions) -> Predictor:
        """The network given the captions, guided as the sampler says.

        The unguided half has no caption and no z_t; with negative captions it has these and theirs.
        """
        text, z_t, negative = self.text(captions), captions.z_t, captions.negative
        if self.sampler.guidance_scale == 1:
            return self._steps(text, z_t)
        if negative is None:
            keep = torch.arange(2 * len(text), device=text.device) < len(text)
            both = self._steps(torch.cat([text, text]), torch.cat([z_t, z_t]), keep)
        else:
            both = self._steps(torch.cat([text, self.text(negative)]), torch.cat([z_t, negative.z_t]))
        alone = None if self.sampler.guidance_interval is None else self._steps(text, z_t)
        return self.guided(both, alone)

    def _steps(self, text: Tensor, z_t: Tensor, keep: Tensor | None = None) -> Predictor:
        """The network at (x_t, t), the keys and values of the text being kept; where `keep` is False there is none."""
        cache = self.network.encode(text, z_t, keep)

        def step(x_t: Tensor, t: Tensor) -> Tensor:
            return self.network.step(x_t, t, cache)

        return Graphed(step) if self.cuda_graph else step

    @classmethod
    def rules(cls) -> dict[str, Rule]:
        return {**super().rules(), "candidates": WHOLE}

    @classmethod
    def overridable(cls) -> tuple[str, ...]:
        return (*super().overridable(), "candidates")

    def _with_settings(self, settings: dict[str, object]) -> Self:
        return changed(super()._with_settings(settings), settings)
