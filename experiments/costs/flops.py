"""Parameters and FLOPs of the networks that a YAML describes, counted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jsonargparse import ArgumentParser
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from eval.tables.hyperparameters import NETWORK, SAMPLER, UNET, lookup
from modules.errors import InputError
from modules.networks.ar_prior import ARPriorNetwork
from modules.networks.decoder import DecoderNetwork
from modules.networks.diffusion_prior import DiffusionPriorNetwork
from modules.networks.upsampler import UpsamplerNetwork

NETWORKS: dict[str, type[nn.Module]] = {
    "ar_prior": ARPriorNetwork,
    "diffusion_prior": DiffusionPriorNetwork,
    "decoder": DecoderNetwork,
    "upsampler_256": UpsamplerNetwork,
    "upsampler_1024": UpsamplerNetwork,
}


@dataclass(frozen=True)
class Count:
    """What a stage's network amounts to.

    Attributes:
        parts: parameters by part of the network.
        forward: FLOPs of one evaluation for one sample, as training does it, conditioning included.
        image: FLOPs of all evaluations that one image takes in sampling: guidance, candidates and fast paths included.
    """

    parts: dict[str, int]
    forward: float
    image: float

    @property
    def parameters(self) -> int:
        """All of them."""
        return sum(self.parts.values())


def build(config: dict[str, Any]) -> Any:
    """A stage's network on the meta device."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(nn.Module, "network")
    try:
        parsed = parser.parse_object({"network": lookup(config, NETWORK.removesuffix(".init_args."))})
        with torch.device("meta"):
            return parser.instantiate(parsed).network
    except Exception as error:
        raise InputError(f"model.init_args.network: {' '.join(str(error).split())}") from error


def count(stage: str, config: dict[str, Any]) -> Count:
    """Parameters and FLOPs of a stage."""
    network = build(config).eval()
    if not isinstance(network, NETWORKS[stage]):
        raise InputError(
            f"{stage}.yaml: model.init_args.network is a {type(network).__name__}, and not a {NETWORKS[stage].__name__}"
        )
    parts: dict[str, int] = {}
    for name, parameter in network.named_parameters():
        parts[_part(name)] = parts.get(_part(name), 0) + parameter.numel()
    flops = {"ar_prior": _ar_prior, "diffusion_prior": _diffusion_prior, "decoder": _decoder}.get(stage, _upsampler)
    with torch.device("meta"):
        return Count(parts, *flops(network, config))


def _part(name: str) -> str:
    """Which part of a network a parameter belongs to."""
    if name.endswith(".tokens.weight"):
        return "vocabulary"
    first = name.split(".")[0]
    if first.startswith("clip_to"):
        return "projections of z_i"
    if first == "tokens" and ".transformer." in name:  # The AR prior's text encoder.
        return "text"
    return first if first in ("unet", "text", "transformer") else "other"


def flops_of(run: Callable[[], Any]) -> float:
    """FLOPs of a call."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def _tokens(network: Any, config: dict[str, Any]) -> Tensor:
    """(1, L) tokens; or, for a prior that reads a frozen CLIP's features of them, (1, L, F)."""
    length, features = lookup(config, NETWORK + "context_length"), getattr(network, "feature_dim", None)
    return torch.zeros(1, length, dtype=torch.int64) if features is None else torch.zeros(1, length, features)


def _guided(scale: float | None) -> int:
    return 1 if scale in (None, 1) else 2


def _ar_prior(network: Any, config: dict[str, Any]) -> tuple[float, float]:
    """The codes one after another through the key/value cache; their cost grows evenly with their place."""
    tokens, z_t, k = _tokens(network, config), torch.empty(1, network.embedding_dim), network.num_codes
    dot, codes = torch.zeros(1, dtype=torch.int64), torch.zeros(1, k, dtype=torch.int64)
    forward = flops_of(lambda: network(tokens, z_t, dot, codes))
    prefix, width = tokens.shape[1] + 1, network.transformer.width
    cache = network.transformer.make_cache(1, prefix + k)
    start = flops_of(lambda: network.transformer(network._text(tokens, z_t, None), cache=cache))

    def step() -> Tensor:
        return network.out(network.transformer(torch.empty(1, 1, width), cache=cache)[:, -1])

    first = flops_of(step)
    cache.length = prefix + k - 1
    steps = k * (first + flops_of(step)) / 2
    return forward, _guided(lookup(config, "model.init_args.guidance_scale")) * (start + steps)


def _diffusion_prior(network: Any, config: dict[str, Any]) -> tuple[float, float]:
    """Text once, then three tokens a step; two candidates (section 2.2)."""
    tokens, x = _tokens(network, config), torch.empty(1, network.embedding_dim)
    t = torch.zeros(1, dtype=torch.int64)
    forward = flops_of(lambda: network(x, t, tokens, x))
    cache = network.transformer.make_cache(1, tokens.shape[1] + 1 + 3)
    start = flops_of(lambda: network.transformer(network._prefix(tokens, x, None), cache=cache))
    step = flops_of(lambda: network.step(x, t, cache))
    copies = _guided(lookup(config, SAMPLER + "guidance_scale"))
    return forward, copies * (start + 2 * lookup(config, SAMPLER + "steps") * step)


def _decoder(network: Any, config: dict[str, Any]) -> tuple[float, float]:
    """Caption and embedding once, then the U-Net at every step."""
    tokens = _tokens(network, config)
    z_i = None if network.embedding_dim is None else torch.empty(1, network.embedding_dim)
    start = flops_of(lambda: network.condition(tokens, z_i))
    condition, side = network.condition(tokens, z_i), lookup(config, UNET + "image_size")
    x, t = torch.empty(1, network.channels, side, side), torch.zeros(1, dtype=torch.int64)
    step = flops_of(lambda: network(x, t, condition))
    copies = _guided(lookup(config, SAMPLER + "guidance_scale"))
    return start + step, copies * (start + lookup(config, SAMPLER + "steps") * step)


def _upsampler(network: Any, config: dict[str, Any]) -> tuple[float, float]:
    """Convolutionally at full size; a training step sees a crop of it."""
    side, crop = lookup(config, UNET + "image_size"), lookup(config, "model.init_args.crop")
    t = torch.zeros(1, dtype=torch.int64)
    small, full = (torch.empty(1, network.channels, s, s) for s in (round(side * crop), side))
    forward = flops_of(lambda: network(small, t, small))
    return forward, lookup(config, SAMPLER + "steps") * flops_of(lambda: network(full, t, full))
