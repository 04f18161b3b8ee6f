"""The whole system, for use: caption -> z_t -> prior -> z_i -> decoder -> upsampler -> image (unCLIP, section 2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from modules.clip.frozen import FrozenCLIP
from modules.clip.origin import check_origin, warn_unknown_origin
from modules.diffusion.schedules import respace
from modules.errors import InputError
from modules.manipulations.enlarging import enlarge, upsampler_names
from modules.manipulations.methods import ImageMethods
from modules.models.configs import SamplerConfig
from modules.models.exports import StoredStage, export_folder, is_export, load_stage
from modules.networks.diffusion_prior import embedding_scale
from modules.prior_batches import caption_features
from modules.sampling import sample_ar_prior, sample_decoder, sample_diffusion_prior
from modules.seeds import ImageSeeds, image_generators

Condition = Literal[
    "caption_only", "glide", "text_embedding", "linear_prior", "ar_prior", "diffusion_prior", "image_embedding"
]
"""What the decoder is given: see `UnCLIP.embedding`."""

CONDITIONS: tuple[str, ...] = get_args(Condition)
PRIORS = ("linear_prior", "ar_prior", "diffusion_prior")


class UnCLIP(ImageMethods):
    """The trained stages of a run. Each is read when it is first needed, so a run may lack what is not asked for.

    Args:
        run: the run folder, or what `unclip export` made of it; its stages are clip, linear_prior, ar_prior,
            diffusion_prior, decoder, glide, and upsampler or upsampler_256, upsampler_1024 and the like.
        device: where to compute.
        overrides: SamplerConfig fields to replace, by stage: {"decoder": {"steps": 50, "guidance_scale": 2.0}}; for
            ar_prior: guidance_scale, percentile, temperature; for diffusion_prior also candidates.
    """

    def __init__(
        self, run: str | Path, device: str | torch.device = "cpu", overrides: dict[str, dict[str, Any]] | None = None
    ) -> None:
        self.run, self.device, self.overrides = Path(run), torch.device(device), overrides or {}
        if not self.run.is_dir():
            raise InputError(f"no run folder {self.run}: train one with `unclip reproduce`, or name another with --run")
        self._stages: dict[str, StoredStage] = {}

    @classmethod
    def from_run(cls, run: str | Path, device: str | torch.device = "cpu", **overrides: dict[str, Any]) -> UnCLIP:
        """The system of a run folder, as in `UnCLIP.from_run("runs/quickstart", decoder={"steps": 50})`."""
        return cls(run, device, overrides)

    @cached_property
    def clip(self) -> FrozenCLIP:
        """The conditioning CLIP."""
        return FrozenCLIP(str(export_folder(self.run / "clip"))).to(self.device)

    def has(self, name: str) -> bool:
        """Whether the run holds a trained stage of that name."""
        return is_export(self.run / name)

    def stage(self, name: str) -> StoredStage:
        """A trained stage, with the overrides in its sampler."""
        if name not in self._stages:
            stored = load_stage(self.run / name)
            width = getattr(stored.network, "embedding_dim", None)
            if width not in (None, self.clip.embedding_dim):
                raise InputError(
                    f"the run's {name} was trained on embeddings of {width} dimensions, its CLIP has "
                    f"{self.clip.embedding_dim}: train it again on this CLIP's (`unclip embed`)"
                )
            if stored.clip_fingerprint is None and not name.startswith("upsampler"):  # That sees pictures only.
                warn_unknown_origin(str(self.run))
            if stored.clip_fingerprint is not None:
                check_origin(stored.clip_fingerprint, self.clip.fingerprint, f"the run's {name}", "the run has")
            stored.network.to(self.device)
            for value in stored.settings.values():
                if isinstance(value, torch.nn.Module):
                    value.to(self.device)
            self._stages[name] = stored
        return self._stages[name]

    def sampler(self, name: str) -> SamplerConfig:
        """How a stage is sampled here: its own setting, with the overrides.

        DDPM's variance is "fixed_small" where the stage has learned none and no other is asked for.

        Raises:
            InputError: there is no such trajectory, or the learned variance is asked for and was not learned.
        """
        fields = {k: v for k, v in self.overrides.get(name, {}).items() if k in SamplerConfig.__dataclass_fields__}
        settings = self.stage(name).settings
        sampler = replace(settings["sampler"], **fields)
        if sampler.name == "ddpm" and sampler.variance == "learned" and not settings["objective"].learned_sigma:
            if "variance" in fields:
                raise InputError(f"{name}: variance learned needs a stage that was trained with learned sigma")
            # A stage that samples otherwise has a variance of DDPM's too, which nobody has chosen.
            sampler = replace(sampler, variance="fixed_small")
        try:
            respace(settings["objective"].noise_schedule, sampler.steps, sampler.spacing)
        except ValueError as error:
            raise InputError(f"{name}: {error}") from error
        return sampler

    def embed_text(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Captions -> tokens (B, L) and z_t (B, D) of unit norm.

        Raises:
            InputError: for a caption longer than the context.
        """
        tokens = self.clip.tokenize(list(captions)).to(self.device)
        return tokens, self.clip.encode_text(tokens)

    @torch.no_grad()
    def embed_image(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> z_i (B, D) of unit norm."""
        return self.clip.encode_image(images.to(self.device))

    def sample_prior(self, name: str, tokens: Tensor, z_t: Tensor, generators: list[torch.Generator]) -> Tensor:
        """z_i (B, D) of unit norm, from one of the three priors."""
        stored, chosen = self.stage(name), self.overrides.get(name, {})
        if name == "linear_prior":
            return F.normalize(stored.network(z_t), dim=1)
        text = tokens if getattr(stored.network, "feature_dim", None) is None else caption_features(self.clip, tokens)
        if name == "ar_prior":
            codec = stored.settings["codec"]
            codec.load_state_dict({key.removeprefix("codec."): value for key, value in stored.extra.items()})
            settings = {key: stored.settings[key] for key in ("guidance_scale", "percentile")} | chosen
            return sample_ar_prior(stored.network, codec, text, z_t, generators, **settings)
        return sample_diffusion_prior(
            stored.network,
            stored.settings["objective"],
            self.sampler(name),
            embedding_scale(stored.network.embedding_dim),
            text,
            z_t,
            generators,
            statistics=stored.statistics,
            candidates=chosen.get("candidates", 2),
        )

    def embedding(
        self,
        condition: str,
        tokens: Tensor,
        z_t: Tensor,
        generators: list[torch.Generator],
        images: Tensor | None = None,
    ) -> Tensor | None:
        """What is given to the decoder as z_i (unCLIP, section 5.1).

        caption_only and glide: None (the zero embedding); text_embedding: z_t as if it were z_i; a prior's draw; or
        image_embedding: the true one, of `images`.

        Raises:
            InputError: for an unknown condition, or image_embedding without images.
        """
        if condition not in CONDITIONS:
            raise InputError(f"unknown condition {condition!r}; there are {', '.join(CONDITIONS)}")
        if condition in ("caption_only", "glide"):
            return None
        if condition == "text_embedding":
            return z_t
        if condition in PRIORS:
            return self.sample_prior(condition, tokens, z_t, generators)
        if images is None:
            raise InputError(
                "the condition image_embedding needs images: give --images, a sample folder of real images"
            )
        return self.embed_image(images)

    def decode(
        self, tokens: Tensor, z_i: Tensor | None, generators: list[torch.Generator], decoder: str = "decoder"
    ) -> Tensor:
        """(B, L) tokens and (B, D) embeddings -> (B, 3, h, w) in [-1, 1], at the decoder's own size."""
        stored = self.stage(decoder)
        sampler = self.sampler(decoder)
        size = stored.network.unet.config.image_size
        objective, statistics = stored.settings["objective"], stored.statistics
        return sample_decoder(stored.network, objective, sampler, tokens, z_i, size, generators, statistics=statistics)

    def upsample(self, low: Tensor, seeds: ImageSeeds, size: int | None = None) -> Tensor:
        """(B, 3, s, s) in [-1, 1] -> (B, 3, size, size), through as many of the run's upsamplers as that takes.

        Args:
            size: a side that they reach; by default the largest.

        Raises:
            InputError: the run has no upsampler, or none that makes pictures of that size.
        """
        if not upsampler_names(self):
            raise InputError(f"no trained stage at {self.run / 'upsampler'}: train it, or keep the decoder's own size")
        return enlarge(self, low, size, seeds, batch_size=len(low))

    def generate(
        self,
        captions: Sequence[str],
        condition: str = "diffusion_prior",
        seed: int = 0,
        places: Sequence[tuple[int, int]] | None = None,
        images: Tensor | None = None,
        upsample: bool = True,
        size: int | None = None,
    ) -> Tensor:
        """One image for each caption.

        Args:
            captions: B of them; repeat one for several samples of it.
            condition: see `embedding`; "glide" uses its own decoder.
            seed: of the run.
            places: (caption's position, sample's position) of each image, which with the seed decide its noise; by
                default (k, 0). The same place gives the same picture at any batch size.
            images: (B, 3, H, W) in [-1, 1], for image_embedding.
            upsample: whether the run's upsamplers enlarge the decoder's images.
            size: how far they do, a side that they reach; by default the largest.

        Returns:
            (B, 3, H, W) in [-1, 1].
        """
        where = [(k, 0) for k in range(len(captions))] if places is None else list(places)
        tokens, z_t = self.embed_text(captions)
        z_i = self.embedding(condition, tokens, z_t, image_generators(seed, where, "prior"), images)
        decoder = "glide" if condition == "glide" else "decoder"
        low = self.decode(tokens, z_i, image_generators(seed, where, "decoder"), decoder)
        return self.upsample(low, ImageSeeds.at(seed, where), size) if upsample else low
