"""The score's statistics that Analytic-DPM needs, of a trained decoder that was not trained to be sampled with it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from eval.samples.conditions import TEXT_DECODER
from eval.samples.folder import SampleFolder
from modules.diffusion.analytic import ScoreStatistics, estimate_statistics
from modules.diffusion.denoiser import Denoiser, as_denoiser
from modules.diffusion.schedules import NoiseSchedule, respace
from modules.images.tensors import resized
from modules.manipulations.inversion import decoder_size
from modules.models.configs import STATISTICS, SamplerConfig
from modules.pipeline import UnCLIP

SAMPLES = 128  # Each is thousands of pixels, and its noise a control variate: the last digits of a plot do not move.
BATCH = 64


@dataclass
class Statistics:
    """Statistics of a run's decoders, each estimated once for each trajectory, from real images with their captions.

    As at the end of training: without guidance, every image with its own caption and embedding.

    Attributes:
        real: where the images are taken from, spread over the whole folder.
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
        trained = self._trained.setdefault(name, system.stage(name).statistics)
        return system.sampler(name).needs_statistics and not covers(trained, trajectory(system, name))

    def give(self, system: UnCLIP, name: str) -> None:
        """Gives a decoder what the sampler that it is set to needs, if anything: its own, or else estimated ones."""
        estimated = self.lacking(system, name)
        chosen = self._estimated(system, name, system.sampler(name)) if estimated else self._trained[name]
        if chosen is not None:
            stored = {STATISTICS + key: value for key, value in chosen.to_tensors().items()}
            system.stage(name).extra.update(stored)

    def _estimated(self, system: UnCLIP, name: str, sampler: SamplerConfig) -> ScoreStatistics:
        schedule = trajectory(system, name)
        key = name, tuple(schedule.timesteps.tolist())
        if key not in self._found:
            generator = torch.Generator().manual_seed(self.seed)
            self._found[key] = estimate_statistics(self._batches(system, name, sampler), schedule, generator)
        return self._found[key]

    def _batches(self, system: UnCLIP, name: str, sampler: SamplerConfig) -> Iterator[tuple[Denoiser, Tensor]]:
        stored, size = system.stage(name), decoder_size(system, name)
        reads = stored.settings["objective"]
        chosen = [k * len(self.real) // self.count for k in range(self.count)]
        for start in range(0, self.count, BATCH):
            part = chosen[start : start + BATCH]
            images = torch.cat([self.real.images(k, k + 1) for k in part]).to(system.device).float() / 127.5 - 1
            tokens, z_t = system.embed_text([self.real.captions[k] for k in part])
            z_i = {"glide": None, TEXT_DECODER: z_t}.get(name) if name != "decoder" else system.embed_image(images)
            condition = stored.network.condition(tokens, z_i)

            def model(x_t: Tensor, t: Tensor, condition=condition) -> Tensor:  # type: ignore[no-untyped-def]
                output: Tensor = stored.network(x_t, t, condition)
                return output

            how = reads.noise_schedule, reads.parameterization, reads.learned_sigma, sampler.threshold
            yield as_denoiser(model, *how), resized(images, size)


def trajectory(system: UnCLIP, name: str) -> NoiseSchedule:
    """The timesteps that a stage is sampled at here."""
    sampler = system.sampler(name)
    return respace(system.stage(name).settings["objective"].noise_schedule, sampler.steps, sampler.spacing)


def covers(statistics: ScoreStatistics | None, schedule: NoiseSchedule) -> bool:
    """Whether there are statistics for all timesteps of a trajectory."""
    return statistics is not None and set(schedule.timesteps.tolist()) <= set(statistics.timesteps.tolist())
