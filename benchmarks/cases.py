"""What is timed: the priors, the decoder and the upsampler, each beside a peer or beside its own slow path."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import peers
from benchmarks.timing import Result, paired
from modules.networks.ar_prior import ARPriorNetwork
from modules.networks.diffusion_prior import DiffusionPriorNetwork
from modules.networks.unet import UNet, UNetConfig
from modules.networks.upsampler import UpsamplerNetwork
from modules.objective import Objective, SamplerConfig
from modules.sampling import sample_diffusion_prior

PRIOR: dict[str, Any] = {"vocab_size": 1000, "context_length": 77, "width": 512, "depth": 6, "heads": 8}
STEPS = 64


@dataclass(frozen=True)
class Bench:
    """How to time.

    Attributes:
        device: where.
        pairs: repetitions of the short cases; the long ones take a third of them.
        shrink: divides the batch sizes below, for a quick look.
        half: autocast to bfloat16 (for GPUs).
        compile: torch.compile ours (for GPUs).
    """

    device: torch.device
    pairs: int = 5
    shrink: int = 1
    half: bool = False
    compile: bool = False

    @property
    def few(self) -> int:
        """Pairs of a long case."""
        return max(2, self.pairs // 2)

    def batch(self, size: int) -> int:
        """A case's batch size."""
        return max(1, size // self.shrink)

    def autocast(self) -> torch.autocast:
        """The precision of both programs."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.half)

    def training_step(self, network: nn.Module, loss: Callable[[], Tensor], *, ours: bool) -> Callable[[], None]:
        """Loss, gradients and AdamW: ours as our stages make it, the peer's as their training scripts do."""
        options: dict[str, Any] = {"fused": True} if ours else {}
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, **options)

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            with self.autocast():
                value = loss()
            value.backward()
            optimizer.step()

        return step


def prior_training(bench: Bench) -> Iterator[Result]:
    """A training step of the diffusion prior, batch 32, 77 text tokens."""
    batch = bench.batch(32)
    x, tokens, z_t, t = _prior_batch(batch, bench.device)
    ours: Any = DiffusionPriorNetwork(512, **PRIOR).to(bench.device)
    run: Any = torch.compile(ours) if bench.compile else ours
    step = bench.training_step(ours, partial(_error, run, x, t, tokens, z_t), ours=True)
    for name, peer in _prior_peers(bench.device):
        theirs = bench.training_step(peer, partial(_error, peer, x, t, tokens, z_t), ours=False)
        yield paired("prior_training", step, name, theirs, bench.device, bench.pairs)


def _prior_batch(batch: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    x, z_t = (F.normalize(torch.randn(batch, 512, generator=g), dim=1).to(device) for _ in range(2))
    tokens = torch.randint(1, 1000, (batch, 77), generator=g).to(device)
    return x, tokens, z_t, torch.randint(0, 1000, (batch,), generator=g).to(device)


def _prior_peers(device: torch.device) -> Iterator[tuple[str, nn.Module]]:
    sizes = tuple(PRIOR.values())
    if peers.available("diffusers"):
        yield "diffusers", peers.DiffusersPrior(*sizes).to(device)
    if peers.available("dalle2_pytorch"):
        yield "DALLE2-pytorch", peers.Dalle2Prior(*sizes).to(device)


def prior_sampling(bench: Bench, guided: bool) -> Iterator[Result]:
    """64 steps for a batch of 8, one draw a caption, against the network called anew at every step."""
    batch = bench.batch(8)
    _, tokens, z_t, _ = _prior_batch(batch, bench.device)
    network = DiffusionPriorNetwork(512, **PRIOR).to(bench.device).eval()
    objective = Objective(parameterization="x0")
    sampler = SamplerConfig("ddpm", STEPS, "adm", 2.0 if guided else 1.0, threshold=None)

    def ours() -> Tensor:
        generators = [torch.Generator().manual_seed(k) for k in range(batch)]
        with bench.autocast():
            return sample_diffusion_prior(network, objective, sampler, 12.0, tokens, z_t, generators, candidates=1)

    name = "prior_sampling_guided" if guided else "prior_sampling"
    for peer_name, peer in _prior_peers(bench.device):
        yield paired(
            name, ours, peer_name, _peer_sampler(bench, peer.eval(), tokens, z_t, guided), bench.device, bench.few
        )


def _peer_sampler(bench: Bench, peer: nn.Module, tokens: Tensor, z_t: Tensor, guided: bool) -> Callable[[], Tensor]:
    """The peer's network under diffusers' UnCLIPScheduler where that is installed, and guidance in one batch."""
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
    _, tokens, z_t, _ = _prior_batch(1, bench.device)
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


def decoder(bench: Bench) -> Iterator[Result]:
    """The U-Net at 64 px, 64 channels x (1, 2, 3, 4), two blocks a level, batch 8: evaluation and training step."""
    batch, width = bench.batch(8), 256
    config = UNetConfig(64, (1, 2, 3, 4), 2, (32, 16, 8), 64)
    network: Any = UNet(config, 3, 6, width)
    network = network.to(bench.device, memory_format=torch.channels_last)
    run: Any = torch.compile(network) if bench.compile else network
    g = torch.Generator().manual_seed(0)
    x = torch.randn(batch, 3, 64, 64, generator=g).to(bench.device)
    fast = x.contiguous(memory_format=torch.channels_last)
    t = torch.randint(0, 1000, (batch,), generator=g).to(bench.device)
    emb, context = torch.randn(batch, 256).to(bench.device), torch.randn(batch, 81, width).to(bench.device)

    def evaluate(call: Callable[[], Any]) -> Callable[[], None]:
        def inner() -> None:
            with torch.no_grad(), bench.autocast():
                call()

        return inner

    def ours() -> Tensor:
        return run(fast, t, emb, context)

    theirs: dict[str, tuple[nn.Module, Callable[[], Tensor]]] = {}
    if peers.available("diffusers"):
        peer = peers.diffusers_unet(64, 2, width).to(bench.device)
        theirs["diffusers"] = peer, lambda: peer(x, t, context).sample
    if peers.available("dalle2_pytorch"):
        other = peers.dalle2_unet(64, 2, width).to(bench.device)
        theirs["DALLE2-pytorch"] = other, lambda: other(x, t, image_embed=emb)
    for name, (module, call) in theirs.items():
        yield paired("decoder_evaluation", evaluate(ours), name, evaluate(call), bench.device, bench.pairs)
        step = bench.training_step(network, partial(_energy, ours), ours=True)
        other_step = bench.training_step(module, partial(_energy, call), ours=False)
        yield paired("decoder_training", step, name, other_step, bench.device, bench.few)


def _energy(call: Callable[[], Tensor]) -> Tensor:
    return call().float().square().mean()


def _error(network: Any, x: Tensor, *inputs: Tensor) -> Tensor:
    return F.mse_loss(network(x, *inputs).float(), x)


def upsampler(bench: Bench) -> Iterator[Result]:
    """A training step on a quarter-side crop against one on the whole 256 px image."""
    network: Any = UpsamplerNetwork(UNetConfig(32, (1, 2, 3, 4), 1, (), image_size=256))
    network = network.to(bench.device, memory_format=torch.channels_last)
    t = torch.zeros(2, dtype=torch.int64, device=bench.device)

    def step(side: int) -> Callable[[], None]:
        x = torch.randn(2, 3, side, side, device=bench.device).contiguous(memory_format=torch.channels_last)
        return bench.training_step(network, lambda: network(x, t, x).float().square().mean(), ours=True)

    yield paired("upsampler_crop_training", step(64), "whole image", step(256), bench.device, bench.few)


CASES: dict[str, Callable[[Bench], Iterator[Result]]] = {
    "prior_training": prior_training,
    "decoder": decoder,
    "upsampler": upsampler,
    "prior_sampling_guided": lambda bench: prior_sampling(bench, guided=True),
    "prior_sampling": lambda bench: prior_sampling(bench, guided=False),
    "ar_sampling": ar_sampling,
}


def rows(bench: Bench, only: str = "") -> Iterator[Result]:
    """The cases whose name contains `only`."""
    for name, case in CASES.items():
        if only in name:
            yield from case(bench)
