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
from modules.errors import InputError
from modules.models.base import Batch, Evaluations, Prior, changed
from modules.models.configs import Objective, Rule, SamplerConfig, check_value, whole
from modules.models.data_sizes import CaptionReader, DataSizes, check_share
from modules.models.diffusion_model import DiffusionModel, Evaluation
from modules.networks.cuda_graphs import Graphed
from modules.networks.frozen_text import real_tokens
from modules.networks.priors.prior import DenoisingPriorNetwork

if TYPE_CHECKING:
    from typing_extensions import Self


CANDIDATES = whole(1024)
"""How many draws of z_i a caption may have; the paper has 2."""


def embedding_scale(dim: int) -> float:
    """The factor of z_i: 17.2 at 1,024 dimensions (unCLIP 2.2); other widths get the same variance per dimension."""
    return 17.2 * math.sqrt(dim / 1024)


@dataclass(frozen=True, eq=False)
class DiffusionPriorModel(DiffusionModel[Batch], Prior):
    """Predicts the scaled z_i from its noised form, the caption and z_t.

    Attributes:
        network: the trained network: the paper's Transformer, or another network with the same interface.
        drop_text: how often caption and z_t are dropped together. 1 makes it a prior of pictures alone, p(z_i), which
            is sampled without text too.
        candidates: draws of z_i for each caption, of which the one with the largest z_i . z_t is kept; the paper has 2.
        cuda_graph: on a CUDA device, replay the steps as a CUDA graph.
    """

    network: DenoisingPriorNetwork
    objective: Objective = Objective(parameterization="x0")
    sampler: SamplerConfig = SamplerConfig(name="analytic_dpm", steps=64, spacing="adm", threshold=None)
    drop_text: float = 0.1
    candidates: int = 2
    cuda_graph: bool = False

    likelihood: ClassVar[Likelihood] = "gaussian"
    RAW_SETTING: ClassVar[str] = "conditioning.raw"

    def check(self) -> None:
        super().check()
        check_value("candidates", self.candidates, CANDIDATES)
        if self.drop_text == 1 and (self.candidates, self.sampler.guidance_scale) != (1, 1):
            raise InputError(
                f"candidates is {self.candidates} and guidance_scale {self.sampler.guidance_scale:g}: with drop_text 1 "
                "the prior reads no text, so it can neither choose by it nor be guided; both must be 1"
            )

    def check_settings(self, sizes: DataSizes) -> None:
        check_share("drop_text", self.drop_text)
        super().check_settings(sizes)

    @property
    def reader(self) -> CaptionReader | None:
        return getattr(self.network, "tokens", None)

    @property
    def scale(self) -> float:
        """The factor of z_i, if it is not standardised; 1 for raw embeddings."""
        return 1.0 if self.raw else embedding_scale(self.embedding_dim)

    @property
    def raw(self) -> bool:
        return self.network.conditioning.raw

    def scaled(self, z_i: Tensor) -> Tensor:
        """z_i (B, D) in the scale in which it is diffused."""
        standardise = self.network.standardisation
        found: Tensor = z_i * self.scale if standardise is None else standardise(z_i)
        return found

    def unscaled(self, x0: Tensor) -> Tensor:
        """z_i (B, D), of unit norm unless `raw`, of what `scaled` gave."""
        standardise = self.network.standardisation
        z_i = x0 / self.scale if standardise is None else standardise.inverse(x0)
        return z_i if self.raw else F.normalize(z_i, dim=1)

    def mask(self, tokens: Tensor) -> Tensor | None:
        """(B, L) tokens -> (B, L) which of them attention looks at; None for all."""
        return real_tokens(tokens) if self.network.conditioning.padding_mask else None

    def evaluate(self, batch: Batch, generator: torch.Generator) -> Evaluation:
        """The draw of timesteps and noise, and the network's output for it; x0 is the scaled z_i."""
        rows = embeddings_of(batch)
        x0 = self.scaled(rows.z_i)
        t, noise, x_t = self.drawn(x0, generator)
        keep = (torch.rand(len(x0), generator=generator) >= self.drop_text).to(x0.device)
        captions, mask = rows.captions, self.mask(rows.tokens)
        return Evaluation(x0, noise, t, self.network(x_t, t, self.text(captions), rows.z_t, keep, mask))

    def conditioned(self, batch: Batch) -> tuple[Predictor, Tensor]:
        rows = embeddings_of(batch)
        mask = self.mask(rows.tokens)
        return self._given(self.text(rows.captions), rows.z_t, mask), self.scaled(rows.z_i)

    def output(self, batch: Batch) -> Tensor:
        rows = embeddings_of(batch)
        t, keep = torch.zeros_like(rows.index), torch.ones_like(rows.index, dtype=torch.bool)
        mask = self.mask(rows.tokens)
        found: Tensor = self.network(self.scaled(rows.z_i), t, self.text(rows.captions), rows.z_t, keep, mask)
        return found

    @property
    def guidance_scale(self) -> float:
        return self.sampler.guidance_scale

    @property
    def evaluations(self) -> int:
        return super().evaluations * self.candidates

    def sampling_parts(self) -> Iterator[Evaluations]:
        """The text once, then the steps of every candidate (of the Transformer: three tokens a step)."""
        rows, network = self.example_batch(1), self.network
        text, t = self.text(rows.captions), torch.zeros_like(rows.index)
        mask = self.mask(rows.tokens)
        yield self.copies, lambda: network.given(text, rows.z_t, None, mask)
        predict = network.given(text, rows.z_t, None, mask)
        yield self.evaluations, lambda: predict(rows.z_i, t)

    @torch.no_grad()
    def sample(self, captions: Captions, generators: list[torch.Generator]) -> Tensor:
        """z_i (B, D) for each caption: the best of `candidates` draws by z_i . z_t (2.2), of raw ones by cosine.

        Keys and values of the text are computed once; each step then evaluates three tokens.
        """
        predict, z_t = self._predictor(captions), captions.z_t
        draws = []
        for _ in range(self.candidates):
            x_T = randn_per_image(generators, z_t.shape, z_t.device, z_t.dtype)
            draws.append(self.unscaled(self.draw(predict, x_T, generators)))
        found = torch.stack(draws)  # argmax takes a draw that is not finite, if there is one: nothing hides it.
        directions = F.normalize(found, dim=2) if self.raw else found
        best = (directions * z_t).sum(dim=2).argmax(dim=0)
        return found[best, torch.arange(len(z_t), device=z_t.device)]

    def _predictor(self, captions: Captions) -> Predictor:
        """The network given the captions, guided as the sampler says.

        The unguided half has no caption and no z_t; with negative captions it has these and theirs.
        """
        text, z_t, negative = self.text(captions), captions.z_t, captions.negative
        mask = self.mask(captions.tokens)
        if self.sampler.guidance_scale == 1:
            return self._steps(text, z_t, mask)
        if negative is None:
            keep = torch.arange(2 * len(text), device=text.device) < len(text)
            twice = None if mask is None else torch.cat([mask, mask])
            both = self._steps(torch.cat([text, text]), torch.cat([z_t, z_t]), twice, keep)
        else:
            theirs = self.mask(torch.cat([captions.tokens, negative.tokens]))
            both = self._steps(torch.cat([text, self.text(negative)]), torch.cat([z_t, negative.z_t]), theirs)
        alone = None if self.sampler.guidance_interval is None else self._steps(text, z_t, mask)
        return self.guided(both, alone)

    def _steps(self, text: Tensor, z_t: Tensor, mask: Tensor | None, keep: Tensor | None = None) -> Predictor:
        """The network at (x_t, t), what it knows of the text being kept; where `keep` is False there is none."""
        step = self._given(text, z_t, mask, keep)
        return Graphed(step) if self.cuda_graph else step

    def _given(self, text: Tensor, z_t: Tensor, mask: Tensor | None, keep: Tensor | None = None) -> Predictor:
        """The network given the captions; given nothing if it was trained without text."""
        if self.drop_text == 1:
            keep = torch.zeros(len(z_t), dtype=torch.bool, device=z_t.device)
        return self.network.given(text, z_t, keep, mask)

    @classmethod
    def rules(cls) -> dict[str, Rule]:
        return {**super().rules(), "candidates": CANDIDATES}

    @classmethod
    def overridable(cls) -> tuple[str, ...]:
        return (*super().overridable(), "candidates")

    def _with_settings(self, settings: dict[str, object]) -> Self:
        return changed(super()._with_settings(settings), settings)
