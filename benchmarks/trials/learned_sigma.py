"""`python -m benchmarks.trials.learned_sigma`: epsilon with learned sigma, thousands of steps by Table 3.

Others report the learned variance as a source of NaN. This trains a small decoder on the quickstart's pairs with AdamW
as Table 3 has it (Adam's epsilon the smallest of the table, 1e-10), says both terms of the loss on fixed batches as it
goes, and ends with exit code 1 at the first loss, gradient or weight that is not finite.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from datamodules.embeddings.folder import open_embeddings
from datamodules.order import SeededBatchSampler
from datamodules.shapes import ShapesDataModule
from modules.batches import ImageTextBatch
from modules.models.configs import Objective
from modules.networks.decoder import DecoderNetwork
from modules.networks.unet import UNetConfig

SIZES: dict[str, Any] = {"train_size": 40000, "val_size": 2048, "test_size": 2048}


def main(argv: list[str]) -> int:
    """Trains, prints, and says with its exit code whether all numbers were numbers."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.trials.learned_sigma", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--embeddings", default="runs/quickstart/embeddings", help="of the quickstart")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--patch", type=int, default=2)
    parser.add_argument("--beta2", type=float, default=0.999, help="0.91 is the AR prior's, the smallest of Table 3")
    parser.add_argument("--lr", type=float, default=1.2e-4)
    parser.add_argument("--every", type=int, default=250, help="steps between lines")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    data = ShapesDataModule(32, options.batch_size, **SIZES, embeddings=options.embeddings)
    attention = (32 // options.patch // 2,)
    config = UNetConfig(
        options.channels, (1, 2), 1, attention, options.channels, image_size=32, patch_size=options.patch
    )
    found = open_embeddings(options.embeddings).info
    network = DecoderNetwork(config, found.dim, 30, found.context, 32, 1, 2)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=options.lr, betas=(0.9, options.beta2), eps=1e-10, weight_decay=0.0, fused=True
    )
    print(f"{sum(p.numel() for p in network.parameters()):,} parameters, {options}", flush=True)
    val = data.dataset("val")
    fixed = val.__getitems__(list(range(min(64, len(val)))))
    for step, batch in enumerate(batches(data, options.steps)):
        if step % options.every == 0:
            print(line(step, network, fixed), flush=True)
        loss = torch.stack(list(terms(network, batch, torch.Generator().manual_seed(step)).values())).sum(dim=0).mean()
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        if not math.isfinite(loss.item()) or not math.isfinite(norm.item()):
            print(f"step {step}: loss {loss.item()}, gradient {norm.item()}")
            return 1
        optimizer.step()
    print(line(options.steps, network, fixed))
    return 0 if all(bool(p.isfinite().all()) for p in network.parameters()) else 1


def batches(data: ShapesDataModule, steps: int) -> Iterator[ImageTextBatch]:
    """The batches that `unclip fit` would see."""
    dataset = data.dataset("train")
    for indices in SeededBatchSampler(len(dataset), data.batch_size, seed=0, total=steps):
        yield dataset.__getitems__(indices)


def terms(network: DecoderNetwork, batch: ImageTextBatch, generator: torch.Generator) -> dict[str, Tensor]:
    """L_simple and the weighted L_vlb of a batch, caption and z_i dropped as in the paper: (B,) each."""
    assert batch.embeddings is not None
    objective, x0 = Objective(learned_sigma=True), batch.images
    t, noise, x_t = objective.draw(x0, generator)
    keep = [torch.rand(len(x0), generator=generator) >= share for share in (0.5, 0.1)]
    condition = network.condition(
        batch.embeddings.tokens, batch.embeddings.z_i, keep_text=keep[0], keep_embedding=keep[1]
    )
    return objective.terms(network(x_t, t, condition), x0, noise, t)


@torch.no_grad()
def line(step: int, network: DecoderNetwork, batch: ImageTextBatch) -> str:
    """'step 250: L_simple 0.12, L_vlb 0.003', on the same pictures, timesteps and noise each time."""
    found = [terms(network, batch, torch.Generator().manual_seed(k)) for k in range(4)]
    means = {name: torch.cat([part[name] for part in found]).mean().item() for name in found[0]}
    return f"step {step}: " + ", ".join(f"{name} {value:.5f}" for name, value in means.items())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
