"""The score's statistics for Analytic-DPM, estimated for a decoder that has none for its trajectory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from eval.samples.folder import SampleFolder
from modules.diffusion.analytic import ScoreStatistics, estimate_statistics
from modules.diffusion.denoiser import Denoiser
from modules.images.tensors import resized
from modules.models.decoder import DecoderModel
from modules.pipeline import UnCLIP

SAMPLES = 128  # Enough: an image has thousands of pixels, and its known noise serves as a control variate.
BATCH = 64


@dataclass
class Statistics:
    """Statistics of a run's decoders, estimated from real images with their captions, once for each trajectory.

    The estimate is the one that training makes at its end: no guidance, each image with its own caption and embedding.

    Attributes:
        real: the folder of images; those that are used are spread evenly over it.
        seed: of the noise.
    """

    real: SampleFolder
    seed: int = 0
    _trained: dict[str, ScoreStatistics | None] = field(default_factory=dict)
    _found: dict[tuple[str, tuple[int, ...]], ScoreStatistics] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """How many images they are of."""
        return min(SAMPLES, len(self.real))

    def lacking(self, system: UnCLIP, name: str) -> bool:
        """Whether a decoder, as it is set, needs statistics that it was not trained with."""
        if not isinstance(system.stage(name).model, DecoderModel):
            return False
        model = self._as_trained(system, name)
        return model.sampler.needs_statistics and not model.has_statistics

    def give(self, system: UnCLIP, name: str) -> None:
        """If the decoder's sampler needs statistics, gives the decoder its own or, if it has none, estimated ones."""
        if not isinstance(system.stage(name).model, DecoderModel):
            return
        model = self._as_trained(system, name)
        estimated = model.sampler.needs_statistics and not model.has_statistics
        chosen = self._estimated(system, name, model) if estimated else model.statistics
        stored = system.stage(name).model
        if chosen is not None and isinstance(stored, DecoderModel):
            system.replace_model(name, replace(stored, statistics=chosen))

    def _as_trained(self, system: UnCLIP, name: str) -> DecoderModel:
        """The decoder as it is set, with the statistics that it was trained with."""
        model = system.decoder(name)
        return replace(model, statistics=self._trained.setdefault(name, model.statistics))

    def _estimated(self, system: UnCLIP, name: str, model: DecoderModel) -> ScoreStatistics:
        key = name, tuple(model.trajectory.timesteps.tolist())
        if key not in self._found:
            generator = torch.Generator().manual_seed(self.seed)
            self._found[key] = estimate_statistics(self._batches(system, name, model), model.trajectory, generator)
        return self._found[key]

    def _batches(self, system: UnCLIP, name: str, model: DecoderModel) -> Iterator[tuple[Denoiser, Tensor]]:
        unguided = replace(model, sampler=replace(model.sampler, guidance_scale=1.0, text_guidance_scale=None))
        chosen = [k * len(self.real) // self.count for k in range(self.count)]
        for start in range(0, self.count, BATCH):
            part = chosen[start : start + BATCH]
            images = torch.cat([self.real.images(k, k + 1) for k in part]).to(system.device).float() / 127.5 - 1
            tokens, z_t = system.embed_text([self.real.captions[k] for k in part])
            own = z_t if model.embedding == "z_t" else system.embed_image(images)
            z_i = None if model.network.embedding_dim is None else own
            yield unguided.denoiser_for(tokens, z_i, model.sampler.threshold), resized(images, model.image_size)
