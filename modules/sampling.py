"""Drawing from each trained stage: conditions in, samples out, one generator for each sample.

The stages' validation and the pipeline call these, so that what TensorBoard shows is what `unclip sample` makes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from modules.diffusion.analytic import ScoreStatistics
from modules.diffusion.denoiser import Model
from modules.diffusion.guidance import guide
from modules.diffusion.noise import randn_per_image
from modules.diffusion.samplers import OnStep
from modules.diffusion.schedules import noise_interval
from modules.models.configs import Objective, SamplerConfig, sample
from modules.models.embedding_codec import EmbeddingCodec
from modules.networks.ar_prior import ARPriorNetwork
from modules.networks.cuda_graphs import Graphed
from modules.networks.decoder import Condition, DecoderNetwork
from modules.networks.diffusion_prior import DiffusionPriorNetwork
from modules.networks.upsampler import UpsamplerNetwork

Generators = list[torch.Generator]


@torch.no_grad()
def sample_diffusion_prior(
    network: DiffusionPriorNetwork,
    objective: Objective,
    sampler: SamplerConfig,
    scale: float,
    tokens: Tensor,
    z_t: Tensor,
    generators: Generators,
    *,
    statistics: ScoreStatistics | None = None,
    candidates: int = 2,
    cuda_graph: bool = False,
) -> Tensor:
    """z_i for each caption: the best of `candidates` draws by z_i . z_t (unCLIP, section 2.2: two).

    Keys and values of the text are computed once; each step then evaluates three tokens.

    Args:
        network, objective, sampler: the trained stage.
        scale: that z_i was multiplied with in training.
        tokens: (B, L) caption tokens, or (B, L, F) features of them for a network that reads those.
        z_t: (B, D) of unit norm.
        generators: B of them.
        statistics: of the score, for analytic_dpm and analytic_ddim.
        candidates: draws a caption, 1 or more.
        cuda_graph: replay the steps as a CUDA graph, on such a device.

    Returns:
        (B, D) of unit norm.
    """
    guided = sampler.guidance_scale != 1
    if guided:
        keep = torch.arange(2 * len(tokens), device=tokens.device) < len(tokens)
        cache = network.encode(torch.cat([tokens, tokens]), torch.cat([z_t, z_t]), keep)
    else:
        cache = network.encode(tokens, z_t)

    def step(x_t: Tensor, t: Tensor) -> Tensor:
        return network.step(x_t, t, cache)

    model: Model = Graphed(step) if cuda_graph else step
    draws = []
    for _ in range(candidates):
        x_T = randn_per_image(generators, z_t.shape, z_t.device, z_t.dtype)
        chosen = _guided(model, objective, sampler) if guided else model
        drawn = sample(chosen, objective, sampler, x_T, generators, statistics=statistics)
        draws.append(F.normalize(drawn / scale, dim=1))
    found = torch.stack(draws)  # argmax takes a draw that is not finite, if there is one: nothing hides it.
    best = (found * z_t).sum(dim=2).argmax(dim=0)
    return found[best, torch.arange(len(z_t), device=z_t.device)]


@torch.no_grad()
def sample_ar_prior(
    network: ARPriorNetwork,
    codec: EmbeddingCodec,
    tokens: Tensor,
    z_t: Tensor,
    generators: Generators,
    *,
    guidance_scale: float = 1.0,
    percentile: float = 50.0,
    temperature: float = 1.0,
) -> Tensor:
    """z_i for each caption, its dot-product token drawn from the top of the training distribution (unCLIP 2.2).

    Args:
        percentile: above which the dot product is drawn; the paper's best of 50, 70, 85, 95 is 50.
        Others as in `ARPriorNetwork.sample`.

    Returns:
        (B, D) of unit norm.
    """
    dot = codec.draw_dot(generators, percentile)
    drawn_by = {"guidance_scale": guidance_scale, "temperature": temperature}
    return codec.decode(network.sample(tokens, z_t, dot, generators, length=codec.kept, **drawn_by))


@torch.no_grad()
def sample_decoder(
    network: DecoderNetwork,
    objective: Objective,
    sampler: SamplerConfig,
    tokens: Tensor,
    z_i: Tensor | None,
    size: int,
    generators: Generators,
    *,
    statistics: ScoreStatistics | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """Images for (caption, z_i), with the paper's joint guidance: the unconditional half has neither.

    Args:
        tokens: (B, L) caption tokens; all 0 for no caption.
        z_i: (B, D) of unit norm; None is the zero embedding, that is the caption alone.
        size: side of the images.
        statistics: of the score, for analytic_dpm and analytic_ddim.

    Returns:
        (B, C, size, size) in [-1, 1].
    """
    condition = network.condition(tokens, z_i)
    guided = sampler.guidance_scale != 1
    if guided:
        condition = Condition.stack([condition, network.condition(torch.zeros_like(tokens), None)])

    def model(x_t: Tensor, t: Tensor) -> Tensor:
        return network(x_t, t, condition)

    x_T = randn_per_image(generators, (len(tokens), network.channels, size, size), tokens.device)
    if network.unet.first.weight.is_contiguous(memory_format=torch.channels_last):
        x_T = x_T.contiguous(memory_format=torch.channels_last)
    chosen = _guided(model, objective, sampler) if guided else model
    drawn = sample(chosen, objective, sampler, x_T, generators, statistics=statistics, on_step=on_step)
    return drawn.clamp(-1, 1)


@torch.no_grad()
def sample_upsampler(
    network: UpsamplerNetwork,
    objective: Objective,
    sampler: SamplerConfig,
    low: Tensor,
    generators: Generators,
    *,
    statistics: ScoreStatistics | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """(B, C, H, W) images in [-1, 1] -> (B, C, factor H, factor W), run convolutionally at full size (unCLIP 2.1)."""
    enlarged = network.enlarge(low)

    def model(x_t: Tensor, t: Tensor) -> Tensor:
        return network(x_t, t, enlarged)

    x_T = randn_per_image(generators, enlarged.shape, enlarged.device)
    drawn = sample(model, objective, sampler, x_T, generators, statistics=statistics, on_step=on_step)
    return drawn.clamp(-1, 1)


def _guided(model: Model, objective: Objective, sampler: SamplerConfig) -> Model:
    """Classifier-free guidance as the sampler says; the model is for [conditional, unconditional]."""
    levels = sampler.guidance_interval
    interval = None if levels is None else noise_interval(objective.noise_schedule, *levels)
    return guide(model, sampler.guidance_scale, interval=interval, rescale=sampler.guidance_rescale)
