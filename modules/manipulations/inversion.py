"""Up and down the decoder's DDIM trajectory: inversion, reconstruction, variations (unCLIP, section 3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from modules.diffusion.denoiser import Denoiser, Threshold
from modules.diffusion.noise import randn_per_image
from modules.diffusion.samplers import ddim, ddim_invert
from modules.diffusion.schedules import NoiseSchedule, respace
from modules.errors import InputError
from modules.images.tensors import resized
from modules.manipulations.latents import Latents, Walk, stack_latents
from modules.models.base import Model
from modules.models.configs import SamplerConfig
from modules.models.dalle1.dvae import DVAEModel
from modules.seeds import ImageSeeds
from modules.trained_run import TrainedRun


def decoder_size(system: TrainedRun, decoder: str = "decoder") -> int:
    """Side of the images of a decoder of the run: "decoder", "glide", "dvae"."""
    found = system.model(decoder, Model)
    return found.image_size if isinstance(found, DVAEModel) else system.decoder(decoder).image_size


def invert(system: TrainedRun, images: Tensor, captions: Sequence[str] | None = None, walk: Walk = Walk()) -> Latents:
    """Images -> (z_i, x_T): z_i by CLIP, x_T by DDIM inversion under the decoder conditioned on z_i.

    Args:
        images: (B, 3, S, S) in [-1, 1], any S; CLIP sees them as they are, the decoder at its own size.
        captions: B of them, as a further condition; none by default, as in the paper.

    Raises:
        InputError: for a run without a decoder that takes z_i, or captions of another number.
    """
    low = resized(images.to(system.device), decoder_size(system))
    found = Latents(system.embed_image(images), low, tokens_of(system, captions, len(images)))
    parts = [
        Latents(
            part.z_i,
            ddim_invert(
                decoder_denoiser(system, part, walk.guidance_scale),
                walk_schedule(system, walk),
                in_layout_of(system, part.x_T),
                fixed_point_iterations=walk.fixed_point_iterations,
            ).contiguous(),
            part.tokens,
        )
        for part in in_batches(found, walk.batch_size)
    ]
    return replace(stack_latents(parts), walk=walk)


def redraw(
    system: TrainedRun, latents: Latents, walk: Walk | None = None, *, eta: float = 0.0, seeds: ImageSeeds | None = None
) -> Tensor:
    """(z_i, x_T) -> images: the reconstruction at eta = 0, variations of it above; larger eta strays further.

    Args:
        walk: by default the one that the latents were found on.
        eta: of DDIM, 0 to 1.
        seeds: of the steps' noise, one an image; needed where eta > 0.

    Returns:
        (B, 3, s, s) in [-1, 1], at the decoder's size.
    """
    drawn, walk = [], walk or latents.walk or Walk()
    for k, part in enumerate(in_batches(latents, walk.batch_size)):
        own = None if seeds is None else seeds[k * walk.batch_size :][: len(part)]
        drawn.append(
            ddim(
                decoder_denoiser(system, part, walk.guidance_scale),
                walk_schedule(system, walk),
                in_layout_of(system, part.x_T),
                generators=None if own is None or eta == 0 else own.generators("variation"),
                eta=eta,
            )
        )
    return torch.cat(drawn).clamp(-1, 1).contiguous()


def fresh_noise(system: TrainedRun, seeds: ImageSeeds) -> Tensor:
    """x_T (B, 3, s, s) such as `unclip sample` starts from under the same seeds."""
    decoder = system.decoder()
    shape = (len(seeds), decoder.network.channels, decoder.image_size, decoder.image_size)
    return randn_per_image(seeds.generators("decoder"), shape, system.device)


def tokens_of(system: TrainedRun, captions: Sequence[str] | None, count: int) -> Tensor:
    """(count, L) tokens; all 0 without captions. One caption serves all."""
    texts = [""] * count if captions is None else list(captions) * (count if len(captions) == 1 else 1)
    if len(texts) != count:
        raise InputError(f"{len(texts)} captions do not go with {count} pictures: give none, one, or one a picture")
    tokens = system.clip.tokenize(texts).to(system.device)
    return torch.zeros_like(tokens) if captions is None else tokens


def decoder_denoiser(
    system: TrainedRun, latents: Latents, guidance_scale: float, threshold: Threshold | None = None
) -> Denoiser:
    """The decoder given z_i and tokens, with the paper's joint guidance. By default no threshold: it has no inverse.

    Raises:
        InputError: if the decoder takes no z_i, or one of another width.
    """
    return given_denoiser(system, latents.tokens, latents.z_i, guidance_scale, threshold)


def given_denoiser(
    system: TrainedRun, tokens: Tensor, z_i: Tensor | None, guidance_scale: float, threshold: Threshold | None = None
) -> Denoiser:
    """`decoder_denoiser` of tokens (B, L) and z_i (B, D); None is no z_i, as the decoder was trained without one.

    Raises:
        InputError: see `decoder_denoiser`.
    """
    decoder = system.decoder()
    width = decoder.network.embedding_dim
    if z_i is not None and width != z_i.shape[1]:
        raise InputError(
            f"the decoder of {system.run} takes z_i of {width} dimensions, the CLIP there gives "
            f"{z_i.shape[1]}: manipulations need a decoder trained on this CLIP's embeddings"
        )
    # Only the walk's guidance, at every step: with the sampler's interval or rescaling, up and down would differ.
    walked = replace(decoder, sampler=SamplerConfig(guidance_scale=guidance_scale))
    return walked.denoiser_for(tokens, z_i, threshold)


def walk_schedule(system: TrainedRun, walk: Walk) -> NoiseSchedule:
    """The trajectory over the decoder's noise levels."""
    schedule = system.decoder().objective.noise_schedule
    if walk.steps > schedule.num_steps:
        raise InputError(f"the decoder was trained with {schedule.num_steps} steps; ask for no more than that")
    return respace(schedule, walk.steps, walk.spacing)


def in_layout_of(system: TrainedRun, x: Tensor) -> Tensor:
    """x in the memory layout of the decoder's weights, which its convolutions prefer."""
    return system.decoder().in_layout(x)


def in_batches(latents: Latents, batch_size: int) -> list[Latents]:
    """Pieces of at most `batch_size` images."""
    return [latents[k : k + batch_size] for k in range(0, len(latents), batch_size)]
