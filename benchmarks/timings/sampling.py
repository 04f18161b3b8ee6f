"""Sampling timed: both priors, beside a peer or beside the same network without its cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.timings.peers import available
from benchmarks.timings.setting import PRIOR, STEPS, Bench, prior_batch, prior_peers
from benchmarks.timings.timing import Result, paired
from modules.batches import Captions
from modules.models.configs import Objective, SamplerConfig
from modules.models.priors.diffusion_prior import DiffusionPriorModel
from modules.networks.priors.ar_prior import ARPriorNetwork
from modules.networks.priors.diffusion_prior import DiffusionPriorNetwork


def prior_sampling(bench: Bench, guided: bool) -> Iterator[Result]:
    """64 steps for a batch of 8, one draw a caption, against the network called anew at every step."""
    batch = bench.batch(8)
    _, tokens, z_t, _ = prior_batch(batch, bench.device)
    network = DiffusionPriorNetwork(512, **PRIOR).to(bench.device).eval()
    objective = Objective(parameterization="x0")
    sampler = SamplerConfig("ddpm", STEPS, "adm", 2.0 if guided else 1.0, threshold=None)
    model = DiffusionPriorModel(network, objective, sampler, candidates=1, cuda_graph=bench.device.type == "cuda")

    def ours() -> Tensor:
        generators = [torch.Generator().manual_seed(k) for k in range(batch)]
        with bench.autocast():
            return model.sample(Captions(tokens, z_t), generators)

    name = "prior_sampling_guided" if guided else "prior_sampling"
    if not available("diffusers"):
        print(f"{name}: the peers' networks are sampled by diffusers' UnCLIPScheduler, which is not installed")
        return
    for peer_name, peer in prior_peers(bench.device):
        yield paired(
            name, ours, peer_name, _peer_sampler(bench, peer.eval(), tokens, z_t, guided), bench.device, bench.few
        )


def _peer_sampler(bench: Bench, peer: nn.Module, tokens: Tensor, z_t: Tensor, guided: bool) -> Callable[[], Tensor]:
    """The peer's network under diffusers' UnCLIPScheduler, and guidance in one batch."""
    import diffusers

    make_scheduler: Any = diffusers.UnCLIPScheduler

    empty = torch.zeros_like(tokens)

    @torch.no_grad()
    def run() -> Tensor:
        scheduler = make_scheduler(variance_type="fixed_small_log", prediction_type="sample", clip_sample_range=5.0)
        scheduler.set_timesteps(STEPS)
        x = torch.randn(z_t.shape, device=z_t.device)
        words, text = (torch.cat([tokens, empty]), torch.cat([z_t, z_t])) if guided else (tokens, z_t)
        for k, t in enumerate(scheduler.timesteps):
            both = torch.cat([x, x]) if guided else x
            with bench.autocast():
                out = peer(both, t.expand(len(both)).to(x.device), words, text).float()
            if guided:
                conditional, unconditional = out.chunk(2)
                out = unconditional + 2.0 * (conditional - unconditional)
            last = k + 1 == len(scheduler.timesteps)
            previous = None if last else int(scheduler.timesteps[k + 1])
            x = scheduler.step(out, t, x, prev_timestep=previous).prev_sample
        return x

    return run


def ar_sampling(bench: Bench) -> Iterator[Result]:
    """319 codes after 79 tokens, one caption: the key/value cache against the whole sequence at every code."""
    sizes = {**PRIOR, "num_codes": 319 // bench.shrink, "num_buckets": 1024, "num_dot_buckets": 64}
    network = ARPriorNetwork(512, **sizes).to(bench.device).eval()
    _, tokens, z_t, _ = prior_batch(1, bench.device)
    dot = torch.zeros(1, dtype=torch.int64, device=bench.device)

    def ours() -> Tensor:
        with bench.autocast():
            return network.sample(tokens, z_t, dot, [torch.Generator().manual_seed(0)])

    @torch.no_grad()
    def without_cache() -> Tensor:
        codes = torch.zeros(1, network.num_codes, dtype=torch.int64, device=bench.device)
        generator = torch.Generator().manual_seed(0)
        with bench.autocast():
            for k in range(network.num_codes):
                sequence = torch.cat(
                    [
                        network._text(tokens, z_t, None),
                        network._dot(dot),
                        network.codes(codes[:, :k]) + network.code_positions[2 : 2 + k],
                    ],
                    dim=1,
                )
                logits = network.out(network.transformer(sequence)[:, -1]).float()
                codes[:, k] = torch.multinomial(logits.softmax(dim=1).cpu(), 1, generator=generator)[:, 0].to(codes)
        return codes

    yield paired("ar_sampling", ours, "without cache", without_cache, bench.device, 2)
