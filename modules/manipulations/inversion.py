"""Up and down the decoder's DDIM trajectory: inversion, reconstruction, variations (unCLIP, section 3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from modules.diffusion.denoiser import Denoiser, Model, Threshold, as_denoiser
from modules.diffusion.guidance import guide
from modules.diffusion.noise import randn_per_image
from modules.diffusion.samplers import ddim, ddim_invert
from modules.diffusion.schedules import NoiseSchedule, respace
from modules.errors import InputError
from modules.images.tensors import resized
from modules.manipulations.latents import Latents, Walk, stack_latents
from modules.manipulations.system import System
from modules.networks.decoder import Condition
from modules.seeds import ImageSeeds


def decoder_size(system: System, decoder: str = "decoder") -> int:
    """Side of the images of a decoder of the run, "decoder" or "glide"."""
    return int(system.stage(decoder).network.unet.config.image_size)


def invert(system: System, images: Tensor, captions: Sequence[str] | None = None, walk: Walk = Walk()) -> Latents:
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
    system: System, latents: Latents, walk: Walk | None = None, *, eta: float = 0.0, seeds: ImageSeeds | None = None
) -> Tensor:
    """(z_i, x_T) -> images: at eta = 0 the reconstruction; above, variations, the further from it the larger eta.

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


def fresh_noise(system: System, seeds: ImageSeeds) -> Tensor:
    """x_T (B, 3, s, s) such as `unclip sample` starts from under the same seeds."""
    size, channels = decoder_size(system), system.stage("decoder").network.channels
    return randn_per_image(seeds.generators("decoder"), (len(seeds), channels, size, size), system.device)


def tokens_of(system: System, captions: Sequence[str] | None, count: int) -> Tensor:
    """(count, L) tokens; all 0 without captions. One caption serves all."""
    texts = [""] * count if captions is None else list(captions) * (count if len(captions) == 1 else 1)
    if len(texts) != count:
        raise InputError(f"{len(texts)} captions do not go with {count} pictures: give none, one, or one a picture")
    tokens = system.clip.tokenize(texts).to(system.device)
    return torch.zeros_like(tokens) if captions is None else tokens


def decoder_denoiser(
    system: System, latents: Latents, guidance_scale: float, threshold: Threshold | None = None
) -> Denoiser:
    """The decoder given z_i and tokens, with the paper's joint guidance; without threshold, which has no inverse.

    Raises:
        InputError: if the decoder takes no z_i, or one of another width.
    """
    stored = system.stage("decoder")
    network, objective = stored.network, stored.settings["objective"]
    if network.embedding_dim != latents.z_i.shape[1]:
        raise InputError(
            f"the decoder of {system.run} takes z_i of {network.embedding_dim} dimensions, the CLIP there gives "
            f"{latents.z_i.shape[1]}: manipulations need a decoder trained on this CLIP's embeddings"
        )
    model: Model
    condition = network.condition(latents.tokens, latents.z_i)
    if guidance_scale == 1:

        def model(x_t: Tensor, t: Tensor) -> Tensor:
            return network(x_t, t, condition)

    else:
        both = Condition.stack([condition, network.condition(torch.zeros_like(latents.tokens), None)])
        model = guide(lambda x_t, t: network(x_t, t, both), guidance_scale)
    return as_denoiser(model, objective.noise_schedule, objective.parameterization, objective.learned_sigma, threshold)


def walk_schedule(system: System, walk: Walk) -> NoiseSchedule:
    """The trajectory over the decoder's noise levels."""
    schedule = system.stage("decoder").settings["objective"].noise_schedule
    if walk.steps > schedule.num_steps:
        raise InputError(f"the decoder was trained with {schedule.num_steps} steps; ask for no more than that")
    return respace(schedule, walk.steps, walk.spacing)


def in_layout_of(system: System, x: Tensor) -> Tensor:
    """x in the memory layout of the decoder's weights, which its convolutions prefer."""
    weight = system.stage("decoder").network.unet.first.weight
    channels_last = weight.is_contiguous(memory_format=torch.channels_last)
    return x.contiguous(memory_format=torch.channels_last) if channels_last else x


def in_batches(latents: Latents, batch_size: int) -> list[Latents]:
    """Pieces of at most `batch_size` images."""
    return [latents[k : k + batch_size] for k in range(0, len(latents), batch_size)]
